"""One unit of a family of the SO-101 bench: the rows of `alignment.py`, same experience, paired episodes.

e_0, shipped            no alignment: the token without an arm, and the one that a fresh install loads
least_squares           joints alone: each joint's gain, sign and offset, as a command wrapper (`calibration.py`)
least_squares_delay     the same, and commands sent earlier
nearest_unit            joints alone: the token of the training robot that answers most alike
hand_eye                knows what shifted: fitted to landmarks (`landmarks.py`), where there is a formula
randomised              a policy that always has the same token, trained on the same robots
demonstrations_1, _5    the token tuned by so many labelled episodes of this unit
joints_alone            an alignment that sees grey pictures, without a guard
fine_tuned              all weights instead of the token, by the same losses
pick, pick_and_gradient without a guard
three_losses            the same, perception, dynamics and inverse dynamics with lambda 1 each
after                   `align()`
labels                  best token by the expert's labels
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import arms
import numpy as np
import torch
from calibration import Lines, calibrated, calibration, lines, most_alike
from landmarks import FORMULAS, Undone, hand_eye
from torch import Tensor

from vla_align_ros.alignment.losses import weights_of
from vla_align_ros.bench.collect import fill_buffer, fill_buffers
from vla_align_ros.bench.evaluate import Act, acting, run
from vla_align_ros.bench.port import Bench
from vla_align_ros.bench.sampling import begin
from vla_align_ros.bench.so101.bench import So101
from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import DELTA
from vla_align_ros.bench.so101.recording import Recording, draw_samples
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.source import RECORDED_S
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, flow
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Experience, Observation

CLASSICAL = ("least_squares", "least_squares_delay", "nearest_unit")
ERROR_SAMPLES = 64  # observations that an action error is the mean of
DEMONSTRATIONS = (1, 5)
LABELLED_EPISODES = 12
ANSWERS = 64  # experiences of a robot that another one is compared with
GREY = 128
WEIGHTS_STEPS, WEIGHTS_RATE, WEIGHTS_BATCH = 40, 1e-4, 32

Row = Callable[[int, int], Act]
"""(episodes, seed) -> who acts in them."""


@dataclass(frozen=True)
class Settings:
    """What all units of a benchmark have in common. nominal, bank: how the nominal robot and those of training answer
    their commands."""

    bench: So101
    episodes: int
    exploration: float
    nominal: Lines
    bank: Sequence[Lines]


def with_token(policy: Policy, token: Tensor) -> Row:
    """The policy with a token (n, W)."""
    return lambda episodes, seed: acting(policy, token.expand(episodes, -1, -1), seed)


def measured(policy: Policy, bench: Bench[Any], arm: Any, row: Row, episodes: int, seed: int) -> dict[str, Any]:
    """Which of an arm's episodes (the same for every row) succeed, and the squared error of ERROR_SAMPLES first chunks
    against the expert's, over that of standing still."""
    going = begin(policy, bench, [arm] * episodes, seed_of(seed, Part.EPISODES))
    done = run(going, row(episodes, seed), policy.config.robot.execute)
    asked = begin(policy, bench, [arm] * ERROR_SAMPLES, seed_of(seed, Part.HELD_OUT))
    wanted = asked.expert_chunks(policy.model.architecture.action_horizon)
    positions = bench.robot.measured(np.stack([seen.state for seen in asked.observe()]))
    still = np.where(bench.robot.kinds == "position", positions, 0.0)[:, None]
    got = row(ERROR_SAMPLES, seed)(asked, np.arange(ERROR_SAMPLES))
    error = ((got - wanted) ** 2).mean() / ((still - wanted) ** 2).mean()
    return {"success": done.tolist(), "action_error": float(error)}


