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

from vla_align_ros.alignment import AlignReport, Reason, align, attempt, commit, evidence, guard, step
from vla_align_ros.alignment.losses import ExperienceLosses, means, weights_of
from vla_align_ros.alignment.pick import Pick
from vla_align_ros.alignment.reasons import Verdict
from vla_align_ros.alignment.rules import RULES, Rules
from vla_align_ros.alignment.split import split_by_episode
from vla_align_ros.checkpoint.manifest import StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.types import Experience

pytestmark = pytest.mark.slow

PARAMS = AlignParams(
    align_learning_rate=0.45,
    align_steps=25,
    align_batch_size=16,
    align_draws=3,
    lambda_perc=0.2,
    lambda_dyn=0.2,
    lambda_inv=2.0,
)
QUICK = dataclasses.replace(PARAMS, align_steps=3, align_batch_size=4, align_draws=1)
EXPERIENCES = make_experiences(96)
ALL_THE_WAY = Rules(alike=0.0)  # of random weights every token acts alike
FEW = make_experiences(32)  # for what needs no significance


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    """A policy whose running token fits its robot badly, so that there is something to gain."""
    policy = make_policy(peft_num_tokens=4)
    assert policy.token is not None
    nine_times_the_gradient = 3.0 * torch.eye(policy.token.numel()).expand(2, -1, -1)
    replace_parts(policy, learned_step=nine_times_the_gradient)
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
        rules=ALL_THE_WAY,
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
    assert set(report.before) == set(report.picked) == set(report.after) == set(TASKS)
    assert steps == list(range(len(report.curve)))
    assert len(steps) == 25
    inverse = [step.losses["inverse_dynamics"] for step in report.curve]
    assert np.mean(inverse[-5:]) < np.mean(inverse[:5]), "of random batches"
    assert all(step.grad_norm > 0 and step.e_token_norm > 0 for step in report.curve)
    assert (report.learned_from, report.judged_by, report.episodes) == (72, 24, 4)
    assert report.first_stamp_ns == EXPERIENCES[0].observation.stamp_ns
    assert report.last_stamp_ns == EXPERIENCES[-1].next_observation.stamp_ns
    assert report.exploration_fraction == 0.5
    assert report.token_version == "000001"
    assert report.sentence().startswith("alignment kept as version 000001 (kept): whole step, after/before: ")
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
    assert manifest.parameters == dataclasses.asdict(QUICK)
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


