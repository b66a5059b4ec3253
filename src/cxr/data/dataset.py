"""Rows of the store as batches: one uint8 array, filled in place; floats come into being on the device."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from cxr.data.augment import KeyedAugment, film_key
from cxr.data.sampler import BatchError, Key
from cxr.data.store import Store

# bytes of the store that a process holds mapped before it lets go of them
MAX_MAPPED = 2**28


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

    def __init__(
        self, store: Store, rows: np.ndarray, targets: np.ndarray, *, image_size: int, augment: KeyedAugment | None = None, pinned: bool = False
    ):
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
        """One batch.

        Returns:
            image (B, 1, side, side) uint8 with side = image_size, or S without augmentation; target (B, F) float32; index (B,) int64 into this dataset.
        """
        indices = np.array([index for _, index in keys])
        rows = self.rows[indices]
        images = self._empty_batch(len(keys))
        films = images.numpy()[:, 0]
        self.store.announce(rows)
        if self.augment is None:
            np.take(self.store.images, rows, axis=0, out=films, mode="clip")  # any other mode copies twice
        else:
            for film, row, (epoch, _), film_key in zip(films, rows, keys, self.keys[indices].tolist(), strict=True):
                film[:] = self.augment(self.store.images[row], epoch, film_key)
        self.n_mapped += len(rows)
        if self.n_mapped * self.store.images[0].nbytes > MAX_MAPPED:
            self.store.release()
            self.n_mapped = 0
        return {"image": images, "target": torch.from_numpy(self.targets[indices]), "index": torch.from_numpy(indices)}

    def _empty_batch(self, n_films: int) -> torch.Tensor:
        shape = (n_films, 1, self.side, self.side)
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        # in memory shared with the training process from the start, as torch's own collation does it: sent otherwise, the batch would be copied
        storage = torch.UntypedStorage._new_shared(n_films * self.side**2)
        return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
