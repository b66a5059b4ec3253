"""Rows of the store as batches: one uint8 array, filled in place; floats come into being on the device."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cxr.data.augment import KeyedAugment, film_key
from cxr.data.sampler import BatchError, Key


class FilmDataset(Dataset):
    """Films of a store with their targets.

    Args:
        images: (N, S, S) uint8, the store's pixels.
        image_ids: (N,) of the store.
        rows: (n,) which of its films.
        targets: (n, F) float32: 1 present, 0 absent, NaN unknown.
        image_size: side of the crop in pixels, at most S.
        augment: None cuts the centre out.
    """

    def __init__(self, images: np.ndarray, image_ids: np.ndarray, rows: np.ndarray, targets: np.ndarray, *, image_size: int, augment: KeyedAugment | None):
        if image_size > images.shape[1]:
            raise BatchError(f"data.image_size={image_size} is larger than the stored films ({images.shape[1]} pixels): raise data.store_size")
        self.images, self.rows, self.targets, self.image_size, self.augment = images, rows, targets, image_size, augment
        self.keys = [film_key(image_id) for image_id in image_ids[rows]] if augment else []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: list[Key]) -> dict[str, Any]:
        """One batch.

        Returns:
            image (B, 1, image_size, image_size) uint8, target (B, F) float32, index (B,) int64 into this dataset.
        """
        indices = np.array([index for _, index in keys])
        batch = np.empty((len(keys), 1, self.image_size, self.image_size), np.uint8)
        if self.augment is None:
            at = (self.images.shape[1] - self.image_size) // 2
            centre = slice(at, at + self.image_size)
            for i, row in enumerate(self.rows[indices]):
                batch[i, 0] = self.images[row, centre, centre]
        else:
            for i, (epoch, index) in enumerate(keys):
                # np.asarray: the transforms want a plain array, not a memory map
                batch[i, 0] = self.augment(np.asarray(self.images[self.rows[index]]), epoch, self.keys[index])
        return {"image": torch.from_numpy(batch), "target": torch.from_numpy(self.targets[indices]), "index": torch.from_numpy(indices)}
