"""Parameters as another process sees them: descriptors, refusals with a reason, and what a bad start says."""

import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
from live import Ros
from policy_live import MODULE, ParameterClient
from rcl_interfaces.msg import ParameterType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from vla_align_ros.params import ManagerParams, ParameterError, PolicyParams, SimParams, fields_of
from vla_align_ros.ros.parameters import NodeParameters

pytestmark = pytest.mark.ros

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def started(*arguments, group=PolicyParams, configured=lambda: False):
    """A node with the parameters of a group, started with `-p` arguments, spinning in a thread."""
    context = Context()
    rclpy.init(args=["--ros-args", *(part for argument in arguments for part in ("-p", argument))], context=context)
    node = Node("tuned", context=context)
    executor = SingleThreadedExecutor(context=context)
    thread = threading.Thread(target=executor.spin, daemon=True)
    try:
        settings = NodeParameters(node, group, configured)
        executor.add_node(node)
        thread.start()
        yield settings
    finally:
        executor.shutdown()
        if thread.is_alive():
            thread.join(10)
        node.destroy_node()
        context.try_shutdown()


CONFIGURED = {"now": False}


@pytest.fixture(scope="module")
def settings(shared_ros):
    with started("model:=tiny", configured=lambda: CONFIGURED["now"]) as made:
        yield made


@pytest.fixture
def _configured(settings):
    CONFIGURED["now"] = True
    yield
    CONFIGURED["now"] = False


@pytest.fixture(scope="module")
def client(shared_ros: Ros, settings):
    return ParameterClient(shared_ros, "tuned")


TYPES = {
    "bool": ParameterType.PARAMETER_BOOL,
    "int": ParameterType.PARAMETER_INTEGER,
    "float": ParameterType.PARAMETER_DOUBLE,
    "str": ParameterType.PARAMETER_STRING,
}


def test_every_parameter_has_a_described_type_and_every_number_a_range(client):
    descriptors = fields_of(PolicyParams)
    described = client.describe(*(descriptor.name for descriptor in descriptors)).descriptors
    for descriptor, found in zip(descriptors, described, strict=True):
        assert found.name == descriptor.name
        assert found.type == TYPES[descriptor.type]
        assert descriptor.doc in found.description
        assert ("configure" in found.description) or descriptor.live
        ranges = {"int": found.integer_range, "float": found.floating_point_range}.get(descriptor.type)
        if ranges is not None:
            assert (ranges[0].from_value, ranges[0].to_value) == (descriptor.low, descriptor.high)
        if descriptor.choices:
            assert found.additional_constraints == " | ".join(descriptor.choices)


def test_good_values_act_at_once(client, settings):
    assert not client.set(lambda_dyn=2.0, align_frequency_hz=0.1, num_steps=5)
    assert (settings.values.align.lambda_dyn, settings.values.align.align_frequency_hz) == (2.0, 0.1)
    assert settings.values.num_steps == 5
    assert client.get("lambda_dyn", "num_steps") == [2.0, 5]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("align_learning_rate", 99.0, "range"),
        ("align_learning_rate", float("nan"), ""),
        ("lambda_perc", -0.1, "range"),
        ("num_steps", 0, "range"),
        ("num_steps", "many", "type"),
        ("num_steps", True, "type"),
        ("lambda_inv", 1, "type"),
        ("device", "tpu", "auto | cpu | cuda"),
    ],
)
def test_bad_value_is_refused_with_a_reason_and_the_old_one_stays(client, settings, name, value, words):
    before, known = client.get(name), settings.values
    (reason,) = client.set(**{name: value})
    assert words in reason
    assert name in reason or words == "type" or not words
    assert client.get(name) == before
    assert settings.values == known


def test_of_several_set_at_once_none_is_set_when_one_is_bad(client, settings):
    known = settings.values
    reason = client.set_atomically(lambda_perc=1.5, device="tpu")
    assert "device" in reason
    assert client.get("lambda_perc") == [known.align.lambda_perc]
    assert settings.values == known
    assert client.set_atomically(lambda_perc=1.5, device="cpu") is None
    assert (settings.values.align.lambda_perc, settings.values.device) == (1.5, "cpu")


