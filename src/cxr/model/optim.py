"""Optimiser, schedule and weight averaging."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from timm.models import group_parameters
from torch import nn


def parameter_groups(net: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameters by what happens to them, each group with its own learning rate.

    Norms, biases and what the backbone names (position embeddings) are not decayed. With layer_decay < 1 each layer learns that much slower than the one
    above it (Clark et al. 2020, section 3.3). The factor is put into the group's learning rate: timm's own helper only notes it as `lr_scale`, which
    torch's schedulers do not read.

    Args:
        net: a timm network.
        lr: learning rate of the last layer.
        weight_decay: of the other weights.
        layer_decay: in (0, 1]; 1 is none.

    Returns:
        Groups for a torch optimiser, with "head" marking the last layer's.
    """
    undecayed = set(net.no_weight_decay()) if hasattr(net, "no_weight_decay") else set()
    head = {id(parameter) for parameter in net.get_classifier().parameters()}
    depth = group_parameters(net, net.group_matcher(coarse=False), reverse=True) if layer_decay < 1 else {}
    top = max(depth.values(), default=0)

    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        layer, decays, is_head = depth.get(name, top), parameter.ndim > 1 and name not in undecayed, id(parameter) in head
        group = groups.setdefault(
            (layer, decays, is_head),
            {"params": [], "lr": lr * layer_decay ** (top - layer), "weight_decay": weight_decay if decays else 0.0, "head": is_head},
        )
        group["params"].append(parameter)
    return list(groups.values())


def make_optimizer(name: str, groups: list[dict[str, Any]], *, betas: list[float] | None = None, momentum: float = 0.0, fused: bool) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with Nesterov momentum, over groups that carry their own learning rates."""
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=tuple(betas or (0.9, 0.999)), fused=fused)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=momentum, nesterov=momentum > 0, fused=fused)
    raise ValueError(f"no optimiser is called {name}")


def make_schedule(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_steps: int, frozen_steps: int, final_fraction: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then half a cosine down to `final_fraction` of the learning rate.

    A frozen backbone has learning rate zero for its first `frozen_steps`, rather than no gradient: under DDP a parameter that stops having gradients
    breaks the reduction.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def thawed(step: int) -> float:
        return 0.0 if step < frozen_steps else factor(step)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, [factor if group["head"] else thawed for group in optimizer.param_groups])


class WarmedUpEMA(WeightAveraging):
    """Exponential moving average of weights and BatchNorm statistics, used for validation, the checkpoint and the predictions.

    Its decay grows as (1 + step) / (10 + step): with 0.999 from the first step, a short run would validate little but its random start.

    Lightning's callback does the swapping and saving. Its averaging is replaced: it keeps the average in main memory when it is set up before the network
    has moved to the GPU, and reads a counter back from the device in every step.

    Args:
        decay: what it grows to.
    """

    def __init__(self, decay: float):
        self.decay = decay
        super().__init__()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return False  # neither of Lightning's own updates

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # found once: a network is on its device by now, and walking through it takes a millisecond
        assert self._average_model is not None
        averaged = self._average_model.module.state_dict(keep_vars=True)
        pairs = [(averaged[name], value) for name, value in pl_module.state_dict(keep_vars=True).items()]
        self._averages, self._values = ([pair[side] for pair in pairs if pair[0].is_floating_point()] for side in (0, 1))
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]  # BatchNorm's, of batches

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step - 1
        if step < self._latest_update_step:
            return  # still accumulating gradients
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for average, value in self._counts:
            average.copy_(value)
        self._latest_update_step = trainer.global_step
