"""`Pi0.sample_actions` for one observation, with as little work as its numbers need. `pi0.py` is the reference.

What it does otherwise, all of it exact up to rounding (test/policy/test_fast.py):

- a missing camera and the prompt's padding are not in the prefix at all;
- of the last VLM layer only keys and values are computed: nobody reads the rest;
- E and pi0's state see no noisy action, so their keys and values are computed once, for all steps together;
- the time enters through tables, one row a step;
- queries, keys and values are one matrix product, gate and up another. The model's own weights become views of the
  fused ones, so that nothing is in memory twice, and a change in place is seen here too;
- everything is written into buffers that are made once for a shape (`_Plan`).
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.policy import flow
from vla_align_ros.policy.attention import ATTENTION_MASK_VALUE, rotary_tables
from vla_align_ros.policy.experts import RMS_EPS, Expert
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.pi0 import Pi0, time_embedding

MAX_PLANS = 4  # shapes kept at once; a plan is as large as the activations of one pass
Norm = tuple[Tensor, Tensor | None, Tensor | None]  # scale, shift, and the gate of the branch that follows


def _fuse(*linears: nn.Linear) -> Tensor:
    """Their weights side by side, (in, sum of out); each one's own weight becomes a view of it."""
    fused = torch.cat([linear.weight.detach().t() for linear in linears], dim=1)
    for linear, part in zip(linears, fused.split([linear.out_features for linear in linears], dim=1), strict=True):
        linear.weight.data = part.t()
    return fused


def _fuse_bias(*linears: nn.Linear) -> Tensor:
    fused = torch.cat([linear.bias.detach() for linear in linears])
    for linear, part in zip(linears, fused.split([linear.out_features for linear in linears]), strict=True):
        linear.bias.data = part
    return fused


class _Stack:
    """One Gemma stack's weights, fused."""

    def __init__(self, expert: Expert) -> None:
        self.expert, self.config = expert, expert.config
        layers: list[Any] = list(expert.layers)
        self.layers = [
            (_fuse(x.q_proj, x.k_proj, x.v_proj), _fuse(x.o_proj), _fuse(x.gate_proj, x.up_proj), _fuse(x.down_proj))
            for x in layers
        ]

    def norms(self, cond: Tensor | None) -> list[list[Norm]]:
        """For each row of `cond` (one without): scale, shift and gate of all norms, two a layer and the final one."""
        root = math.sqrt(self.config.width)  # _Rows divides by the length, not by the root of the mean square
        if cond is None:
            layers: list[Any] = list(self.expert.layers)
            norms = [n for x in layers for n in (x.input_layernorm, x.post_attention_layernorm)] + [self.expert.norm]
            return [[(root * (1.0 + norm.weight), None, None) for norm in norms]]
        parts = [m[:, 0].chunk(3, dim=-1) for m in self.expert.modulations(cond) if m is not None]
        parts = [(root * (1.0 + scale), shift, gate) for scale, shift, gate in parts]
        return [[(a[row], b[row], c[row]) for a, b, c in parts] for row in range(len(cond))]


Halves = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
RotaryTables = tuple[Tensor, Tensor, Tensor]  # cos, and the two halves of the signed sin


def _halves(x: Tensor, out: Tensor) -> Halves:
    """Both and their halves, for `_rotate`."""
    return (x, *x.chunk(2, dim=-1), out, *out.chunk(2, dim=-1))


def _rotate(halves: Halves, tables: RotaryTables) -> None:
    """`attention.apply_rotary` from one buffer into another."""
    x, first, second, out, out_first, out_second = halves
    torch.mul(x, tables[0], out=out)
    out_first.addcmul_(second, tables[1])
    out_second.addcmul_(first, tables[2])


