"""How close this package is to openpi: max abs difference of every `out.*` tensor of golden folders.

    python benchmarks/golden.py test/data/golden/pi0 test/data/golden/pi05 --json golden.json

A golden folder holds `config.json`, `model.safetensors` and `io.safetensors`, as test/data/golden/README.md describes.
Everything is computed by the functions that the nodes use. `test/policy/test_golden.py` asserts the tolerances.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vla_align_ros.policy import flow
from vla_align_ros.policy.attention import additive_mask, make_att_2d_masks, prefix_positions
from vla_align_ros.policy.config import Architecture, TransformerConfig, VisionConfig
from vla_align_ros.policy.experts import Stream, run
from vla_align_ros.policy.flow import time_embedding
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.joint import forward_joint
from vla_align_ros.policy.load import Dtype, make_network
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.weights import WeightsError, read_tensors

EXACT = re.compile(r".*_masks|.*position_ids|x_t|u_t|sample_traj\.\d+\.time")
GARBAGE_ROWS = re.compile(r"prefix_last_hidden|prefix_kv\.[1-9]\d*\..*|joint\.prefix_(resid\.[1-9]\d*|final)")


class GoldenError(ValueError):
    """A folder isn't of the golden form; the message says what is missing or foreign."""


def architecture_of(folder: Path) -> Architecture:
    """The sizes in a golden `config.json`. Raises GoldenError."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: {key: raw[name][key] for key in TransformerConfig.__annotations__} for name in ("vlm", "expert")}
        arguments = {
            "variant": "pi05" if raw["pi05"] else "pi0",
            **{key: raw[key] for key in ("vocab_size", "max_token_len", "action_dim", "action_horizon", "cameras")},
            "vlm": sizes["vlm"],
            "action_expert": sizes["expert"],
            "vision": {key: raw["vision"][key] for key in VisionConfig.__annotations__},
        }
        architecture: Architecture = TypeAdapter(Architecture).validate_python(arguments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GoldenError(f"{path}: not a golden config.json: {error!r}") from None
    return architecture


def load(folder: Path, dtype: Dtype = "float32") -> Pi0:
    """The network of a golden folder, on the CPU. Raises GoldenError, WeightsError, and PolicyError for the dtype."""
    return make_network(architecture_of(folder), folder / "model.safetensors", torch.device("cpu"), dtype)


def tolerance(tensor: str) -> float:
    """The largest difference that is openpi's own rounding (test/data/golden/README.md), for a name without `out.`."""
    if EXACT.fullmatch(tensor):
        return 0.0
    return {"time_emb": 1e-6, "loss_per_element": 5e-5}.get(tensor, 2e-5)


def read_io(folder: Path) -> dict[str, Tensor]:
    """The tensors of `io.safetensors` by name. Raises WeightsError."""
    return read_tensors(folder / "io.safetensors")


def policy_input(io: dict[str, Tensor], cameras: tuple[str, ...]) -> PolicyInput:
    """The inputs of a golden file as the network takes them."""
    return PolicyInput(
        tuple(io[f"in.images.{camera}"] for camera in cameras),
        tuple(io[f"in.image_masks.{camera}"] for camera in cameras),
        io["in.tokenized_prompt"],
        io["in.tokenized_prompt_mask"],
        io["in.state"],
    )


def new_pictures(inputs: PolicyInput) -> Iterator[PolicyInput]:
    """The same without end, every camera with another picture than before: one that it showed last is not encoded."""
    return cycle((inputs, replace(inputs, images=tuple(-image for image in inputs.images))))


