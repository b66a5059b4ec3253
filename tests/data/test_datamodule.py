"""Mirrors data/dataset.py and data/datamodule.py: batches and their order, through the real loaders and the real Trainer."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from cxr.data.augment import make_augment
from cxr.data.datamodule import FilmData, automatic_workers
from cxr.data.dataset import MAX_MAPPED, EvalLoader, FilmDataset
from cxr.data.store import Store, open_store, seal

N_FILMS, SIDE, CROP, BATCH = 50, 36, 32, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (N_FILMS, SIDE, SIDE), dtype=np.uint8)


def film_data(num_workers: int = 0, augmented: bool = True, seed: int = 0) -> FilmData:
    store = Store(PIXELS, np.array([f"{i:08d}_000.png" for i in range(N_FILMS)]), {}, {})
    augment = make_augment(
        image_size=CROP, seed=seed, affine_p=0.5, rotate_degrees=7, scale=0.1, translate=0.05, brightness=0.1, contrast=0.1, horizontal_flip_p=0
    )
    targets = np.random.default_rng(1).integers(0, 2, (N_FILMS, 3)).astype(np.float32)
    return FilmData(
        store,
        train_rows=np.arange(40)[::-1].copy(),
        train_targets=targets[:40],
        val_rows=np.arange(40, 50),
        val_targets=targets[40:],
        image_size=CROP,
        batch_size=BATCH,
        num_workers=num_workers,
        augment=augment if augmented else None,
        seed=seed,
    )


class Recorder(pl.LightningModule):
    """A model that learns nothing and writes down what it is fed."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], torch.Tensor]] = []
        self.stop_after = stop_after

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["index"].tolist(), batch["image"].clone()))
        return self.weight.sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.stop_after == len(self.seen):
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/middle.ckpt")
            raise KeyboardInterrupt

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def feed(tmp_path: Path, *, epochs: int = 3, num_workers: int = 0, stop_after: int | None = None, ckpt_path: Path | None = None) -> Recorder:
    model = Recorder(stop_after)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    try:
        trainer.fit(model, datamodule=film_data(num_workers), ckpt_path=ckpt_path, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop_after
    return model


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(one, other, strict=True))


