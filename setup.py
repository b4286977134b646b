"""What colcon's ament_python build needs beside pyproject.toml: the files of the share folder."""

from pathlib import Path

from setuptools import setup

PACKAGE = "vla_align_ros"
SHARE = Path("share") / PACKAGE


def share_files() -> list[tuple[str, list[str]]]:
    """(install folder, files) for everything under launch/, config/ and models/, however deep."""
    by_folder: dict[str, list[str]] = {}
    for top in ("launch", "config", "models"):
        for path in sorted(Path(top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                by_folder.setdefault(str(SHARE / path.parent), []).append(str(path))
    return list(by_folder.items())


# Not in pyproject.toml: colcon cannot parse what setuptools makes of requires-python there, and setuptools before 77
# (Ubuntu 24.04) and after it disagree on how a license is written there.
setup(
    python_requires=">=3.11,<3.14",
    license="Apache-2.0",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(SHARE), ["package.xml"]),
        *share_files(),
    ],
)
