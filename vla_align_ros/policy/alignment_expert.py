"""The alignment expert: three self-supervised tasks on the robot's own experience, read through the same E-Token.

    [E] [perception: noisy state] [dynamics: clean state, clean actions, noisy next features]
        [inverse dynamics: clean state, clean next features, noisy actions]

Each task's range is measured from the tokens that were really embedded; nothing here is a constant of one robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.policy.config import AlignmentConfig
from vla_align_ros.policy.experts import Expert
from vla_align_ros.policy.inputs import ExperienceInput

TASKS = ("perception", "dynamics", "inverse_dynamics")
ROLES = (
    "perception",
    "dynamics_state",
    "dynamics_action",
    "dynamics_feature",
    "inverse_state",
    "inverse_feature",
    "inverse_action",
)


@dataclass(frozen=True)
class AlignmentSuffix:
    """The embedded alignment suffix: tokens (B, N, W), pad_masks (B, N), att_masks (N,), and [start, end) of each task
    and of its tokens that its answer is read from.

    skipped: (B, N), valid tokens of absent tasks before each token; they keep their positions, so that a task's answer
    does not depend on whether another one is asked (but for perception's token, which the other two see). num_e_rows:
    rows of E at its head. `block_diagonal_ranges`: the tasks that must not see each other, for `make_att_2d_masks`.
    """

    embs: Tensor
    pad_masks: Tensor
    att_masks: Tensor
    skipped: Tensor
    num_e_rows: int
    task_ranges: dict[str, tuple[int, int]]
    read_ranges: dict[str, tuple[int, int]]

    @property
    def read(self) -> Tensor:
        """(M,) the tokens that answers are read from, task after task."""
        tokens = [token for start, end in self.read_ranges.values() for token in range(start, end)]
        return torch.tensor(tokens, dtype=torch.long, device=self.embs.device)

    @property
    def block_diagonal_ranges(self) -> list[tuple[int, int]]:
        return [self.task_ranges[task] for task in ("dynamics", "inverse_dynamics") if task in self.task_ranges]


class AlignmentExpert(nn.Module):
    """Weights of the alignment side. Width may differ from the action expert's; then E passes `e_token_proj`."""

    def __init__(self, config: AlignmentConfig, action_dim: int, action_width: int, num_cameras: int) -> None:
        super().__init__()
        self.config = config
        width, token_dim = config.expert.width, config.features.token_dim
        self.expert = Expert(config.expert, cond_dim=width)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self.e_token_proj = nn.Linear(action_width, width) if action_width != width else None
        self.state_in = nn.Linear(action_dim, width)
        self.noisy_state_in = nn.Linear(action_dim, width)
        self.action_in = nn.Linear(action_dim, width)
        self.feature_in = nn.Linear(token_dim, width)
        self.own_feature_in = nn.Linear(token_dim, width, bias=False) if config.own_features else None
        self.role = nn.Embedding(len(ROLES), width)
        self.cell = nn.Embedding(num_cameras * config.features.tokens_per_camera, width)
        self.perception_head = nn.Linear(width, action_dim)
        self.dynamics_head = nn.Linear(
            width, token_dim if config.dynamics_readout == "tokens" else token_dim * self.cell.num_embeddings
        )
        self.inverse_dynamics_head = nn.Linear(width, action_dim)
        for embedding in (self.role, self.cell):
            nn.init.normal_(embedding.weight, std=0.1)

    def condition(self, time_emb: Tensor) -> Tensor:
        """(B, W) sine-cosine embedding of the time -> adaRMS condition (B, W)."""
        return functional.silu(self.time_mlp_out(functional.silu(self.time_mlp_in(time_emb))))

    def project_e_token(self, peft_token: Tensor) -> Tensor:
        """E (B, n, action width) in this expert's width."""
        return peft_token if self.e_token_proj is None else self.e_token_proj(peft_token)

    def embed(
        self,
        state: Tensor,
        experience: ExperienceInput,
        noisy: dict[str, Tensor],
        peft_token: Tensor | None,
    ) -> AlignmentSuffix:
        """Embed the tasks named by `noisy`'s keys: x_t of each, in the shape of what it denoises.

        state: (B, A) clean. A task that isn't in `noisy` is not embedded and costs nothing.
        """
        features, places = experience.features, self._places(experience)
        valid = torch.ones(state.shape[0], 1, dtype=torch.bool, device=state.device)
        parts: list[tuple[Tensor, Tensor, bool, Tensor]] = []  # tokens, validity, opens a block, skipped before
        skipped = torch.zeros_like(valid, dtype=torch.long)
        ranges: dict[str, tuple[int, int]] = {}
        length = 0

        def add(tokens: Tensor, role: str, opens: bool, masks: Tensor | None = None) -> None:
            nonlocal length
            tokens = tokens + self.role.weight[ROLES.index(role)]
            masks = valid.expand(-1, tokens.shape[1]) if masks is None else masks
            parts.append((tokens, masks, opens, skipped.expand(-1, tokens.shape[1])))
            length += tokens.shape[1]

        if peft_token is not None:
            e_rows = self.project_e_token(peft_token)
            parts.append((e_rows, valid.expand(-1, e_rows.shape[1]), True, skipped.expand(-1, e_rows.shape[1])))
            length = e_rows.shape[1]
        num_e_rows = length
        mutual = self.config.perception_attention == "mutual"
        if "perception" in noisy:
            add(self.noisy_state_in(noisy["perception"])[:, None], "perception", True)
            ranges["perception"] = (num_e_rows, length)
        else:
            skipped = skipped + 1
        first = length
        opens = not (mutual and "perception" in noisy)  # mutual: one block with perception, so that both look back
        for task, prefix in (("dynamics", "dynamics"), ("inverse_dynamics", "inverse")):
            if task not in noisy:
                num_valid = experience.feature_masks.sum(1, keepdim=True)
                skipped = skipped + num_valid + experience.actions.shape[1] + int(self.config.state_tokens)
                continue
            start = length
            if self.config.state_tokens:
                add(self.state_in(state)[:, None], f"{prefix}_state", opens and length == first)
            if task == "dynamics":
                add(self.action_in(experience.actions), "dynamics_action", opens and length == first)
                add(self.feature_in(noisy[task]) + places, "dynamics_feature", False, experience.feature_masks)
            else:
                add(
                    self.feature_in(features) + places,
                    "inverse_feature",
                    opens and length == first,
                    experience.feature_masks,
                )
                add(self.action_in(noisy[task]), "inverse_action", False)
            ranges[task] = (start, length)
        read = dict(ranges)
        if "dynamics" in read and self.config.dynamics_readout == "tokens":
            read["dynamics"] = (read["dynamics"][1] - features.shape[1], read["dynamics"][1])
        if "inverse_dynamics" in read:
            read["inverse_dynamics"] = (length - experience.actions.shape[1], length)
        att = [flag for tokens, _, opens_block, _ in parts for flag in [opens_block] + [False] * (tokens.shape[1] - 1)]
        return AlignmentSuffix(
            torch.cat([tokens for tokens, _, _, _ in parts], dim=1),
            torch.cat([masks for _, masks, _, _ in parts], dim=1),
            torch.tensor(att, device=state.device),
            torch.cat([before for _, _, _, before in parts], dim=1),
            num_e_rows,
            ranges,
            read,
        )

    def _places(self, experience: ExperienceInput) -> Tensor:
        """What each feature token says beside what comes next: its cell, and what the observation itself shows there,
        (N, W) or (B, N, W)."""
        if self.own_feature_in is None:
            return self.cell.weight
        own: Tensor = self.own_feature_in(experience.own_features)
        return own + self.cell.weight

    def read_out(self, hidden: Tensor, suffix: AlignmentSuffix, experience: ExperienceInput) -> dict[str, Tensor]:
        """v_t of each embedded task from the suffix's tokens `read`, after the final norm (B, M, W)."""
        outputs = {}
        parts = hidden.split([end - start for start, end in suffix.read_ranges.values()], dim=1)
        for (task, (start, end)), part in zip(suffix.read_ranges.items(), parts, strict=True):
            if task == "perception":
                outputs[task] = self.perception_head(part[:, 0])
            elif task == "inverse_dynamics":
                outputs[task] = self.inverse_dynamics_head(part)
            elif self.config.dynamics_readout == "tokens":
                outputs[task] = self.dynamics_head(part)
            else:
                weights = suffix.pad_masks[:, start:end, None].to(part.dtype)
                mean = (part * weights).sum(1) / weights.sum(1)
                outputs[task] = self.dynamics_head(mean).unflatten(-1, (experience.features.shape[1], -1))
        return outputs
