"""From sensor message to action chunk without the model: what the node itself costs, and whether it loses images.

    python benchmarks/message_to_chunk.py --json message_to_chunk.json

Two 640x480 rgb8 cameras at 30 Hz and joint states at 250 Hz come from a process of their own, over DDS on loopback, to
the shipped process `vla_align_node`, in which only `Policy.infer` is replaced: it answers at once with a chunk that
stands still. Measured once with the shipped DDS profile and once with Fast DDS as it comes:

- tick to chunk: from the control tick (the clock's multiple of 0.1 s) to the return of `publish`. The node looks for a
  new tick every 10 ms, so up to 10 ms of it are waiting, the same in every tick of a run; `noticed to chunk` is the
  work: hand over to the inference thread, observe, check, convert, serialise, publish.
- image: from header stamp to letterboxed and in the assembler.
- images lost: published between two moments, but never arrived.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import machine
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import percentile

from vla_align_ros.action.controller import Controller, Published
from vla_align_ros.demo.processes import loopback_environment
from vla_align_ros.observation.assemble import ObservationAssembler
from vla_align_ros.observation.codecs import RawMessage, encode_image, encode_joint_state
from vla_align_ros.policy import Policy
from vla_align_ros.policy.config import load_model_config
from vla_align_ros.types import ActionChunk, Observation
from vla_align_ros.zoo import find_model

WIDTH, HEIGHT, IMAGE_HZ, JOINT_HZ = 640, 480, 30.0, 250.0
START_TIMEOUT_S = 60.0
WARM_UP_S, LAST_MESSAGES_S = 2.0, 1.0
_NS = 1_000_000_000


@dataclass
class Arrivals:
    """What the node saw, by stamp. Written by its threads, read when it has ended."""

    image_delay_ns: dict[tuple[str, int], int] = field(default_factory=dict)  # (camera, stamp) -> delay
    joint_stamps_ns: list[int] = field(default_factory=list)
    noticed_ns: dict[int, int] = field(default_factory=dict)  # tick -> when the controller reported it
    chunk_ns: dict[int, int] = field(default_factory=dict)  # tick -> when its chunk was published
    cpu: list[tuple[int, float]] = field(default_factory=list)  # time, CPU seconds of the process so far


def stamp_ns(raw: RawMessage) -> int:
    """The header stamp of a message in little-endian CDR that begins with a header."""
    seconds, nanoseconds = struct.unpack_from("<iI", raw, 4)
    return int(seconds * _NS + nanoseconds)


@contextmanager
def watched(arrivals: Arrivals) -> Iterator[None]:
    """Replace the inference by a chunk that stands still, and note what arrives and what leaves."""
    push_image, push_joints = ObservationAssembler.push_image, ObservationAssembler.push_joints
    tick, sent = Controller.tick, Controller.sent

    def stand_still(policy: Policy, observation: Observation, *arguments: object) -> ActionChunk:
        architecture, robot = policy.model.architecture, policy.config.robot
        actions = np.zeros((architecture.action_horizon, len(robot.action)), np.float32)
        start = robot.measured(observation.state).astype(np.float32)
        actions += np.where(robot.kinds == "position", start, 0.0).astype(np.float32)
        return ActionChunk(actions, start, observation.stamp_ns, robot.period_ns)

    def note_image(self: ObservationAssembler, camera: str, raw: RawMessage, msgtype: str, ros_ns: int) -> None:
        push_image(self, camera, raw, msgtype, ros_ns)
        now_ns, stamp = time.time_ns(), stamp_ns(raw)
        arrivals.image_delay_ns[camera, stamp] = now_ns - stamp
        arrivals.cpu.append((now_ns, time.process_time()))

    def note_joints(self: ObservationAssembler, raw: RawMessage, ros_ns: int, prefix: str = "") -> None:
        push_joints(self, raw, ros_ns, prefix)
        arrivals.joint_stamps_ns.append(stamp_ns(raw))

    def note_tick(self: Controller, now_ns: int) -> int | None:
        tick_ns = tick(self, now_ns)
        if tick_ns is not None:
            arrivals.noticed_ns[tick_ns] = now_ns
        return tick_ns

    def note_chunk(self: Controller, published: Published, now_ns: int) -> None:
        sent(self, published, now_ns)
        arrivals.chunk_ns[published.trajectory.stamp_ns] = now_ns

    with ExitStack() as stack:
        for owner, name, function in (
            (Policy, "infer", stand_still),
            (ObservationAssembler, "push_image", note_image),
            (ObservationAssembler, "push_joints", note_joints),
            (Controller, "tick", note_tick),
            (Controller, "sent", note_chunk),
        ):
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def run_node(model: str, store: str, results: Connection) -> None:
    """The process of the node: until SIGTERM, then sends its `Arrivals`."""
    from vla_align_ros.ros.vla_align_node import run

    arrivals = Arrivals()
    parameters = {
        "model": f"'{model}'",
        "store": f"'{store}'",
        "prompt": "'stand still'",
        "align_frequency_hz": 0.0,
    }
    sys.argv[1:] = ["--ros-args", *(part for name, value in parameters.items() for part in ("-p", f"{name}:={value}"))]
    with watched(arrivals):
        results.send((run(with_policy=True, with_manager=True), arrivals))


def publish(model: str, seconds: float, image_hz: float, results: Connection) -> None:
    """The process of the sensors: waits for the node, publishes; sends when the `seconds` that count began and ended,
    and the stamps of all images, by camera, and of all joint states. None when the node never subscribed.
    """
    import rclpy
    from sensor_msgs.msg import Image, JointState

    from vla_align_ros.ros.sensors import SENSOR_QOS

    robot = load_model_config(Path(model)).robot
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)  # a camera that changes is not frozen
    rclpy.init()
    node = rclpy.create_node("sensors")
    cameras = {camera: node.create_publisher(Image, topic, SENSOR_QOS) for camera, topic in robot.cameras.items()}
    joints = node.create_publisher(JointState, "joint_states", SENSOR_QOS)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(publisher.get_subscription_count() for publisher in (*cameras.values(), joints)):
        if time.monotonic() > deadline:
            results.send(None)
            return
        time.sleep(0.05)
    start_s = time.monotonic()
    first_ns = time.time_ns() + round(WARM_UP_S * _NS)
    last_ns = first_ns + round(seconds * _NS)
    images: dict[str, list[int]] = {camera: [] for camera in cameras}
    joint_stamps: list[int] = []
    image_index = joint_index = 0
    position = np.zeros(len(robot.state))
    while time.time_ns() < last_ns:
        image_due_s, joint_due_s = start_s + image_index / image_hz, start_s + joint_index / JOINT_HZ
        time.sleep(max(0.0, min(image_due_s, joint_due_s) - time.monotonic()))
        if joint_due_s <= image_due_s:
            joint_stamps.append(time.time_ns())
            joints.publish(encode_joint_state(robot.state_joints, position, joint_stamps[-1]))
            joint_index += 1
            continue
        for camera, publisher in cameras.items():
            images[camera].append(time.time_ns())
            publisher.publish(encode_image(pictures[image_index % len(pictures)], images[camera][-1]))
        image_index += 1
    results.send((first_ns, last_ns, images, joint_stamps))
    time.sleep(LAST_MESSAGES_S)  # a best-effort writer that is gone delivers nothing
    node.destroy_node()
    rclpy.shutdown()


def measure(model: Path, seconds: float, profile: bool, domain_id: int, image_hz: float = IMAGE_HZ) -> dict[str, Any]:
    """One run. Raises typer.Exit with a sentence when a process doesn't come up."""
    environment = loopback_environment(domain_id)
    if not profile:
        del environment["FASTRTPS_DEFAULT_PROFILES_FILE"]
    processes = multiprocessing.get_context("spawn")
    from_node, to_node = processes.Pipe(duplex=False)
    from_sensors, to_sensors = processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as store, mock.patch.dict(os.environ, environment, clear=True):
        node = processes.Process(target=run_node, args=(str(model), store, to_node))
        sensors = processes.Process(target=publish, args=(str(model), seconds, image_hz, to_sensors))
        node.start()
        sensors.start()
        to_node.close()
        to_sensors.close()
        try:
            sensed = from_sensors.recv()
            sensors.join()
        finally:
            sensors.terminate()
            node.terminate()
        if sensed is None:
            node.join()
            typer.echo("the node did not subscribe in time; what it printed is above", err=True)
            raise typer.Exit(1)
        code, arrivals = from_node.recv()
        node.join()
    if code != 0:
        typer.echo(f"the node ended with exit code {code}", err=True)
        raise typer.Exit(1)
    first_ns, last_ns, images, joints = sensed
    return summary(first_ns, last_ns, images, joints, arrivals)