class _Rows:
    """`count` tokens on their way through a stack, with buffers of their own.

    keys, values: (depth, kv_heads, L, head_dim), all tokens' cache. These tokens' go to rows start .. start + count;
    they look at the rows in `seen`.
    """

    def __init__(self, stack: _Stack, keys: Tensor, values: Tensor, start: int, count: int, seen: slice) -> None:
        config, like = stack.config, keys
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.stack, self.groups = stack, heads // kv_heads
        # RMSNorm divides by sqrt(mean x^2 + eps). One more column makes that the length of the row, over sqrt(width).
        self.padded = torch.full((count, config.width + 1), math.sqrt(config.width * RMS_EPS), device=like.device)
        self.x = self.padded[:, :-1]
        self.length = self.padded.new_empty(count, 1)
        self.normed = like.new_empty(count, config.width)
        self.scaled = self.normed if like.dtype == torch.float32 else self.normed.float()
        self.branch = like.new_empty(count, config.width)
        self.qkv = like.new_empty(count, (heads + 2 * kv_heads) * head_dim)
        q, k, v = self.qkv.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=1)
        # Queries that share their keys and values become rows of one attention: (kv_heads, count * groups, head_dim).
        query = like.new_empty(kv_heads, count, self.groups, head_dim)
        self.query, self.num_heads = query.flatten(1, 2)[None], heads
        self.rotate_query = _halves(q.view(count, kv_heads, self.groups, head_dim).transpose(0, 1), query)
        self.cache = []
        for all_keys, all_values in zip(keys, values, strict=True):
            rotate_key = _halves(k.view(count, kv_heads, head_dim).transpose(0, 1), all_keys[:, start : start + count])
            store = all_values[:, start : start + count], v.view(count, kv_heads, head_dim).transpose(0, 1)
            self.cache.append((rotate_key, store, all_keys[None, :, seen], all_values[None, :, seen]))
        self.gate_up = like.new_empty(count, 2 * config.mlp_dim)
        self.gate, self.up = self.gate_up.chunk(2, dim=1)
        self.hidden = like.new_empty(count, config.mlp_dim)

    def place(self, position_ids: Tensor) -> None:
        """Positions (count,) of the tokens."""
        cos, sin = rotary_tables(position_ids[None], self.query.shape[-1])
        self.for_keys: RotaryTables = (cos[0], *sin[0].chunk(2, dim=-1))
        self.for_queries: RotaryTables = tuple(table[:, :, None] for table in self.for_keys)  # type: ignore[assignment]

    def norm(self, norm: Norm, out: Tensor) -> None:
        scale, shift, _ = norm
        torch.linalg.vector_norm(self.padded, dim=1, keepdim=True, out=self.length)
        torch.mul(self.x, scale, out=self.scaled)
        if shift is None:
            torch.div(self.scaled, self.length, out=out)
        else:
            torch.addcdiv(shift, self.scaled, self.length, out=out)

    def add(self, branch: Tensor, weight: Tensor, gate: Tensor | None) -> None:
        """x += gate * (branch @ weight)."""
        if gate is None and weight.dtype == self.x.dtype:
            self.x.addmm_(branch, weight)
            return
        torch.mm(branch, weight, out=self.branch)
        if gate is None:
            self.x.add_(self.branch)
        else:
            self.x.addcmul_(self.branch, gate)

    def _side_by_side(self, seen: Tensor) -> Tensor:
        """(1, kv_heads, count * groups, head_dim) -> (count, heads * head_dim); a view for one kv head or one group."""
        if seen.shape[1] == 1:
            return seen.view(len(self.x), -1)
        return seen[0].unflatten(1, (-1, self.groups)).transpose(0, 1).reshape(len(self.x), -1)

    def mask(self, mask: Tensor) -> Tensor:
        """(count, keys) or (1, keys) for the queries as they lie."""
        return mask.expand(len(self.x), -1).repeat_interleave(self.groups, 0) if len(mask) > 1 else mask.expand(len(self.x) * self.groups, -1)

    def run(self, norms: list[Norm], mask: Tensor | None, finish: bool) -> None:
        """All layers; without `finish` of the last one only the keys and values. mask: additive, (count, len(seen))."""
        last = len(self.stack.layers) - 1
        for index, ((qkv, o, gate_up, down), slots) in enumerate(zip(self.stack.layers, self.cache, strict=True)):
            before, after = norms[2 * index], norms[2 * index + 1]
            rotate_key, (value_slot, value), keys, values = slots
            self.norm(before, self.normed)
            torch.mm(self.normed, qkv, out=self.qkv)
            _rotate(rotate_key, self.for_keys)
            value_slot.copy_(value)
            if index == last and not finish:
                return
            _rotate(self.rotate_query, self.for_queries)
            seen = functional.scaled_dot_product_attention(self.query, keys, values, attn_mask=mask)
            self.add(self._side_by_side(seen), o, before[2])
            self.norm(after, self.normed)
            torch.mm(self.normed, gate_up, out=self.gate_up)
            functional.gelu(self.gate, approximate="tanh", out=self.hidden)
            self.add(self.hidden.mul_(self.up), down, after[2])
        self.norm(norms[-1], self.scaled)


