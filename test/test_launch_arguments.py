"""What the launch files take as arguments, and the sentences for what they do not."""

import pytest

from vla_align_ros import launch_arguments as arguments
from vla_align_ros.params import ParameterError, PolicyParams, SimParams

NODES = ("vla_policy", "checkpoint_manager")


def test_given_arguments_become_parameters_in_their_types_and_texts_stay_texts():
    texts = {"model": "", "prompt": "yes", "autostart": "False", "robot_id": "7"}
    assert arguments.parameters(PolicyParams, texts) == {"prompt": "yes", "autostart": False, "robot_id": "7"}
    found = arguments.parameters(SimParams, {"shift_scale": "1", "embodiment_seed": ""}, {"publish_clock": True})
    assert found == {"shift_scale": 1.0, "publish_clock": True}
    assert isinstance(found["shift_scale"], float)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"embodiment_seed": "x"}, "embodiment_seed: expected int"),
        ({"embodiment_seed": "1.5"}, "embodiment_seed: expected int"),
        ({"embodiment_seed": "{"}, "embodiment_seed: expected int"),
        ({"shift_scale": "true"}, "shift_scale: expected float"),
        ({"shift_scale": ".nan"}, "shift_scale: expected float"),
        ({"rate": "2.0"}, "rate: 2.0 needs publish_clock"),
    ],
)
def test_wrong_value_is_refused_by_name(texts, words):
    with pytest.raises(ParameterError) as refused:
        arguments.parameters(SimParams, texts)
    assert str(refused.value).startswith(words)


def test_remaps_are_pairs_in_either_way_of_writing():
    assert arguments.remappings("") == arguments.remappings(" , ") == []
    text = "camera/wrist/image_raw=/d435/color/image_raw, joint_states:=/arm/joint_states,"
    expected = [("camera/wrist/image_raw", "/d435/color/image_raw"), ("joint_states", "/arm/joint_states")]
    assert arguments.remappings(text) == expected


@pytest.mark.parametrize(
    "text",
    ["wrist", "a=b=c", "=b", "a=", "a==b", "a b=c", "4=b", "a=/b//c", "a=b/", "__ns=/arm", "a__b=c", "a=é", "~/a=b"],
)
def test_remap_of_another_form_is_refused(text):
    with pytest.raises(ParameterError, match=r"^remap: ") as refused:
        arguments.remappings(f"joint_states=/js,{text}")
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["", "/", "arm1", "/cell/arm_1"])
def test_namespace(text):
    assert arguments.namespace(text) == text


@pytest.mark.parametrize("text", ["4x", "arm 1", "arm/", "//arm", "a-b"])
def test_what_is_no_namespace_is_refused(text):
    with pytest.raises(ParameterError, match=r"^namespace: "):
        arguments.namespace(text)


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "/**/vla_policy:\n  ros__parameters:\n    seed: 3\n    use_sim_time: true\n",
        "/arm1/vla_policy: {ros__parameters: {lambda_dyn: 1}}\nmoveit: {ros__parameters: {anything: 1}}\n",
        "arm1:\n  vla_policy:\n    ros__parameters: {seed: 3}\narm2: {vla_policy: {ros__parameters: {seed: 4}}}",
        "/arm1/checkpoint_manager: {ros__parameters: {keep_versions: 3}}\n",
        "/*/vla_policy: {ros__parameters: {seed: 3}}\n",
        "/**: {ros__parameters: {robot_description: x, lambda_dyn: 0.5}}\n",
    ],
)
def test_parameter_file_in_each_form_that_ros_reads(tmp_path, text):
    path = written(tmp_path, text)
    assert arguments.parameter_file("params_file", path, NODES, "/arm1") == path


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("vla_policy", "arm1"), ("/arm1/vla_policy", ""), ("/*/vla_policy", ""), ("/arm1/**/vla_policy", "/arm2")],
)
def test_parameter_file_for_a_node_of_another_namespace_is_refused(tmp_path, name, namespace):
    path = written(tmp_path, f"{name}: {{ros__parameters: {{seed: 3}}}}")
    full = f"{namespace}/vla_policy".strip("/")
    with pytest.raises(ParameterError, match=rf"is for \['.*'\], and the node is /{full}: write /\*\*/vla_policy"):
        arguments.parameter_file("params_file", path, NODES, namespace)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "/**/vla_policy: {ros__parameters: {lambda_prec: 1.0}}",
            "/**/vla_policy: lambda_prec: no such parameter, did you",
        ),
        ("arm1: {vla_policy: {ros__parameters: {seed: x}}}", "arm1/vla_policy: seed: expected int"),
        ("checkpoint_manager: {ros__parameters: {keep_versions: 0}}", "keep_versions: expected int 1..1000"),
        ("/**: {ros__parameters: {lambda_dyn: 9.0}}", "lambda_dyn: expected float 0.0..2.0"),
        ("vla_polcy: {ros__parameters: {seed: 3}}", "sets nothing for vla_policy or checkpoint_manager, only for"),
        ("vla_policy:\n  ros__parameters:\n", "no parameters below ros__parameters"),
        ("vla_policy: {ros__parameters: {use_sim_time: maybe}}", "use_sim_time: expected true or false, got 'maybe'"),
        ("seed: 3", "sets nothing for"),
        ("", "sets nothing for"),
        ("a: [", "cannot be read"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_parameter_file_that_would_not_do_what_it_says_is_refused_by_argument_file_and_key(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ParameterError) as refused:
        arguments.parameter_file("params_file", path, NODES)
    assert str(refused.value).startswith(f"params_file: {path}")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parameter_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"^params_file: .*no_such\.yaml cannot be read"):
        arguments.parameter_file("params_file", str(tmp_path / "no_such.yaml"), NODES)


def test_flags_and_log_levels():
    assert [arguments.flag("respawn", text) for text in ("true", "False")] == [True, False]
    assert arguments.log_level("WARN") == "warn"
    for call in (lambda: arguments.flag("respawn", "2"), lambda: arguments.log_level("loud")):
        with pytest.raises(ParameterError, match=r"^(respawn|log_level): expected"):
            call()
