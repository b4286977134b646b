"""ROS stays inside `ros/` and `cli/`: everything else works where rclpy is not installed."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "vla_align_ros"
ROS_MODULES = ("rclpy", "launch", "launch_ros", "ament_index_python", "rcl_interfaces", "lifecycle_msgs")
MESSAGES = ("sensor_msgs", "trajectory_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "geometry_msgs")

IMPORT_ALL = """
import importlib, importlib.abc, pkgutil, sys

class NoRos(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, NoRos())
import vla_align_ros

def failed(name):
    raise

for module in pkgutil.walk_packages(vla_align_ros.__path__, "vla_align_ros.", onerror=failed):
    if not module.name.startswith("vla_align_ros.ros"):
        importlib.import_module(module.name)
        print(module.name)
"""


def run(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def modules_imported_by(path: Path) -> set[str]:
    """Top-level names of all imports in a file, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def outside(*folders: str) -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in folders]


def importers(paths: list[Path], *modules: str) -> dict[str, set[str]]:
    """Which files import which of the modules, or what is in them."""
    found = {}
    for path in paths:
        names = modules_imported_by(path)
        if hits := {name for name in names if any(f"{name}.".startswith(f"{module}.") for module in modules)}:
            found[str(path.relative_to(PACKAGE))] = hits
    return found


def test_the_bench_is_imported_by_commands_and_demo_alone():
    library = [path for path in outside("bench", "cli", "demo") if path.parent.name != "ros"]
    nodes = [path for path in (PACKAGE / "ros").glob("*.py") if not path.name.startswith(("sim_robot", "demo_"))]
    assert importers([*library, *nodes], "vla_align_ros.bench") == {}


def test_a_bench_is_a_folder_that_nobody_else_in_the_bench_knows():
    folders = [path for path in (PACKAGE / "bench").iterdir() if (path / "bench.py").exists()]
    assert len(folders) >= 2
    for folder in folders:
        others = [path for path in (PACKAGE / "bench").rglob("*.py") if path.parent != folder]
        assert importers(others, f"vla_align_ros.bench.{folder.name}") == {}


@pytest.mark.slow
def test_everything_outside_ros_imports_without_ros():
    imported = run(IMPORT_ALL, *ROS_MODULES, *MESSAGES)
    assert {"vla_align_ros.params", "vla_align_ros.cli.main", "vla_align_ros.policy.config"} <= set(imported)


@pytest.mark.parametrize("path", outside("ros", "cli"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_library_file_never_imports_ros_nor_what_is_built_on_it(path):
    names = {name.partition(".")[0] for name in modules_imported_by(path)}
    assert not names & {*ROS_MODULES, *MESSAGES}
    upward = {name for name in modules_imported_by(path) if name.startswith(("vla_align_ros.ros", "vla_align_ros.cli"))}
    assert not upward, "imports go one way: ros/ and cli/ import the library"


def test_console_script_answers_without_loading_torch_or_ros():
    code = "import sys, vla_align_ros.cli.main; print(*(n for n in sys.argv[1:] if n in sys.modules))"
    assert run(code, "torch", "transformers", "matplotlib", *ROS_MODULES, *MESSAGES) == []


def test_folders_import_each_other_one_way():
    """Data goes forward: no folder needs, over any way round, one that needs it."""
    needs: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        inside = {name.split(".")[1] for name in modules_imported_by(path) if name.startswith("vla_align_ros.")}
        needs.setdefault(folder, set()).update(inside - {folder})
    TopologicalSorter(needs).prepare()  # CycleError names the circle


def test_training_and_alignment_know_no_bench():
    for folder in ("training", "alignment", "experience", "policy"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not [name for name in modules_imported_by(path) if name.startswith("vla_align_ros.bench")], path
