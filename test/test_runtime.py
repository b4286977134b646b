"""The parts of a running policy put together, with `models/tiny`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_align_ros import runtime as runtime_module
from vla_align_ros.action.excitation import Excitation
from vla_align_ros.alignment.align import Attempt
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.robot import SimMessage, make_robot, topics_of
from vla_align_ros.checkpoint.manifest import Provenance, StoreError, TokenMismatch
from vla_align_ros.experience.bag import push_sensed
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.codecs import encode_trajectory
from vla_align_ros.params import AlignParams, PolicyParams, SimParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.runtime import AlignmentStopped, Runtime, make_runtime
from vla_align_ros.types import Experience, Observation
from vla_align_ros.zoo import find_model, robot_of, store_folder

START_NS = 10**18
TYPES, TOPICS = topics_of(BENCH.robot), bag_topics(BENCH.robot, str)
PERIOD_NS = 100_000_000


@pytest.fixture(scope="module")
def shared_policy() -> Policy:
    torch.set_num_threads(1)
    return load_policy(find_model("tiny"), "cpu")


@pytest.fixture
def policy(shared_policy: Policy) -> Iterator[Policy]:
    """With the token that a fresh install has."""
    yield shared_policy
    token = shared_policy.initial_token()
    assert token is not None
    shared_policy.swap_token(token)


@pytest.fixture
def params(tmp_path: Path) -> PolicyParams:
    return PolicyParams(store=str(tmp_path / "store"), experience_stride_ticks=1)


@pytest.fixture
def running(policy: Policy, params: PolicyParams) -> Runtime:
    return make_runtime(policy, params, 20)


def token_of(policy: Policy) -> np.ndarray:
    assert policy.token is not None
    return policy.token.numpy().copy()


def provenance(running: Runtime) -> Provenance:
    assert running.version is not None
    manifest = running.version.manifest
    return Provenance(**{name: getattr(manifest, name) for name in Provenance.__dataclass_fields__})


def push(running: Runtime, message: SimMessage) -> None:
    sensed = BagMessage(message.topic, TYPES[message.topic], message.stamp_ns, message.raw)
    push_sensed(sensed, TOPICS, running.assembler)


def test_new_store_begins_with_the_models_own_token(running: Runtime, policy: Policy) -> None:
    assert running.version_name == "000001"
    assert running.version is not None
    assert running.version.manifest.reason == "initial"
    initial = policy.initial_token()
    assert initial is not None
    np.testing.assert_array_equal(running.version.token, initial.numpy())
    np.testing.assert_array_equal(token_of(policy), running.version.token)


def test_active_token_of_the_store_runs_after_a_restart(running: Runtime, policy: Policy, params: PolicyParams) -> None:
    assert running.version is not None
    saved = running.store.save(running.version.token + np.float32(0.5), provenance(running))
    again = make_runtime(policy, params, 20)
    assert again.version == saved
    np.testing.assert_array_equal(token_of(policy), saved.token)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_weights_sha256": "0" * 64}, "base_weights_sha256"),
        ({"norm_stats_sha256": "0" * 64}, "norm_stats_sha256"),
        ({"state_fields": ("elbow", "shoulder")}, "state_fields"),
        ({"action_fields": ("shoulder", "gripper")}, "action_fields"),
        ({"cameras": ("front",)}, "cameras"),
    ],
)
def test_store_of_another_model_is_refused_and_the_running_token_stays(
    running: Runtime, policy: Policy, params: PolicyParams, changes: dict[str, object], words: str
) -> None:
    before = token_of(policy)
    known = {name: getattr(provenance(running), name) for name in Provenance.__dataclass_fields__}
    assert running.version is not None
    other = running.store.save(running.version.token + np.float32(0.5), Provenance(**(known | changes)))
    with pytest.raises(TokenMismatch, match=words):
        make_runtime(policy, params, 20)
    with pytest.raises(TokenMismatch, match=words):
        running.use(other)
    np.testing.assert_array_equal(token_of(policy), before)
    assert running.version_name == "000001"


def test_token_of_another_shape_is_refused(running: Runtime) -> None:
    other = running.store.save(np.zeros((2, 7), np.float32), provenance(running))
    with pytest.raises(TokenMismatch, match=r"shape is \(2, 7\)"):
        running.use(other)


def test_reset_e_token_is_a_new_version_with_the_models_own_token(running: Runtime, policy: Policy) -> None:
    first = running.version
    assert first is not None
    running.use(running.store.save(first.token + np.float32(0.5), provenance(running)))
    running.reset_e_token()
    assert running.version_name == "000003"
    np.testing.assert_array_equal(token_of(policy), first.token)
    assert running.store.roll_back().name == "000002", "the way back stays open"


def test_messages_become_trajectories_and_experience(running: Runtime) -> None:
    robot = make_robot(SimParams(bench="reach2", embodiment_seed=0, episode_s=600.0), START_NS)
    push(running, robot.prompt_message())
    chunks = 0
    for now_ns in range(START_NS, START_NS + 3 * 10**9, PERIOD_NS // 2):
        for message in robot.advance(now_ns):
            push(running, message)
        tick_ns = running.controller.tick(now_ns)
        if tick_ns is not None:
            published = running.controller.make(tick_ns, 2, 0.0, lambda: robot.now_ns)
            raw = encode_trajectory(published.trajectory)
            robot.receive(raw)
            running.builder.push_command(raw, now_ns)
            running.controller.sent(published, now_ns)
            chunks += 1
    assert chunks == 8, "every four ticks"
    count = running.take_experience(START_NS + 3 * 10**9)
    assert count == len(running.buffer) > 10
    assert running.take_experience(START_NS + 3 * 10**9) == 0
    experience = running.buffer.snapshot()[0]
    assert experience.commands.shape == (8, 2)
    assert experience.next_observation.stamp_ns - experience.observation.stamp_ns == 8 * PERIOD_NS
    assert running.controller.late == 0


def test_alignment_gets_the_buffer_and_the_running_version_follows_only_a_kept_token(
    running: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = AlignReport(False, Reason.ALREADY_ALIGNED, "", 0, 0, 0, 0, 0, 0, 0.5, 0.0)
    given: dict[str, object] = {}

    def fake(
        policy: Policy, token: torch.Tensor, experiences: tuple[object, ...], params: AlignParams, **rest: object
    ) -> Attempt:
        given.update(experiences=experiences, params=params, **rest)
        kept = replace(refused, accepted=True, reason=Reason.KEPT)
        return attempts.pop(0)(Attempt(kept, token + 0.5, None))

    monkeypatch.setattr(runtime_module, "attempt", fake)
    attempts = [lambda kept: Attempt(refused, None, None), lambda kept: kept]
    params, excitation = AlignParams(align_steps=3), Excitation(1.0, 0.1)
    excitation.begin_ns, excitation.until_ns = START_NS, START_NS + PERIOD_NS
    running.controller.excite(excitation)
    assert running.align(params, 0.5, seed=7).reason is Reason.ALREADY_ALIGNED
    assert running.version_name == "000001"
    assert given == {
        "experiences": (),
        "params": params,
        "exploration_fraction": 0.5,
        "excited_ns": [(START_NS, START_NS + PERIOD_NS)],
        "on_step": None,
        "seed": 7,
    }
    before = token_of(running.policy)
    assert running.align(params, 0.5).accepted
    np.testing.assert_array_equal(token_of(running.policy), before + np.float32(0.5))
    active = running.store.active()
    assert active is not None
    assert active.name == running.version_name == "000002"
    np.testing.assert_array_equal(active.token, token_of(running.policy))


@pytest.mark.parametrize("announced", [True, False])
def test_what_an_alignment_found_is_not_used_once_another_version_is_active(
    running: Runtime, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    """A roll back while it ran, announced to this policy or not yet."""
    running.reset_e_token()
    kept = AlignReport(True, Reason.KEPT, "", 0, 0, 0, 0, 0, 0, 0.5, 0.0)

    def rolled_back(policy: Policy, token: torch.Tensor, *_: object, **__: object) -> Attempt:
        version = running.store.roll_back()
        if announced:
            running.use(version)
        return Attempt(kept, token + 0.5, None)

    monkeypatch.setattr(runtime_module, "attempt", rolled_back)
    before = token_of(running.policy)
    report = running.align(AlignParams(), 0.5)
    assert (report.accepted, report.reason) == (False, Reason.TOKEN_CHANGED)
    assert "000002" in report.detail
    assert "000001" in report.detail
    np.testing.assert_array_equal(token_of(running.policy), before)
    assert [version.name for version in running.store.versions()] == ["000001", "000002"]
    monkeypatch.setattr(runtime_module, "attempt", lambda policy, token, *_, **__: Attempt(kept, token + 0.5, None))
    assert running.align(AlignParams(), 0.5).accepted, "the next one begins with what is active"


def test_an_alignment_begins_with_what_is_active_and_an_unreadable_store_is_said_by_the_commit(
    running: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.reset_e_token()
    restored = running.store.roll_back()  # by a shell: nobody announces it
    kept = AlignReport(True, Reason.KEPT, "", 0, 0, 0, 0, 0, 0, 0.5, 0.0)
    begun = list[str]()

    def attempt(policy: Policy, token: torch.Tensor, *_: object, **__: object) -> Attempt:
        begun.append(running.version_name)
        return Attempt(kept, token + 0.5, None)

    monkeypatch.setattr(runtime_module, "attempt", attempt)
    assert running.align(AlignParams(), 0.5).accepted
    assert begun == [restored.name]

    def unreadable(*_: object) -> None:
        raise StoreError("no such disk")

    monkeypatch.setattr(running.store, "read", unreadable)
    monkeypatch.setattr(running.store, "save", unreadable)
    before = token_of(running.policy)
    report = running.align(AlignParams(), 0.5)
    assert (report.reason, report.detail) == (Reason.NOT_DURABLE, "no such disk")
    np.testing.assert_array_equal(token_of(running.policy), before)


def test_what_an_alignment_found_is_not_used_once_the_policy_is_closed(
    running: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = AlignReport(True, Reason.KEPT, "", 0, 0, 0, 0, 0, 0, 0.5, 0.0)

    def closed(policy: Policy, token: torch.Tensor, *_: object, **__: object) -> Attempt:
        running.close()
        return Attempt(kept, token + 0.5, None)

    monkeypatch.setattr(runtime_module, "attempt", closed)
    before = token_of(running.policy)
    with pytest.raises(AlignmentStopped):
        running.align(AlignParams(), 0.5)
    np.testing.assert_array_equal(token_of(running.policy), before)
    assert [version.name for version in running.store.versions()] == ["000001"]


@pytest.mark.parametrize(("accepted", "left"), [(True, [30, 40]), (False, [10, 20, 30, 40])])
def test_what_came_before_a_change_is_forgotten_once_an_alignment_without_it_is_kept(
    running: Runtime, monkeypatch: pytest.MonkeyPatch, accepted: bool, left: list[int]
) -> None:
    seen = np.zeros((1, 2), np.float32)
    for stamp_ns in (10, 20, 30, 40):
        observation = Observation({}, seen[0], "touch red", stamp_ns)
        running.buffer.add(Experience(observation, seen, observation, 0))
    reason = Reason.KEPT if accepted else Reason.ALREADY_ALIGNED
    report = AlignReport(accepted, reason, "", 0, 0, 0, 0, 0, 0, 0.5, 0.0, before_change=2, changed_ns=30)
    monkeypatch.setattr(
        runtime_module,
        "attempt",
        lambda policy, token, *_, **__: Attempt(report, token + 0.5 if accepted else None, None),
    )
    running.align(AlignParams(), 0.5)
    assert [item.observation.stamp_ns for item in running.buffer.snapshot()] == left


def test_alignment_of_nothing_is_refused_and_leaves_everything_as_it_was(running: Runtime, policy: Policy) -> None:
    before = token_of(policy)
    assert running.align(AlignParams(), 0.0).reason is Reason.TOO_LITTLE_EXPERIENCE
    np.testing.assert_array_equal(token_of(policy), before)
    assert [version.name for version in running.store.versions()] == ["000001"]


def test_history_reaches_back_over_the_longest_lag_and_stale_limit(policy: Policy, tmp_path: Path) -> None:
    make_runtime(
        policy,
        PolicyParams(store=str(tmp_path), experience_lag_s=10.0, image_stale_s=60.0, joint_stale_s=60.0),
        20,
    )


def test_store_is_where_it_is_said_or_that_of_robot_and_model(tmp_path: Path) -> None:
    stores = Path.home() / ".ros" / "vla_align"
    assert store_folder(str(tmp_path), "tiny", "left") == tmp_path
    assert store_folder("~/tokens", "tiny", "left") == Path.home() / "tokens"
    assert store_folder("", "tiny", "left") == stores / "left" / "tiny"
    assert store_folder("", "tiny", "") == stores / "vla_policy" / "tiny"
    nodes = ("/vla_policy", "/arm1/vla_policy", "/arm2/vla_policy", "/arm1/vla/policy", "/arm1_vla/policy")
    assert len({store_folder("", "tiny", robot_of(node)) for node in nodes}) == len(nodes)
    assert robot_of("/vla_policy") == "vla_policy"
