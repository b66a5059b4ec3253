"""The loaders of one study, for Lightning."""

import os
import signal
import threading
from typing import Any

import numpy as np
import pytorch_lightning as pl

from cxr.data.augment import KeyedAugment
from cxr.data.dataset import SLOTS, EvalLoader, FilmDataset
from cxr.data.sampler import BatchError, ResumableLoader, TrainSampler
from cxr.data.store import Store


class FilmData(pl.LightningDataModule):
    """Train and validation loaders from plain arrays. The films of a test set are not known here until `predict_loader` is asked for them.

    Args:
        store: the open image store.
        train_rows, val_rows: (n,) rows of the store.
        train_targets, val_targets: (n, F) float32, NaN where unknown.
        image_size: side of a film at the network's input, in pixels.
        batch_size: films per step over all processes.
        num_workers: processes that augment training batches, for each training process; None chooses (`automatic_workers`). Films that are not augmented
            need none: copying them is quicker than talking to a process about it.
        augment: of the training films; None leaves them whole.
        seed: of the order of films.
    """

    def __init__(
        self,
        store: Store,
        *,
        train_rows: np.ndarray,
        train_targets: np.ndarray,
        val_rows: np.ndarray,
        val_targets: np.ndarray,
        image_size: int,
        batch_size: int,
        num_workers: int | None,
        augment: KeyedAugment | None,
        seed: int,
    ):
        super().__init__()
        if len(train_rows) < batch_size:
            raise BatchError(f"data.batch_size={batch_size} is more than the {len(train_rows)} training films")
        self.store, self.image_size, self.batch_size, self.num_workers, self.seed = store, image_size, batch_size, num_workers, seed
        self.train_films, self.val_films, self.augment = (train_rows, train_targets), (val_rows, val_targets), augment

    def _films(self, rows: np.ndarray, targets: np.ndarray, augment: KeyedAugment | None) -> FilmDataset:
        return FilmDataset(self.store, rows, targets, image_size=self.image_size, augment=augment, pinned=self._feeds_gpu())

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {"rank": 0, "world_size": 1}

    def _feeds_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> ResumableLoader:
        films = self._films(*self.train_films, self.augment)
        sampler = TrainSampler(len(films), batch_size=self.batch_size, seed=self.seed, **self._place())
        workers = 0
        if self.augment:
            local = self.trainer.num_devices if self.trainer else 1
            workers = automatic_workers(local, gpu=self._feeds_gpu()) if self.num_workers is None else self.num_workers
        if workers:
            films.share(workers, self._share_of_batch())
        return ResumableLoader(
            films,
            sampler=sampler,
            drop_last=True,
            batch_size=self._share_of_batch(),
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=SLOTS - 1 if workers else None,  # one more under way would write over one that was not yet taken out
            worker_init_fn=_leave_signals_to_the_training_process,
            # fork shares the memory maps; spawn would pickle the whole store into every worker
            multiprocessing_context="fork" if workers else None,
        )

    def val_dataloader(self) -> EvalLoader:
        n_films, n_processes = len(self.val_films[0]), self._place()["world_size"]
        if n_films < n_processes:  # a process without a batch would leave the others waiting
            raise BatchError(f"{n_films} validation films cannot be shared by {n_processes} processes: lower trainer.devices or raise data.validation")
        return self._evaluation_loader(*self.val_films)

    def predict_loader(self, rows: np.ndarray) -> EvalLoader:
        """Films to predict, in order, without targets.

        Args:
            rows: (n,) rows of the store; a batch's `index` counts along them.
        """
        return self._evaluation_loader(rows, np.empty((len(rows), 0), np.float32))

    def _evaluation_loader(self, rows: np.ndarray, targets: np.ndarray) -> EvalLoader:
        return EvalLoader(self._films(rows, targets, None), batch_size=self._share_of_batch(), **self._place())

    def _share_of_batch(self) -> int:
        return self.batch_size // self._place()["world_size"]


def automatic_workers(n_training_processes: int, *, gpu: bool) -> int:
    """Worker processes for each training process.

    One worker augments some 6,000 films per second, which is what the fastest GPU takes from DenseNet-121 at 224 pixels; more are for larger films and
    smaller networks. Training on the processor takes far less, and every further worker would take a core from it.

    Args:
        n_training_processes: on this machine, which share its cores.
        gpu: whether they train on GPUs.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # a batch system may lend fewer than there are
    share = cores // n_training_processes
    if int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:  # each was lent its own, and may see no others
        share = int(os.environ.get("SLURM_CPUS_PER_TASK") or share)
    spare = share - 1
    return min(8 if gpu else 1, max(0, spare))


def _leave_signals_to_the_training_process(worker: int) -> None:
    """A batch system that wants a job to end tells all its processes, and Ctrl-C reaches them all; but the training still needs its workers, to come to a
    point from which it can go on. So a worker ends when its parent says so, or when that is gone."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def end_when_told() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=end_when_told, daemon=True).start()


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """`__getitems__` has made the batch already."""
    return batch
