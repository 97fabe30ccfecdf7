"""Mask generator: how much each token counts in token distillation.

Source: specs/dubbernet.md 5.2. Ours: the student's tokens are cut off from the gradient too, so that the budget term of
the mask shapes the generator only; and the mask starts open. Scores of a frame's tokens move together, so with the usual
start (about half of all tokens at 0) one generator in six is all but closed from the beginning.
"""

# B frames of all clips, N tokens, D width

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks.chance import Dropout
from model.blocks.part import Part

OPEN = 1.0
"""Bias of the last linear layer at the start: the mean of min(mask, 1) is then near the budget's 0.7."""


class Score(Part, nn.Sequential):
    """Layers one after the other, of pairs of tokens."""

    def compute(self, student_BND: Tensor, teacher_BND: Tensor) -> Tensor:
        """Two [B, N, D] -> [B, N]."""
        x = torch.cat([student_BND, teacher_BND], dim=-1)  # 5.2: U
        for layer in self:
            x = layer(x)
        return x.squeeze(-1)


class MaskGenerator(nn.Module):
    """[student ; teacher] tokens -> one weight in 0..6 per token. 0 means: do not follow the teacher here."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.score = Score(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.Linear(width, width // 2),
            nn.LayerNorm(width // 2),
            nn.Linear(width // 2, 1),
        )
        self.dropout = Dropout(dropout)
        last = self.score[4]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, OPEN)

    def forward(self, student_BND: Tensor, teacher_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Two [B, N, D] -> the mask [B, N] in 0..6, and the scores [B, N] of which it is the ReLU6 (the budget needs them).

        No gradient flows into either input.
        """
        score_BN = self.dropout(self.score(student_BND.detach(), teacher_BND.detach()))
        return F.relu6(score_BN), score_BN
