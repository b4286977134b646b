"""How much memory it takes to load weights, as a share of what the loaded weights take.

    python benchmarks/load_memory.py --json load_memory.json

Random weights under openpi's names, a VLM 768 wide with a vocabulary of 64,000 words: 1.4 GB as float32. They are
stored in float32 and in bfloat16 and loaded as both, each time in a process of its own, whose largest resident memory
is read before and after. bfloat16 on a CPU needs AMX; without it only float32 is loaded. About a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import machine
import torch
import typer
from safetensors.torch import save_file

from vla_align_ros.policy import PolicyError
from vla_align_ros.policy.config import Architecture, TransformerConfig, VisionConfig
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.foreign_names import to_openpis_name
from vla_align_ros.policy.load import make_network
from vla_align_ros.policy.pi0 import Pi0

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def architecture() -> Architecture:
    """1.4 GB as float32; the embedding is the largest tensor and a sixth of it, as in pi0."""
    stack = {"depth": 12, "num_heads": 8, "num_kv_heads": 1, "head_dim": 96}
    return Architecture(
        variant="pi05",
        vocab_size=64_000,
        max_token_len=200,
        action_dim=32,
        action_horizon=50,
        cameras=("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"),
        vlm=TransformerConfig(width=768, mlp_dim=6144, **stack),
        action_expert=TransformerConfig(width=512, mlp_dim=2048, **stack),
        vision=VisionConfig(width=576, depth=12, mlp_dim=2304, num_heads=8, image_size=224, patch_size=14),
    )


def write(path: Path, dtype: torch.dtype) -> None:
    """The same in every run."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Pi0(architecture()).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            to_openpis_name(name): (0.02 * torch.randn(shape, generator=generator)).to(dtype)
            for name, shape in shapes.items()
        },
        path,
    )


def load_once(path: Path, dtype: Any) -> dict[str, float]:
    """In this process: peak memory over what it was before, and the weights, in bytes."""
    cpu = torch.device("cpu")
    before = machine.memory_mib("VmHWM")  # pages of mapped files included
    start = time.perf_counter()
    model = make_network(architecture(), path, cpu, dtype)
    FastSampler(model)  # as `Policy` makes one of it
    seconds = time.perf_counter() - start
    weights = sum(parameter.nbytes for parameter in model.parameters())
    peak = (machine.memory_mib("VmHWM") - before) * 2**20
    return {"weights_gb": weights / 1e9, "peak_share": peak / weights, "load_s": seconds}


def main(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
    child: Annotated[tuple[Path, str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Load random weights of 1.4 GB and say how much memory that took."""
    if child is not None:
        try:
            print(json.dumps(load_once(*child)))
        except PolicyError as error:
            print(json.dumps({"not loaded": str(error)}))
        return
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        for stored, dtype in DTYPES.items():
            write(path, dtype)
            for wanted in DTYPES:
                command = [sys.executable, __file__, "--child", str(path), wanted]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                numbers[f"{stored} loaded as {wanted}"] = json.loads(said)
                print(f"{stored} loaded as {wanted}", said.strip(), flush=True)
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
