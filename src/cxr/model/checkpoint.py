"""Checkpoints: written whole, read as data and never as code, and taken often enough that a killed training loses minutes.

Exact resume rests on four things. The order of films is a function of (seed, epoch) that can start at any batch (`data/sampler.py`), and augmentation one of
(seed, epoch, film); dropout is seeded by the step (`Classifier.on_train_batch_start`), so no random state is saved; a checkpoint is taken only between two
optimiser steps; and never on the last batch of an epoch, where Lightning would skip its validation.
"""

import io
import json
import logging
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from safetensors.torch import save

from cxr.atomic import sync, write_whole
from cxr.model.interruption import Interrupted, StopRequest

log = logging.getLogger(__name__)

BEST, RESUME, PREVIOUS = "best.ckpt", "resume.ckpt", "resume.previous.ckpt"


class CheckpointError(ValueError):
    """The file is no checkpoint, is damaged, belongs to another run, or would run code."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the processor.

    Every byte of its content is held against the checksums of its zip file, which torch itself does not do, and nothing is unpickled but tensors and plain
    values.

    Raises:
        CheckpointError: with the file and the reason.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch stores what it writes; anything packed could unfold to any size
            if any(item.compress_type != zipfile.ZIP_STORED or item.file_size != item.compress_size for item in archive.infolist()):
                raise CheckpointError(f"{path}: not a checkpoint of torch")
            damaged = archive.testzip()
        if damaged:
            raise CheckpointError(f"{path} is damaged: wrong checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # whatever a damaged or a hostile file makes a parser say
        told = "it holds more than tensors and plain values, and loading it could run code" if "weights_only" in str(error).lower() else first_line(error)
        raise CheckpointError(f"{path}: not a whole checkpoint ({told})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of a training")
    return content


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning reads and writes checkpoints here. Beside the best one lie its weights alone, as safetensors.

    Args:
        weights: where those go.
        facts: plain values that are kept with them.
    """

    def __init__(self, weights: Path, facts: Mapping[str, Any]):
        # one key: safetensors writes several in an order that changes from process to process
        self.weights, self.metadata = weights, {"cxr": json.dumps(facts)}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        if path.name == BEST:
            net = {name.removeprefix("net."): value.contiguous() for name, value in checkpoint["state_dict"].items() if name.startswith("net.")}
            write_whole(self.weights, save(net, metadata=self.metadata))
        if path.name == RESUME and path.is_file():
            path.replace(path.with_name(PREVIOUS))
        write_whole(path, buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(path)
        content = read_checkpoint(path)
        # a run's folder may have been moved; Lightning would then forget, with a warning, which epoch was the best
        for state in content.get("callbacks", {}).values():
            if "best_k_models" in state:
                here = {
                    name: str(path.parent / Path(state[name]).name) for name in ("best_model_path", "kth_best_model_path", "last_model_path") if state[name]
                }
                best = {str(path.parent / Path(name).name): score for name, score in state["best_k_models"].items()}
                state.update(here, dirpath=str(path.parent), best_k_models=best)
        return content


def find_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint to go on from, which then lies at resume.ckpt; None if there never was one.

    Args:
        folder: the run's checkpoints.

    Raises:
        CheckpointError: there are some, and none of them can be read.
    """
    newest, previous = folder / RESUME, folder / PREVIOUS
    if not newest.is_file() and not previous.is_file():
        return None
    try:
        return read_checkpoint(newest)
    except CheckpointError as error:
        if not previous.is_file():
            raise CheckpointError(f"{error}; there is no other. To start this run again from its beginning, delete {folder}") from error
        if newest.is_file():
            log.warning("%s. Going on from the one before it.", error)
    try:
        content = read_checkpoint(previous)
    except CheckpointError as error:
        raise CheckpointError(f"both checkpoints are damaged: {newest} and {error}. To start this run again from its beginning, delete {folder}") from error
    previous.replace(newest)  # so that the damaged one is never again taken for the one before
    sync(folder)
    return content


class ResumeCheckpoint(Checkpoint):
    """Keeps resume.ckpt and the one before it: every so many minutes, at the end of every epoch, and when the program is asked to stop.

    Place it behind the callback that keeps the best checkpoint, for the state of that one is part of this one.

    Args:
        folder: the run's checkpoints.
        every_minutes: at most so far apart within an epoch.
        stop: what signals are heard by.
        identity: what a run must agree in to go on from these checkpoints; kept in each, as "identity".
    """

    def __init__(self, folder: Path, *, every_minutes: float, stop: StopRequest, identity: Mapping[str, str]):
        self.folder, self.every_minutes, self.stop, self.identity = folder, every_minutes, stop, dict(identity)
        self.wanted = self.stopping = False

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["identity"] = self.identity

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.listen()
        self.stop.patient = True
        self.saved_at = time.monotonic()
        # Lightning would ask the first process before every batch, and read the answer back from the device. We agree at logging steps; see below
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
            return
        # What a logging step logs is written after this hook, so a checkpoint taken here would lack it; it is taken after the next step
        logging_step = trainer.global_step % trainer.log_every_n_steps == 0
        if trainer.world_size == 1 or logging_step:
            self._agree(trainer)
        if (self.wanted or self.stopping) and not logging_step:
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agree(trainer)
        self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.patient = False

    def _agree(self, trainer: pl.Trainer) -> None:
        """All processes save, or stop, if one of them wants to."""
        wishes = [self.stop.name is not None, time.monotonic() - self.saved_at >= 60 * self.every_minutes]
        if trainer.world_size > 1:
            told = torch.tensor(wishes, dtype=torch.int32, device=trainer.strategy.root_device)
            wishes = [bool(wish) for wish in trainer.strategy.reduce(told, reduce_op="sum").tolist()]
        self.stopping, self.wanted = wishes

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.is_sound():  # type: ignore[operator]
            trainer.save_checkpoint(self.folder / RESUME)
        self.saved_at, self.wanted = time.monotonic(), False
        if self.stopping:
            raise Interrupted(f"stopped by {self.stop.name or 'a signal to another process'} after step {trainer.global_step}")
