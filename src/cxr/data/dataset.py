"""Rows of the store as batches: one uint8 array, filled in place; floats come into being on the device."""

import mmap
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
# batches of a worker on their way: two asked for ahead, and one being taken out
SLOTS = 3


class FilmDataset(Dataset):
    """Films of a store with their targets.

    Args:
        store: (N, S, S) uint8 films.
        rows: (n,) which of them.
        targets: (n, F) float32: 1 present, 0 absent, NaN unknown.
        image_size: side of an augmented film in pixels, at most S.
        augment: None gives films as they are stored; the classifier cuts the centre out, for copying whole films is what memory does fastest.
        pinned: make batches in page-locked memory, from which a GPU fetches while the processor goes on.
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
        self.slots: np.ndarray | None = None
        self.n_made = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: list[Key]) -> dict[str, Any]:
        """A batch by the sampler's keys (epoch, index), as a DataLoader asks for it; in a worker process, one for `receive`."""
        indices, epoch = np.array([index for _, index in keys]), keys[0][0]
        worker = get_worker_info()
        if worker is None:
            return self.batch(indices, epoch)
        place = worker.id, self.n_made % SLOTS
        self.n_made += 1
        assert self.slots is not None
        self._fill(self.slots[place][: len(indices)], indices, epoch)
        return {"place": place, "index": indices}

    def share(self, n_workers: int, batch_size: int) -> None:
        """Makes the memory through which worker processes, forked afterwards, hand their batches over.

        It is written again and again. As tensors, as DataLoader does it, every batch would be a file of its own in shared memory, whose pages the system
        first clears, with a connection to fetch it through: 60 µs a film, not 10. (Nor does the size of a container's /dev/shm matter here.)
        """
        shape = (n_workers, SLOTS, batch_size, self.side, self.side)
        self.slots = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)

    def receive(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as `batch` gives it, from what `__getitems__` gave; to be called before the next one is asked for."""
        if "place" not in batch:
            return batch
        assert self.slots is not None
        images = self._empty_batch(len(batch["index"]))
        images.numpy()[:, 0] = self.slots[batch["place"]][: len(images)]
        return self._with_targets(images, batch["index"])

    def batch(self, indices: np.ndarray, epoch: int = 0) -> dict[str, Any]:
        """One batch.

        Args:
            indices: (B,) int64 into this dataset.
            epoch: what augmentation is keyed by besides the film.

        Returns:
            image (B, 1, side, side) uint8 with side = image_size, or S without augmentation; target (B, F) float32; index (B,) int64, as given.
        """
        images = self._empty_batch(len(indices))
        self._fill(images.numpy()[:, 0], indices, epoch)
        return self._with_targets(images, indices)

    def _with_targets(self, images: torch.Tensor, indices: np.ndarray) -> dict[str, Any]:
        return {"image": images, "target": torch.from_numpy(self.targets[indices]), "index": torch.from_numpy(indices)}

    def _fill(self, films: np.ndarray, indices: np.ndarray, epoch: int) -> None:
        rows = self.rows[indices]
        self.store.require_unchanged()
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

    def _empty_batch(self, n_films: int) -> torch.Tensor:
        shape = (n_films, 1, self.side, self.side)
        if self.pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        # numpy's memory is used again from batch to batch; torch's, aligned, is not, and the system clears every page of it: 5.3 µs a film, not 3.2.
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
