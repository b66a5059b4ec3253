"""Which film comes when: a pure function of (seed, epoch), the same for any number of processes, that can start anywhere.

The sampler yields keys (epoch, index) rather than bare indices, so that a worker knows the epoch without being told and augmentation can be keyed by it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

Key = tuple[int, int]


class BatchError(ValueError):
    """The films cannot be cut into the batches asked for."""


class TrainSampler(Sampler[Key]):
    """A permutation of the films per epoch, cut into global batches of which each process takes its slice.

    Lightning calls `set_epoch` on a loader's `sampler`, and never on a custom `batch_sampler`: given as that, every epoch would have the order of the
    first, and keyed augmentation would hide it.

    Args:
        n_films: how many films there are.
        batch_size: films per step over all processes; the incomplete last batch is dropped.
        seed: of the order.
        rank, world_size: this process among how many. The order does not depend on them.
    """

    def __init__(self, n_films: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise BatchError(f"data.batch_size={batch_size} cannot be shared by {world_size} processes: it must be a multiple of their number")
        self.n_films, self.batch_size, self.seed = n_films, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.n_batches = n_films // batch_size
        self.epoch, self.first_batch = 0, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_films)
        mine = order[: self.n_batches * self.batch_size].reshape(self.n_batches, self.world_size, -1)[self.first_batch :, self.rank]
        return ((self.epoch, index) for index in mine.ravel().tolist())

    def __len__(self) -> int:
        return self.n_batches * self.batch_size // self.world_size


class ResumableLoader(DataLoader):
    """A DataLoader over a TrainSampler that a checkpoint can restore in the middle of an epoch.

    It counts batches handed to the training loop, not batches asked of the workers, which run ahead. Lightning saves and restores `state_dict` by itself.
    """

    sampler: TrainSampler
    n_handed_out = 0

    def __iter__(self) -> Iterator[Any]:
        self.n_handed_out = self.sampler.first_batch
        for batch in super().__iter__():
            self.n_handed_out += 1
            yield self.dataset.receive(batch)

    def state_dict(self) -> dict[str, int]:
        if self.n_handed_out == self.sampler.n_batches:
            return {"epoch": self.sampler.epoch + 1, "first_batch": 0}
        return {"epoch": self.sampler.epoch, "first_batch": self.n_handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        # both at once: Lightning builds the iterator before it calls set_epoch
        self.sampler.epoch, self.sampler.first_batch = state["epoch"], state["first_batch"]
