"""Gemma stacks that attend together: the VLM, the action expert and the alignment expert.

Each stack has its own weights and meets the others only in attention (Mixture of Transformers). `run` sends any of
them through all layers at once, or one alone against keys and values that were computed before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.policy.attention import apply_rotary, rotary_tables
from vla_align_ros.policy.config import TransformerConfig

RMS_EPS = 1e-6
KeyValues = list[tuple[Tensor, Tensor]]  # one (B, kv_heads, N, head_dim) pair a layer; keys after rotation
Modulation = tuple[Tensor, Tensor, Tensor | None]  # (W,) each: scale, shift and the branch's gate


class RMSNorm(nn.Module):
    """Gemma's RMSNorm, factor 1 + weight; with `cond_dim` adaRMS: scale, shift and the branch's gate from a
    condition.
    """

    def __init__(self, width: int, cond_dim: int | None = None) -> None:
        super().__init__()
        if cond_dim is None:
            self.weight = nn.Parameter(torch.zeros(width))
        else:
            self.dense = nn.Linear(cond_dim, 3 * width)
            nn.init.zeros_(self.dense.weight)
            nn.init.zeros_(self.dense.bias)
            with torch.no_grad():
                self.dense.bias[2 * width :] = 1.0  # gates start open

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x (B, N, W), modulation (B, 1, 3W) or None -> normalised x, gate (B, 1, W) or None. Norm in float32."""
        normed = functional.rms_norm(x.float(), x.shape[-1:], eps=RMS_EPS)
        if modulation is None:
            return (normed * (1.0 + self.weight.float())).to(x.dtype), None
        scale, shift, gate = modulation.chunk(3, dim=-1)
        return torch.addcmul(shift.float(), normed, 1.0 + scale.float()).to(x.dtype), gate.to(x.dtype)


def fuse(*linears: nn.Linear) -> Tensor:
    """The linears' weights side by side, (in, sum of out), to be one matrix product.

    Each one's own weight becomes a view of the result: memory does not double, and a change in place is seen in both.
    """
    fused = torch.cat([linear.weight.detach().t() for linear in linears], dim=1)
    for linear, part in zip(linears, fused.split([linear.out_features for linear in linears], dim=1), strict=True):
        linear.weight.data = part.t()
    return fused


