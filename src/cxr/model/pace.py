"""How fast training goes, and whether the device waits for data."""

import logging
import resource
import sys
import time
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar

log = logging.getLogger(__name__)

# share of an epoch that the device may wait for data before it is said
TOLERATED_WAIT = 0.05


class Pace(pl.Callback):
    """Logs images per second, step time, the share of time without a step on the device, memory and learning rate, at every logging step.

    On a GPU the times are the device's own, taken by events in its queue: the program runs ahead of the device, so its clock would take waiting for a full
    queue for waiting for data. They are read at logging steps only, where the loss is read too; between those the program never waits for the device.

    Place it behind callbacks that compute on the device after a step, for what runs between two steps counts as waiting.

    Args:
        batch_size: films per batch over all processes.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(pl_module)  # a training that goes on within an epoch does not start one

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(pl_module)

    def _begin(self, pl_module: pl.LightningModule) -> None:
        self.clock = _DeviceClock() if pl_module.device.type == "cuda" else _HostClock()
        self.marks = [self.clock.mark()]
        self.busy_s, self.total_s = 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.marks.append(self.clock.mark())
        self.lr = trainer.optimizers[0].param_groups[-1]["lr"]  # before the schedule moves on

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.marks.append(self.clock.mark())
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if not (stepped and trainer.global_step % trainer.log_every_n_steps == 0):
            return
        # end, begin, end, begin, end: a gap, a batch, a gap, a batch
        spans = self.clock.spans(self.marks)
        total, busy, n_batches = sum(spans), sum(spans[1::2]), len(spans) // 2
        self.total_s, self.busy_s = self.total_s + total, self.busy_s + busy
        values = {
            "train/images_per_s": n_batches * self.batch_size / total,
            "train/step_ms": 1000 * total / n_batches,
            "train/data_wait": 1 - busy / total,
            "train/memory_gb": _memory(pl_module.device) / 1e9,
            "train/lr": self.lr,
        }
        for name, value in values.items():
            pl_module.log(name, value)
        self.marks = self.marks[-1:]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wait = 1 - self.busy_s / self.total_s if self.total_s else 0.0
        if wait > TOLERATED_WAIT and not self.told and trainer.is_global_zero:
            self.told = True
            loader = trainer.train_dataloader
            log.warning(
                "The device waited %.0f %% of epoch %d for data. Raise data.num_workers (now %d for each training process), put data.store_dir on a fast"
                " local disk, or store smaller films (data.store_size).",
                100 * wait,
                trainer.current_epoch + 1,
                getattr(loader, "num_workers", 0),
            )


class PaceBar(TQDMProgressBar):
    """A progress bar that shows the loss and the pace when it is drawn anew; set `refresh_rate` to the logging interval.

    With `prog_bar=True` Lightning would read every such value back from the device after every batch, whether it is drawn or not.
    """

    SHOWN = ("train/loss", "train/images_per_s", "train/data_wait", "val/auroc_macro")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
        known = trainer.callback_metrics
        return {name.partition("/")[2]: f"{float(known[name]):.3g}" for name in self.SHOWN if name in known}


class _HostClock:
    """For a device that computes while the program waits."""

    def mark(self) -> float:
        return time.perf_counter()

    def spans(self, marks: list[float]) -> list[float]:
        return [end - start for start, end in pairwise(marks)]


class _DeviceClock:
    """For a device with a queue of its own."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def spans(self, marks: list[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairwise(marks)]


def _memory(device: torch.device) -> int:
    """Bytes at most so far: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
