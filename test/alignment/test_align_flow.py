"""The whole of `align()` on made-up experience: kept, refused with each reason, raised, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import TASKS, make_experiences, make_observation, one_after_another, replace_parts, stats_of
from torch import Tensor

from vla_align_ros.alignment import AlignReport, Reason, align, attempt, commit, guard, step
from vla_align_ros.alignment.reasons import Verdict
from vla_align_ros.alignment.split import split_by_episode
from vla_align_ros.checkpoint.manifest import StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.limits import CHECKS
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.types import Experience

pytestmark = pytest.mark.slow

PARAMS = AlignParams(
    align_learning_rate=0.05,
    align_steps=25,
    align_batch_size=16,
    align_draws=3,
    lambda_perc=0.2,
    lambda_dyn=0.2,
    lambda_inv=2.0,
)
QUICK = dataclasses.replace(PARAMS, align_steps=3, align_batch_size=4, align_draws=1)
EXPERIENCES = make_experiences(96)
FEW = make_experiences(32)  # for what needs no significance


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    """A policy whose running token fits its robot badly, so that there is something to gain."""
    policy = make_policy(peft_num_tokens=4)
    assert policy.token is not None
    policy.swap_token(policy.token + 2.0 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    return policy


def acts(policy: Policy) -> np.ndarray[Any, Any]:
    return policy.infer(make_observation(), torch.Generator().manual_seed(1)).actions


class Untouched:
    """What an alignment must leave alone: the token and the actions always when it isn't kept, the weights always."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.token, self.actions = policy, policy.token, acts(policy)
        assert self.token is not None
        self.bits = self.token.clone()
        self.weights = {name: value.clone() for name, value in policy.model.state_dict().items()}

    def check(self) -> None:
        assert self.policy.token is self.token
        assert torch.equal(self.token, self.bits)
        np.testing.assert_array_equal(acts(self.policy), self.actions)
        self.check_weights()

    def check_weights(self) -> None:
        for name, value in self.policy.model.state_dict().items():
            assert torch.equal(value, self.weights[name]), name
        assert not any(parameter.requires_grad for parameter in self.policy.model.parameters())
        assert all(parameter.grad is None for parameter in self.policy.model.parameters())


# --- kept ---


def test_a_kept_alignment_improves_and_changes_only_the_token(policy: Policy, tmp_path: Path) -> None:
    untouched = Untouched(policy)
    steps: list[int] = []
    store = TokenStore(tmp_path / "store", keep=3)
    report = align(
        policy,
        EXPERIENCES,
        PARAMS,
        store=store,
        exploration_fraction=0.5,
        on_step=lambda step, curve: steps.append(step),
    )
    assert [found.name for found in report.diagnosis] == list(policy.config.robot.action_labels)
    assert report.to_json()["diagnosis"][0]["clear"] == report.diagnosis[0].clear
    assert report.accepted
    assert report.reason is Reason.KEPT
    assert policy.token is not untouched.token
    assert torch.equal(untouched.token, untouched.bits), "an inference that has begun keeps its token"
    assert not np.array_equal(acts(policy), untouched.actions)
    untouched.check_weights()
    for task in ("dynamics", "inverse_dynamics"):
        assert report.after[task] < report.before[task]
    assert set(report.before) == set(report.best_known) == set(report.after) == set(TASKS)
    assert steps == list(range(len(report.curve)))
    assert len(steps) == 25
    inverse = [step.losses["inverse_dynamics"] for step in report.curve]
    assert np.mean(inverse[-5:]) < np.mean(inverse[:5]), "of random batches"
    assert all(step.grad_norm > 0 and step.e_token_norm > 0 for step in report.curve)
    assert (report.learned_from, report.judged_by, report.episodes) == (72, 24, 4)
    assert report.first_stamp_ns == EXPERIENCES[0].observation.stamp_ns
    assert report.last_stamp_ns == EXPERIENCES[-1].next_observation.stamp_ns
    assert report.exploration_fraction == 0.5
    assert set(report.statistics) == {check.name for check in CHECKS} - {"joint_strays", "frames_late"}
    assert report.limits == {check.name: check.no_limit for check in CHECKS}
    assert report.best_known_name in {"running token", "E_0", *(f"bank token {row}" for row in range(4))}
    assert report.token_version == "000001"
    assert report.sentence().startswith("alignment kept as version 000001 (kept): losses on later experience, after")
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["reason"] == "kept"


