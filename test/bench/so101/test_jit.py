"""Compiled code is kept outside the repository and outside an installed package."""

from pathlib import Path

from vla_align_ros.bench.so101 import painter

PACKAGE = Path(painter.__file__).parent


def test_compiled_code_is_not_kept_beside_the_sources():
    assert not list(PACKAGE.rglob("*.nb?"))
    assert not Path(painter.raster.stats.cache_path or "/").is_relative_to(PACKAGE)
