"""Films to measure with: the user's, or drawn ones, and a store of them."""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cxr.benchmark.command import Settings
from cxr.data.decode import decode
from cxr.data.store import Store, open_store, seal

SIDE, STORED = 1024, 256  # pixels


def film_paths(settings: Settings, folder: Path, n_films: int) -> list[Path]:
    """PNG films of 1024 x 1024: some of `images`, or drawn into the folder."""
    if settings.images:
        found = sorted(Path(settings.images).glob("*.png"))
        return found[:: max(1, len(found) // n_films)][:n_films]
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:08d}_000.png" for i in range(n_films)]
    for path in tqdm(paths, desc="drawing films", unit="film", leave=False, disable=None):
        # shades that change slowly and the grain of a film: the PNG comes to about 400 KB, as those of ChestX-ray14 do
        shades = cv2.resize(rng.uniform(20, 230, (8, 8)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), np.clip(shades + rng.normal(0, 1.5, shades.shape), 0, 255).astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return paths


def make_store(folder: Path, paths: list[Path], n_films: int, side: int = STORED) -> Store:
    """A store of n_films, in which the given ones repeat."""
    folder.mkdir()
    films = np.stack([decode(path, side) for path in paths])
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(n_films, side, side))
    for start in range(0, n_films, len(films)):
        images[start : start + len(films)] = films[: n_films - start]
    images.flush()
    return finish_store(folder, n_films, side)


def sparse_store(folder: Path, n_films: int) -> Store:
    """A store of black films that takes no room on disk."""
    folder.mkdir()
    with (folder / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n_films, STORED, STORED)})
        file.truncate(file.tell() + n_films * STORED**2)
    return finish_store(folder, n_films, STORED)


def finish_store(folder: Path, n_films: int, side: int) -> Store:
    np.save(folder / "image_ids.npy", np.array([f"{i:08d}_000.png" for i in range(n_films)]))
    (folder / "quarantine.csv").write_text("image_id,reason\n")
    seal(folder, {"n_images": n_films, "size": side})
    return open_store(folder)
