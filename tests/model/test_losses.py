"""Mirrors model/losses.py. The oracle is a loop over films and findings with the formulas of the papers."""

import math

import pytest
import torch

from cxr.model.losses import make_loss, masked_sum

LOGITS = torch.tensor([[0.3, -2.0, 1.5], [-0.7, 0.0, 4.0], [2.2, -1.1, -3.0]])
TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
PREVALENCE = torch.tensor([0.5, 0.1, 0.001])


def bce(p: float, y: float, column: int) -> float:
    return -math.log(p) if y else -math.log(1 - p)


def weighted(p: float, y: float, column: int) -> float:
    prevalence = PREVALENCE[column].item()
    return bce(p, y, column) * (min(100, (1 - prevalence) / prevalence) if y else 1)


def focal(p: float, y: float, column: int) -> float:
    return -((1 - p) ** 2) * math.log(p) if y else -(p**2) * math.log(1 - p)


def asymmetric(p: float, y: float, column: int) -> float:
    shifted = max(p - 0.05, 0)
    return -((1 - p) ** 1) * math.log(p) if y else -(shifted**4) * math.log(1 - shifted)


CASES = [
    ("bce", {}, bce),
    ("weighted_bce", {}, weighted),
    ("focal", {"gamma": 2.0}, focal),
    ("asymmetric", {"gamma": 1.0, "gamma_negative": 4.0, "clip": 0.05}, asymmetric),
]


@pytest.mark.parametrize(("name", "parameters", "formula"), CASES, ids=[case[0] for case in CASES])
def test_a_loss_equals_its_formula(name: str, parameters: dict, formula) -> None:
    ours = make_loss(name, PREVALENCE, **parameters)(LOGITS, TARGETS)
    for i in range(3):
        for j in range(3):
            p = 1 / (1 + math.exp(-LOGITS[i, j].item()))
            assert ours[i, j].item() == pytest.approx(formula(p, TARGETS[i, j].item(), j), rel=2e-5)


@pytest.mark.parametrize(("name", "parameters", "formula"), CASES, ids=[case[0] for case in CASES])
def test_an_unknown_target_takes_no_part_in_value_count_or_gradient(name: str, parameters: dict, formula) -> None:
    loss = make_loss(name, PREVALENCE, **parameters)
    logits = LOGITS.clone().requires_grad_()
    unknown = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
    total, n_known = masked_sum(loss, logits, torch.where(unknown, torch.nan, TARGETS))
    total.backward()
    assert n_known == 7
    assert total.item() == pytest.approx(loss(LOGITS, TARGETS)[~unknown].sum().item(), rel=1e-6)
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).any()


@pytest.mark.parametrize(("name", "parameters", "formula"), CASES, ids=[case[0] for case in CASES])
def test_extreme_logits_give_finite_losses_and_gradients(name: str, parameters: dict, formula) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    total, _ = masked_sum(make_loss(name, PREVALENCE[:2], **parameters), logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_scored_in_single_precision() -> None:
    total, _ = masked_sum(make_loss("bce", PREVALENCE), LOGITS.to(torch.bfloat16), TARGETS)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(make_loss("bce", PREVALENCE)(LOGITS.to(torch.bfloat16).float(), TARGETS).sum().item(), rel=1e-6)


def test_a_batch_without_a_known_target_costs_nothing() -> None:
    total, n_known = masked_sum(make_loss("bce", PREVALENCE), LOGITS, torch.full_like(TARGETS, torch.nan))
    assert (total.item(), n_known.item()) == (0, 0)
