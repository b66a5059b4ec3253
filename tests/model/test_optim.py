"""Mirrors model/optim.py: what each parameter really undergoes."""

import math

import pytest
import timm
import torch

from cxr.model.optim import make_optimizer, make_schedule, parameter_groups


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=3, depth=3, img_size=32)


def group_of(groups: list[dict], parameter: torch.nn.Parameter) -> dict:
    (group,) = [group for group in groups if any(parameter is other for other in group["params"])]
    return group


def test_every_parameter_is_in_one_group_and_only_weights_decay(net: torch.nn.Module) -> None:
    groups = parameter_groups(net, lr=1e-3, weight_decay=0.05, layer_decay=1.0)
    for name, parameter in net.named_parameters():
        decays = parameter.ndim > 1 and name not in net.no_weight_decay()
        assert group_of(groups, parameter)["weight_decay"] == (0.05 if decays else 0.0), name
    assert group_of(groups, net.pos_embed)["weight_decay"] == 0
    assert len(groups) == 4


def test_layer_decay_reaches_the_weights_and_not_only_a_note(net: torch.nn.Module) -> None:
    """One SGD step on unit gradients moves each layer by the learning rate it really has."""
    groups = parameter_groups(net, lr=1.0, weight_decay=0.0, layer_decay=0.5)
    optimizer = make_optimizer("sgd", groups, fused=False)
    schedule = make_schedule(optimizer, total_steps=10, warmup_steps=0, frozen_steps=0, final_fraction=1.0)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    moved = {name: (before[name] - parameter).mean().item() for name, parameter in net.named_parameters()}
    for parameter, name in zip(net.parameters(), before, strict=True):
        parameter.data.copy_(before[name])
    assert moved["head.weight"] == pytest.approx(1.0, abs=1e-4)
    for layer in range(3):
        assert moved[f"blocks.{layer}.mlp.fc1.weight"] == pytest.approx(0.5 ** (3 - layer), abs=1e-4)
    assert moved["patch_embed.proj.weight"] == pytest.approx(0.5**4, abs=1e-4)


def rates(frozen_steps: int) -> tuple[list[float], list[float]]:
    head, body = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [head], "lr": 1.0, "head": True}, {"params": [body], "lr": 0.5, "head": False}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = make_schedule(optimizer, total_steps=100, warmup_steps=9, frozen_steps=frozen_steps, final_fraction=0.1)
    seen: tuple[list[float], list[float]] = ([], [])
    for _ in range(101):
        for group, record in zip(optimizer.param_groups, seen, strict=True):
            record.append(group["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_learning_rate_warms_up_and_follows_half_a_cosine_to_its_final_fraction() -> None:
    head, body = rates(frozen_steps=0)
    assert head[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    for step in range(9, 101):
        assert head[step] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (step - 9) / 91)) / 2)
    assert head[100] == pytest.approx(0.1)
    assert body == pytest.approx([rate / 2 for rate in head])


def test_a_frozen_backbone_stands_still_while_the_head_learns() -> None:
    head, body = rates(frozen_steps=30)
    assert body[:30] == [0.0] * 30
    assert body[30:] == pytest.approx([rate / 2 for rate in head[30:]])
    assert all(rate > 0 for rate in head)