class _Eye:
    """SigLIP and the projection into the VLM's width; weights fused."""

    def __init__(self, model: Pi0) -> None:
        tower: Any = model.vision_tower
        self.patch = model.architecture.vision.patch_size
        self.num_heads = model.architecture.vision.num_heads
        embeddings = tower.embeddings
        # A convolution whose stride is its width is a matrix product of the patches.
        self.embed = embeddings.patch_embedding.weight.detach().flatten(1).t()
        self.position = embeddings.position_embedding.weight.detach() + embeddings.patch_embedding.bias.detach()
        self.layers = []
        for layer in tower.encoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = attention.q_proj, attention.k_proj, attention.v_proj
            linears = [(_fuse(*qkv), _fuse_bias(*qkv))]
            linears += [(_fuse(linear), linear.bias.detach()) for linear in (attention.out_proj, mlp.fc1, mlp.fc2)]
            self.layers.append((layer.layer_norm1, layer.layer_norm2, *linears))
        self.post_norm = tower.post_layernorm
        projector = model.multi_modal_projector
        self.project = _fuse(projector), projector.bias.detach()

    def __call__(self, images: Tensor, out: Tensor) -> None:
        """(cameras, 3, size, size) -> out (cameras * patches, VLM width)."""
        patch, cameras, side = self.patch, len(images), images.shape[-1] // self.patch
        patches = images.view(cameras, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(cameras, side**2, -1)
        x = torch.baddbmm(self.position.expand(cameras, -1, -1), patches, self.embed.expand(cameras, -1, -1)).flatten(0, 1)
        for first_norm, second_norm, (qkv, qkv_bias), (o, o_bias), (fc1, fc1_bias), (fc2, fc2_bias) in self.layers:
            fused = torch.addmm(qkv_bias, first_norm(x), qkv).view(cameras, side**2, 3, self.num_heads, -1)
            q, k, v = fused.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1)
            x.add_(o_bias).addmm_(attended, o)
            hidden = torch.addmm(fc1_bias, second_norm(x), fc1)
            functional.gelu(hidden, approximate="tanh", out=hidden)
            x.add_(fc2_bias).addmm_(hidden, fc2)
        weight, bias = self.project
        torch.addmm(bias, self.post_norm(x), weight, out=out)


