"""Before a node runs: a signal during its start ends it quietly, and wrong ROS arguments with a sentence."""

import os
import signal
from pathlib import Path

import pytest
from lifecycle_msgs.srv import GetState
from policy_live import MODULE, POLICY

from vla_align_ros.ros.process import run

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.mark.parametrize(("name", "library"), [("vla_align_node", "libtorch_cpu"), ("bag_recorder", "rclpy")])
def test_ctrl_c_while_it_imports_ends_it_quietly(ros, tmp_path, name, library):
    script = tmp_path / "start.py"
    script.write_text(f"from vla_align_ros.ros.entry import {name} as run\n\nrun()\n")
    process = ros.run_script(script)
    ros.wait_until(lambda: library in Path(f"/proc/{process.pid}/maps").read_text(), "it is in the middle of imports")
    assert process.stop(signal.SIGINT) == 0
    assert process.output == ""


def test_ctrl_c_while_it_loads_a_model_that_takes_for_ever_ends_it(ros, tmp_path):
    os.mkfifo(tmp_path / "model.yaml")  # nobody writes it: to read it blocks
    process = ros.run_node(MODULE, {"model": str(tmp_path)})
    label = ""
    while label != "configuring":
        label = ros.ask(f"{POLICY}/get_state", GetState).current_state.label
    assert process.stop(signal.SIGINT, timeout_s=30.0) == 0
    assert "ends while configuring" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-r", "foo"], "a ROS argument is wrong: Failed to parse ROS arguments: Couldn't parse remap rule: '-r foo'."),
        (["--log-level", "loud"], "a ROS argument is wrong: Failed to parse ROS arguments: Couldn't parse log level"),
        (["--params-file", "no_such.yaml"], "Couldn't parse params file: '--params-file no_such.yaml'"),
        (["--bogus"], "a ROS argument is wrong: ['--bogus']"),
        (["-r", "__ns:=/a__b"], "Couldn't parse remap rule: '-r __ns:=/a__b'"),
    ],
)
def test_wrong_ros_argument_ends_it_with_exit_code_2_and_a_sentence(ros, arguments, words):
    process = ros.run_node("vla_align_ros.ros.sim_robot", {}, *arguments)
    assert process.wait() == 2
    assert words in process.output
    assert "Traceback" not in process.output


def test_arguments_before_ros_args_are_refused_since_ros_would_pass_over_them(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sim_robot", "-p", "embodiment_seed:=3"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run(lambda: pytest.fail("nothing starts"), lambda: None, lambda: None) == 2
    assert capsys.readouterr().err == "an argument is wrong: -p: expected --ros-args, and all others after it\n"