def test_the_kept_token_is_in_the_store_with_its_provenance(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    store = TokenStore(tmp_path / "store", keep=3)
    report = align(policy, FEW, QUICK, store=store)
    version = store.active()
    assert version is not None
    assert policy.token is not None
    np.testing.assert_array_equal(version.token, policy.token.numpy())
    manifest = version.manifest
    assert manifest.reason == "align"
    assert manifest.model_name == "made_up"
    assert manifest.base_weights_sha256 == policy.weights_sha256
    assert manifest.norm_stats_sha256 == policy.robot.norm_stats_sha256
    assert (manifest.state_fields, manifest.cameras) == (("shoulder", "elbow"), ("base_0_rgb", "left_wrist_0_rgb"))
    assert manifest.parameters == QUICK.to_mapping()
    assert manifest.losses_before == report.before
    assert manifest.losses_after == report.after
    assert manifest.experience["learned_from"] == 24


def test_the_kept_token_is_durable_before_it_is_used(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    untouched = Untouched(policy)
    order: list[str] = []

    class Spy(TokenStore):
        def save(self, token: Any, provenance: Any) -> Any:
            version = super().save(token, provenance)
            untouched.check()
            order.append("saved")
            return version

    swap = policy.swap_token
    policy.swap_token = lambda token: (order.append("used"), swap(token))[1]  # type: ignore[method-assign]
    assert align(policy, FEW, QUICK, store=Spy(tmp_path / "store", keep=3)).accepted
    assert order == ["saved", "used"]


def test_the_same_experience_and_seed_give_the_same_bits(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    tokens, start = [], policy.token
    for seed in (0, 0, 1):
        assert start is not None
        policy.swap_token(start)
        assert align(policy, FEW, QUICK, seed=seed).accepted
        tokens.append(policy.token)
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_the_prefix_is_computed_once_an_experience(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    prefix_cache = policy.model.prefix_cache

    def spy(inputs: Any) -> Any:
        sizes.append(len(inputs.state))
        return prefix_cache(inputs)

    monkeypatch.setattr(policy.model, "prefix_cache", spy)
    align(policy, make_experiences(40), QUICK)
    assert sizes == [32, 8]


def test_only_the_newest_experiences_are_used(policy: Policy) -> None:
    report = align(policy, FEW, dataclasses.replace(QUICK, align_max_experiences=16))
    assert report.learned_from + report.judged_by <= 16
    assert report.first_stamp_ns == FEW[-16].observation.stamp_ns


@pytest.mark.parametrize("task", ["lambda_perc", "lambda_dyn", "lambda_inv"])
def test_one_task_alone_is_enough_to_move_the_token(policy: Policy, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    off = dict.fromkeys(("lambda_perc", "lambda_dyn", "lambda_inv"), 0.0)
    params = dataclasses.replace(QUICK, **{**off, task: 1.0})
    report = align(policy, FEW, params)
    assert len(report.before) == len(report.after) == len(report.curve[0].losses) == 1
    assert report.curve[0].grad_norm > 0


def _kept() -> Verdict:
    return Verdict(Reason.KEPT, "")


# --- refused ---


def _one_that(**changes: Any) -> list[Experience]:
    odd = dataclasses.replace(FEW[-1], next_observation=dataclasses.replace(FEW[-1].next_observation, **changes))
    return [*FEW[:-1], odd]


def test_experience_in_which_a_joint_strays_is_neither_learned_from_nor_judged_by(policy: Policy) -> None:
    early = {index: dataclasses.replace(FEW[index], commands=-FEW[index].commands) for index in (3, 8, 12)}
    seen = [early.get(index, item) for index, item in enumerate(FEW)]
    replace_parts(policy, stats=stats_of(joint_strays=0.05))
    everything, report = align(policy, FEW, QUICK), align(policy, seen, QUICK)
    assert everything.left_out == 0
    assert report.left_out == 3
    assert report.learned_from + report.judged_by == everything.learned_from + everything.judged_by - 3
    params = QUICK.updated({"guard.joint_strays": 10.0})
    assert align(policy, seen, params).left_out == 0, "the user's limit"


def _elsewhere(item: Experience) -> Experience:
    """With joints where the pictures do not show them."""
    observation = dataclasses.replace(item.observation, state=item.observation.state + np.float32(3.0))
    return dataclasses.replace(item, observation=observation)


@pytest.mark.parametrize("one_robot", [make_experiences(40), one_after_another(40)], ids=["apart", "overlapping"])
def test_what_was_before_the_robot_changed_is_neither_learned_from_nor_judged_by(
    policy: Policy, one_robot: list[Experience]
) -> None:
    assert policy.token is not None
    running, params = policy.token, dataclasses.replace(QUICK, lambda_dyn=0.0, lambda_inv=0.0)
    two_robots = [*one_robot[:22], *map(_elsewhere, one_robot[22:])]
    unchanged = attempt(policy, running, two_robots, params).report
    assert (unchanged.before_change, unchanged.changed_ns) == (0, 0)
    limit = unchanged.statistics["robot_changed"] - 0.1
    assert limit > 2.5
    replace_parts(policy, stats=stats_of(robot_changed=limit))
    since = attempt(policy, running, two_robots, params)
    usable = [item for part in split_by_episode(two_robots) for item in part]
    row = since.report.before_change
    assert any(usable[row] is item for item in two_robots[19:26])
    assert since.report.changed_ns == usable[row].observation.stamp_ns
    assert f"{row} older experiences left out" in since.report.sentence()
    assert since.proposal is not None
    newest = attempt(policy, running, usable[row:], params)
    assert newest.proposal is not None
    torch.testing.assert_close(since.proposal.token, newest.proposal.token)
    for name in ("learned_from", "judged_by", "episodes", "diagnosis"):
        assert getattr(since.report, name) == getattr(newest.report, name), name
    user = params.updated({"guard.robot_changed": 9.0})
    assert attempt(policy, running, two_robots, user).report.before_change == 0, "the user's limit"
    replace_parts(policy, stats=stats_of(robot_changed=limit, too_little_experience=20.0))
    few = attempt(policy, running, two_robots, params)
    assert few.report.reason is Reason.TOO_LITTLE_EXPERIENCE
    assert few.token is None


def test_the_store_says_which_experience_was_used(policy: Policy, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "store", keep=3)
    replace_parts(policy, stats=stats_of(robot_changed=-9.0))  # whatever the losses
    report = align(policy, EXPERIENCES, PARAMS, store=store)
    assert report.accepted
    assert report.token_version is not None
    assert 0 < report.before_change < report.before_change + report.learned_from + report.judged_by <= 96
    experience = store.load(report.token_version).manifest.experience
    assert experience["first_stamp_ns"] == report.changed_ns > report.first_stamp_ns


def test_a_running_token_that_is_not_finite_is_said_to_be(policy: Policy) -> None:
    assert policy.token is not None
    replace_parts(policy, stats=stats_of(robot_changed=2.0, too_little_experience=30.0))
    found = attempt(policy, policy.token * torch.nan, EXPERIENCES, QUICK)
    assert found.report.reason is Reason.NON_FINITE


def _with_nan(field: str) -> list[Experience]:
    bad = FEW[5]
    if field == "commands":
        bad = dataclasses.replace(bad, commands=np.full_like(bad.commands, np.nan))
    else:
        seen = getattr(bad, field)
        state = np.array([np.inf, 0], np.float32)
        bad = dataclasses.replace(bad, **{field: dataclasses.replace(seen, state=state)})
    return [*FEW[:5], bad, *FEW[6:]]


def _all_at_once() -> list[Experience]:
    return [dataclasses.replace(item, observation=dataclasses.replace(item.observation, stamp_ns=0)) for item in FEW]


Case = tuple[Reason, dict[str, Any]]
REFUSED: dict[str, Case] = {
    "no_task": (
        Reason.NO_TASK,
        {"params": dataclasses.replace(QUICK, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0)},
    ),
    "no experience": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": []}),
    "one": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": FEW[:1]}),
    "all at once": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": _all_at_once()}),
    "NaN in commands": (Reason.NON_FINITE, {"experiences": _with_nan("commands")}),
    "inf in state": (Reason.NON_FINITE, {"experiences": _with_nan("observation")}),
    "inf in next state": (Reason.NON_FINITE, {"experiences": _with_nan("next_observation")}),
    "commands of another robot": (Reason.MALFORMED, {"experiences": make_experiences(16, horizon=3)}),
    "state of another robot": (Reason.MALFORMED, {"experiences": _one_that(state=np.zeros(7, np.float32))}),
    "no camera": (Reason.MALFORMED, {"experiences": _one_that(images={})}),
    "prompt": (Reason.MALFORMED, {"experiences": _one_that(prompt="far too long " * 100)}),
    "a token that is infinite": (Reason.NON_FINITE, {"descend": lambda start: start * torch.inf}),
    "NaN token": (Reason.NON_FINITE, {"descend": lambda start: start * torch.nan}),
    **{
        f"beyond the limit of {check.name}": (
            Reason(check.name),
            {
                "stats": stats_of(**{check.name: -1.0 if check.refuses == "above" else 1e9}),
                "experiences": one_after_another(32),  # FEW has no neighbours
            },
        )
        for check in CHECKS
        if not check.leaves_out
    },
}


def run_case(policy: Policy, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any) -> AlignReport:
    replace_parts(policy, stats=case.get("stats", policy.alignment.stats))
    if "descend" in case:
        monkeypatch.setattr(step, "descend", lambda policy, losses, rows, start, *_: (case["descend"](start), []))
    return align(policy, case.get("experiences", FEW), case.get("params", QUICK), **more)


def test_an_attempt_changes_nothing_and_its_commit_is_the_alignment(policy: Policy) -> None:
    untouched, running = Untouched(policy), policy.token
    assert running is not None
    found, again = (attempt(policy, running, EXPERIENCES, PARAMS) for _ in range(2))
    untouched.check()
    assert torch.equal(policy.token, running)
    assert found.token is not None
    assert torch.equal(found.token, again.token)
    report, version = commit(policy, found, PARAMS, None)
    assert (report.accepted, version) == (True, None)
    assert torch.equal(policy.token, found.token)
    after = policy.token.clone()
    refused = dataclasses.replace(found, token=None)
    commit(policy, refused, PARAMS, None)
    assert torch.equal(policy.token, after)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_its_reason_and_changes_nothing(
    policy: Policy, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reason, case = REFUSED[name]
    untouched = Untouched(policy)
    store = TokenStore(tmp_path / "store", keep=3)
    report = run_case(policy, case, monkeypatch, store=store)
    assert report.reason is reason
    assert not report.accepted
    assert report.token_version is None
    assert report.detail
    assert f"refused ({reason.value})" in report.sentence()
    json.dumps(report.to_json(), allow_nan=False)
    untouched.check()
    assert store.active() is None


def test_every_reason_is_reached_here_but_that_of_the_runtime() -> None:
    reached = {reason for reason, _ in REFUSED.values()} | {Reason.KEPT, Reason.NOT_DURABLE}
    assert reached == set(Reason) - {Reason.TOKEN_CHANGED}, "test_runtime.py"


def test_a_token_that_cannot_be_saved_is_not_used(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    untouched = Untouched(policy)
    (tmp_path / "store").write_text("a file where the folder should be")
    report = align(policy, FEW, QUICK, store=TokenStore(tmp_path / "store", keep=3))
    assert report.reason is Reason.NOT_DURABLE
    assert not report.accepted
    assert report.token_version is None
    assert str(tmp_path / "store") in report.detail
    untouched.check()


def test_a_store_that_fails_after_writing_leaves_the_token_too(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())

    class Failing(TokenStore):
        def save(self, token: Any, provenance: Any) -> Any:
            super().save(token, provenance)
            raise StoreError("the disk is gone")

    untouched = Untouched(policy)
    assert align(policy, FEW, QUICK, store=Failing(tmp_path / "s", keep=1)).reason is Reason.NOT_DURABLE
    untouched.check()


def test_nan_at_any_time_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = Untouched(policy)
    calls = Counter[str]()
    alignment_losses = policy.model.alignment_losses
    before_it_fails = 1000

    def failing(*arguments: Any) -> dict[str, Tensor]:
        calls["losses"] += 1
        found: dict[str, Tensor] = alignment_losses(*arguments)
        return {task: loss * torch.nan for task, loss in found.items()} if calls["losses"] > before_it_fails else found

    monkeypatch.setattr(policy.model, "alignment_losses", failing)
    replace_parts(policy, stats=stats_of(already_aligned=1e9))
    assert align(policy, FEW, QUICK).reason is Reason.ALREADY_ALIGNED
    for before_it_fails in range(calls["losses"]):
        calls.clear()
        report = align(policy, FEW, QUICK)
        assert calls["losses"] > before_it_fails
        assert report.reason is Reason.NON_FINITE, before_it_fails
        json.dumps(report.to_json(), allow_nan=False)
        untouched.check()


# --- raised ---


@pytest.mark.parametrize("where", ["on_step", "losses", "judge", "save"])
def test_an_exception_anywhere_changes_nothing(
    policy: Policy, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("broken on purpose")

    untouched = Untouched(policy)
    store = TokenStore(tmp_path / "store", keep=3)
    if where == "losses":
        monkeypatch.setattr(policy.model, "denoise_alignment", fail)
    elif where == "judge":
        monkeypatch.setattr(guard, "judge", fail)
    elif where == "save":
        monkeypatch.setattr(store, "save", fail)
    if where == "save":
        monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    with pytest.raises(RuntimeError, match="broken on purpose"):
        align(policy, FEW, QUICK, store=store, on_step=fail if where == "on_step" else None)
    untouched.check()
    assert store.active() is None


def test_a_stop_from_the_keyboard_changes_nothing(policy: Policy) -> None:
    def stop(step: int, curve: Any) -> None:
        raise KeyboardInterrupt

    untouched = Untouched(policy)
    with pytest.raises(KeyboardInterrupt):
        align(policy, FEW, QUICK, on_step=stop)
    untouched.check()


def test_a_model_that_cannot_align_says_so(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(alignment=None)
    with pytest.raises(PolicyError, match="it can act, but not align"):
        align(policy, FEW, QUICK)