def test_exception_in_the_callback_is_a_refusal_and_the_node_goes_on(client, settings, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(PolicyParams, "updated", broken)
        (reason,) = client.set(lambda_perc=1.6)
    assert "a bug" in reason
    assert not client.set(lambda_perc=1.7)
    assert settings.values.align.lambda_perc == 1.7


@pytest.mark.usefixtures("_configured")
def test_what_is_read_at_configure_is_refused_while_configured_with_what_to_do_and_the_rest_is_live(client, settings):
    before = settings.values
    for name, value in {"seed": 5, "model": "other", "image_stale_s": 1.0, "autostart": False}.items():
        (reason,) = client.set(**{name: value})
        for words in (name, "read at configure and stays", "clean up /tuned", "configure again"):
            assert words in reason
    assert settings.values == before
    assert not client.set(seed=before.seed, lambda_inv=0.5), "the same value changes nothing"
    assert settings.values.align.lambda_inv == 0.5


@pytest.mark.usefixtures("_configured")
def test_shipped_file_can_be_loaded_into_a_running_node_and_resets_nothing_that_the_user_decides(client, settings):
    assert not client.set(lambda_perc=0.3, exploration_fraction=0.25)
    CONFIGURED["now"] = False
    assert not client.set(device="auto")
    CONFIGURED["now"] = True
    assert not client.load(REPOSITORY / "config" / "vla_policy.yaml")
    assert (settings.values.model, settings.values.align.lambda_perc) == ("tiny", 0.3)
    assert settings.values.exploration_fraction == 0.0, "what stands in the file is loaded"


def test_unknown_parameter_is_said_by_name_with_the_nearest_and_one_of_another_node_is_not(capfd):
    with started("lambda_prec:=0.5", "keep_versions:=3", "use_sim_time:=false"):
        pass
    said = capfd.readouterr().err
    assert "lambda_prec: no such parameter, did you mean lambda_perc?" in said
    assert "keep_versions" not in said.replace("valid:", "")
    assert said.count("no effect") == 1


def test_node_without_a_lifecycle_says_that_it_must_be_started_anew(shared_ros):
    with started(group=SimParams, configured=None) as sim:
        result = sim._check([rclpy.parameter.Parameter("shift_scale", value=0.5)])
    assert not result.successful
    assert "shift_scale: it is read at start and stays 1.0; to change it, start the node anew" in result.reason


def test_model_recommends_only_where_the_user_has_set_nothing():
    with started("lambda_dyn:=1.9") as settings:
        settings.recommend({"lambda_dyn": 0.5, "lambda_perc": 0.1, "num_steps": 4})
        assert settings.values.align.lambda_dyn == 1.9
        assert (settings.values.align.lambda_perc, settings.values.num_steps) == (0.1, 4)
        settings.recommend({"lambda_perc": 0.2})
        assert settings.values.align.lambda_perc == 0.2, "what a model recommended gives way to the next model"
        settings._node.set_parameters([rclpy.parameter.Parameter("lambda_perc", value=0.7)])
        settings.recommend({"lambda_perc": 0.2})
        assert settings.values.align.lambda_perc == 0.7
        with pytest.raises(ParameterError, match=r"recommended by the model: .*lambda_inv"):
            settings.recommend({"lambda_inv": 99.0})


def test_whole_number_at_start_is_taken_for_a_float_as_the_launch_files_do():
    with started("lambda_dyn:=1", "frozen_s:=0") as made:
        assert (made.values.align.lambda_dyn, made.set_by_user) == (1.0, {"lambda_dyn", "frozen_s"})
        assert made._node.get_parameter("frozen_s").value == 0.0


@pytest.mark.parametrize(
    ("group", "argument", "words"),
    [
        (PolicyParams, "lambda_dyn:=11.0", "lambda_dyn: expected float 0.0..2.0"),
        (PolicyParams, "num_steps:=many", "num_steps: expected int 1..50, got 'many' (str)"),
        (PolicyParams, "num_steps:=2.5", "num_steps: expected int"),
        (PolicyParams, "lambda_dyn:=3", "lambda_dyn: expected float 0.0..2.0"),
        (PolicyParams, "lambda_dyn:=.nan", "lambda_dyn: expected float"),
        (PolicyParams, "lambda_dyn:=[1.0, 2.0]", "lambda_dyn: expected float"),
        (PolicyParams, "device:=tpu", "auto | cpu | cuda"),
        (PolicyParams, "prompt:=yes", "prompt: expected str"),
        (ManagerParams, "keep_versions:=0", "keep_versions: expected int 1..1000"),
    ],
)
def test_bad_value_at_start_is_refused_with_a_sentence(group, argument, words):
    with (
        pytest.raises((ParameterError, rclpy.exceptions.ParameterException)) as refused,
        started(argument, group=group),
    ):
        pass
    assert words in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "words"),
    [({"align_learning_rate": 99.0}, "align_learning_rate"), ({"poll_period_s": "often"}, "poll_period_s")],
    ids=["of the policy, out of range", "of the manager, of the wrong type"],
)
def test_process_ends_with_exit_code_2_and_a_sentence(ros, params, words):
    process = ros.run_node(MODULE, params)
    assert process.wait(60) == 2
    assert f"a parameter is wrong: {words}" in process.output
    assert "Traceback" not in process.output
