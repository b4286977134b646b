"""Everything that a running policy consists of, without ROS: the node, the shell and the simulated clock share it.

messages (bytes) -> assembler -> controller -> trajectory         control
                      assembler + builder -> buffer -> align()     experience
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from vla_align_ros.action.controller import Controller
from vla_align_ros.action.limits import ChunkLimits
from vla_align_ros.alignment.align import attempt, commit, provenance
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.alignment.step import OnStep
from vla_align_ros.checkpoint.manifest import StoreError, check_fits
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.checkpoint.version import TokenVersion
from vla_align_ros.experience.bag_topics import BagTopics
from vla_align_ros.experience.buffer import ExperienceBuffer
from vla_align_ros.experience.builder import ExperienceBuilder
from vla_align_ros.experience.folder import BagFolder, Pipeline
from vla_align_ros.experience.ledger import Ledger
from vla_align_ros.observation.assemble import AssemblerLimits, ObservationAssembler
from vla_align_ros.observation.scaling import SCALERS
from vla_align_ros.params import AlignParams, PolicyParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.policy.prepare import Reader
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.zoo import store_folder

LOOKBACK_SLACK_S = 1.0  # how late experience may be built beyond its lag


class AlignmentStopped(Exception):
    """The runtime was closed while it aligned; nothing was changed."""


@dataclass
class Runtime:
    """One policy at work. Made by `make_runtime`; every part is thread-safe.

    version: the token version that runs; None for a model without an E-Token, which has nothing to store.
    """

    policy: Policy
    assembler: ObservationAssembler
    builder: ExperienceBuilder
    buffer: ExperienceBuffer
    controller: Controller
    store: TokenStore
    version: TokenVersion | None
    closed: bool = False
    _changing: threading.Lock = field(default_factory=threading.Lock)  # the token, and closed

    @property
    def version_name(self) -> str:
        """Of the token version that runs."""
        return "none" if self.version is None else self.version.name

    def take_experience(self, now_ns: int) -> int:
        """Move what has become complete by `now_ns` into the buffer; returns how many."""
        made = self.builder.advance(now_ns)
        for experience in made:
            self.buffer.add(experience)
        return len(made)

    def align(
        self, params: AlignParams, exploration_fraction: float, on_step: OnStep | None = None, seed: int = 0
    ) -> AlignReport:
        """One attempt on the buffer's experience, from the store's active token; a kept one is in the store before it
        is used. TOKEN_CHANGED, and nothing is changed, where another version became active meanwhile. Where the robot
        had changed, the buffer then forgets what was before: the new token explains that worse, not what came later.

        Raises PolicyError when the model cannot align, and AlignmentStopped once it is closed.
        """
        active = self._active()
        if active is not None and active.name != self.version_name:  # restored, and not announced
            self.use(active)
        with self._changing:
            running, began = self.policy.token, self.version_name
        if running is None:
            raise PolicyError(self.policy.align_problem)
        found = attempt(
            self.policy,
            running,
            self.buffer.snapshot(),
            params,
            exploration_fraction=exploration_fraction,
            excited_ns=[(each.begin_ns, each.until_ns) for each in self.controller.excitations],
            on_step=on_step,
            seed=seed,
        )
        with self._changing:
            if self.closed:
                raise AlignmentStopped("the policy was closed while it aligned")
            active = self._active()
            now = {self.version_name, self.version_name if active is None else active.name} - {began}
            if found.token is not None and now:
                detail = f"it began with version {began}, now it is {' and '.join(sorted(now))}"
                return replace(found.report, accepted=False, reason=Reason.TOKEN_CHANGED, detail=detail)
            report, version = commit(self.policy, found, params, self.store)
            self.version = version or self.version
        if report.accepted and report.changed_ns:
            self.buffer.forget_before(report.changed_ns)
        return report

    def _active(self) -> TokenVersion | None:
        """Of the store, which may not be announced yet. None where it cannot be read: a commit says so."""
        try:
            return self.store.read().active
        except StoreError:
            return None

    def use(self, version: TokenVersion) -> None:
        """Run with a version of the store. Raises TokenMismatch when it belongs to another model."""
        check_token_fits(self.policy, version)
        with self._changing:
            self.policy.swap_token(torch.from_numpy(version.token.copy()))
            self.version = version

    def close(self) -> None:
        """What an alignment that still runs finds is not used."""
        with self._changing:
            self.closed = True

    def reset_e_token(self) -> None:
        """Back to the token that the model ships, as a new version of the store. ValueError when it has none."""
        self.use(save_initial(self.policy, self.store))


def make_assembler(policy: Reader, params: PolicyParams) -> ObservationAssembler:
    """The assembler that live messages and bags go through."""
    config, architecture = policy.config, policy.config.architecture
    return ObservationAssembler(
        config.robot,
        architecture.cameras,
        architecture.vision.image_size,
        assembler_limits(config.robot, architecture.action_horizon, params),
        policy.check_prompt,
        SCALERS[architecture.conventions],
    )


def assembler_limits(robot: RobotDescription, horizon: int, params: PolicyParams) -> AssemblerLimits:
    """With a history that is long enough for experiences of `horizon` ticks."""
    stale_s = max(params.image_stale_s, params.joint_stale_s)
    return AssemblerLimits(
        params.image_stale_s,
        params.joint_stale_s,
        params.frozen_s,
        params.experience_lag_s + horizon / robot.control_rate_hz + stale_s + LOOKBACK_SLACK_S,
        params.stamp_ahead_max_s,
    )


def make_builder(policy: Reader, params: PolicyParams, assembler: ObservationAssembler) -> ExperienceBuilder:
    """The builder that joins what `assembler` saw with the chunks that were sent."""
    horizon = policy.config.architecture.action_horizon
    return ExperienceBuilder(
        assembler, policy.config.robot, horizon, params.experience_lag_s, params.experience_stride_ticks
    )


def make_controller(policy: Policy, params: PolicyParams, assembler: ObservationAssembler) -> Controller:
    """The controller that makes chunks from what `assembler` saw."""
    limits = ChunkLimits(policy.config.robot, params.jump_max_s, params.ramp_ticks)
    return Controller(policy, assembler, limits, params.seed, params.exploration_speed_fraction)


def make_bag_folder(runtime: Runtime, params: PolicyParams, folder: Path, topics: BagTopics) -> BagFolder:
    """What fills the runtime's buffer from the recordings in `folder`; its ledger is in the token store's folder.

    Raises OSError for a ledger that cannot be read.
    """
    policy, robot, architecture = runtime.policy, runtime.policy.config.robot, runtime.policy.model.architecture

    def new_pipeline(prompt: str) -> Pipeline:
        assembler = make_assembler(policy, params)
        if first := prompt or params.prompt:
            assembler.push_prompt(first, 0)
        return Pipeline(assembler, make_builder(policy, params, assembler))

    limits = runtime.assembler.limits
    made_with = {
        "topics": asdict(topics),
        "limits": asdict(limits),
        "model": [architecture.action_horizon, architecture.vision.image_size],
        "prompt": params.prompt,
        "experience": [params.experience_lag_s, params.experience_stride_ticks],
    }
    history = round(limits.history_s * 1e9 / robot.period_ns) // params.experience_stride_ticks + 1
    ledger = Ledger(runtime.store.root, folder, made_with)
    return BagFolder(folder, topics, new_pipeline, ledger, runtime.buffer, history)


def make_runtime(policy: Policy, params: PolicyParams, keep_versions: int) -> Runtime:
    """Put a loaded policy to work, with the newest valid token of its store (the shipped one in a new store).

    Raises StoreError, and TokenMismatch when the store belongs to another model.
    """
    assembler = make_assembler(policy, params)
    store = TokenStore(store_folder(params.store, policy.config.name, params.robot_id), keep_versions)
    runtime = Runtime(
        policy,
        assembler,
        make_builder(policy, params, assembler),
        ExperienceBuffer(params.buffer_capacity),
        make_controller(policy, params, assembler),
        store,
        None,
    )
    if policy.token is not None:
        runtime.use(store.active() or save_initial(policy, store))
    return runtime


def save_initial(policy: Policy, store: TokenStore) -> TokenVersion:
    """Write the model's own token as a version."""
    token = policy.initial_token()
    if token is None:
        raise ValueError("this model has no E-Token: there is nothing to store")
    return store.save(token.cpu().numpy(), provenance(policy, "initial"))


def check_token_fits(policy: Policy, version: TokenVersion) -> None:
    """Return when the version was made for this very model; raise TokenMismatch otherwise."""
    architecture = policy.model.architecture
    check_fits(
        version.manifest,
        base_weights_sha256=policy.weights_sha256,
        norm_stats_sha256=policy.robot.norm_stats_sha256,
        state_fields=policy.config.robot.state_labels,
        action_fields=policy.config.robot.action_labels,
        cameras=architecture.cameras,
        shape=(architecture.peft_num_tokens, architecture.action_expert.width),
    )
