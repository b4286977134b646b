"""`vla-align align` from real bag files: what a user types, what is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lerobot_files import CAMERAS, write_dataset
from made_up import write_robot_model
from recordings import BASE, COMMANDS, JOINTS, PROMPT, Sent, record, run_of
from typer.testing import CliRunner, Result

from vla_align_ros.cli.main import app
from vla_align_ros.observation.codecs import encode_joint_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run() -> list[Sent]:
    """Twelve seconds of the shipped model on its arm; one prompt, at the start."""
    return run_of()


def align(*arguments: object) -> Result:
    short = ["--set", "guard.too_little_experience=8"]  # twelve seconds are fewer than the limits were measured with
    return CliRunner().invoke(app, ["align", "--model", "tiny", *short, *map(str, arguments)])


def dry(*arguments: object) -> dict[str, object]:
    result = align("--dry-run", "--json", *arguments)
    assert result.exit_code in (0, 1), result.output
    return {**json.loads(result.stdout), "exit_code": result.exit_code}


def test_a_dry_run_says_what_is_in_the_bag_and_writes_nothing(tmp_path: Path, run: list[Sent]) -> None:
    bag, store = record(tmp_path / "bag", run), tmp_path / "store"
    result = align("--dry-run", "--store", store, bag)
    assert result.exit_code == 0, result.output
    assert f"joints: {JOINTS} (sensor_msgs/msg/JointState)" in result.stdout
    assert "experiences: 2" in result.stdout
    assert "an alignment could begin" in result.stdout
    assert not store.exists()
    found = dry(bag)
    assert (found["reason"], found["exit_code"]) == (None, 0)
    assert [topic["refused"] for topic in found["bags"][0]["topics"]] == [{}] * 5


def test_what_spoils_a_whole_topic_is_said_instead_of_0_of_0(tmp_path: Path, run: list[Sent]) -> None:
    spoilt = [(topic, t_ns, raw[:40] if topic == BASE else raw) for topic, t_ns, raw in run]
    bag = record(tmp_path / "bag", spoilt)
    for result in (align("--dry-run", bag), align("--store", tmp_path / "store", bag)):
        assert result.exit_code == 1
        count = sum(topic == BASE for topic, _, _ in run)
        assert f"camera base_0_rgb: {BASE} (sensor_msgs/msg/Image), {count} messages, {count} refused" in result.stdout
        assert f"{count} malformed, the first: malformed: 40 bytes are not one whole" in result.stdout
        assert "experiences: 0; left out: " in result.stdout
        assert "no_image" in result.stdout
        assert "too_little_experience" in result.stdout
    found = json.loads(align("--store", tmp_path / "store", "--json", bag).stdout)
    assert found["reason"] == "too_little_experience"
    assert found["bags"][0]["topics"][0]["refused"] == {"malformed": count}


def test_topics_under_other_names_are_given_one_by_one(tmp_path: Path, run: list[Sent]) -> None:
    names = {
        BASE: "/cam/image_raw",
        JOINTS: "/arm/joint_states",
        PROMPT: "/task",
        COMMANDS: "/arm_controller/joint_trajectory",
    }
    bag = record(tmp_path / "bag", run, names=names)
    given = ["--camera", "base_0_rgb=/cam/image_raw", "--joint-topic", "/arm/joint_states", "--prompt-topic", "task"]
    result = align(*given, bag)
    assert result.exit_code == 2
    hint = "give --command-topic /arm_controller/joint_trajectory"
    assert f"commands: no messages on {COMMANDS}, {hint}" in result.stderr
    found = dry(*given, "--command-topic", "/arm_controller/joint_trajectory", bag)
    assert found["experiences"] == dry(record(tmp_path / "plain", run))["experiences"]


def test_topics_of_a_namespace_are_given_at_once(tmp_path: Path, run: list[Sent]) -> None:
    names = {topic: f"/cell/arm1{topic}" for topic in {item[0] for item in run}}
    bag = record(tmp_path / "bag", run, names=names)
    result = align("--dry-run", bag)
    assert result.exit_code == 2
    assert f"joints: no messages on {JOINTS}, give --joint-topic /cell/arm1{JOINTS}" in result.stderr
    found = dry("--namespace", "cell/arm1", bag)
    assert found["experiences"] == dry(record(tmp_path / "plain", run))["experiences"]
    assert dry("--namespace", "/cell/arm1/", "--prompt-topic", names[PROMPT], bag) == found


def test_a_bag_of_another_robot_is_wrong_usage(tmp_path: Path, run: list[Sent]) -> None:
    other = [
        (topic, t_ns, encode_joint_state(("hip", "knee"), (0.1, 0.2), t_ns) if topic == JOINTS else raw)
        for topic, t_ns, raw in run
    ]
    bag = record(tmp_path / "bag", other)
    for options in (["--dry-run"], ["--store", tmp_path / "store"]):
        result = align(*options, bag)
        assert result.exit_code == 2, result.output
        assert "no joint state of ['shoulder', 'elbow'], is this another robot's bag?" in result.stderr
        assert f"{JOINTS} names ['hip', 'knee']" in result.stderr


def test_a_dataset_is_experience_as_a_bag_is(tmp_path: Path) -> None:
    model, dataset = write_robot_model(tmp_path / "model", "so101"), write_dataset(tmp_path / "data", (60, 80))
    cameras = [f"--camera={name}={feature}" for name, feature in CAMERAS.items()]
    common = ["align", "--model", str(model), "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*common, str(dataset), *cameras, "--dry-run", "--json"])
    found = json.loads(done.output)
    horizon, stride = 28, 4
    assert found["experiences"] == sum(len(range(0, length - horizon, stride)) for length in (60, 80))
    assert done.exit_code == (1 if found["reason"] else 0)
    refused = CliRunner().invoke(app, [*common, str(dataset), "--camera=front=no.such"])
    assert refused.exit_code == 2
    assert "camera 'front' is to be 'no.such'" in refused.output
    mixed = CliRunner().invoke(app, [*common, str(dataset), str(tmp_path / "bag")])
    assert mixed.exit_code == 2
    assert "got both" in mixed.output


def test_a_prompt_on_the_command_line_is_enough(tmp_path: Path, run: list[Sent]) -> None:
    bag = record(tmp_path / "bag", [item for item in run if item[0] != PROMPT])
    result = align("--dry-run", bag)
    assert result.exit_code == 2
    assert f"no messages on {PROMPT}, give --prompt-topic TOPIC, or --prompt TEXT" in result.stderr
    found = dry("--prompt", "reach the red target", bag)
    assert found["exit_code"] == 0
    assert "the prompt is 'reach the red target', as given" in found["bags"][0]["notes"][0]
    result = align("--dry-run", "--prompt", "reach " * 50, bag)
    assert result.exit_code == 2
    assert "prompt_too_long" in result.stderr


def test_split_files_one_by_one_are_the_folder(tmp_path: Path, run: list[Sent]) -> None:
    whole = dry(record(tmp_path / "whole", run))
    folder = tmp_path / "bag"
    folder.mkdir()
    for part in range(3):
        piece = record(tmp_path / f"piece_{part}", run[len(run) * part // 3 : len(run) * (part + 1) // 3])
        (piece / f"piece_{part}.mcap").rename(folder / f"bag_{part}.mcap")
    one_by_one = dry(*(folder / f"bag_{part}.mcap" for part in (2, 0, 1)))
    assert one_by_one["experiences"] == dry(folder)["experiences"] == whole["experiences"]
    assert len(one_by_one["bags"]) == 1


def test_a_recorder_with_another_clock_does_not_matter_and_is_said(tmp_path: Path, run: list[Sent]) -> None:
    plain, late = (dry(record(tmp_path / name, run, ns)) for name, ns in (("a", 0), ("b", 3 * 10**9)))
    assert plain["experiences"] == late["experiences"]
    assert "was received 3.000 s later" in late["bags"][0]["notes"][0]


def test_what_a_torn_bag_lost_is_said_beside_the_verdict(tmp_path: Path, run: list[Sent]) -> None:
    storage = record(tmp_path / "bag", run) / "bag.mcap"
    (tmp_path / "bag" / "metadata.yaml").write_bytes(b"rosbag2_bagfile_inf")
    storage.write_bytes(storage.read_bytes()[:-100_000])
    result = align("--store", tmp_path / "store", tmp_path / "bag")
    assert result.exit_code in (0, 1), result.output
    assert "missing: bag.mcap: the last" in result.stdout
    assert "metadata.yaml is damaged" in result.stdout
    assert "alignment" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--camera", "base_0_rgb"], "--camera: expected NAME=VALUE, got 'base_0_rgb'"),
        (["--joint-topic", "joints=/x"], "the model has no joint-state topic ['joints'], it has ['joint_states']"),
        (["--camera", "front=/x"], r"the model has no camera ['front'], it has ['base_0_rgb', 'left_wrist_0_rgb']"),
        (["--set", "align_steps"], "--set: expected NAME=VALUE, got 'align_steps'"),
        ([], "nowhere: no such bag"),
    ],
)
def test_wrong_usage_is_a_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = align("--dry-run", *arguments, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert f"cannot align: {words}" in result.stderr.replace(f"{tmp_path}/", "")
