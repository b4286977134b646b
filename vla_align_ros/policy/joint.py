"""The reference pass: VLM, action expert and alignment expert side by side, as openpi trains.

Training and inference use the separate passes of `pi0.py`, which compute the prefix once; the tests and
`benchmarks/golden.py` prove with this one that both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vla_align_ros.policy.attention import additive_mask, make_att_2d_masks, prefix_positions, suffix_positions
from vla_align_ros.policy.experts import Stream, run
from vla_align_ros.policy.flow import time_embedding
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.pi0 import Pi0


def forward_joint(
    model: Pi0,
    inputs: PolicyInput,
    noisy_actions: Tensor,
    time: Tensor,
    experience: ExperienceInput | None = None,
    noisy: Mapping[str, Tensor] | None = None,
    peft_token: Tensor | None = None,
    streams_out: list[Stream] | None = None,
) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """VLM, action expert and (with `noisy`) alignment expert in one pass; numbers equal to the separate passes.

    Returns v_t of the actions, v_t of each task, and the streams after their final norms. `streams_out` receives
    the streams with their residuals. Only for models whose alignment prefix is the policy's own (pi0).
    """
    prefix_embs, prefix_pads, prefix_att = model.embed_prefix(
        inputs.images, inputs.image_masks, inputs.tokens, inputs.token_masks
    )
    embs, pads, att = model.embed_suffix(inputs.state, noisy_actions, time, peft_token)
    num_e_rows = 0 if peft_token is None else peft_token.shape[1]
    streams = [
        Stream(model.vlm, prefix_embs, model.vlm.modulations(None)),
        Stream(model.action_expert, embs, model.action_expert.modulations(model.action_condition(time))),
    ]
    length, end = prefix_pads.shape[1], prefix_pads.shape[1] + pads.shape[1]
    all_pads, all_att = [prefix_pads, pads], [prefix_att, att.expand(pads.shape)]
    positions = [prefix_positions(prefix_pads), suffix_positions(prefix_pads, pads, num_e_rows)]
    ranges = [(length, end)]
    suffix = None
    if experience is not None and noisy:
        expert = model.alignment_expert()
        suffix = model.embed_alignment_suffix(inputs.state, experience, dict(noisy), peft_token)
        cond = expert.condition(time_embedding(time, expert.config.expert.width))
        streams.append(Stream(expert.expert, suffix.embs, expert.expert.modulations(cond)))
        all_pads.append(suffix.pad_masks)
        all_att.append(suffix.att_masks.expand(suffix.pad_masks.shape))
        positions.append(suffix_positions(prefix_pads, suffix.pad_masks, num_e_rows) + suffix.skipped)
        ranges += [(end, end + suffix.pad_masks.shape[1])]
        ranges += [(end + start, end + stop) for start, stop in suffix.block_diagonal_ranges]
    visible = make_att_2d_masks(torch.cat(all_pads, 1), torch.cat(all_att, 1), ranges)
    mask = additive_mask(visible, embs.dtype)
    if num_e_rows:
        rows = torch.zeros(mask.shape[-2:], dtype=mask.dtype, device=mask.device)
        rows[length:end, length : length + num_e_rows] = 1.0
        mask = mask + model.e_token_attention_bias * rows
    finals, _ = run(streams, torch.cat(positions, 1), mask, keep_residuals=streams_out is not None)
    if streams_out is not None:
        streams_out.extend(streams)
    v = model.action_out_proj(finals[1][:, -noisy_actions.shape[1] :])
    tasks = (
        {}
        if suffix is None or experience is None
        else model.alignment_expert().read_out(finals[2][:, suffix.read], suffix, experience)
    )
    return v, tasks, finals
