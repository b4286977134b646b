"""PI0 and PI0.5 (openpi), with the E-Token and the alignment expert. One class for both variants.

    prefix   images, prompt                        -> VLM               never sees a suffix
    action   [E] [state (pi0)] [H noisy actions]   -> action expert     -> v_t
    alignment                                      -> alignment expert  -> v_t of three tasks (`alignment_expert.py`)

Read `experts.run` first (how tokens go through the layers), then `attention.py` (who sees whom, and from where). All of
it in one pass, as a reference: `joint.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.policy import flow, losses
from vla_align_ros.policy.alignment_expert import TASKS, AlignmentExpert, AlignmentSuffix
from vla_align_ros.policy.attention import (
    additive_mask,
    make_att_2d_masks,
    prefix_positions,
    suffix_mask,
    suffix_positions,
)
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.experts import Expert, PrefixCache, Stream, run
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.vision import siglip


class Pi0(nn.Module):
    """The network. Tensors in, tensors out, everything normalised; `policy.Policy` turns it into robot units."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.pi05 = a.variant == "pi05"
        width = a.action_expert.width
        self.vision_tower = siglip(a.vision)
        self.multi_modal_projector = nn.Linear(a.vision.width, a.vlm.width)
        self.embed_tokens = nn.Embedding(a.vocab_size, a.vlm.width)
        nn.init.normal_(self.embed_tokens.weight, std=a.vlm.width**-0.5)  # embed_prefix multiplies by sqrt(width)
        self.vlm = Expert(a.vlm)
        self.action_expert = Expert(a.action_expert, cond_dim=width if self.pi05 else None)
        self.action_in_proj = nn.Linear(a.action_dim, width)
        self.action_out_proj = nn.Linear(width, a.action_dim)
        if self.pi05:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(a.action_dim, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        # Made last, so that the other weights draw the same random numbers as without them.
        self.alignment: AlignmentExpert | None = None
        self.peft_prefix_token: nn.Parameter | None = None
        self.e_token_is_left_out = False
        self.add_alignment(a)

    def add_alignment(self, architecture: Architecture) -> None:
        """Make what `architecture` has beside the base model: the alignment expert and the E-Token.

        While `e_token_is_left_out`, the action expert computes without E, to the bit what the base does: one more key
        column would change the bits, however little is paid to it.
        """
        self.architecture = a = architecture
        width = a.action_expert.width
        if a.alignment is not None:
            self.alignment = AlignmentExpert(a.alignment, a.action_dim, width, len(a.cameras))
        if a.use_peft_prefix_token:
            token = torch.zeros(a.peft_num_tokens, width)
            self.peft_prefix_token = nn.Parameter(token.normal_(std=0.5) if a.peft_init == "normal" else token)
            self.e_token_attention_bias = nn.Parameter(torch.tensor(a.e_token_attention_bias))

    def make_peft_token(self, batch_size: int) -> Tensor | None:
        """The E-Token for a batch, (B, peft_num_tokens, W), a view of the parameter; None when the model has none."""
        return None if self.peft_prefix_token is None else self.peft_prefix_token.expand(batch_size, -1, -1)

    # --- prefix ---

    def embed_prefix(
        self, images: tuple[Tensor, ...], image_masks: tuple[Tensor, ...], tokens: Tensor, token_masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cameras in order, then the prompt: embeddings (B, P, D), pad masks and att masks (B, P) bool."""
        size = images[0].shape[0]
        seen = self.vision_tower(pixel_values=torch.cat(images)).last_hidden_state
        image_embs = self.multi_modal_projector(seen).split(size)
        prompt_embs = self.embed_tokens(tokens) * math.sqrt(self.architecture.vlm.width)
        masks = [mask[:, None].expand(-1, emb.shape[1]) for mask, emb in zip(image_masks, image_embs, strict=True)]
        pad_masks = torch.cat([*masks, token_masks], dim=1)
        return torch.cat([*image_embs, prompt_embs], dim=1), pad_masks, torch.zeros_like(pad_masks)

    def prefix_cache(self, inputs: PolicyInput) -> PrefixCache:
        """The VLM alone on the prefix. What its tokens say after the last layer is read in training alone (`Aids`)."""
        embs, pad_masks, att_masks = self.embed_prefix(
            inputs.images, inputs.image_masks, inputs.tokens, inputs.token_masks
        )
        _, key_values = run(
            [Stream(self.vlm, embs, self.vlm.modulations(None))],
            prefix_positions(pad_masks),
            additive_mask(make_att_2d_masks(pad_masks, att_masks), embs.dtype),
            wanted=None if self.training else torch.empty(0, dtype=torch.long, device=embs.device),
        )
        return PrefixCache(key_values, pad_masks)

    # --- action expert ---

    def action_condition(self, time: Tensor) -> Tensor | None:
        """adaRMS condition (B, W) of pi0.5's action expert; None for pi0."""
        if not self.pi05:
            return None
        hidden = functional.silu(self.time_mlp_in(flow.time_embedding(time, self.architecture.action_expert.width)))
        return functional.silu(self.time_mlp_out(hidden))

    def embed_suffix(
        self, state: Tensor, noisy_actions: Tensor, time: Tensor, peft_token: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[E] [state (pi0)] [H actions]: embeddings (B, N, W), pad masks (B, N) bool, att masks (N,) bool.

        state (B, A), noisy_actions (B, H, A), time (B,), peft_token (B, n, W) or None to leave E out.
        """
        actions = self.action_in_proj(noisy_actions)
        parts = [] if peft_token is None else [peft_token]
        att = [] if peft_token is None else [True] + [False] * (peft_token.shape[1] - 1)
        if not self.pi05:
            parts.append(self.state_proj(state)[:, None])
            att.append(True)
            emb = flow.time_embedding(time, actions.shape[-1]).to(actions.dtype)[:, None].expand_as(actions)
            actions = self.action_time_mlp_out(
                functional.silu(self.action_time_mlp_in(torch.cat([actions, emb], dim=-1)))
            )
        parts.append(actions)
        att += [True] + [False] * (actions.shape[1] - 1)
        embs = torch.cat(parts, dim=1).to(self.embed_tokens.weight.dtype)
        pad_masks = torch.ones(embs.shape[:2], dtype=torch.bool, device=embs.device)
        return embs, pad_masks, torch.tensor(att, device=embs.device)

    def denoise(
        self,
        cache: PrefixCache,
        state: Tensor,
        noisy_actions: Tensor,
        time: Tensor,
        peft_token: Tensor | None,
        modulations: list[Tensor | None] | None = None,
    ) -> Tensor:
        """v_t (B, H, A): the action expert alone, against the cached prefix.

        modulations: `action_expert.modulations(action_condition(time))` where they were computed before.
        """
        peft_token = None if self.e_token_is_left_out else peft_token
        embs, pad_masks, att_masks = self.embed_suffix(state, noisy_actions, time, peft_token)
        num_e_rows = 0 if peft_token is None else peft_token.shape[1]
        mask = suffix_mask(cache.pad_masks, pad_masks, att_masks)
        if modulations is None:
            modulations = self.action_expert.modulations(self.action_condition(time))
        length, horizon = embs.shape[1], noisy_actions.shape[1]
        (hidden,), _ = run(
            [Stream(self.action_expert, embs, modulations)],
            suffix_positions(cache.pad_masks, pad_masks, num_e_rows),
            self._with_e_bias(additive_mask(mask, embs.dtype), cache.pad_masks.shape[1], num_e_rows),
            past=cache.key_values,
            wanted=torch.arange(length - horizon, length, device=embs.device),
        )
        v: Tensor = self.action_out_proj(hidden.float())
        return v

    def _with_e_bias(self, mask: Tensor, e_start: int, num_e_rows: int) -> Tensor:
        """Add the learned bias on the attention that the action suffix pays to E (columns e_start .. e_start + n)."""
        if num_e_rows == 0:
            return mask
        columns = torch.zeros(mask.shape[-1], dtype=mask.dtype, device=mask.device)
        columns[e_start : e_start + num_e_rows] = 1.0
        biased: Tensor = mask + self.e_token_attention_bias * columns
        return biased

    @torch.no_grad()
    def sample_actions(
        self,
        inputs: PolicyInput,
        noise: Tensor,
        num_steps: int = 10,
        peft_token: Tensor | None = None,
        cache: PrefixCache | None = None,
    ) -> Tensor:
        """Clean actions (B, H, A) from noise of that shape, by `num_steps` Euler steps. E as in `sample_trajectory`."""
        for _, _, actions in self.sample_trajectory(inputs, noise, num_steps, peft_token, cache):
            result = actions
        return result

    def sample_trajectory(
        self,
        inputs: PolicyInput,
        noise: Tensor,
        num_steps: int = 10,
        peft_token: Tensor | None = None,
        cache: PrefixCache | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, v, next x) of every Euler step. `peft_token` (B, n, W) replaces the model's own E."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        cache = self.prefix_cache(inputs) if cache is None else cache
        token = self.make_peft_token(noise.shape[0]) if peft_token is None else peft_token
        times = torch.tensor(flow.euler_times(num_steps, self.architecture.conventions), device=noise.device)
        table = self.action_expert.modulations(self.action_condition(times))

        def velocity(x: Tensor, index: int) -> Tensor:
            modulations = [None if m is None else m[index : index + 1] for m in table]
            return self.denoise(cache, inputs.state, x, times[index].expand(noise.shape[0]), token, modulations)

        return flow.integrate(velocity, noise, num_steps)

    # --- alignment expert ---

    def embed_alignment_suffix(
        self, state: Tensor, experience: ExperienceInput, noisy: dict[str, Tensor], peft_token: Tensor | None
    ) -> AlignmentSuffix:
        """See `AlignmentExpert.embed`. Raises ValueError when the model has none."""
        return self.alignment_expert().embed(state, experience, noisy, peft_token)

    def alignment_expert(self) -> AlignmentExpert:
        """Raises ValueError when the model has none."""
        if self.alignment is None:
            raise ValueError(
                "this model has no alignment expert: `architecture.alignment` is missing in its description"
            )
        return self.alignment

    def denoise_alignment(
        self,
        cache: PrefixCache,
        state: Tensor,
        experience: ExperienceInput,
        noisy: dict[str, Tensor],
        time: Tensor,
        peft_token: Tensor | None,
    ) -> dict[str, Tensor]:
        """v_t of each task in `noisy`: the alignment expert alone, against the cached prefix."""
        expert = self.alignment_expert()
        suffix = self.embed_alignment_suffix(state, experience, noisy, peft_token)
        mask = suffix_mask(cache.pad_masks, suffix.pad_masks, suffix.att_masks, suffix.block_diagonal_ranges)
        cond = expert.condition(flow.time_embedding(time, expert.config.expert.width))
        (hidden,), _ = run(
            [Stream(expert.expert, suffix.embs, expert.expert.modulations(cond))],
            suffix_positions(cache.pad_masks, suffix.pad_masks, suffix.num_e_rows) + suffix.skipped,
            additive_mask(mask, suffix.embs.dtype),
            past=cache.key_values,
            wanted=suffix.read,
        )
        return expert.read_out(hidden, suffix, experience)

    # --- training ---

    def action_loss(
        self,
        cache: PrefixCache,
        state: Tensor,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
        action_mask: Tensor,
        peft_token: Tensor | None,
    ) -> Tensor:
        """L_action of each row (B,)."""
        v = self.denoise(cache, state, flow.interpolate(actions, noise, time), time, peft_token)
        return losses.masked_mse(v, flow.target_velocity(actions, noise), action_mask)

    def alignment_losses(
        self,
        cache: PrefixCache,
        state: Tensor,
        experience: ExperienceInput,
        noise: dict[str, Tensor],
        time: Tensor,
        peft_token: Tensor | None,
    ) -> dict[str, Tensor]:
        """Loss of each task in `noise`, a row each (B,)."""
        clean = {"perception": state, "dynamics": experience.features, "inverse_dynamics": experience.actions}
        noisy = {task: flow.interpolate(clean[task], noise[task], time) for task in noise}
        v = self.denoise_alignment(cache, state, experience, noisy, time, peft_token)
        masks = {
            "perception": experience.state_mask,
            "dynamics": experience.feature_masks[..., None],
            "inverse_dynamics": experience.action_mask,
        }
        return {
            task: losses.masked_mse(v[task], flow.target_velocity(clean[task], noise[task]), masks[task])
            for task in noise
        }

    def draw_noise(
        self, state: Tensor, experience: ExperienceInput, weights: losses.LossWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Independent noise for each task that has weight."""
        clean = {"perception": state, "dynamics": experience.features, "inverse_dynamics": experience.actions}
        return {
            task: torch.randn(clean[task].shape, generator=generator, device=state.device)
            for task in TASKS
            if weights.of(task) > 0
        }

    def forward(
        self,
        inputs: PolicyInput,
        actions: Tensor,
        experience: ExperienceInput | None = None,
        weights: losses.LossWeights | None = None,
        action_draws: int = 1,
        peft_token: Tensor | None = None,
        alignment_inputs: PolicyInput | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_total and {action_loss, perception_loss, dynamics_loss, inverse_dynamics_loss} (means over the batch).

        actions: (B, H, A) the actions to imitate. experience: what the alignment tasks learn from; None leaves them
        out. One t a sample, shared by all tasks; action_draws > 1 adds further (t, noise) for the action loss alone.
        peft_token: (B, n, W) in place of the model's own E. alignment_inputs: pi0.5's prefix without the state text.
        """
        weights = weights or losses.LossWeights()
        cache = self.prefix_cache(inputs)
        token = self.make_peft_token(actions.shape[0]) if peft_token is None else peft_token
        everywhere = torch.ones(actions.shape[-1], dtype=torch.bool, device=actions.device)
        action_mask = everywhere if experience is None else experience.action_mask
        rows = actions.shape[0]
        time = flow.sample_time(rows * action_draws, generator, actions.device)
        repeated = actions.repeat_interleave(action_draws, 0)
        noise = torch.randn(repeated.shape, generator=generator, device=actions.device)
        parts = {
            "action_loss": self.action_loss(
                cache.repeat(action_draws),
                inputs.state.repeat_interleave(action_draws, 0),
                repeated,
                noise,
                time,
                action_mask,
                None if token is None else token.repeat_interleave(action_draws, 0),
            ).mean()
        }
        if experience is not None:
            draws = self.draw_noise(inputs.state, experience, weights, generator)
            if draws:
                own = cache if alignment_inputs is None else self.prefix_cache(alignment_inputs)
                found = self.alignment_losses(own, inputs.state, experience, draws, time[::action_draws], token)
                parts |= {f"{task}_loss": loss.mean() for task, loss in found.items()}
        return losses.total(parts, weights), parts
