"""colcon builds the package as ament_python, and the ament index finds what it installs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
COLCON = Path(sys.executable).with_name("colcon")
SOURCES = ("vla_align_ros", "launch", "config", "resource", "package.xml", "pyproject.toml", "setup.py", "setup.cfg")
SCRIPTS = ("vla-align", "vla_align_node", "vla_policy", "checkpoint_manager", "sim_robot", "bag_recorder", "bag_player")


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "COLCON_HOME": str(folder / ".colcon"), **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colcon workspace with a copy of the sources; models/ holds one model in a made-up folder."""
    workspace = tmp_path_factory.mktemp("workspace")
    source = workspace / "src" / "vla_align_ros"
    source.mkdir(parents=True)
    for name in (*SOURCES, "README.md"):
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source / name)
    nested = source / "models" / "made_up" / "tokenizer"
    nested.mkdir(parents=True)
    (nested / "vocabulary.json").write_text("{}")
    (nested.parent / "model.yaml").write_text("format: 1\n")
    return workspace


@pytest.mark.slow
def test_colcon_knows_it_as_an_ament_python_package(workspace):
    assert "(ros.ament_python)" in run([COLCON, "list"], workspace)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[], ["--symlink-install", "--merge-install"]], ids=["copied", "linked and merged"])
def test_colcon_build_installs_what_the_ament_index_and_launch_look_for(workspace, layout):
    for folder in ("build", "install"):
        shutil.rmtree(workspace / folder, ignore_errors=True)
    run([COLCON, "build", *layout], workspace)
    prefix = workspace / "install" if layout else workspace / "install" / "vla_align_ros"
    find = "from ament_index_python import get_package_share_directory as d; print(d('vla_align_ros'))"
    share = Path(run([sys.executable, "-c", find], workspace, AMENT_PREFIX_PATH=str(prefix)).strip())
    assert share == prefix / "share" / "vla_align_ros"
    for name in (
        "package.xml",
        "launch/vla_align.launch.py",
        "launch/sim.launch.py",
        "config/vla_policy.yaml",
        "config/checkpoint_manager.yaml",
        "config/sim_robot.yaml",
        "config/fastdds_profile.xml",
        "models/made_up/model.yaml",
        "models/made_up/tokenizer/vocabulary.json",
        "hook/ament_prefix_path.sh",
    ):
        assert (share / name).is_file(), name
    for script in SCRIPTS:
        assert os.access(prefix / "lib" / "vla_align_ros" / script, os.X_OK), script
    # As a user's shell has it: this workspace before whatever else is installed.
    find = "import vla_align_ros, vla_align_ros.zoo as z; print(vla_align_ros.__file__, z.find_model('made_up'))"
    asks = f"""
        . {workspace}/install/local_setup.sh
        {sys.executable} -c "{find}"
        {prefix}/lib/vla_align_ros/vla-align params --json
    """
    found, _, listing = run(["sh", "-c", asks], workspace, PYTHONPATH="").partition("\n")
    assert all(path.startswith(str(workspace)) for path in found.split())
    assert set(json.loads(listing)) >= {"vla_policy", "sim_robot"}
    if not layout:
        # Nothing but the package is importable: no second package called `models`, `launch` or `test`.
        packages = next(prefix.glob("lib/python*/site-packages"))
        installed = {path.name for path in packages.iterdir() if path.suffix != ".egg-info"}
        assert installed == {"vla_align_ros"}
        assert (packages / "vla_align_ros" / "py.typed").is_file()
        assert len(list((packages / "vla_align_ros" / "bench" / "so101" / "meshes").glob("*.stl"))) == 13


@pytest.mark.slow
def test_colcon_test_runs_the_quick_tests_and_test_result_fails_with_one_of_them(workspace):
    tests = workspace / "src" / "vla_align_ros" / "test"
    tests.mkdir()
    shutil.copy(REPOSITORY / "test" / "conftest.py", tests)
    slow = "import pytest\n\n\n@pytest.mark.slow\ndef test_slow():\n    assert False\n"
    for right in (True, False):
        (tests / "test_made_up.py").write_text(f"{slow}\n\ndef test_quick():\n    assert {right}\n")
        run([COLCON, "test", "--merge-install"], workspace)  # as it was built last
        result = subprocess.run([COLCON, "test-result", "--verbose"], cwd=workspace, capture_output=True, text=True)
        assert result.returncode == (0 if right else 1), result.stdout
        assert f"1 test, 0 errors, {0 if right else 1} failure" in result.stdout