@pytest.mark.parametrize(("index", "row"), [(0, None), (1, -1), (2, 0), (5, 3)])
def test_the_gradient_starts_at_what_was_picked_from_running_token_and_bank(
    policy: Policy, index: int, row: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    descend = step.descend

    def spied_pick(losses: Any, rows: Tensor, candidates: Tensor, seed: int, blended: float) -> Pick:
        given.update(candidates=candidates, rows=rows)
        return Pick(index, candidates[index], {}, 0)

    def spied_descend(policy: Policy, losses: Any, rows: Tensor, start: Tensor, *rest: Any) -> Any:
        given.update(start=start)
        return descend(policy, losses, rows, start, *rest)

    monkeypatch.setattr(step, "pick", spied_pick)
    monkeypatch.setattr(step, "descend", spied_descend)
    token, e_0 = policy.token, policy.model.peft_prefix_token
    assert token is not None
    assert e_0 is not None
    expected = torch.cat([token[None], e_0[None], e_0 + policy.alignment.bank])
    report = align(policy, FEW, QUICK)
    assert torch.equal(given["candidates"], expected)
    assert torch.equal(given["rows"], torch.arange(report.learned_from)), "what judges must not choose"
    assert torch.equal(given["start"], expected[index])
    assert report.picked_row == row


def test_the_running_token_alone_is_the_start_where_nothing_is_better(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spied_pick(losses: Any, rows: Tensor, candidates: Tensor, seed: int, blended: float) -> Pick:
        return Pick(int(best), candidates.mean(0), {}, 0)

    monkeypatch.setattr(step, "pick", spied_pick)
    token, rows, best = policy.token, torch.arange(16), 0
    assert token is not None
    losses = ExperienceLosses(policy, FEW[:16], LossWeights())
    assert torch.equal(step.first_step(policy, losses, rows, token, 0).token, token)
    best = 3
    assert not torch.equal(step.first_step(policy, losses, rows, token, 0).token, token)
    same = policy.e_0 + policy.alignment.bank[1]  # as in a fresh install, whose token is one of the bank's
    found = step.first_step(policy, losses, rows, same, 0)
    assert torch.equal(found.token, same)
    assert found.index == 0


@pytest.mark.parametrize(("apart", "share"), [(0.29, RULES.near_share), (0.31, 1.0)])
def test_a_part_of_the_way_is_gone_where_the_policy_would_do_much_the_same(
    policy: Policy, apart: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, judge = policy.token, guard.judge
    assert running is not None
    found, seen, asked = policy.e_0 + 0.25, list[evidence.Evidence](), list[Tensor]()

    def spied_judge(shown: evidence.Evidence, stats: Any) -> Verdict:
        seen.append(shown)
        return judge(shown, stats)

    def acts(losses: Any, tokens: Tensor, rows: Tensor, seed: int) -> Tensor:
        asked.append(tokens)
        after = torch.tensor([2.0, -2.0]).expand(len(rows), 8, 2)
        return torch.stack([after * (1.0 + apart**0.5), after])

    monkeypatch.setattr(step, "pick", lambda *_: Pick(1, policy.e_0, {}, 0))
    monkeypatch.setattr(step, "descend", lambda *_: (found, []))
    monkeypatch.setattr(guard, "judge", spied_judge)
    monkeypatch.setattr(ExperienceLosses, "acts", acts)
    report = align(policy, FEW, QUICK)
    monkeypatch.undo()
    assert torch.equal(asked[0], torch.stack([running, policy.e_0])), "what was picked"
    (shown,) = seen
    torch.testing.assert_close(shown.token, running + share * (found - running))
    learn, judged = split_by_episode(FEW)
    losses, rows = (
        ExperienceLosses(policy, [*learn, *judged], weights_of(QUICK)),
        torch.arange(len(judged)) + len(learn),
    )
    for stage, token in (("before", running), ("after", found), ("used", shown.token)):
        expected = evidence.on_later(losses, token, rows, 1)
        torch.testing.assert_close(getattr(shown, stage), expected, msg=stage)
    assert report.after == means(shown.used)
    at_start = evidence.on_later(losses, running + share * (policy.e_0 - running), rows, 1)
    assert report.picked == pytest.approx(means(at_start), rel=1e-5), "without the gradient as much of the way"


@pytest.mark.parametrize("alike", [0.0, 1e9])
def test_the_token_comes_back_to_the_region_that_training_knows(
    policy: Policy, alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_parts(policy, stats=stats_of(token_distance_max=1.0))
    monkeypatch.setattr(guard, "judge", lambda *_: _kept())
    params = dataclasses.replace(QUICK, align_learning_rate=1.0, align_steps=10)
    align(policy, FEW, params, rules=Rules(alike=alike))
    assert policy.token is not None
    assert policy.model.peft_prefix_token is not None
    assert 1.2 < float((policy.token - policy.model.peft_prefix_token).norm()) <= 1.25 * (1 + 1e-5)


# --- refused ---


def _one_that(**changes: Any) -> list[Experience]:
    odd = dataclasses.replace(FEW[-1], next_observation=dataclasses.replace(FEW[-1].next_observation, **changes))
    return [*FEW[:-1], odd]


def _frozen() -> list[Experience]:
    return [
        dataclasses.replace(
            item, next_observation=dataclasses.replace(item.next_observation, images=item.observation.images)
        )
        for item in FEW
    ]


def test_experience_in_which_a_joint_strays_is_neither_learned_from_nor_judged_by(policy: Policy) -> None:
    early = {index: dataclasses.replace(FEW[index], commands=FEW[index].commands + 2.0) for index in (3, 8, 12)}
    seen = [early.get(index, item) for index, item in enumerate(FEW)]
    whole, report = align(policy, FEW, QUICK), align(policy, seen, QUICK)
    assert whole.left_out == 0
    assert report.left_out == 3
    assert report.learned_from + report.judged_by == whole.learned_from + whole.judged_by - 3


def _of_another_time() -> list[Experience]:
    return [dataclasses.replace(item, commands=FEW[index - 7].commands) for index, item in enumerate(FEW)]


def _standing_still() -> list[Experience]:
    return [
        dataclasses.replace(
            item, next_observation=dataclasses.replace(item.next_observation, state=item.observation.state + 0.001)
        )
        for item in FEW
    ]


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
    "already_aligned": (Reason.ALREADY_ALIGNED, {"stats": stats_of(usual=dict.fromkeys(TASKS, 1e9))}),
    "no_task": (
        Reason.NO_TASK,
        {"params": dataclasses.replace(QUICK, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0)},
    ),
    "no experience": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": []}),
    "seven": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": FEW[:7]}),
    "all at once": (Reason.TOO_LITTLE_EXPERIENCE, {"experiences": _all_at_once()}),
    "NaN in commands": (Reason.NON_FINITE, {"experiences": _with_nan("commands")}),
    "inf in state": (Reason.NON_FINITE, {"experiences": _with_nan("observation")}),
    "inf in next state": (Reason.NON_FINITE, {"experiences": _with_nan("next_observation")}),
    "commands of another robot": (Reason.MALFORMED, {"experiences": make_experiences(16, horizon=3)}),
    "state of another robot": (Reason.MALFORMED, {"experiences": _one_that(state=np.zeros(7, np.float32))}),
    "no camera": (Reason.MALFORMED, {"experiences": _one_that(images={})}),
    "prompt": (Reason.MALFORMED, {"experiences": _one_that(prompt="far too long " * 100)}),
    "frozen": (Reason.FROZEN_FRAMES, {"experiences": _frozen()}),
    "still": (Reason.STOOD_STILL, {"experiences": _standing_still()}),
    "no gain": (Reason.NOT_BETTER, {"descend": lambda losses, rows, start: start, "bank": False}),
    "dynamics": (Reason.DYNAMICS_WORSE, {"judged": {"dynamics": 1.0}}),
    "inverse": (Reason.INVERSE_WORSE, {"judged": {"inverse_dynamics": 1.0}}),
    "ceiling": (Reason.OVER_CEILING, {"stats": stats_of(ceiling={**dict.fromkeys(TASKS, 1e9), "perception": 0.0})}),
    "actions": (Reason.ACTIONS_DO_NOT_FIT, {"stats": stats_of(shuffle_ratio_min=1e9)}),
    "late actions": (
        Reason.ACTIONS_OUT_OF_STEP,
        {"with_actions": {"shuffled": torch.tensor([[1.0], [2.0]]), "next": torch.tensor([[1.0], [0.7]])}},
    ),
    "a second robot": (
        Reason.MIXED_EXPERIENCE,
        {"experiences": make_experiences(48, episodes=6), "stats": stats_of(one_over_two_max=1.0)},
    ),
    "commands of another time": (Reason.JOINTS_DO_NOT_FOLLOW, {"experiences": _of_another_time()}),
    "two robots at once": (Reason.JOINTS_JUMP, {"experiences": one_after_another(16, jump_rad=3.0)}),
    "far": (Reason.TOKEN_TOO_FAR, {"descend": lambda losses, rows, start: start + 1e3}),
    "NaN token": (Reason.NON_FINITE, {"descend": lambda losses, rows, start: start * torch.nan}),
}


def test_the_guard_asks_for_the_actions_of_all_experience_after_the_whole_step(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, asked, descend, start = guard.judge, evidence.with_actions, step.descend, policy.token
    whole, seen, tokens = list[Tensor](), list[evidence.Evidence](), list[Tensor]()

    def spied_descend(*arguments: Any) -> Any:
        found = descend(*arguments)
        whole.append(found[0])
        return found

    def spied_judge(shown: evidence.Evidence, stats: Any) -> Verdict:
        seen.append(shown)
        return judge(shown, stats)

    def spied(policy: Policy, losses: Any, experiences: Any, token: Tensor, seed: int) -> Any:
        tokens.append(token)
        return asked(policy, losses, experiences, token, seed)

    monkeypatch.setattr(guard, "judge", spied_judge)
    monkeypatch.setattr(evidence, "with_actions", spied)
    monkeypatch.setattr(step, "descend", spied_descend)
    report = align(policy, FEW, QUICK, rules=Rules(alike=1e9))
    (shown,) = seen
    assert start is not None
    assert torch.equal(tokens[0], whole[0])
    torch.testing.assert_close(shown.token, torch.lerp(start, whole[0], RULES.near_share))
    assert len(shown.with_actions["shuffled"][0]) == report.learned_from + report.judged_by
    assert shown.one_over_two is not None


def run_case(policy: Policy, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any) -> AlignReport:
    replace_parts(policy, stats=case.get("stats", policy.alignment.stats))
    if "judged" in case:  # the losses after, so much higher than those before
        rose = case["judged"]
        judge = guard.judge
        monkeypatch.setattr(
            guard,
            "judge",
            lambda e, stats: judge(
                dataclasses.replace(e, after={t: e.before[t] + rose.get(t, -0.1) for t in e.after}), stats
            ),
        )
    if "with_actions" in case:
        monkeypatch.setattr(evidence, "with_actions", lambda *_: case["with_actions"])
    if "descend" in case:
        more["rules"] = ALL_THE_WAY
        monkeypatch.setattr(
            step, "descend", lambda policy, losses, rows, start, *_: (case["descend"](losses, rows, start), [])
        )
    return align(policy, case.get("experiences", FEW), case.get("params", QUICK), **more)


def test_an_attempt_changes_nothing_and_its_commit_is_the_alignment(policy: Policy) -> None:
    untouched, running = Untouched(policy), policy.token
    assert running is not None
    found, again = (attempt(policy, running, EXPERIENCES, PARAMS, rules=ALL_THE_WAY) for _ in range(2))
    untouched.check()
    assert torch.equal(policy.token, running)
    assert found.token is not None
    assert torch.equal(found.token, again.token)
    assert commit(policy, found, PARAMS, None).accepted
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
    if case.get("bank") is False:  # nothing better than the running token to start from
        replace_parts(policy, bank=torch.zeros_like(policy.alignment.bank))
        policy.swap_token(policy.e_0)
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


def test_every_reason_is_reached_here() -> None:
    reached = {reason for reason, _ in REFUSED.values()} | {Reason.KEPT, Reason.NOT_DURABLE}
    assert reached == set(Reason)


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
    monkeypatch.setattr(guard, "better", lambda *_: Verdict(Reason.NOT_BETTER, ""))
    assert align(policy, FEW, QUICK).reason is Reason.NOT_BETTER
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