def summary(
    first_ns: int, last_ns: int, images: dict[str, list[int]], joints: list[int], arrivals: Arrivals
) -> dict[str, Any]:
    """The numbers of what was stamped from `first_ns` to `last_ns`."""

    def counts(time_ns: int) -> bool:
        return first_ns <= time_ns <= last_ns

    def quantiles_ms(values_ns: list[int]) -> dict[str, float]:
        return {f"p{percent}": percentile(values_ns, percent) * 1e-6 for percent in (50, 99)}

    image_keys = {(camera, stamp) for camera, stamps in images.items() for stamp in stamps if counts(stamp)}
    joint_keys = {stamp for stamp in joints if counts(stamp)}
    delays_ns = [arrivals.image_delay_ns[key] for key in image_keys & arrivals.image_delay_ns.keys()]
    chunk_ns = {tick: published for tick, published in arrivals.chunk_ns.items() if counts(tick)}
    cpu = [sample for sample in arrivals.cpu if counts(sample[0])]
    return {
        "seconds": (last_ns - first_ns) * 1e-9,
        "images": tally(len(image_keys), len(delays_ns)),
        "joint_states": tally(len(joint_keys), len(joint_keys & set(arrivals.joint_stamps_ns))),
        "image_stamp_to_assembler_ms": quantiles_ms(delays_ns),
        "chunks": len(chunk_ns),
        "tick_to_chunk_ms": quantiles_ms([published - tick for tick, published in chunk_ns.items()]),
        "noticed_to_chunk_ms": quantiles_ms(
            [published - arrivals.noticed_ns[tick] for tick, published in chunk_ns.items()]
        ),
        "cpu_share": (cpu[-1][1] - cpu[0][1]) / ((cpu[-1][0] - cpu[0][0]) * 1e-9) if len(cpu) > 1 else float("nan"),
    }


