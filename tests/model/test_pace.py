"""Mirrors model/pace.py: what is logged, when a wait is told, and that nothing between two logging steps waits for the device."""

import csv
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from cxr.model.classifier import Classifier
from cxr.model.optim import WarmedUpEMA
from cxr.model.pace import Pace, PaceBar

N, BATCH, LOG_EVERY = 96, 8, 4
# reads a value back to the program, or sends one up: either way the program stands still until the device has caught up
HOST_COPIES = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::lift_fresh")


class SlowLoader(DataLoader):
    """A loader in which every batch takes its time."""

    seconds = 0.0

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(self.seconds)
            yield batch


def loader(seconds: float = 0.0) -> SlowLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 1, 32, 32), dtype=torch.uint8, generator=generator)
    targets = (torch.rand(N, 4, generator=generator) < 0.4).float()
    films = [{"image": image, "target": target, "index": index} for image, target, index in zip(images, targets, torch.arange(N), strict=True)]
    made = SlowLoader(films, batch_size=BATCH)
    made.seconds = seconds
    return made


def classifier(loss: str = "bce") -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        findings=list("ABCD"),
        monitored=list("ABCD"),
        prevalence=[0.4] * 4,
        model={"name": "test_resnet", "drop_rate": 0.1, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True, "compile": False},
        loss={"name": loss},
        optim={"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "layer_decay": 1.0, "warmup_steps": 2, "final_fraction": 0.1, "betas": [0.9, 0.999]},
        image_size=32,
        seed=0,
    )


def fit(tmp_path: Path, *callbacks: pl.Callback, films: DataLoader | None = None, loss: str = "bce", **changed: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=CSVLogger(tmp_path, name="", version=""),
        log_every_n_steps=LOG_EVERY,
        gradient_clip_val=1.0,
        callbacks=[WarmedUpEMA(0.9), Pace(BATCH), *callbacks],
        enable_checkpointing=False,
        enable_model_summary=False,
        **({"enable_progress_bar": False} | changed),
    )
    trainer.fit(classifier(loss), films or loader())
    return trainer


class HostCopies(TorchDispatchMode):
    """Counts the operations for which the program waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in HOST_COPIES:
            self.found[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


class CountPerStep(pl.Callback):
    """Host copies from the end of one batch to the end of the next."""

    def __init__(self) -> None:
        self.per_step: list[Counter[str]] = []
        self.mode: HostCopies | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        self.stop()
        self.mode = HostCopies()
        self.mode.__enter__()

    def stop(self) -> None:
        if self.mode:
            self.mode.__exit__(None, None, None)
            self.per_step.append(self.mode.found)
            self.mode = None

    def on_train_epoch_end(self, *_: Any) -> None:
        self.stop()


@pytest.mark.parametrize("bar", [False, True], ids=["no bar", "bar"])
@pytest.mark.parametrize("loss", ["bce", "weighted_bce"])
def test_between_two_logging_steps_nothing_waits_for_the_device(tmp_path: Path, loss: str, bar: bool) -> None:
    """The loss, clipping, the fused optimiser, the schedule, the moving average and the progress bar, through the real Trainer."""
    count, bars = CountPerStep(), [PaceBar(refresh_rate=LOG_EVERY)] if bar else []
    trainer = fit(tmp_path, count, *bars, loss=loss, enable_progress_bar=bar)
    for shown in bars:
        metrics = shown.get_metrics(trainer, trainer.lightning_module)
        assert set(metrics) == {"loss", "images_per_s", "data_wait"}
        assert float(metrics["loss"]) == pytest.approx(float(trainer.callback_metrics["train/loss"]), rel=0.01)
    # entry i spans the end of step i + 1 to the end of step i + 2, so that the entry that ends with a logging step, or begins with one, may copy
    quiet = [found for i, found in enumerate(count.per_step[:-1]) if (i + 2) % LOG_EVERY and (i + 1) % LOG_EVERY]
    assert len(quiet) >= 5
    assert sum(quiet, Counter()) == Counter()


def test_the_count_of_host_copies_sees_one() -> None:
    with HostCopies() as copies:
        float(torch.ones(3).sum())
        bool(torch.zeros(()) == 0)
        torch.tensor(3.0)
    assert copies.found["aten::_local_scalar_dense"] + copies.found["aten::is_nonzero"] >= 2
    assert copies.found["aten::lift_fresh"] == 1


def test_pace_is_logged_at_logging_steps_and_adds_up(tmp_path: Path) -> None:
    fit(tmp_path, films=loader(0.02), limit_train_batches=8)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/images_per_s"]]
    assert [int(row["step"]) for row in rows] == [LOG_EVERY - 1, 2 * LOG_EVERY - 1]
    for row in rows:
        step_s = float(row["train/step_ms"]) / 1000
        assert float(row["train/images_per_s"]) == pytest.approx(BATCH / step_s, rel=1e-4)
        assert float(row["train/data_wait"]) * step_s >= 0.02
        assert 0 < float(row["train/data_wait"]) < 1
        assert float(row["train/memory_gb"]) > 0.05
    assert [float(row["train/lr"]) for row in rows] != sorted(float(row["train/lr"]) for row in rows)  # half a cosine, downwards


def test_a_wait_for_data_is_told_once_with_what_to_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cxr.model.pace"):
        fit(tmp_path, films=loader(0.1))
    (told,) = [record.message for record in caplog.records]
    assert "for data" in told
    assert "data.num_workers (now 0" in told
