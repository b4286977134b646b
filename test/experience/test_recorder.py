from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rosbags.interfaces import ConnectionExtRosbag2, QosDurability
from rosbags.rosbag2 import Reader
from simulated_run import TOPICS, TYPES, eventful_run, new_pipeline, same

from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.recorder import BagRecorder, RecorderError
from vla_align_ros.experience.recording import bag_messages
from vla_align_ros.observation.codecs import STRING, encode_string


def test_every_byte_is_read_back(tmp_path: Path) -> None:
    run = eventful_run()
    with BagRecorder(tmp_path / "bag", TYPES, latched=[TOPICS.prompt]) as recorder:
        for sent in run:
            recorder.write(sent.topic, memoryview(sent.raw), sent.stamp_ns)
    read = list(bag_messages(tmp_path / "bag"))
    expected = [(sent.topic, TYPES[sent.topic], sent.stamp_ns, sent.raw) for sent in run]
    assert sorted(map(tuple, read)) == sorted(expected)
    assert [message.t_ns for message in read] == sorted(message.t_ns for message in read)


def test_a_latched_topic_is_recorded_as_transient_local(tmp_path: Path) -> None:
    with BagRecorder(tmp_path / "bag", TYPES, latched=[TOPICS.prompt]) as recorder:
        recorder.write(TOPICS.prompt, encode_string("red"), 1)
    with Reader(tmp_path / "bag") as reader:
        extras = {item.topic: item.ext for item in reader.connections}
    latched = {
        topic: [qos.durability for qos in extra.offered_qos_profiles]
        for topic, extra in extras.items()
        if isinstance(extra, ConnectionExtRosbag2)
    }
    assert latched.pop(TOPICS.prompt) == [QosDurability.TRANSIENT_LOCAL]
    assert set(map(tuple, latched.values())) == {()}


def test_an_existing_path_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "precious").write_text("data")
    with pytest.raises(RecorderError, match="exists already"):
        BagRecorder(tmp_path / "bag", TYPES)
    assert [file.name for file in (tmp_path / "bag").iterdir()] == ["precious"]


def test_an_unknown_type_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecorderError, match="std_msgs/Strong"):
        BagRecorder(tmp_path / "bag", {"/prompt": "std_msgs/Strong"})
    assert not (tmp_path / "bag").exists()


def test_unknown_topics_and_writes_after_close_are_refused(tmp_path: Path) -> None:
    recorder = BagRecorder(tmp_path / "bag", {"/prompt": STRING})
    with pytest.raises(RecorderError, match="/joints is not recorded"):
        recorder.write("/joints", b"", 1)
    recorder.close()
    recorder.close()
    with pytest.raises(RecorderError, match="closed"):
        recorder.write("/prompt", encode_string("red"), 1)


def test_an_error_inside_the_context_still_finishes_the_bag(tmp_path: Path) -> None:
    def record_and_fail() -> None:
        with BagRecorder(tmp_path / "bag", {"/prompt": STRING}) as recorder:
            recorder.write("/prompt", encode_string("red"), 5)
            raise RuntimeError("robot on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        record_and_fail()
    assert [message.t_ns for message in bag_messages(tmp_path / "bag")] == [5]


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    with BagRecorder(tmp_path / "bag", {"/a": STRING, "/b": STRING}) as recorder:
        raw = encode_string("x" * 5000)  # several chunks of 1 MiB

        def write(topic: str) -> None:
            for t_ns in range(1, 400):
                recorder.write(topic, raw, t_ns)

        threads = [threading.Thread(target=write, args=(topic,)) for topic in ("/a", "/b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    read = list(bag_messages(tmp_path / "bag"))
    assert len(read) == 798
    assert {message.raw for message in read} == {raw}


RECORD_AND_WAIT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from simulated_run import TYPES, eventful_run
from vla_align_ros.experience.recorder import BagRecorder
recorder = BagRecorder(Path(sys.argv[2]), TYPES)
for sent in eventful_run(image_shape=(96, 128)):
    recorder.write(sent.topic, sent.raw, sent.stamp_ns)
print("recorded", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_recorder_left_is_read(tmp_path: Path) -> None:
    bag = tmp_path / "killed"
    command = [sys.executable, "-c", RECORD_AND_WAIT, str(Path(__file__).parent), str(bag)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (bag / "metadata.yaml").exists()

    run = eventful_run(image_shape=(96, 128))
    with BagRecorder(tmp_path / "whole", TYPES) as recorder:
        for sent in run:
            recorder.write(sent.topic, sent.raw, sent.stamp_ns)
    whole = list(BagReading(tmp_path / "whole", TOPICS, *new_pipeline()))
    killed = list(BagReading(bag, TOPICS, *new_pipeline()))
    lost_bytes = sum(len(sent.raw) for sent in run) - sum(len(message.raw) for message in bag_messages(bag))
    assert lost_bytes <= 2 * 2**20  # the chunk in memory and the end of the one before
    assert len(killed) > len(whole) // 2
    assert all(same(one, other) for one, other in zip(killed, whole[: len(killed)], strict=True))


def test_a_disk_that_takes_no_more_ends_the_bag_and_what_is_whole_is_read(tmp_path: Path) -> None:
    record = """
import resource, sys
from pathlib import Path
from vla_align_ros.experience.recorder import BagRecorder, RecorderError
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
recorder, number = BagRecorder(Path(sys.argv[1]), {"/text": "std_msgs/msg/String"}), 0
try:
    while sys.argv[2] == "write" or number < 30:
        recorder.write("/text", bytes(100_000), number)
        number += 1
    recorder.close()
except RecorderError as error:
    print(error)
recorder.close()
try:
    recorder.write("/text", b"later", 0)
except RecorderError as error:
    print(error)
"""
    for when in ("write", "close"):
        done = subprocess.run(
            [sys.executable, "-c", record, tmp_path / when, when], capture_output=True, text=True, check=True
        )
        assert "the bag ends here" in done.stdout
        assert "the bag is closed" in done.stdout
        assert done.stderr == "", "nothing is tried again when the process ends"
        assert len(list(bag_messages(tmp_path / when))) >= 20
