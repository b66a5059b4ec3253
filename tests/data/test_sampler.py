"""Mirrors data/sampler.py: an order that is a function of seed and epoch, for any number of processes."""

import numpy as np
import pytest

from cxr.data.sampler import TrainSampler


def test_an_epoch_is_a_permutation_without_its_incomplete_last_batch() -> None:
    keys = list(TrainSampler(103, batch_size=10, seed=0))
    assert len(keys) == len({index for _, index in keys}) == 100
    assert {epoch for epoch, _ in keys} == {0}


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list:
        sampler = TrainSampler(50, batch_size=5, seed=seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_processes_of_a_job_share_the_global_batches_of_one_process(world_size: int) -> None:
    alone = np.array([index for _, index in TrainSampler(100, batch_size=12, seed=1)]).reshape(-1, 12)
    shards = [TrainSampler(100, batch_size=12, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    slices = [np.array([index for _, index in shard]).reshape(8, -1) for shard in shards]
    np.testing.assert_array_equal(np.concatenate(slices, axis=1), alone)
    assert all(len(shard) == 96 // world_size for shard in shards)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=10 cannot be shared by 3"):
        TrainSampler(100, batch_size=10, seed=0, world_size=3)
