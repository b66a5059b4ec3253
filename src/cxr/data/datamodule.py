"""The loaders of one study, for Lightning."""

import os
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from cxr.data.augment import KeyedAugment
from cxr.data.dataset import FilmDataset
from cxr.data.sampler import BatchError, EvalSampler, ResumableLoader, TrainSampler
from cxr.data.store import Store


class FilmData(pl.LightningDataModule):
    """Train and validation loaders from plain arrays. The films of a test set are not known here until `predict_loader` is asked for them.

    Args:
        store: the open image store.
        train_rows, val_rows: (n,) rows of the store.
        train_targets, val_targets: (n, F) float32, NaN where unknown.
        image_size: side of a film at the network's input, in pixels.
        batch_size: films per step over all processes.
        num_workers: processes that prepare batches; None takes one per core but one, at most 8, shared by the processes of this machine.
        augment: of the training films; None cuts the centre out.
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
        self.train_set = self._films(train_rows, train_targets, augment)
        self.val_set = self._films(val_rows, val_targets, None)

    def _films(self, rows: np.ndarray, targets: np.ndarray, augment: KeyedAugment | None) -> FilmDataset:
        return FilmDataset(self.store.images, self.store.image_ids, rows, targets, image_size=self.image_size, augment=augment)

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {"rank": 0, "world_size": 1}

    def _loading(self) -> dict[str, Any]:
        """DataLoader arguments that every loader shares."""
        place = self._place()
        workers = self.num_workers
        if workers is None:
            workers = min(8, max(0, (os.cpu_count() or 1) - 1) // place["world_size"])
        return {
            "batch_size": self.batch_size // place["world_size"],
            "num_workers": workers,
            "collate_fn": _as_it_is,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            # fork shares the memory map; spawn would pickle the whole store into every worker
            "multiprocessing_context": "fork" if workers else None,
        }

    def train_dataloader(self) -> ResumableLoader:
        sampler = TrainSampler(len(self.train_set), batch_size=self.batch_size, seed=self.seed, **self._place())
        loading = self._loading()
        return ResumableLoader(self.train_set, sampler=sampler, drop_last=True, persistent_workers=loading["num_workers"] > 0, **loading)

    def val_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.val_set)

    def predict_loader(self, rows: np.ndarray) -> DataLoader:
        """Films to predict, in order, without targets.

        Args:
            rows: (n,) rows of the store; a batch's `index` counts along them.
        """
        return self._evaluation_loader(self._films(rows, np.empty((len(rows), 0), np.float32), None))

    def _evaluation_loader(self, films: FilmDataset) -> DataLoader:
        return DataLoader(films, sampler=EvalSampler(len(films), **self._place()), **self._loading())


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """`__getitems__` has made the batch already."""
    return batch