class _Plan:
    """Buffers for `cameras` images, `length` tokens of the prompt and `num_steps` Euler steps.

    The cache's rows: E (and pi0's state), for pi0.5 once a step with the last step first; prefix; actions. Step j of
    pi0.5 copies its own E over the one of step 0, so that what a step looks at lies side by side.
    """

    def __init__(self, sampler: FastSampler, cameras: int, length: int, num_steps: int) -> None:
        self.sampler, model, self.num_steps = sampler, sampler.model, num_steps
        a, self.pi05 = model.architecture, sampler.model.pi05
        vlm, expert, device = sampler.vlm, sampler.expert, sampler.vlm.layers[0][0].device
        self.num_image_tokens = cameras * (a.vision.image_size // a.vision.patch_size) ** 2
        prefix, horizon = self.num_image_tokens + length, a.action_horizon
        self.num_e = 0 if model.peft_prefix_token is None else a.peft_num_tokens
        self.each = self.num_e + (0 if self.pi05 else 1)  # rows of a step that see no noisy action
        times = torch.tensor(flow.euler_times(num_steps), device=device)
        self.norms = expert.norms(model.action_condition(times))
        self.time_bias = sampler.time_bias(times)
        copies = len(times) if self.pi05 else 1
        fixed = copies * self.each

        like = vlm.layers[0][0]
        self.images = torch.zeros(cameras, 3, a.vision.image_size, a.vision.image_size, device=device)
        self.tokens = torch.zeros(length, dtype=torch.long, device=device)
        self.state = torch.zeros(1, a.action_dim, device=device)
        self.x_t = torch.zeros(horizon, a.action_dim, device=device)
        config = vlm.config
        shape = (config.depth, config.num_kv_heads, fixed + prefix + horizon, config.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        cache = self.keys, self.values
        self.prefix = _Rows(vlm, *cache, fixed, prefix, slice(fixed, fixed + prefix))
        self.fixed = _Rows(expert, *cache, 0, fixed, slice(0, fixed + prefix)) if fixed else None
        self.actions = _Rows(expert, *cache, fixed + prefix, horizon, slice(fixed - self.each, None))
        self.time_in = torch.empty_like(self.actions.padded[:, :-1])
        self._fixed_norms(copies)
        self._place(prefix)
        self._masks(copies, prefix)

    def _fixed_norms(self, copies: int) -> None:
        """The norms of all fixed rows together: for pi0.5 each row has its own step's."""
        steps = [self.norms[-1 - copy] for copy in range(copies) for _ in range(self.each)] if self.pi05 else []
        together = [[None if p[0] is None else torch.stack(list(p)) for p in zip(*norm, strict=True)]
                    for norm in zip(*steps, strict=True)]
        self.fixed_norms: Any = together or self.norms[0]

    def _place(self, prefix: int) -> None:
        """E's rows share the position of the first token after them."""
        def count(number: int) -> Tensor:
            return torch.arange(number, device=self.keys.device)

        self.prefix.place(count(prefix))
        self.actions.place(prefix + self.each - self.num_e + count(len(self.x_t)))
        if self.fixed is not None:
            self.fixed.place(torch.full((len(self.fixed.x),), prefix, device=self.keys.device))

    def _masks(self, copies: int, prefix: int) -> None:
        """Additive. The learned bias on E's columns; of the fixed rows, each step's see their own step's alone."""
        self.fixed_mask = self.action_mask = None
        if self.fixed is None:
            return
        bias = float(self.sampler.model.e_token_attention_bias) if self.num_e else 0.0
        own = torch.full((self.each, self.each), 0.0)
        own[:, : self.num_e] = bias
        own[: self.num_e, self.num_e :] = ATTENTION_MASK_VALUE  # E does not see the state
        hidden = torch.full((copies * self.each, copies * self.each), ATTENTION_MASK_VALUE)
        for start in range(0, len(hidden), self.each):
            hidden[start : start + self.each, start : start + self.each] = own
        self.fixed_mask = self.fixed.mask(functional.pad(hidden, (0, prefix)).to(self.keys))
        if bias:
            columns = torch.zeros(1, self.each + prefix + len(self.x_t))
            columns[:, : self.num_e] = bias
            self.action_mask = self.actions.mask(columns.to(self.keys))

    def fill(self) -> None:
        """Prefix and fixed rows into the cache."""
        sampler, images = self.sampler, self.num_image_tokens
        sampler.eye(self.images, self.prefix.x[:images])
        prompt = functional.embedding(self.tokens, sampler.model.embed_tokens.weight)
        torch.mul(prompt, math.sqrt(sampler.vlm.config.width), out=self.prefix.x[images:])
        self.prefix.run(sampler.vlm_norms, None, finish=False)

    def fill_fixed(self, token: Tensor | None) -> None:
        if self.fixed is None:
            return
        x = self.fixed.x.unflatten(0, (-1, self.each))
        if token is not None:
            x[:, : self.num_e] = token
        if not self.pi05:
            x[0, self.num_e :] = self.sampler.model.state_proj(self.state)
        self.fixed.run(self.fixed_norms, self.fixed_mask, finish=False)

    def denoise(self) -> None:
        """x_t from noise to clean."""
        sampler, actions, each = self.sampler, self.actions, self.each
        first = len(self.norms) - 1
        for step, bias in enumerate(self.time_bias):
            if self.pi05:
                if each and step:
                    start = (first - step) * each
                    for cache in (self.keys, self.values):
                        cache[:, :, first * each : (first + 1) * each] = cache[:, :, start : start + each]
                torch.addmm(bias, self.x_t, sampler.action_in, out=actions.x)
            else:
                torch.addmm(bias, self.x_t, sampler.action_in, out=self.time_in)
                functional.silu(self.time_in, inplace=True)
                torch.addmm(sampler.time_out_bias, self.time_in, sampler.time_out, out=actions.x)
            actions.run(self.norms[step if self.pi05 else 0], self.action_mask, finish=True)
            velocity_step = flow.euler_step(self.num_steps)
            self.x_t.add_(sampler.action_out_bias, alpha=velocity_step)
            self.x_t.addmm_(actions.scaled, sampler.action_out, alpha=velocity_step)


class FastSampler:
    """Call it as `Pi0.sample_actions`, with inputs of one observation. The model must be frozen and in eval mode.

    Calls from several threads wait for each other. The result is a tensor of its own.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: Pi0) -> None:
        self.model = model
        self.eye, self.vlm, self.expert = _Eye(model), _Stack(model.vlm), _Stack(model.action_expert)
        (self.vlm_norms,) = self.vlm.norms(None)
        self.action_in, self.action_out = _fuse(model.action_in_proj), _fuse(model.action_out_proj)
        self.action_out_bias = model.action_out_proj.bias.detach()
        if not model.pi05:
            # action_time_mlp_in reads [action_in_proj(x), time]: its two halves are two products, the first one folded.
            self.time_out, self.time_out_bias = _fuse(model.action_time_mlp_out), model.action_time_mlp_out.bias.detach()
            of_actions, self.of_time = model.action_time_mlp_in.weight.double().t().chunk(2)
            self.action_in = (self.action_in.double() @ of_actions).float()
            self.time_in_bias = model.action_time_mlp_in.bias + model.action_in_proj.bias.double() @ of_actions
        self._plans: dict[tuple[int, int, int], _Plan] = {}
        self._lock = Lock()

    def time_bias(self, times: Tensor) -> Tensor:
        """What the first layer of an action adds to its product with x_t, a row a step."""
        if self.model.pi05:
            return self.model.action_in_proj.bias.detach().expand(len(times), -1)
        embedded = time_embedding(times, self.expert.config.width).double()
        return (embedded @ self.of_time + self.time_in_bias).float()

    @torch.inference_mode()
    def __call__(self, inputs: PolicyInput, noise: Tensor, num_steps: int = 10, token: Tensor | None = None) -> Tensor:
        """Clean actions (1, H, A) from noise of that shape. token (n, W) or (1, n, W) replaces the model's own E."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        present = [image for image, mask in zip(inputs.images, inputs.image_masks, strict=True) if bool(mask[0])]
        length = int(inputs.token_masks[0].sum())
        with self._lock:
            plan = self._plan(len(present), length, num_steps)
            for image, buffer in zip(present, plan.images, strict=True):
                buffer.copy_(image[0])
            plan.tokens.copy_(inputs.tokens[0, :length])
            plan.state.copy_(inputs.state)
            plan.x_t.copy_(noise[0])
            plan.fill()
            plan.fill_fixed(self.model.peft_prefix_token if token is None else token.view(-1, token.shape[-1]))
            plan.denoise()
            return plan.x_t[None].clone()

    def _plan(self, *key: int) -> _Plan:
        plan = self._plans.pop(key, None) or _Plan(self, *key)
        self._plans[key] = plan  # newest last
        if len(self._plans) > MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        return plan
