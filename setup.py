"""What colcon's ament_python build needs beside pyproject.toml: the files of the share folder, and for a symlink
install what pyproject.toml says.
"""

import tomllib
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

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


def project() -> dict[str, Any]:
    """pyproject.toml's project table where setuptools does not see it: `colcon build --symlink-install` runs this file
    in a folder of links to some of the sources, and that file is not among them.
    """
    if Path("pyproject.toml").exists():
        return {}
    table = tomllib.loads((Path(__file__).resolve().parent / "pyproject.toml").read_text())["project"]
    return {
        "name": table["name"],
        "version": table["version"],
        "install_requires": table["dependencies"],
        "extras_require": table["optional-dependencies"],
        "entry_points": {"console_scripts": [f"{name} = {target}" for name, target in table["scripts"].items()]},
    }


# Not in pyproject.toml: colcon cannot parse what setuptools makes of requires-python there, and setuptools before 77
# (Ubuntu 24.04) and after it disagree on how a license is written there.
setup(
    **project(),
    # Named: beside launch/, config/ and models/ setuptools would refuse to guess.
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    python_requires=">=3.11,<3.14",
    license="Apache-2.0",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(SHARE), ["package.xml"]),
        *share_files(),
    ],
)
