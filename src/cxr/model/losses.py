"""Losses of one logit per finding; an unknown target (NaN) takes no part."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

# (logits (B, F) float32, targets (B, F) of 0 and 1) -> (B, F)
Elementwise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# what a finding without a positive, or with hardly one, may weigh at most
MAX_POSITIVE_WEIGHT = 100.0


def make_loss(name: str, prevalence: torch.Tensor, *, gamma: float = 0.0, gamma_negative: float = 0.0, clip: float = 0.0) -> Elementwise:
    """The loss of each film and finding.

    Args:
        name: bce; weighted_bce (positives weigh (1 - prevalence) / prevalence, at most 100); focal (Lin et al. 2017, without alpha);
            asymmetric (Ridnik et al. 2021).
        prevalence: (F,) of the training films.
        gamma: focusing on hard films (focal), on hard positives (asymmetric).
        gamma_negative: focusing on hard negatives (asymmetric).
        clip: negatives below this probability cost nothing (asymmetric).
    """
    if name == "bce":
        return lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if name == "weighted_bce":
        return _WeightedBCE(((1 - prevalence) / prevalence.clamp_min(1e-9)).clamp_max(MAX_POSITIVE_WEIGHT))
    if name == "focal":

        def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            wrongness = torch.sigmoid(torch.where(targets > 0, -logits, logits))
            return wrongness**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

        return focal
    if name == "asymmetric":

        def asymmetric(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            probability = torch.sigmoid(logits)
            shifted = (probability - clip).clamp_min(0)
            positive = (1 - probability) ** gamma * F.logsigmoid(logits)
            negative = shifted**gamma_negative * torch.log1p(-shifted)
            return -torch.where(targets > 0, positive, negative)

        return asymmetric
    raise ValueError(f"no loss is called {name}")


class _WeightedBCE(nn.Module):
    """A module, so that the weights move to the device once and not in every step."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=self.weight)


def masked_sum(elementwise: Elementwise, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss summed over known targets, and how many are known.

    Args:
        elementwise: from `make_loss`.
        logits: (B, F) of any precision; the loss is computed in float32.
        targets: (B, F) 1, 0 or NaN.

    Returns:
        Two scalars on the device. The sum's gradient is exactly zero where a target is NaN.
    """
    known = ~torch.isnan(targets)
    loss = elementwise(logits.float(), torch.nan_to_num(targets))
    return torch.where(known, loss, 0.0).sum(), known.sum()
