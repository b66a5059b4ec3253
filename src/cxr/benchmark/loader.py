"""Batches for training and for evaluation, against files and other stores, and against what memory and the augmentation recipe allow."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch

from cxr.benchmark.command import Settings
from cxr.benchmark.films import STORED, film_paths, make_store, sparse_store
from cxr.benchmark.measure import Case, Contest, hold
from cxr.benchmark.peers import BATCH, CROP, file_loaders, pixel_stores, run_through
from cxr.data.augment import KeyedAugment, film_key, make_augment
from cxr.data.datamodule import FilmData
from cxr.data.store import HEADER_BYTES, Store

# the defaults of the configuration's augment group
RECIPE = {"affine_p": 0.5, "rotate_degrees": 7.0, "scale": 0.1, "translate": 0.05, "brightness": 0.1, "contrast": 0.1, "horizontal_flip_p": 0.0}
N_STORED, N_WHOLE = 8192, 112_120  # films of the store that is read, and of ChestX-ray14


def run_stage(settings: Settings) -> list[dict]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = film_paths(settings, folder, 64)
        store = make_store(folder / "store", paths, max(4 * BATCH, int(N_STORED * settings.size)))
        films = np.array(store.images[: len(paths)])
        results = [
            hold(training(store, paths, films, folder, settings.size), settings.rounds),
            hold(keyed(store, settings.size), settings.rounds),
            hold(evaluation(store, films, folder, settings.size), settings.rounds),
            hold(workers(store), settings.rounds),
            hold(cold(store, folder / "store" / "images.npy", settings.size), settings.rounds),
        ]
        return [*results, memory(folder, max(BATCH, int(N_WHOLE * settings.size)))]


def recipe() -> KeyedAugment:
    return make_augment(image_size=CROP, seed=0, **RECIPE)


def film_data(store: Store, num_workers: int = 0) -> FilmData:
    rows, targets = np.arange(len(store.images)), np.zeros((len(store.images), 14), np.float32)
    return FilmData(
        store,
        train_rows=rows,
        train_targets=targets,
        val_rows=rows,
        val_targets=targets,
        image_size=CROP,
        batch_size=BATCH,
        num_workers=num_workers,
        augment=recipe(),
        seed=0,
    )


def training(store: Store, paths: list[Path], films: np.ndarray, folder: Path, size: float) -> Contest:
    n = max(BATCH, int(2048 * size) // BATCH * BATCH)
    compose, resident = A.Compose(recipe().transforms), np.array(store.images[:n])

    def bare() -> int:
        for film in resident:
            compose(image=film)
        return n

    peers, absent = file_loaders(paths, films, folder, size)
    ours = Case("cxr, default recipe", "ours", run_through(film_data(store).train_dataloader(), n))
    cases = [ours, Case("the recipe alone, films in memory", "limit", bare), *peers]
    return Contest("Training batches, one core", "films", cases, [(ours.name, case.name) for case in cases[1:]], absent)


def keyed(store: Store, size: float) -> Contest:
    n = max(BATCH, int(2048 * size))
    resident, augment = np.array(store.images[:n]), recipe()
    keys = [film_key(image_id) for image_id in store.image_ids[:n]]
    stream = A.Compose(recipe().transforms)
    stream.set_random_seed(0)

    def each() -> int:
        for film, key in zip(resident, keys, strict=True):
            augment(film, 0, key)
        return n

    def unkeyed() -> int:
        for film in resident:
            stream(image=film)
        return n

    cases = [Case("one generator, its counter set for every film", "ours", each), Case("one stream for all films", "peer", unkeyed)]
    return Contest("Augmentation keyed by film, one core", "films", cases, [(cases[1].name, cases[0].name)])


def evaluation(store: Store, films: np.ndarray, folder: Path, size: float) -> Contest:
    n = len(store.images) // BATCH * BATCH
    loader = film_data(store).predict_loader(np.arange(n))

    def copy() -> int:
        for start in range(0, n, BATCH):
            np.copyto(np.empty((BATCH, STORED, STORED), np.uint8), store.images[start : start + BATCH])
        return n

    peers, absent = pixel_stores(films, folder, size)
    ours = Case("cxr, raw fetch", "ours", run_through(loader, n))
    cases = [ours, Case("memcpy of the same bytes", "limit", copy), *peers]
    return Contest(f"Evaluation batches of {STORED} pixels, one core", "films", cases, [(ours.name, case.name) for case in cases[1:]], absent)


def workers(store: Store) -> Contest:
    cases = []
    for number in (1, 2):
        loader = film_data(store, number).train_dataloader()
        cases.append(Case(f"{number} worker process{'es' * (number > 1)}", "ours", run_through(loader, len(store.images))))
    return Contest("Training batches from worker processes", "films", cases, [(cases[1].name, cases[0].name)])


def cold(store: Store, path: Path, size: float) -> Contest:
    """Films that are not in memory, read in several orders: what a store larger than memory costs."""
    handle, rng, n = os.open(path, os.O_RDONLY), np.random.default_rng(0), len(store.images)
    n_read = max(BATCH, int(2048 * size) // BATCH * BATCH)
    out = np.empty((BATCH, STORED, STORED), np.uint8)

    def forget() -> None:
        store.release()
        os.posix_fadvise(handle, HEADER_BYTES, 0, os.POSIX_FADV_DONTNEED)

    def in_blocks_of(films: int) -> np.ndarray:
        """Whole blocks in random order, films shuffled among sixteen of them."""
        blocks = rng.permutation(n // films)[:, None] * films + np.arange(films)
        return np.concatenate([rng.permutation(part.ravel()) for part in np.array_split(blocks, max(1, len(blocks) // 16))])

    def read(order: Callable[[], np.ndarray], announced: bool) -> Callable[[], int]:
        def work() -> int:
            for rows in order()[:n_read].reshape(-1, BATCH):
                if announced:
                    store.announce(rows)
                np.take(store.images, rows, axis=0, out=out, mode="clip")
            return n_read

        return work

    cases = [
        Case("cxr: any order, each batch announced", "ours", read(lambda: rng.permutation(n), True), forget),
        Case("any order, film after film", "peer", read(lambda: rng.permutation(n), False), forget),
        Case("shuffled in blocks of 16 films", "peer", read(lambda: in_blocks_of(16), False), forget),
        Case("in order", "limit", read(lambda: np.arange(n), False), forget),
    ]
    return Contest("Films that are not in memory", "films", cases, [(cases[0].name, case.name) for case in cases[1:]])


MEMORY = """
import sys
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024
import torch
torch.zeros(1)
bare = resident()
from pathlib import Path
from cxr.benchmark.loader import film_data
from cxr.data.store import open_store
data = film_data(open_store(Path(sys.argv[1])))
peak = 0
for loader, n in ((data.train_dataloader(), 8192), (data.val_dataloader(), None)):
    for i, batch in enumerate(loader):
        peak = max(peak, resident())
        if n and i * len(batch["image"]) > n:
            break
print(bare, peak)
"""


def memory(folder: Path, n_films: int) -> dict:
    """Resident memory of a process that loads: 8,192 augmented films in random order, then every film once."""
    title = f"Resident memory of the loading process, {n_films:,} films in the store"
    if not Path("/proc/self/status").exists():
        return {"title": title, "facts": []}
    sparse_store(folder / "sparse", n_films)
    run = subprocess.run([sys.executable, "-c", MEMORY, str(folder / "sparse")], capture_output=True, text=True, check=True)
    bare, peak = map(int, run.stdout.split())
    facts = [("torch alone", bare), ("loading, at most", peak), ("over torch alone", peak - bare)]
    return {"title": title, "facts": [{"name": name, "value": value / 1e6, "unit": "MB"} for name, value in facts]}
