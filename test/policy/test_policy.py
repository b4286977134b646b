"""`Policy`: observations in robot units in, chunks in robot units out; what it refuses; how the token is swapped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CAMERAS, architecture, make_experiences, make_observation, write_model

from vla_align_ros.policy import Policy, PolicyError, load_policy
from vla_align_ros.policy.tokenizer import PromptError, PromptTokenizer, clean_prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("zoo") / "model")


@pytest.fixture
def policy(folder: Path) -> Policy:
    return load_policy(folder, "cpu")


def changed(**fields: Any) -> Any:
    return dataclasses.replace(make_observation(), **fields)


# --- acting ---


def test_a_chunk_has_the_shape_stamp_and_period_of_its_observation(policy: Policy) -> None:
    chunk = policy.infer(make_observation(stamp_ns=12345))
    assert chunk.actions.shape == (5, 2)
    assert chunk.actions.dtype == np.float32
    assert (chunk.stamp_ns, chunk.period_ns) == (12345, 100_000_000)
    np.testing.assert_array_equal(chunk.start, make_observation().state)


def test_the_same_generator_gives_the_same_chunk(policy: Policy) -> None:
    first, second, other = (
        policy.infer(make_observation(), torch.Generator().manual_seed(seed)).actions for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_every_input_matters(policy: Policy) -> None:
    def act(**fields: Any) -> Any:
        return policy.infer(changed(**fields), torch.Generator().manual_seed(1)).actions

    plain = act()
    assert not np.array_equal(plain, act(state=np.array([0.5, -0.2], np.float32)))
    assert not np.array_equal(plain, act(prompt="touch green"))
    for camera, image in make_observation().images.items():
        assert not np.array_equal(plain, act(images={**make_observation().images, camera: 255 - image}))
        assert not np.array_equal(plain, act(images={camera: image}))
    assert np.array_equal(plain, act(images={**make_observation().images, "unknown": np.zeros((4, 4, 3), np.uint8)}))


def test_prepare_normalises_pads_and_masks(policy: Policy) -> None:
    image = make_observation().images[CAMERAS[0]]
    inputs = policy.prepare([make_observation(), changed(images={CAMERAS[0]: image})])
    assert inputs.state.tolist()[0] == pytest.approx([0.1, -0.2, 0.0], abs=1e-5)
    assert [mask.tolist() for mask in inputs.image_masks] == [[True, True], [True, False]]
    expected = torch.from_numpy(image).movedim(-1, 0).float() / 127.5 - 1
    torch.testing.assert_close(inputs.images[0][0], expected)
    assert inputs.tokens.shape == (2, 8)
    assert inputs.token_masks.sum(1).tolist() == [4, 4]  # <bos> touch red \n
    assert not inputs.tokens[~inputs.token_masks].any()


def test_images_of_any_size_are_letterboxed(policy: Policy) -> None:
    images = {camera: np.full((24, 32, 3), 200, np.uint8) for camera in CAMERAS[:2]}
    inputs = policy.prepare([changed(images=images)])
    assert inputs.images[0].shape == (1, 3, 16, 16)
    assert (inputs.images[0][0, :, :2] == -1).all()


def test_actions_come_back_in_robot_units(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder, "cpu")
    shifted = load_policy(write_model(tmp_path / "shifted"), "cpu")
    stats = shifted.robot.actions.stats
    scaled = dataclasses.replace(stats, mean=np.array([1, -1], np.float32), std=np.array([2, 3], np.float32))
    shifted.robot = dataclasses.replace(shifted.robot, actions=type(shifted.robot.actions)(scaled, "zscore"))
    plain = policy.infer(make_observation(), torch.Generator().manual_seed(1)).actions
    found = shifted.infer(make_observation(), torch.Generator().manual_seed(1)).actions
    np.testing.assert_allclose(found, plain * np.array([2, 3]) + np.array([1, -1]), rtol=1e-4, atol=1e-4)


# --- refusing ---


@pytest.mark.parametrize("prompt", ["", "   ", "\n", "_", " _\n"])
def test_an_empty_prompt_is_refused(policy: Policy, prompt: str) -> None:
    with pytest.raises(PromptError, match="the prompt is empty: say in words"):
        policy.infer(changed(prompt=prompt))


def test_a_prompt_that_is_far_too_long_is_refused(policy: Policy) -> None:
    with pytest.raises(PromptError, match=r"has 2001 tokens, .*at most 8.*: shorten ") as caught:
        policy.infer(changed(prompt="red " * 1999))
    assert len(str(caught.value)) < 200


def test_prompts_are_cleaned_as_openpi_does() -> None:
    assert clean_prompt("  pick_up the\ncube ") == "pick up the cube"


@pytest.mark.parametrize("state", [[0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]], []])
def test_a_state_of_the_wrong_shape_is_refused(policy: Policy, state: Any) -> None:
    with pytest.raises(PolicyError, match=r"one number for each .*\['shoulder', 'elbow'\], got shape"):
        policy.infer(changed(state=np.array(state, np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_refused(policy: Policy, bad: float) -> None:
    with pytest.raises(PolicyError, match="the state must be finite"):
        policy.infer(changed(state=np.array([0.1, bad], np.float32)))


def test_no_camera_at_all_is_refused(policy: Policy) -> None:
    with pytest.raises(PolicyError, match=r"no image of any camera of \['base_0_rgb', 'left_wrist_0_rgb'\]"):
        policy.infer(changed(images={}))


def test_experiences_of_the_wrong_shape_are_refused(policy: Policy) -> None:
    experience = make_experiences(1)[0]
    for commands in (np.zeros((4, 2), np.float32), np.full((5, 2), np.nan, np.float32)):
        with pytest.raises(PolicyError, match=r"commands must be finite and of shape \(5, 2\)"):
            policy.prepare_experiences([dataclasses.replace(experience, commands=commands)])


def test_a_model_without_an_alignment_expert_acts_and_does_not_align(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path / "model", alignment=None), "cpu")
    assert policy.infer(make_observation()).actions.shape == (5, 2)
    with pytest.raises(PolicyError, match="it can act, but not align"):
        policy.prepare_experiences(make_experiences(1))


# --- experience ---


def test_experiences_become_inputs(policy: Policy) -> None:
    experiences = make_experiences(3)
    blind = dataclasses.replace(experiences[1].next_observation, images={CAMERAS[1]: np.zeros((16, 16, 3), np.uint8)})
    experiences[1] = dataclasses.replace(experiences[1], next_observation=blind)
    experiences[2] = dataclasses.replace(experiences[2], observation=blind)
    inputs, given = policy.prepare_experiences(experiences)
    assert given.actions.shape == (3, 5, 3)
    assert given.state_mask.tolist() == given.action_mask.tolist() == [True, True, False]
    assert not given.actions[..., 2].any()
    np.testing.assert_allclose(given.actions[0, :, :2].numpy(), experiences[0].commands, atol=1e-4)
    assert given.features.shape == (3, 8, 5)
    assert given.feature_masks.tolist() == [[True] * 8, [False] * 4 + [True] * 4, [True] * 8]
    after = policy.prepare([item.next_observation for item in experiences])
    torch.testing.assert_close(given.features, policy.alignment.features(after)[0])
    assert inputs.state.shape == (3, 3)
    before = policy.alignment.features(policy.prepare([item.observation for item in experiences]))[0]
    torch.testing.assert_close(given.own_features[:2], before[:2])
    torch.testing.assert_close(given.own_features[2, 4:], before[2, 4:])
    assert not given.own_features[2, :4].any(), "of a missing camera"


def test_pi05s_alignment_prefix_leaves_the_state_out(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", variant="pi05", max_token_len=24, vocab_size=300)
    raw = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    vocabulary |= {str(number): len(vocabulary) + number for number in range(256)}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    policy = load_policy(folder, "cpu")
    moved = changed(state=np.array([0.9, 0.9], np.float32))
    with_state = policy.prepare([make_observation(), moved])
    assert not torch.equal(with_state.tokens[0], with_state.tokens[1])
    without = policy.prepare([make_observation(), moved], state_in_prompt=False)
    assert torch.equal(without.tokens[0], without.tokens[1])
    experience = dataclasses.replace(make_experiences(1)[0], observation=make_observation())
    inputs, _ = policy.prepare_experiences([experience])
    assert torch.equal(inputs.tokens[0], without.tokens[0])


def test_pi05_writes_the_state_in_256_bins(folder: Path) -> None:
    texts: list[str] = []
    tokenizer = PromptTokenizer(folder / "tokenizer.json", architecture(variant="pi05", max_token_len=64))
    tokenizer._encode = lambda text: (texts.append(text), ())[1]  # type: ignore[assignment]
    tokenizer("touch red", np.array([-1.0, 0.0, 0.999, 1.5, -1.5], np.float32))
    tokenizer("touch red")
    assert texts == ["Task: touch red, State: 0 128 255 255 -1;\nAction: ", "Task: touch red;\nAction: "]


# --- the token ---


def test_the_first_token_is_the_banks_row_or_e_0(policy: Policy, folder: Path) -> None:
    e_0 = policy.model.peft_prefix_token
    assert e_0 is not None
    assert policy.token is not None
    assert torch.equal(policy.token, e_0)
    assert policy.token.data_ptr() != e_0.data_ptr()
    assert policy.robot.config.initial_token is None
    policy.robot = dataclasses.replace(policy.robot, config=dataclasses.replace(policy.config, initial_token=2))
    first = policy.initial_token()
    assert first is not None
    assert torch.equal(first, e_0 + policy.alignment.bank[2])


def test_a_swapped_token_acts_and_is_a_copy(policy: Policy) -> None:
    assert policy.token is not None
    before = policy.infer(make_observation(), torch.Generator().manual_seed(1)).actions
    token = policy.token + 1.0
    running, copy = policy.token, policy.token.clone()
    policy.swap_token(token)
    assert torch.equal(running, copy), "the old version stays as it was for an inference that has begun"
    after = policy.infer(make_observation(), torch.Generator().manual_seed(1)).actions
    assert not np.array_equal(before, after)
    token.zero_()
    np.testing.assert_array_equal(policy.infer(make_observation(), torch.Generator().manual_seed(1)).actions, after)


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 32), torch.zeros(2, 31), torch.zeros(64), torch.full((2, 32), torch.nan)]
)
def test_a_token_that_does_not_fit_is_refused(policy: Policy, bad: torch.Tensor) -> None:
    before = policy.token
    with pytest.raises(PolicyError, match="E-Token"):
        policy.swap_token(bad)
    assert policy.token is before


def test_a_model_without_e_has_no_token(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", use_peft_prefix_token=False, alignment=None)
    policy = load_policy(folder, "cpu")
    assert policy.token is None
    assert policy.infer(make_observation()).actions.shape == (5, 2)
    with pytest.raises(PolicyError, match="has shape None"):
        policy.swap_token(torch.zeros(2, 32))
