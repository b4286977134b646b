"""`Pi0.sample_actions` for one observation, with as little work as its numbers need. `pi0.py` is the reference.

What is done otherwise, all of it exact up to rounding (test/policy/test_fast.py):

- a missing camera is not in the prefix, nor is most of the prompt's padding; a picture that was the camera's last one,
  too, is not encoded again;
- of the last VLM layer only keys and values are computed: nobody reads the rest;
- E and pi0's state see no noisy action: their keys and values are computed once, for all steps together;
- the time enters through tables, a row a step;
- what reads the same input is one matrix product (`experts.fuse`);
- everything is written into buffers that are made once for a shape (`Plan`), so that CUDA can replay it as a graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vla_align_ros.policy import flow
from vla_align_ros.policy.attention import additive_mask, rotary_tables
from vla_align_ros.policy.config import TransformerConfig
from vla_align_ros.policy.experts import RMS_EPS, Modulation, fuse
from vla_align_ros.policy.flow import time_embedding
from vla_align_ros.policy.inputs import PROMPT_STEP, PolicyInput
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.streams import FIRST, own_stream
from vla_align_ros.policy.vision import FusedSiglip

MAX_PLANS = 4  # shapes kept at once; a plan is as large as the activations of one pass
_Stack = tuple[TransformerConfig, list[tuple[Tensor, Tensor, Tensor, Tensor]]]  # and `Expert.fused`


def _rotation(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor) -> Callable[[], None]:
    """`attention.apply_rotary` from a buffer into another."""
    (first, second), (out_first, out_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    sin_first, sin_second = sin.chunk(2, dim=-1)

    def rotate() -> None:
        torch.mul(x, cos, out=out)
        out_first.addcmul_(second, sin_first)
        out_second.addcmul_(first, sin_second)

    return rotate


class _Rows:
    """`count` tokens on their way through a stack, with buffers of their own. The residual stream `x` is float32.

    keys, values: (depth, kv_heads, L, head_dim), the cache of all tokens. These ones' rows are start .. start + count;
    they look at the rows in `seen`.
    """

    def __init__(self, stack: _Stack, keys: Tensor, values: Tensor, start: int, count: int, seen: slice) -> None:
        config, self.weights = stack
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.count, self.groups = count, heads // kv_heads
        # RMSNorm divides by sqrt(mean x^2 + eps). One more column makes that the length of the row, over sqrt(width).
        self.x_and_eps = torch.full((count, config.width + 1), math.sqrt(config.width * RMS_EPS), device=keys.device)
        self.x, self.length = self.x_and_eps[:, :-1], self.x_and_eps.new_empty(count, 1)
        self.normed, self.branch = keys.new_empty(2, count, config.width)
        self.scaled = self.normed if keys.dtype == torch.float32 else self.normed.float()
        self.gate_up, self.hidden = keys.new_empty(count, 2 * config.mlp_dim), keys.new_empty(count, config.mlp_dim)
        self.gate, self.up = self.gate_up.chunk(2, dim=1)
        self.qkv = keys.new_empty(count, (heads + 2 * kv_heads) * head_dim)
        q, k, v = self.qkv.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=1)
        k, v = (x.unflatten(1, (kv_heads, head_dim)).transpose(0, 1) for x in (k, v))
        # Queries that share their keys and values become rows of one attention: (kv_heads, count * groups, head_dim).
        query = keys.new_empty(kv_heads, count, self.groups, head_dim)
        self.query = query.flatten(1, 2)[None]
        self.rotary = self.x_and_eps.new_empty(2, 1, count, head_dim)
        cos, sin = self.rotary
        q = q.unflatten(1, (kv_heads, self.groups, head_dim)).transpose(0, 1)
        self.rotate_query = _rotation(q, query, cos[:, :, None], sin[:, :, None])
        rows = slice(start, start + count)
        self.cache = [
            (_rotation(k, all_k[:, rows], cos, sin), all_v[:, rows], v, all_k[None, :, seen], all_v[None, :, seen])
            for all_k, all_v in zip(keys, values, strict=True)
        ]

    def place(self, position_ids: Tensor) -> None:
        """Positions (count,) of the tokens."""
        self.rotary.copy_(torch.cat(rotary_tables(position_ids[None], self.query.shape[-1])))

    def norm(self, scale: Tensor, shift: Tensor, out: Tensor) -> None:
        torch.linalg.vector_norm(self.x_and_eps, dim=1, keepdim=True, out=self.length)
        torch.mul(self.x, scale, out=self.scaled)
        torch.addcdiv(shift, self.scaled, self.length, out=out)

    def add(self, branch: Tensor, weight: Tensor, gate: Tensor | None) -> None:
        """x += gate * (branch @ weight)."""
        if gate is None and weight.dtype == self.x.dtype:
            self.x.addmm_(branch, weight)
        else:
            torch.mm(branch, weight, out=self.branch)
            self.x.add_(self.branch) if gate is None else self.x.addcmul_(self.branch, gate)

    def run(self, norms: list[Modulation], mask: Tensor, finish: bool) -> None:
        """All layers, then the final norm into `scaled`; without `finish` only what the cache needs. mask: additive,
        (count * groups, len(seen)).
        """
        last = len(self.cache) - 1
        for index, (weights, slots) in enumerate(zip(self.weights, self.cache, strict=True)):
            (qkv, o, gate_up, down), (rotate_key, value_slot, value, keys, values) = weights, slots
            (scale, shift, gate), (scale_after, shift_after, gate_after) = norms[2 * index], norms[2 * index + 1]
            self.norm(scale, shift, self.normed)
            torch.mm(self.normed, qkv, out=self.qkv)
            rotate_key()
            value_slot.copy_(value)
            if index == last and not finish:
                return
            self.rotate_query()
            seen = functional.scaled_dot_product_attention(self.query, keys, values, attn_mask=mask)
            if seen.shape[1] > 1:  # (1, kv_heads, count * groups, head_dim) -> heads side by side
                seen = seen[0].unflatten(1, (-1, self.groups)).transpose(0, 1)
            self.add(seen.reshape(self.count, -1), o, gate)
            self.norm(scale_after, shift_after, self.normed)
            torch.mm(self.normed, gate_up, out=self.gate_up)
            functional.gelu(self.gate, approximate="tanh", out=self.hidden)  # type: ignore[call-arg]
            self.add(self.hidden.mul_(self.up), down, gate_after)
        self.norm(*norms[-1][:2], self.scaled)


class Plan:
    """Buffers for `cameras` images, `length` tokens of the prompt and `num_steps` Euler steps; `see`, `fill`, then
    `denoise`.

    The cache's rows: E (and pi0's state), for pi0.5 once a step with the last step first; prefix; actions. Step j of
    pi0.5 copies its own E over the one of step 0, so that what a step looks at lies side by side.
    """

    def __init__(self, sampler: FastSampler, cameras: int, length: int, num_steps: int) -> None:
        self.sampler, model, a = sampler, sampler.model, sampler.model.architecture
        vlm, expert, like = model.vlm, model.action_expert, model.embed_tokens.weight
        times = torch.tensor(flow.euler_times(num_steps, a.conventions), device=like.device)
        self.dt, self.norms = flow.euler_step(num_steps), expert.scales(model.action_condition(times))
        self.time_bias = sampler.time_bias(times)
        self.num_image_tokens = cameras * (a.vision.image_size // a.vision.patch_size) ** 2
        self.num_e = 0 if sampler.without_e else a.peft_num_tokens
        self.each = self.num_e + (0 if model.pi05 else 1)  # tokens of a step that see no noisy action
        self.copies = len(times) if model.pi05 else 1
        prefix, horizon, fixed = self.num_image_tokens + length, a.action_horizon, self.copies * self.each
        zeros = times.new_zeros  # float32, on the device
        shape = (cameras, 3, a.vision.image_size, a.vision.image_size)
        self.images = like.new_full(shape, math.nan, dtype=torch.float32)  # equal to no picture
        self.seen = zeros(cameras, self.num_image_tokens // max(1, cameras), vlm.config.width)
        self.tokens, self.state = zeros(length).long(), zeros(1, a.action_dim)
        self.e_token, self.x_t = zeros(self.num_e, expert.config.width), zeros(horizon, a.action_dim)
        self.time_in = zeros(horizon, expert.config.width)
        rows = (vlm.config.depth, vlm.config.num_kv_heads, fixed + prefix + horizon, vlm.config.head_dim)
        cache = self.keys, self.values = like.new_zeros(rows), like.new_zeros(rows)
        self.prefix = _Rows(sampler.vlm, *cache, fixed, prefix, slice(fixed, fixed + prefix))
        self.fixed = _Rows(sampler.expert, *cache, 0, fixed, slice(0, fixed + prefix))
        self.actions = _Rows(sampler.expert, *cache, fixed + prefix, horizon, slice(fixed - self.each, None))
        self.fixed_norms: Any = self.norms[0]
        if model.pi05:  # a row each has the norms of its own step
            by_norm = [zip(*steps, strict=True) for steps in zip(*reversed(self.norms), strict=True)]
            self.fixed_norms = [[torch.stack(x).repeat_interleave(self.each, 0) for x in norm] for norm in by_norm]
        self._make_masks(prefix, fixed, horizon)
        self.valid = -1
        self.set_valid(prefix)
        self.prefix.place(torch.arange(prefix, device=like.device))
        self.steps = self._encode, self._fill, self._denoise  # one by one, not as graphs
        self.encode, self.fill, self.denoise = (_captured(step, like.device) for step in self.steps)

    def _make_masks(self, prefix: int, fixed: int, horizon: int) -> None:
        """Additive, each (queries, what they look at): one row for all queries, but for the fixed tokens."""
        self.prefix_row = self.keys.new_zeros(1, prefix)
        self.prefix_mask = self.prefix_row.expand(self.prefix.query.shape[2], -1)
        self.action_row = self.keys.new_zeros(1, self.each + prefix + horizon)
        self.action_row[:, : self.num_e] = self.sampler.e_bias
        self.action_mask = self.action_row.expand(self.actions.query.shape[2], -1)
        own = torch.ones(self.each, self.each, dtype=torch.bool)
        own[: self.num_e, self.num_e :] = False  # E does not see the state; and each sees its own step's alone
        e = torch.arange(fixed) % (self.each or 1) < self.num_e
        sees = torch.block_diag(*[own] * self.copies).bool()
        mask = additive_mask(sees[None], self.keys.dtype)[0, 0] + self.sampler.e_bias * e
        self.fixed_mask = functional.pad(mask, (0, prefix)).repeat_interleave(self.fixed.groups, 0).to(self.keys)

    def set_valid(self, valid: int) -> None:
        """So many tokens of the prefix are real. E has the position of the first token after them."""
        if valid == self.valid:
            return
        self.valid, device, fixed = valid, self.keys.device, self.fixed.count
        self.fixed.place(torch.full((fixed,), valid, device=device))
        self.actions.place(valid + self.each - self.num_e + torch.arange(self.actions.count, device=device))
        real = torch.arange(self.prefix.count, device=device) < valid
        self.prefix_row.copy_(additive_mask(real[None, None], self.keys.dtype)[0, 0])
        self.action_row[:, self.each : self.each + self.prefix.count] = self.prefix_row
        self.fixed_mask[:, fixed:] = self.prefix_row

    def see(self, images: Sequence[Tensor]) -> None:
        """Encode each camera's picture (3, size, size), but for those that it showed last."""
        new = [index for index, image in enumerate(images) if not torch.equal(image, self.images[index])]
        try:
            for index in new:
                self.images[index] = images[index]
            if len(new) == len(images) or (new and self.images.is_cuda):  # a graph is faster than a part in eager steps
                self.encode()
            elif new:
                self.seen[new] = self.sampler.vision(self.images[new]).view(len(new), *self.seen.shape[1:]).float()
        except BaseException:
            self.images[new] = math.nan  # not seen, so that they are encoded when they come again
            raise

    def _encode(self) -> None:
        """All cameras' pictures."""
        if len(self.images):
            self.seen.flatten(0, 1).copy_(self.sampler.vision(self.images))

    def _fill(self) -> None:
        """The cache's rows of all tokens that see no noisy action."""
        sampler, images = self.sampler, self.num_image_tokens
        self.prefix.x[:images] = self.seen.flatten(0, 1)
        prompt = functional.embedding(self.tokens, sampler.model.embed_tokens.weight)
        torch.mul(prompt, math.sqrt(sampler.model.vlm.config.width), out=self.prefix.x[images:])
        self.prefix.run(sampler.vlm_norms, self.prefix_mask, finish=False)
        if not self.each:
            return  # pi0.5 without E
        tokens = self.fixed.x.unflatten(0, (self.copies, self.each))
        tokens[:, : self.num_e] = self.e_token
        if not sampler.model.pi05:
            tokens[:, self.num_e :] = sampler.model.state_proj(self.state)
        self.fixed.run(self.fixed_norms, self.fixed_mask, finish=False)

    def _denoise(self) -> None:
        """x_t from noise to clean actions."""
        sampler, actions, each, pi05 = self.sampler, self.actions, self.each, self.sampler.model.pi05
        first = (self.copies - 1) * each
        for index, bias in enumerate(self.time_bias):
            if pi05:
                if each and index:
                    own = first - index * each
                    for cache in (self.keys, self.values):
                        cache[:, :, first : first + each] = cache[:, :, own : own + each]
                torch.addmm(bias, self.x_t, sampler.action_in, out=actions.x)
            else:
                torch.addmm(bias, self.x_t, sampler.action_in, out=self.time_in)
                functional.silu(self.time_in, inplace=True)
                torch.addmm(sampler.time_out_bias, self.time_in, sampler.time_out, out=actions.x)
            actions.run(self.norms[index if pi05 else 0], self.action_mask, finish=True)
            self.x_t.add_(sampler.action_out_bias, alpha=self.dt)
            self.x_t.addmm_(actions.scaled, sampler.action_out, alpha=self.dt)