def tally(published: int, received: int) -> dict[str, int]:
    """What was sent, what came, what is missing."""
    return {"published": published, "received": received, "lost": published - received}


def show(found: dict[str, dict[str, Any]]) -> None:
    """The numbers as a table."""
    table = Table("", *found, title=f"two {WIDTH}x{HEIGHT} cameras at {IMAGE_HZ:g} Hz, joints at {JOINT_HZ:g} Hz")
    timings = {
        "tick to chunk, p50 / p99 ms": "tick_to_chunk_ms",
        "noticed to chunk, p50 / p99 ms": "noticed_to_chunk_ms",
        "image to assembler, p50 / p99 ms": "image_stamp_to_assembler_ms",
    }
    for label, key in timings.items():
        table.add_row(label, *(f"{part[key]['p50']:.2f} / {part[key]['p99']:.2f}" for part in found.values()))
    for label, key in {"images lost": "images", "joint states lost": "joint_states"}.items():
        table.add_row(label, *(f"{part[key]['lost']} of {part[key]['published']}" for part in found.values()))
    table.add_row("chunks", *(str(part["chunks"]) for part in found.values()))
    table.add_row("CPU share of one core", *(f"{part['cpu_share']:.1%}" for part in found.values()))
    Console().print(table)


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo: for its robot.")] = "tiny",
    seconds: Annotated[float, typer.Option(min=1.0, help="That count, of each run.")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure the node without its model."""
    torch.set_num_threads(1)
    folder, domain_id = find_model(model).resolve(), 1 + os.getpid() % 100
    found = {
        "shipped profile": measure(folder, seconds, True, domain_id),
        "without profile": measure(folder, seconds, False, domain_id + 1),
    }
    show(found)
    machine.write(json_file, {name.replace(" ", "_"): part for name, part in found.items()})


if __name__ == "__main__":
    typer.run(main)
