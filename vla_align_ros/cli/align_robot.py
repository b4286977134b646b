"""One robot at the desk: its recordings in; an alignment, or a dry run, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_align_ros.cli.bag_options import RecordedOptions, are_datasets, pairs

if TYPE_CHECKING:
    from vla_align_ros.experience.bag_summary import BagSummary
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.params import PolicyParams
    from vla_align_ros.policy import Policy


class DeskError(ValueError):
    """It cannot be tried; the message says why, and what to do."""


@dataclass(frozen=True)
class Job:
    """What `vla-align align` is told about one robot. changes: parameters that are set. It fits through a pickle."""

    model: str
    sources: tuple[Path, ...]
    recorded: RecordedOptions
    changes: Mapping[str, Any]
    store: str
    robot_id: str
    seed: int
    dry_run: bool


@dataclass(frozen=True)
class Outcome:
    """verdict: `kept` or `refused`; of a dry run `could begin` or `would be refused`; `failed` where it could not be
    tried. sentence: the same for people. result: plain values. whole: people are to see everything about the bags, not
    only what is missing and what must be known. note: on the store."""

    verdict: str
    sentence: str
    result: dict[str, Any] = field(default_factory=dict)
    bags: tuple[BagSummary, ...] = ()
    whole: bool = False
    note: str = ""

    @property
    def good(self) -> bool:
        return self.verdict in ("kept", "could begin")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.result, "bags": [summary.to_json() for summary in self.bags]}

    def remarks(self) -> list[str]:
        """About the bags, for people."""
        return [line for bag in self.bags for line in (bag.lines() if self.whole else bag.remarks())]


def run(job: Job) -> Outcome:
    """Raises DeskError."""
    import torch

    from vla_align_ros.checkpoint.manifest import StoreError
    from vla_align_ros.params import ParameterError

    torch.set_num_threads(1)
    try:
        return _run(job)
    except (ValueError, ParameterError, StoreError) as error:
        raise DeskError(str(error)) from error


def _run(job: Job) -> Outcome:
    from vla_align_ros.alignment.reasons import Reason
    from vla_align_ros.checkpoint.owner import owner_of
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.offline import would_refuse
    from vla_align_ros.params import ManagerParams
    from vla_align_ros.policy import load_policy
    from vla_align_ros.runtime import make_runtime
    from vla_align_ros.zoo import find_model

    policy = load_policy(find_model(job.model))
    params = params_of(job, asdict(policy.config.recommended))
    topics = None if are_datasets(job.sources) else job.recorded.topics(policy.config.robot)
    if job.dry_run:
        buffer = ExperienceBuffer(params.buffer_capacity)
        bags = _read(policy, job, topics, params, buffer)
        verdict = would_refuse(policy, buffer.snapshot(), params.align)
        found = {"experiences": buffer.total_added, "reason": verdict.reason.value if verdict else None}
        words = f"would be refused ({verdict.reason.value}): {verdict.detail}" if verdict else "could begin"
        sentence = f"{buffer.total_added} experiences: an alignment {words}"
        return Outcome("would be refused" if verdict else "could begin", sentence, found, bags, whole=True)
    runtime = make_runtime(policy, params, ManagerParams().keep_versions)
    owner = owner_of(runtime.store.root)
    note = f"the store is in use by {owner}, which follows what becomes active" if owner is not None else ""
    bags = _read(policy, job, topics, params, runtime.buffer)
    report = runtime.align(params.align, params.exploration_fraction, seed=job.seed)
    became, whole = "kept" if report.accepted else "refused", report.reason is Reason.TOO_LITTLE_EXPERIENCE
    return Outcome(became, report.sentence(), report.to_json(), bags, whole, note)


def params_of(job: Job, recommended: Mapping[str, Any]) -> PolicyParams:
    """Raises ParameterError. recommended: what the model says where nothing is set."""
    from vla_align_ros.params import PolicyParams

    named = {"model": job.model, "store": job.store, "robot_id": job.robot_id}
    return PolicyParams.from_mapping({**recommended, **job.changes, **named})


def _read(
    policy: Policy, job: Job, topics: BagTopics | None, params: PolicyParams, buffer: ExperienceBuffer
) -> tuple[BagSummary, ...]:
    """Fill the buffer; what became of each bag, and nothing of datasets, which are whole or refused. topics: of bags
    alone."""
    from vla_align_ros.offline import fill_buffer, fill_from_datasets, read_bag

    prompt = job.recorded.prompt
    if topics is not None:
        return tuple(fill_buffer(lambda paths: read_bag(policy, paths, topics, params, prompt), job.sources, buffer))
    fill_from_datasets(policy, job.sources, pairs("--camera", job.recorded.camera), params, buffer, prompt)
    return ()