@torch.no_grad()
def compute(model: Pi0, io: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our value of every `out.*` tensor that the form knows, by its name without `out.`.

    How many sampling steps to take is read from the names in `io`.
    """
    inputs = policy_input(io, model.architecture.cameras)
    actions, noise, time, state = io["in.actions"], io["in.noise"], io["in.time"], io["in.state"]
    ours: dict[str, Tensor] = {}

    x_t, u_t = flow.interpolate(actions, noise, time), flow.target_velocity(actions, noise)
    ours |= {"x_t": x_t, "u_t": u_t, "time_emb": time_embedding(time, model.architecture.action_expert.width)}
    condition = model.action_condition(time)
    if condition is not None:
        ours["adarms_cond"] = condition

    embs, pads, att = model.embed_prefix(inputs.images, inputs.image_masks, inputs.tokens, inputs.token_masks)
    positions = prefix_positions(pads)
    (hidden,), _ = run(
        [Stream(model.vlm, embs, model.vlm.modulations(None))], positions, additive_mask(make_att_2d_masks(pads, att))
    )
    ours |= {"prefix_embs": embs, "prefix_pad_masks": pads, "prefix_att_masks": att}
    ours |= {"prefix_position_ids": positions, "prefix_last_hidden": hidden}
    cache = model.prefix_cache(inputs)
    for layer, (key, value) in enumerate(cache.key_values):
        ours |= {f"prefix_kv.{layer}.key": key, f"prefix_kv.{layer}.value": value}

    suffix_embs, suffix_pads, suffix_att = model.embed_suffix(state, x_t, time, None)
    ours |= {"suffix_embs": suffix_embs, "suffix_pad_masks": suffix_pads}
    ours["suffix_att_masks"] = suffix_att.float().expand(suffix_pads.shape)

    streams: list[Stream] = []
    joint_v, _, finals = forward_joint(model, inputs, x_t, time, streams_out=streams)
    for name, stream, final in zip(("prefix", "suffix"), streams, finals, strict=True):
        ours |= {f"joint.{name}_resid.{layer}": residual for layer, residual in enumerate(stream.residuals)}
        ours[f"joint.{name}_final"] = final
    v_t = model.denoise(cache, state, x_t, time, None)
    ours |= {"joint.v_t": joint_v, "v_t": v_t, "loss_per_element": (u_t - v_t) ** 2}
    ours["v_t_extra"] = model.denoise(cache, state, io["in.x_t_extra"], io["in.time_extra"], None)

    for name in [name for name in io if name.startswith("out.sample_actions.")]:
        num_steps = int(name.rsplit(".", 1)[1])
        xs, vs, _ = zip(*model.sample_trajectory(inputs, noise, num_steps), strict=True)
        ours[f"sample_actions.{num_steps}"] = model.sample_actions(inputs, noise, num_steps)
        ours[f"sample_traj.{num_steps}.time"] = torch.tensor(flow.euler_times(num_steps))
        ours |= {f"sample_traj.{num_steps}.x": torch.stack(xs), f"sample_traj.{num_steps}.v": torch.stack(vs)}
    return ours


def compare(folder: Path) -> dict[str, float]:
    """Max abs difference of every `out.*` tensor of `folder`, by its name. NaN where ours has NaN.

    Rows of the prefix that are padding hold garbage in openpi that nobody reads: they are left out, except where they
    are defined. Raises GoldenError or WeightsError when the folder isn't of the form.
    """
    io = read_io(folder)
    try:
        ours = compute(load(folder), io)
    except KeyError as error:
        raise GoldenError(f"{folder}/io.safetensors: the tensor {error} is missing") from None
    expected = {name.removeprefix("out."): tensor for name, tensor in io.items() if name.startswith("out.")}
    foreign = sorted(expected.keys() - ours.keys())
    if foreign:
        raise GoldenError(f"{folder}/io.safetensors: no function here computes {foreign}")
    valid = ours["prefix_pad_masks"]
    return {f"out.{name}": difference(name, ours[name], tensor, valid) for name, tensor in expected.items()}


def difference(name: str, ours: Tensor, expected: Tensor, prefix_pads: Tensor) -> float:
    """Max abs difference on the rows that count."""
    if ours.shape != expected.shape:
        raise GoldenError(f"out.{name} has shape {tuple(expected.shape)}, ours {tuple(ours.shape)}")
    distance = (ours.double() - expected.double()).abs()
    if GARBAGE_ROWS.fullmatch(name):
        rows = prefix_pads[:, None, :, None] if distance.dim() == 4 else prefix_pads[..., None]
        distance = torch.where(rows, distance, 0.0)
    return float(distance.max())


def main(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Golden folders.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Compare with openpi's numbers, tensor by tensor."""
    try:
        found = {str(folder): compare(folder) for folder in folders}
    except (GoldenError, WeightsError) as error:
        raise typer.BadParameter(str(error)) from None
    table = Table(title=f"max abs difference from openpi (torch {torch.__version__}, float32, CPU)")
    table.add_column("tensor", no_wrap=True)
    for folder in found:
        table.add_column(folder, justify="right")
    table.add_column("tolerance", justify="right")
    for name in dict.fromkeys(name for numbers in found.values() for name in numbers):
        limit = tolerance(name.removeprefix("out."))
        table.add_row(name, *(_cell(numbers.get(name), limit) for numbers in found.values()), f"{limit:g}")
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")


def _cell(value: float | None, limit: float) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if value <= limit else f"[bold red]{value:.1e}[/]"


if __name__ == "__main__":
    typer.run(main)
