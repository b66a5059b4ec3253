"""Rows of the store as batches: one uint8 array, filled in place; floats come into being on the device."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from cxr.data.augment import KeyedAugment, film_key
from cxr.data.sampler import BatchError, Key
from cxr.data.store import Store

# bytes of the store that a process holds mapped before it lets go of them
MAX_MAPPED = 2**27


class FilmDataset(Dataset):
    """Films of a store with their targets.

    Args:
        store: (N, S, S) uint8 films.
        rows: (n,) which of them.
        targets: (n, F) float32: 1 present, 0 absent, NaN unknown.
        image_size: side of an augmented film in pixels, at most S.
        augment: None gives films as they are stored; the classifier cuts the centre out, for copying whole films is what memory does fastest.
        pinned: make batches in page-locked memory, from which a GPU fetches while the processor goes on. Without effect in a worker process.
    """

    def __init__(self, store: Store, rows: np.ndarray, targets: np.ndarray, *, image_size: int, augment: KeyedAugment | None = None, pinned: bool = False):
        if image_size > store.images.shape[1]:
            raise BatchError(f"data.image_size={image_size} is larger than the stored films ({store.images.shape[1]} pixels): raise data.store_size")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(store.images):
            raise BatchError(f"row {rows.max()} was asked of a store of {len(store.images)} films")
        self.store, self.rows, self.targets, self.augment, self.pinned = store, rows, targets, augment, pinned
        self.side = image_size if augment else store.images.shape[1]
        # an array, not a list: forked workers would copy a list bit by bit, just by counting references
        self.keys = np.array([film_key(image_id) for image_id in store.image_ids[rows]] if augment else [], np.uint64)
        self.n_mapped = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: list[Key]) -> dict[str, Any]:
        """A batch by the sampler's keys (epoch, index), as a DataLoader asks for it."""
        return self.batch(np.array([index for _, index in keys]), epoch=keys[0][0])

    def batch(self, indices: np.ndarray, epoch: int = 0) -> dict[str, Any]:
        """One batch.

        Args:
            indices: (B,) int64 into this dataset.
            epoch: what augmentation is keyed by besides the film.

        Returns:
            image (B, 1, side, side) uint8 with side = image_size, or S without augmentation; target (B, F) float32; index (B,) int64, as given.
        """
        rows = self.rows[indices]
        images = self._empty_batch(len(rows))
        films = images.numpy()[:, 0]
        self.store.announce(rows)
        if self.augment is None:
            np.take(self.store.images, rows, axis=0, out=films, mode="clip")  # any other mode copies twice
        else:
            for film, row, key in zip(films, rows.tolist(), self.keys[indices].tolist(), strict=True):
                film[:] = self.augment(self.store.images[row], epoch, key)
        self.n_mapped += len(rows)
        if self.n_mapped * self.store.film_bytes > MAX_MAPPED:
            self.store.release()
            self.n_mapped = 0
        return {"image": images, "target": torch.from_numpy(self.targets[indices]), "index": torch.from_numpy(indices)}

    def _empty_batch(self, n_films: int) -> torch.Tensor:
        shape = (n_films, 1, self.side, self.side)
        if self.pinned and get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        # numpy's memory is used again from batch to batch; torch's, aligned, is not, and the system clears every page of it: 5.3 µs a film, not 3.2.
        # (A worker's batch is copied once, into memory shared with the training process. Filling such memory directly was slower, page by page.)
        return torch.from_numpy(np.empty(shape, np.uint8))


class EvalLoader:
    """Films for validation and prediction in batches, in order: every film exactly once over all processes, none repeated to fill up, as Lightning would.

    Batches are made in this process: copying films takes microseconds, which is less than talking to a worker process about it.

    Args:
        films: without augmentation.
        batch_size: films per step of this process.
        rank, world_size: this process among how many.
    """

    def __init__(self, films: FilmDataset, *, batch_size: int, rank: int = 0, world_size: int = 1):
        self.films, self.batch_size = films, batch_size
        self.indices = np.arange(rank, len(films), world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.films.batch(self.indices[start : start + self.batch_size]) for start in range(0, len(self.indices), self.batch_size))

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)