def one_unit(policy: Policy, arm: Embodiment, family: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Success and action error of the rows that the gate's first part needs, the report of `align()`, and how long what
    took."""
    clock, bench, shipped = _Clock(), settings.bench, arms.shipped_token(policy)
    experiences = buffer_of(policy, bench, arm, seed, settings.exploration)
    clock("experience")
    done = arms.aligned(policy, shipped, experiences, arms.recommended(policy), seed)
    clock("align")
    answers = lines(experiences, bench.robot)
    rows = rivals(policy, arm, family, experiences, answers, seed, settings)
    clock("rivals")
    tokens = {
        "e_0": policy.e_0,
        "shipped": shipped,
        "nearest_unit": policy.e_0 + policy.alignment.bank[most_alike(answers, settings.bank)],
        "pick": done.best_known,
        "pick_and_gradient": done.proposed,
        "after": done.used,
    }
    found = all_measured(policy, arm, tokens, rows, seed, settings)
    clock("episodes")
    return {"rows": found, "report": done.report.to_json(), "seconds": clock.seconds}


def buffer_of(policy: Policy, bench: So101, arm: Embodiment, seed: int, exploration: float) -> list[Experience]:
    """What an alignment of this model takes, gathered with the token that a fresh install loads."""
    count = arms.recommended(policy).align_max_experiences
    return fill_buffer(policy, bench, arm, arms.shipped_token(policy), seed, exploration, count)


def other_rows(policy: Policy, arm: Embodiment, seed: int, settings: Settings) -> dict[str, Any]:
    """The rows that cost most, of the same experience: what only a family is asked for that an alignment could help."""
    clock, bench = _Clock(), settings.bench
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    experiences = buffer_of(policy, bench, arm, seed, settings.exploration)
    clock("experience again")
    learn = arms.split_of(policy, experiences, params).learn
    grey, three = [blinded(item) for item in learn], replace(params, lambda_perc=1.0, lambda_dyn=1.0, lambda_inv=1.0)
    tokens, rows = dict[str, Tensor](), dict[str, Row]()
    proposed = arms.aligned(policy, shipped, experiences, params, seed).proposed
    clock("align again")
    tokens["joints_alone"] = arms.without_guard(policy, grey, params, shipped, seed).token if grey else shipped
    clock("joints_alone")
    tokens["three_losses"] = arms.without_guard(policy, learn, three, shipped, seed).token if learn else shipped
    clock("three_losses")
    tuned = policy
    if learn:
        model = all_weights(policy, learn, params, seed)
        tuned = Policy(model, policy.robot, policy.alignment, policy.weights_sha256, policy.device)
    rows["fine_tuned"] = with_token(tuned, shipped)
    clock("fine_tuned")
    starts = [shipped, policy.e_0]
    for count in DEMONSTRATIONS:
        tokens[f"demonstrations_{count}"] = by_demonstrations(policy, bench, arm, count, starts, seed)
    clock("demonstrations")
    tokens["labels"] = by_labels(policy, bench, arm, [*starts, proposed], seed)
    clock("labels")
    found = all_measured(policy, arm, tokens, rows, seed, settings)
    clock("other episodes")
    return {"rows": found, "seconds": clock.seconds}


def all_measured(
    policy: Policy,
    arm: Embodiment,
    tokens: Mapping[str, Tensor],
    rows: Mapping[str, Row],
    seed: int,
    settings: Settings,
) -> dict[str, Any]:
    """`measured` of each row, and of the policy with each token; those that are the same are measured once."""
    found = {name: measured(policy, settings.bench, arm, row, settings.episodes, seed) for name, row in rows.items()}
    known: dict[bytes, dict[str, Any]] = {}  # a refused alignment leaves the token as it was
    for name, token in tokens.items():
        key = token.cpu().numpy().tobytes()
        if key not in known:
            known[key] = measured(policy, settings.bench, arm, with_token(policy, token), settings.episodes, seed)
        found[name] = known[key]
    return found


def rivals(
    policy: Policy,
    arm: Embodiment,
    family: str,
    experiences: list[Experience],
    answers: Lines,
    seed: int,
    settings: Settings,
) -> dict[str, Row]:
    """What a formula does instead of another token."""
    as_it_is, robot = with_token(policy, arms.shipped_token(policy)), settings.bench.robot
    rows: dict[str, Row] = {}
    for name, with_delay in (("least_squares", False), ("least_squares_delay", True)):
        change = calibration(answers, settings.nominal, robot, with_delay)
        rows[name] = lambda episodes, seed, change=change: calibrated(as_it_is(episodes, seed), change)
    if family in FORMULAS:
        undone = Undone(hand_eye(family, arm, experiences, policy.model.architecture.cameras, seed))
        rows["hand_eye"] = lambda episodes, seed: undone.around(as_it_is(episodes, seed))
    return rows


class _Clock:
    """Says what the time since its last call was spent on: CPU seconds of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def __call__(self, what: str) -> None:
        now = time.process_time()
        self.seconds[what], self._last = round(now - self._last, 2), now


def randomised(policy: Policy, arm: Embodiment, bench: So101, seed: int, episodes: int) -> dict[str, Any]:
    """The row of a policy that always has the same token, in the episodes that a unit's other rows had."""
    return measured(policy, bench, arm, with_token(policy, policy.e_0), episodes, seed)


def own_token(policy: Policy, arm: Embodiment, row: int, seed: int, settings: Settings) -> dict[str, Any]:
    """A training robot with the bank's token for it: the cap."""
    token = policy.e_0 + policy.alignment.bank[row]
    return measured(policy, settings.bench, arm, with_token(policy, token), settings.episodes, seed)


def answers_of(
    policy: Policy, robots: Sequence[Embodiment], seed: int, bench: So101, exploration: float
) -> list[Lines]:
    """How each robot, at work with the shipped token, answers its commands."""
    tokens = arms.shipped_token(policy).expand(len(robots), -1, -1)
    buffers = fill_buffers(policy, bench, robots, tokens, seed, exploration, ANSWERS)
    return [lines(experiences, bench.robot) for experiences in buffers]


def blinded(item: Experience) -> Experience:
    """The same with grey pictures."""
    observation, after = (
        replace(seen, images={name: np.full_like(image, GREY) for name, image in seen.images.items()})
        for seen in (item.observation, item.next_observation)
    )
    return replace(item, observation=observation, next_observation=after)


def by_labels(policy: Policy, bench: So101, arm: Embodiment, starts: Sequence[Tensor], seed: int) -> Tensor:
    """The best token that the expert's chunks lead to, at work in all ways that training knows."""
    count, rng = LABELLED_EPISODES, np.random.default_rng([seed, 103])
    kinds = [Behaviour(row % len(Behaviour)) for row in range(count)]
    recording = at_work(policy, bench, arm, kinds, seed_of(seed, Part.LABELS))
    tick = rng.integers(0, labelled_ticks(bench), arms.LABELS)
    return tuned_on(policy, recording, arm, tick, rng.integers(0, count, arms.LABELS), starts, seed)


def by_demonstrations(
    policy: Policy, bench: So101, arm: Embodiment, count: int, starts: Sequence[Tensor], seed: int
) -> Tensor:
    """The same from `count` episodes of the expert alone, the seams of its chunks."""
    recording = at_work(policy, bench, arm, [Behaviour.EXPERT] * count, seed_of(seed, Part.TURN, 7))
    tick = np.arange(0, labelled_ticks(bench), bench.robot.execute)
    return tuned_on(policy, recording, arm, np.tile(tick, count), np.arange(count).repeat(len(tick)), starts, seed)


def labelled_ticks(bench: So101) -> int:
    """Of an episode: what an expert needs for the longest of the bench's tasks."""
    return round(max(RECORDED_S[task] for task in bench.tasks) * bench.robot.control_rate_hz)


def at_work(policy: Policy, bench: So101, arm: Embodiment, behaviours: Sequence[Behaviour], seed: int) -> Recording:
    """Episodes of one arm at the bench's tasks in turn, with as many ticks after the labelled ones as a chunk needs."""
    architecture = policy.model.architecture
    count = len(behaviours)
    recording = record(
        [arm] * count,
        [bench.tasks[row % len(bench.tasks)] for row in range(count)],
        np.random.default_rng([seed, 107]).integers(0, 2**31, count).tolist(),
        behaviours,
        [Embodiment()] * count,
        labelled_ticks(bench) + architecture.action_horizon,
        execute_ticks=bench.robot.execute,
        camera=architecture.cameras[0],
    )
    return replace(recording, arm=np.zeros(count, np.int64))


def tuned_on(
    policy: Policy, recording: Recording, arm: Embodiment, tick: Any, row: Any, starts: Sequence[Tensor], seed: int
) -> Tensor:
    """The token that the expert's chunks at (tick, row) of a recording lead to."""
    architecture = policy.model.architecture
    size, horizon, cameras = architecture.vision.image_size, architecture.action_horizon, architecture.cameras
    drawn = draw_samples(recording, [arm], skeletons([arm]), tick, row, horizon, size, cameras=cameras)
    observations = [
        Observation(dict(zip(cameras, drawn.images[place], strict=True)), drawn.readings[place], prompt, 0)
        for place, prompt in enumerate(drawn.prompts)
    ]
    origin = np.where(DELTA, drawn.readings, np.float32(0.0))[:, None]
    loss = arms.imitation_loss(policy, observations, drawn.actions - origin)
    return arms.tuned(policy, loss, len(observations), starts, seed)


def all_weights(policy: Policy, experiences: Sequence[Experience], params: AlignParams, seed: int) -> Pi0:
    """A copy of the network, every weight trained by the alignment losses; the token stays."""
    model = copy.deepcopy(policy.model).requires_grad_(True)
    weights = weights_of(params)
    with torch.no_grad():
        inputs, experience = policy.prepare_experiences(experiences)
    token, generator = arms.shipped_token(policy), torch.Generator(policy.device).manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p is not model.peft_prefix_token], WEIGHTS_RATE)
    for step in range(WEIGHTS_STEPS):
        optimizer.param_groups[0]["lr"] = WEIGHTS_RATE * (1.0 - step / WEIGHTS_STEPS)
        rows = torch.randperm(len(experiences), generator=generator, device=policy.device)[:WEIGHTS_BATCH]
        state, part = inputs.state[rows], experience[rows]
        noise = model.draw_noise(state, part, weights, generator)
        time = flow.sample_time(len(rows), generator)
        cache = model.prefix_cache(inputs[rows])
        found = model.alignment_losses(cache, state, part, noise, time, token.expand(len(rows), -1, -1))
        loss = torch.stack([weights.of(task) * value.mean() for task, value in found.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)
