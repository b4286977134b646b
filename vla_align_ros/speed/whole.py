"""A model as the node runs it: what the node adds to the network, and a whole alignment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import Any

import numpy as np
import torch

from vla_align_ros.action.limits import ChunkLimits, check_chunk
from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.alignment.change import find_change
from vla_align_ros.alignment.evidence import on_later, with_commands, with_states
from vla_align_ros.alignment.losses import ExperienceLosses, weights_of
from vla_align_ros.alignment.split import JUDGE_SHARE
from vla_align_ros.alignment.step import descend, find_best_known
from vla_align_ros.observation.codecs import IMAGE, encode_image, encode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler
from vla_align_ros.speed.measure import Parts, clock_of, times
from vla_align_ros.types import ActionChunk, Experience, Observation

WIDTH, HEIGHT = 640, 480  # of a camera's messages
PICTURES = 4  # that take turns
WARM_UP_EXPERIENCES = 8
PROMPT = "at random"


def node(policy: Policy, calls: int) -> Parts:
    """What a chunk costs in the node, without DDS: an image from raw message to the assembler (each camera's, at its
    own rate), `Policy.infer`, and a chunk's check and message."""
    robot, params = policy.config.robot, PolicyParams.from_mapping(asdict(policy.config.recommended))
    assembler, limits = make_assembler(policy, params), ChunkLimits(robot, params.jump_max_s, params.ramp_ticks)
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, HEIGHT, WIDTH, 3), np.uint8)
    camera, stamps = next(iter(robot.cameras)), count(robot.period_ns, robot.period_ns)
    raws = iter([encode_image(pictures[index % PICTURES], next(stamps)) for index in range(calls + 10)])
    now = count(robot.period_ns, robot.period_ns)
    seen, turn = random_experiences(policy, PICTURES), count()
    start = robot.measured(policy.middle_state()).astype(np.float32)
    still = np.where(robot.kinds == "position", start, 0.0).astype(np.float32)
    actions = still[None].repeat(policy.model.architecture.action_horizon, 0)
    chunk = ActionChunk(actions, start, robot.period_ns, robot.period_ns)

    def say() -> None:
        check_chunk(chunk, limits, start)
        encode_trajectory(to_trajectory(chunk, robot, params.ramp_ticks))

    parts: dict[str, Callable[[], object]] = {
        "image message": lambda: assembler.push_image(camera, next(raws), IMAGE, next(now)),
        "infer": lambda: policy.infer(seen[next(turn) % PICTURES].observation),
        "check and message": say,
    }
    return {name: asdict(times(call, policy.device, calls)) for name, call in parts.items()}


def alignment(policy: Policy, experiences: int) -> Parts:
    """The parts of one alignment with the model's own parameters and random experience, after a small one, which sets
    things up."""
    for many in (WARM_UP_EXPERIENCES, experiences):
        found = _align(policy, many)
    return {name: {"p50_ms": wall_s * 1e3, "own_ms": own_s * 1e3} for name, (wall_s, own_s) in found.items()}


def _align(policy: Policy, experiences: int) -> dict[str, tuple[float, ...]]:
    """Seconds of wall time, and by `clock_of`, of what `alignment.align.attempt` does, which would refuse this
    experience at once."""
    params = PolicyParams.from_mapping(asdict(policy.config.recommended)).align
    made, token = random_experiences(policy, experiences), policy.token
    assert token is not None
    learned = round(experiences * (1 - JUDGE_SHARE))
    learn, judge = torch.arange(experiences).split([learned, experiences - learned])
    found: dict[str, tuple[float, ...]] = {}
    clocks = time.perf_counter, clock_of(policy.device)
    began = [clock() for clock in clocks]

    def timed(name: str, call: Callable[[], Any]) -> Any:
        since = [clock() for clock in clocks]
        result = call()
        found[name] = tuple(clock() - start for clock, start in zip(clocks, since, strict=True))
        return result

    losses = timed("align: features", lambda: ExperienceLosses(policy, made, weights_of(params)))
    best, _ = timed("align: pick", lambda: find_best_known(policy, losses, learn, token, 0))
    moved, _ = timed("align: gradient", lambda: descend(policy, losses, learn, best, params, 0))
    found["align step"] = tuple(taken / params.align_steps for taken in found["align: gradient"])
    timed("align: change", lambda: find_change(losses, token, moved, 0))
    timed("align: judge", lambda: [on_later(losses, each, judge, 0) for each in (token, best, moved)])
    timed("align: states", lambda: with_states(losses, moved, 0))
    timed("align: commands", lambda: with_commands(policy, losses, made, moved, 0))
    found["align"] = tuple(clock() - start for clock, start in zip(clocks, began, strict=True))
    return found


def random_experiences(policy: Policy, experiences: int) -> list[Experience]:
    """Random pictures and commands, one episode, in order of time."""
    robot, architecture, rng = policy.config.robot, policy.model.architecture, np.random.default_rng(0)
    size, horizon, state = architecture.vision.image_size, architecture.action_horizon, policy.middle_state()

    def seen(tick: int) -> Observation:
        images = {camera: rng.integers(0, 256, (size, size, 3), np.uint8) for camera in architecture.cameras}
        return Observation(images, state, PROMPT, tick * robot.period_ns)

    shape = horizon, len(robot.action)
    return [
        Experience(seen(index * horizon), rng.standard_normal(shape).astype(np.float32), seen((index + 1) * horizon), 0)
        for index in range(experiences)
    ]
