"""The prompt of a parameter is on ~/prompt for recorders that come later, and anybody's publisher can say another."""

import json

import pytest
from live import LATCHED, RELIABLE
from policy_live import POLICY, PolicyProcess
from std_msgs.msg import String

from vla_align_ros.experience.recording import bag_messages
from vla_align_ros.observation.codecs import decode_string

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FIRST, OTHER = "reach the red target", "reach the blue target"


@pytest.fixture(scope="module")
def node(shared_ros, tmp_path_factory):
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("prompt"), prompt=FIRST)
    made.wait_for_state("active")
    return made


def test_parameter_is_in_the_bag_of_a_recorder_that_comes_later(node, shared_ros, tmp_path):
    params = {"path": str(tmp_path / "bag"), "topics": "vla_policy/prompt:std_msgs/msg/String:latched"}
    recorder = shared_ros.run_node("vla_align_ros.ros.bag_recorder", params)
    recorded = shared_ros.listen("/bag_recorder/recorded", String, LATCHED)
    recorded.wait(lambda message: json.loads(message.data) == {f"{POLICY}/prompt": 1})
    assert recorder.stop() == 0
    assert [decode_string(message.raw) for message in bag_messages(tmp_path / "bag")] == [FIRST]


def test_prompt_of_a_publisher_with_default_qos_is_heard_and_ends_that_of_the_parameter(node, shared_ros):
    own = shared_ros.node.count_publishers(f"{POLICY}/prompt")
    publisher = shared_ros.publisher(f"{POLICY}/prompt", String, RELIABLE)  # what `ros2 topic pub` asks for
    publisher.publish(String(data=" "))
    node.wait_for_status("observation", lambda status: status.refused("prompt_empty") == 1)
    assert shared_ros.node.count_publishers(f"{POLICY}/prompt") == own + 1, "a refused prompt changes nothing"
    publisher.publish(String(data=FIRST))
    publisher.publish(String(data=OTHER))
    shared_ros.wait_until(
        lambda: shared_ros.node.count_publishers(f"{POLICY}/prompt") == own, "the node's own has gone"
    )
    node.bring_to("unconfigured")
    node.bring_to("active")
    said = shared_ros.listen(f"{POLICY}/prompt", String, LATCHED)
    assert said.wait().data == FIRST, "configured anew, the parameter holds again"