class GemmaLayer(nn.Module):
    """Weights of one layer; the order of operations is in `run`."""

    def __init__(self, config: TransformerConfig, cond_dim: int | None) -> None:
        super().__init__()
        width, heads, kv_heads, head_dim = config.width, config.num_heads, config.num_kv_heads, config.head_dim
        self.input_layernorm = RMSNorm(width, cond_dim)
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.post_attention_layernorm = RMSNorm(width, cond_dim)
        self.gate_proj = nn.Linear(width, config.mlp_dim, bias=False)
        self.up_proj = nn.Linear(width, config.mlp_dim, bias=False)
        self.down_proj = nn.Linear(config.mlp_dim, width, bias=False)
        for branch_end in (self.o_proj, self.down_proj):
            nn.init.normal_(branch_end.weight, std=0.02)

    def mlp(self, x: Tensor) -> Tensor:
        """Gemma's gated MLP: down(gelu_tanh(gate(x)) * up(x))."""
        out: Tensor = self.down_proj(functional.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return out


class Expert(nn.Module):
    """One Gemma stack. With `cond_dim` its norms are adaRMS and every call needs a condition (B, cond_dim)."""

    def __init__(self, config: TransformerConfig, cond_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([GemmaLayer(config, cond_dim) for _ in range(config.depth)])
        self.norm = RMSNorm(config.width, cond_dim)

    def modulations(self, cond: Tensor | None) -> list[Tensor | None]:
        """adaRMS's (B, 1, 3W) for each norm, two a layer and the final one. They depend on the time alone."""
        norms: list[Any] = [n for layer in self.layers for n in (layer.input_layernorm, layer.post_attention_layernorm)]
        if cond is None:
            return [None] * (len(norms) + 1)
        return [norm.dense(cond)[:, None] for norm in [*norms, self.norm]]

    def scales(self, cond: Tensor | None) -> list[list[Modulation]]:
        """What each norm multiplies x / |x| by and adds, for every row of `cond` (one without), in the same order."""
        root = math.sqrt(self.config.width)  # the root of the mean square is |x| over it
        layers: list[Any] = list(self.layers)
        if cond is None:
            norms = [n for layer in layers for n in (layer.input_layernorm, layer.post_attention_layernorm)]
            return [[(root * (1.0 + n.weight), torch.zeros_like(n.weight), None) for n in [*norms, self.norm]]]
        parts = [m[:, 0].chunk(3, dim=-1) for m in self.modulations(cond) if m is not None]
        return [[(root * (1.0 + a[row]), b[row], c[row]) for a, b, c in parts] for row in range(len(cond))]

    def fused(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Each layer's weights as `fuse` puts them: queries, keys and values; output; gate and up; down."""
        layers: list[Any] = list(self.layers)
        return [
            (fuse(x.q_proj, x.k_proj, x.v_proj), fuse(x.o_proj), fuse(x.gate_proj, x.up_proj), fuse(x.down_proj))
            for x in layers
        ]


@dataclass
class Stream:
    """One stack's way through the layers: its tokens (B, N, W), positions (B, N) and adaRMS modulations."""

    expert: Expert
    tokens: Tensor
    modulations: list[Tensor | None]
    residuals: list[Tensor] = field(default_factory=list)  # residual stream before layer 0, 1, .., depth


def run(
    streams: Sequence[Stream],
    position_ids: Tensor,
    mask: Tensor,
    past: KeyValues | None = None,
    keep_residuals: bool = False,
    wanted: Tensor | None = None,
) -> tuple[list[Tensor], KeyValues]:
    """Send the streams' tokens, side by side, through all layers.

    position_ids: (B, N) for all tokens of all streams. mask: (B, 1, N, P + N) additive, P the length of `past`.
    wanted: (M,) the tokens of a single stream whose result is used; in the last layer the others are only looked at.
    Not with keep_residuals. Returns each stream's tokens (of one with `wanted`: those) after its final norm, and this
    call's own keys and values a layer.
    """
    if wanted is not None and (len(streams) != 1 or keep_residuals):
        raise ValueError(f"`wanted` is for one stream without residuals; there are {len(streams)} streams")
    head_dim, depth = streams[0].expert.config.head_dim, streams[0].expert.config.depth
    tables = rotary_tables(position_ids, head_dim)
    key_values: KeyValues = []
    for index in range(depth):
        layers: list[GemmaLayer] = [stream.expert.layers[index] for stream in streams]  # type: ignore[misc]
        if keep_residuals:
            for stream in streams:
                stream.residuals.append(stream.tokens)
        normed = [
            layer.input_layernorm(s.tokens, s.modulations[2 * index]) for layer, s in zip(layers, streams, strict=True)
        ]
        k = apply_rotary(_projected([layer.k_proj for layer in layers], normed, head_dim), tables)
        v = _projected([layer.v_proj for layer in layers], normed, head_dim)
        key_values.append((k, v))
        if wanted is not None and index == depth - 1:
            streams[0].tokens, mask = streams[0].tokens[:, wanted], mask[:, :, wanted]
            normed = [(x[:, wanted], gate) for x, gate in normed]
            tables = (tables[0][:, :, wanted], tables[1][:, :, wanted])
            if len(wanted) == 0:
                break
        q = apply_rotary(_projected([layer.q_proj for layer in layers], normed, head_dim), tables)
        if past is not None:
            k, v = torch.cat([past[index][0], k], dim=2), torch.cat([past[index][1], v], dim=2)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        attended = attended.transpose(1, 2).flatten(2)
        lengths = [stream.tokens.shape[1] for stream in streams]
        for layer, stream, (_, gate), part in zip(layers, streams, normed, attended.split(lengths, dim=1), strict=True):
            x = _gated_add(stream.tokens, layer.o_proj(part), gate)
            h, gate = layer.post_attention_layernorm(x, stream.modulations[2 * index + 1])
            stream.tokens = _gated_add(x, layer.mlp(h), gate)
    finals: list[Tensor] = []
    for stream in streams:
        if keep_residuals:
            stream.residuals.append(stream.tokens)
        finals.append(stream.expert.norm(stream.tokens, stream.modulations[-1])[0])
    return finals, key_values


def _projected(
    projections: Sequence[nn.Linear], normed: Sequence[tuple[Tensor, Tensor | None]], head_dim: int
) -> Tensor:
    """All streams' queries, keys or values side by side, (B, heads, N, head_dim)."""
    parts = [
        projection(x).unflatten(-1, (-1, head_dim)) for projection, (x, _) in zip(projections, normed, strict=True)
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).transpose(1, 2)


def _gated_add(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return x + branch if gate is None else torch.addcmul(x, branch, gate)


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of the prefix, which serve every expert, denoising step and align step of its observation."""

    key_values: KeyValues
    pad_masks: Tensor  # (B, P) bool

    def repeat(self, times: int) -> PrefixCache:
        """Every row `times` times, in place of one (for several draws of noise a row)."""
        if times == 1:
            return self
        kv = [(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in self.key_values]
        return PrefixCache(kv, self.pad_masks.repeat_interleave(times, 0))

    @classmethod
    def joined(cls, parts: Sequence[PrefixCache]) -> PrefixCache:
        """All their rows, each with as many tokens as the longest has; those that are added nobody sees. The parts are
        used up, a layer at a time, so that no more than one layer is there several times."""
        longest = max(part.pad_masks.shape[1] for part in parts)

        def whole(tensors: Iterable[Tensor]) -> Tensor:  # (rows, ..., tokens, D) each
            missing = [(one, longest - one.shape[-2]) for one in tensors]
            return torch.cat([functional.pad(one, (0, 0, 0, more)) if more else one for one, more in missing])

        masks = torch.cat([functional.pad(part.pad_masks, (0, longest - part.pad_masks.shape[1])) for part in parts])
        kv = []
        while parts[0].key_values:
            keys, values = zip(*[part.key_values.pop(0) for part in parts], strict=True)
            kv.append((whole(keys), whole(values)))
        return cls(kv, masks)

    def rows(self, index: Tensor | slice) -> PrefixCache:
        """The cache of some rows, in that order."""
        return PrefixCache([(k[index], v[index]) for k, v in self.key_values], self.pad_masks[index])