def test_batches_are_the_same_bit_for_bit_for_any_number_of_workers(tmp_path: Path) -> None:
    alone = feed(tmp_path, epochs=2, num_workers=0).seen
    assert len(alone) == 2 * (40 // BATCH)
    for workers in (1, 2, 4):
        assert same(feed(tmp_path, epochs=2, num_workers=workers).seen, alone), f"{workers} workers"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_of_the_real_trainer_has_its_own_order_and_its_own_pixels(tmp_path: Path, num_workers: int) -> None:
    seen = feed(tmp_path, num_workers=num_workers).seen
    orders = [[index for epoch, indices, _ in seen if epoch == e for index in indices] for e in range(3)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    of_film = [
        torch.stack([image for epoch, indices, images in seen if epoch == e for index, image in zip(indices, images, strict=True) if index == 7])
        for e in range(3)
    ]
    assert not torch.equal(of_film[0], of_film[1])
    assert not torch.equal(of_film[1], of_film[2])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop_after", [3, 5, 7, 10])
def test_a_restart_continues_with_the_very_next_batch(tmp_path: Path, num_workers: int, stop_after: int) -> None:
    undisturbed = feed(tmp_path, num_workers=num_workers).seen
    first = feed(tmp_path, num_workers=num_workers, stop_after=stop_after).seen
    second = feed(tmp_path, num_workers=num_workers, ckpt_path=tmp_path / "middle.ckpt").seen
    assert same(first + second, undisturbed)


def test_evaluation_takes_whole_films_in_order() -> None:
    data = film_data(num_workers=2)
    batches = list(data.val_dataloader())
    images = torch.cat([batch["image"] for batch in batches])
    np.testing.assert_array_equal(images[:, 0].numpy(), PIXELS[40:])
    assert images.dtype == torch.uint8
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(10))
    np.testing.assert_array_equal(torch.cat([batch["target"] for batch in batches]).numpy(), data.val_films[1])
    rows = np.array([3, 49, 11])
    (batch,) = data.predict_loader(rows)
    np.testing.assert_array_equal(batch["image"][:, 0].numpy(), PIXELS[rows])


def test_a_film_goes_with_its_own_target() -> None:
    data = film_data(augmented=False)
    for batch in data.train_dataloader():
        for index, image, target in zip(batch["index"], batch["image"], batch["target"], strict=True):
            np.testing.assert_array_equal(image[0].numpy(), PIXELS[39 - index])
            np.testing.assert_array_equal(target.numpy(), data.train_films[1][index])


def test_fewer_films_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=41 is more than the 40 training films"):
        FilmData(
            film_data().store,
            train_rows=np.arange(40),
            train_targets=np.zeros((40, 3), np.float32),
            val_rows=np.arange(40, 50),
            val_targets=np.zeros((10, 3), np.float32),
            image_size=CROP,
            batch_size=41,
            num_workers=0,
            augment=None,
            seed=0,
        )


def test_films_of_an_open_store_are_those_of_its_file_in_any_order(tmp_path: Path) -> None:
    """Announcing and releasing pages are advice to the system: whatever is announced, the pixels are the file's."""
    many = np.random.default_rng(2).integers(0, 256, (300, 40, 40), dtype=np.uint8)
    np.save(tmp_path / "images.npy", many)
    np.save(tmp_path / "image_ids.npy", np.array([f"{i:08d}_000.png" for i in range(300)]))
    (tmp_path / "quarantine.csv").write_text("image_id,reason\n")
    seal(tmp_path, {"n_images": 300, "size": 40})
    store = open_store(tmp_path)
    assert store.file is not None
    films = FilmDataset(store, np.arange(300), np.zeros((300, 1), np.float32), image_size=32)
    films.n_mapped = 10**9  # so that every batch lets go of what it touched
    for rows in (np.arange(300), np.array([299, 0, 150, 151, 152, 7]), np.array([5]), np.random.default_rng(3).permutation(300)):
        batch = films.__getitems__([(0, int(row)) for row in rows])
        np.testing.assert_array_equal(batch["image"][:, 0].numpy(), many[rows])


@pytest.mark.parametrize("n_films", range(1, 18))
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_film_once(n_films: int, world_size: int) -> None:
    films = FilmDataset(film_data().store, np.arange(n_films), np.zeros((n_films, 1), np.float32), image_size=CROP)
    loaders = [EvalLoader(films, batch_size=4, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(made) for made in batches]
    assert sorted(index for made in batches for batch in made for index in batch["index"].tolist()) == list(range(n_films))


def test_a_row_that_the_store_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="row 50 was asked of a store of 50 films"):
        FilmDataset(film_data().store, np.array([3, 50]), np.zeros((2, 1), np.float32), image_size=32)


MEMORY = """
import numpy as np, sys
from pathlib import Path
from cxr.data.dataset import FilmDataset
from cxr.data.store import open_store
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
store = open_store(Path(sys.argv[1]))
films = FilmDataset(store, np.arange(len(store.images)), np.zeros((len(store.images), 14), np.float32), image_size=224)
before = resident()
for start in range(0, len(films), 64):
    films.__getitems__([(0, i) for i in range(start, min(start + 64, len(films)))])
    peak = max(locals().get("peak", 0), resident())
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_reading_a_whole_store_does_not_make_the_process_own_it(tmp_path: Path) -> None:
    n = 12_000  # 786 MB of films, which take no room on disk
    with (tmp_path / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 256, 256)})
        file.truncate(file.tell() + n * 256 * 256)
    np.save(tmp_path / "image_ids.npy", np.array([f"{i:08d}_000.png" for i in range(n)]))
    (tmp_path / "quarantine.csv").write_text("image_id,reason\n")
    seal(tmp_path, {"n_images": n, "size": 256})
    told = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 1.3 * MAX_MAPPED / 2**20


def test_workers_are_chosen_by_what_the_device_takes_and_the_cores_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(cores: int, processes: int, gpu: bool) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        return automatic_workers(processes, gpu=gpu)

    assert [chosen(1, 1, True), chosen(2, 1, True), chosen(16, 1, True), chosen(16, 4, True), chosen(16, 16, True)] == [0, 1, 8, 3, 0]
    assert [chosen(1, 1, False), chosen(16, 1, False), chosen(2, 2, False)] == [0, 1, 0]
    # SLURM lends each of its processes cores of its own, and may show it these alone
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert [chosen(6, 4, True), chosen(24, 4, True)] == [5, 5]


def test_fewer_validation_films_than_processes_are_refused() -> None:
    data = film_data()
    data.trainer = SimpleNamespace(global_rank=0, world_size=11, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    with pytest.raises(ValueError, match="10 validation films cannot be shared by 11 processes"):
        data.val_dataloader()