def _captured(part: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`part` as one CUDA graph; itself on a CPU. It must read and write the same memory at every call."""
    if device.type != "cuda":
        return part
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # libraries set themselves up in the first call, which must not be captured
        part()
    torch.cuda.current_stream(device).wait_stream(stream)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # alignment may use the GPU meanwhile
        part()
    return graph.replay


class FastSampler:
    """Call it as `Pi0.sample_actions`, with one observation. The model is in eval mode, its weights stay as they are.

    padded: carry all of the prompt's padding, masked, so that one plan serves every prompt: for CUDA, where a plan is
    two graphs. Calls from several threads wait for each other.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: Pi0, padded: bool | None = None) -> None:
        self.model, self.vision = model, FusedSiglip(model.vision_tower, model.multi_modal_projector)
        self.vlm = model.vlm.config, model.vlm.fused()
        self.expert = model.action_expert.config, model.action_expert.fused()
        (self.vlm_norms,) = model.vlm.scales(None)
        self.padded = model.embed_tokens.weight.is_cuda if padded is None else padded
        self.without_e = model.peft_prefix_token is None or model.e_token_is_left_out
        self.e_bias = 0.0 if self.without_e else float(model.e_token_attention_bias)
        self.action_in, self.action_out = fuse(model.action_in_proj), fuse(model.action_out_proj)
        self.action_out_bias = model.action_out_proj.bias.detach()
        if not model.pi05:  # action_time_mlp_in reads [action_in_proj(x), time]: two products, the first one folded
            of_actions, self.of_time = model.action_time_mlp_in.weight.double().t().chunk(2)
            self.action_in = (self.action_in.double() @ of_actions).float()
            self.time_in_bias = model.action_time_mlp_in.bias + model.action_in_proj.bias.double() @ of_actions
            self.time_out, self.time_out_bias = fuse(model.action_time_mlp_out), model.action_time_mlp_out.bias.detach()
        self._plans: dict[tuple[int, int, int], Plan] = {}
        self._lock = Lock()

    def time_bias(self, times: Tensor) -> Tensor:
        """What is added to the first product with x_t, a row a step."""
        if self.model.pi05:
            return self.model.action_in_proj.bias.detach().expand(len(times), -1)
        embedded = time_embedding(times, self.model.action_expert.config.width).double()
        return (embedded @ self.of_time + self.time_in_bias).float()

    @torch.inference_mode()
    def __call__(self, inputs: PolicyInput, noise: Tensor, num_steps: int = 10, token: Tensor | None = None) -> Tensor:
        """Clean actions (1, H, A) from noise of that shape. token (1, n, W) replaces the model's own E."""
        if num_steps < 1 or len(noise) != 1:
            raise ValueError(f"one observation and at least one step are needed, got {len(noise)} and {num_steps}")
        images = [image[0] for image, mask in zip(inputs.images, inputs.image_masks, strict=True) if bool(mask[0])]
        tokens = inputs.tokens[0][inputs.token_masks[0]]
        e_token = self.model.peft_prefix_token if token is None else token[0]
        with self._lock, own_stream(noise.device, FIRST):
            most = inputs.tokens.shape[1]
            length = most if self.padded else min(most, math.ceil(len(tokens) / PROMPT_STEP) * PROMPT_STEP)
            key = (len(images), length, num_steps)
            plan = self._plans.pop(key, None)
            plan = self._plans[key] = Plan(self, *key) if plan is None else plan  # the newest last
            if len(self._plans) > MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            plan.see(images)
            plan.set_valid(plan.num_image_tokens + len(tokens))
            plan.tokens[: len(tokens)] = tokens
            plan.state[0], plan.x_t[:] = inputs.state[0], noise[0]
            if e_token is not None and not self.without_e:
                plan.e_token.copy_(e_token)
            plan.fill()
            plan.denoise()
            return plan.x_t[None].clone()
