"""TensorBoard has every number of the log; how far a run is, is said in a terminal and in a file."""

from __future__ import annotations

import builtins
import struct
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from vla_align_ros.cli import train_progress
from vla_align_ros.training.recipe import RecipeError
from vla_align_ros.training.tensorboard import TensorBoard


def events(folder: Path) -> list[Event]:
    """Of all files, oldest first. A record: length (8 bytes), checksum (4), an event, checksum (4)."""
    found = []
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def line(stage: str, step: int) -> dict[str, object]:
    return {"stage": stage, "step": step, "total_loss": step / 4, "e_token_norm": 2.0, "learning_rate": 0.5}


def test_every_number_of_a_step_is_a_curve_and_a_run_that_goes_on_hides_what_was_cut(tmp_path: Path) -> None:
    for steps in (range(4), range(2, 5)):  # killed at step 3, saved at 2
        curves = TensorBoard(tmp_path)
        curves({"stage": "source", "robots": 3})
        for step in steps:
            curves(line("policy", step))
        curves.close()
    found = events(tmp_path / "policy")
    scalars = [(event.step, value.tag, value.simple_value) for event in found for value in event.summary.value]
    assert {tag for _, tag, _ in scalars} == {"total_loss", "e_token_norm", "learning_rate"}
    assert [(step, value) for step, tag, value in scalars if tag == "total_loss"] == [
        (step, step / 4) for step in (0, 1, 2, 3, 2, 3, 4)
    ]
    assert [event.step for event in found if event.session_log.status] == [0, 2], "what TensorBoard purges from"
    assert not (tmp_path / "source").exists()


def test_without_tensorboardx_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("tensorboardX"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RecipeError, match=r"pip install 'vla_align_ros\[scale\]'"):
        TensorBoard(tmp_path)


def test_in_a_file_a_line_now_and_then_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(train_progress.time, "monotonic", lambda: now_s)
    console = Console(record=True, width=120, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    lines = train_progress.Lines({"policy": 1000}, console)
    lines({"stage": "source", "robots": 3})
    for step in range(200, 1000):  # a run that goes on: 10 steps a second
        lines(line("policy", step))
        now_s = 100.0 + (step - 199) / 10
    assert console.export_text().splitlines() == [
        "{'stage': 'source', 'robots': 3}",
        "policy 201/1000 loss 50.000",
        "policy 501/1000 loss 125.000 0:00:50 left",
        "policy 801/1000 loss 200.000 0:00:20 left",
        "policy 1000/1000 loss 249.750 0:00:00 left",
    ]
