"""The image store: every film decoded and resized once, so that training reads a memory-mapped array and never a PNG.

A store is a folder: images.npy (N, size, size) uint8, image_ids.npy (N,), meta.json, quarantine.csv (files that could not be read, with the reason).
It is written into `<folder>.partial` and renamed when it is whole. A prepare that was killed goes on from its last recorded film.
"""

import csv
import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cxr.data.decode import RULE, DecodeError, decode

# films between two points from which a killed prepare can go on: about ten seconds of work
RECORD_EVERY = 512
# np.save pads its header to a multiple of 64 bytes; for any shape of ours it needs 128
HEADER_BYTES = 128


class StoreError(ValueError):
    """The store is not there, not whole, or was made from something else."""


@dataclass(frozen=True)
class Store:
    """An open store.

    Attributes:
        images: (N, size, size) uint8, memory-mapped: opening costs nothing, reading a row reads that row.
        image_ids: (N,) str, sorted; row i of `images` is image_ids[i].
        quarantine: image_id -> why its file could not be read.
        meta: size, rule, list_sha256, n_images, package_version, ... as in meta.json.
        file: what `images` is mapped from; None for an array in memory.
    """

    images: np.ndarray
    image_ids: np.ndarray
    quarantine: dict[str, str]
    meta: dict[str, Any]
    file: mmap.mmap | None = None

    @property
    def film_bytes(self) -> int:
        """Of one stored film."""
        return self.images.shape[1] ** 2

    def announce(self, rows: np.ndarray) -> None:
        """Asks the disk for films all at once, before the first of them is touched.

        Touched one after another, the films of a shuffled batch are waited for one after another: a store that is not in memory then gave 3,500 films/s,
        and 14,000 announced, as many as in order. So films are shuffled freely, not in blocks. (MADV_RANDOM, the obvious advice, gave 1,000: it turns
        read-ahead off within a film as well.)

        Args:
            rows: (n,) int, of the store.
        """
        if self.file is None or not len(rows):
            return
        rows = np.sort(rows)
        if rows[-1] - rows[0] < len(rows):
            return  # one piece of the file: the system reads ahead by itself
        nbytes = self.film_bytes
        ends = np.flatnonzero(np.diff(rows, append=rows[-1] + 2) > 1)
        for first, last in zip(rows[np.append(0, ends[:-1] + 1)].tolist(), rows[ends].tolist(), strict=True):
            start, stop = HEADER_BYTES + first * nbytes, HEADER_BYTES + (last + 1) * nbytes
            page = start - start % mmap.PAGESIZE
            self.file.madvise(mmap.MADV_WILLNEED, page, stop - page)

    def release(self) -> None:
        """Gives the pages touched so far back to the system's cache; else every process would come to own the whole store, as `top` counts."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)


def list_sha256(image_ids: list[str]) -> str:
    """What tells two source lists apart: the hash of their image ids in order."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()


def open_store(folder: Path) -> Store:
    """Maps a finished store.

    Raises:
        StoreError: nothing is there, or its files do not belong together.
    """
    if not _is_whole(folder):
        raise StoreError(f"no image store at {folder}")
    try:
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        image_ids = np.load(folder / "image_ids.npy", allow_pickle=False)
        with (folder / "quarantine.csv").open(newline="") as file:
            quarantine = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
        expected = (meta["n_images"], meta["size"], meta["size"])
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"the image store at {folder} is damaged ({error}): delete the folder and prepare it again") from error
    if images.shape != expected or images.dtype != np.uint8 or image_ids.shape != expected[:1]:
        raise StoreError(
            f"the image store at {folder} is damaged (images {images.shape} {images.dtype}, meta.json says {expected} uint8):"
            " delete the folder and prepare it again"
        )
    return Store(np.asarray(images), image_ids, quarantine, meta, file=images.base)


def check_store(store: Store, folder: Path, image_ids: list[str], size: int) -> None:
    """Raises StoreError, naming what differs, if the store was made from another list of images, at another size or by another rule."""
    wanted = {"size": size, "rule": RULE, "list_sha256": list_sha256(image_ids)}
    differing = [key for key, value in wanted.items() if store.meta.get(key) != value]
    if differing:
        told = ", ".join(f"{key}: store {store.meta.get(key)!r}, now {wanted[key]!r}" for key in differing)
        listed = store.meta["n_images"] + len(store.quarantine)
        raise StoreError(
            f"the image store at {folder} was made from something else ({told}; it lists {listed} images, now {len(image_ids)}).\n"
            "  Delete that folder to make it anew, or name another: data.store_dir=/path"
        )


def build_store(folder: Path, paths: Mapping[str, Path], *, size: int, source: str, package_version: str, n_threads: int | None = None) -> Store:
    """Decodes every film into a new store, or opens the one that is there.

    Args:
        folder: the store's folder.
        paths: image_id -> file, in sorted order; the store's rows follow it.
        size: side of the stored images in pixels.
        source: what the films are, for meta.json.
        package_version: for meta.json.
        n_threads: decoding threads; None uses every core (OpenCV releases the interpreter lock).

    Raises:
        StoreError: a store is there and was made from something else, or there is nothing to make one from.
    """
    image_ids = list(paths)
    identity = {"source": source, "size": size, "rule": RULE, "list_sha256": list_sha256(image_ids), "package_version": package_version}
    partial = folder.with_name(folder.name + ".partial")
    if not _is_whole(folder):
        if not paths:
            raise StoreError(f"no image was found to make the store {folder} from")
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process of the same job waits here, and finds the store made
            if _is_whole(folder):
                shutil.rmtree(partial, ignore_errors=True)
            else:
                _write_store(folder, partial, paths, size, identity, n_threads or os.cpu_count() or 1)
    store = open_store(folder)
    check_store(store, folder, image_ids, size)
    return store


def _is_whole(folder: Path) -> bool:
    return (folder / "meta.json").is_file()


def _write_store(folder: Path, partial: Path, paths: Mapping[str, Path], size: int, identity: dict[str, Any], n_threads: int) -> None:
    progress = _read_progress(partial, identity)
    quarantine: dict[str, str] = dict(progress["quarantine"])
    _append_images(partial, paths, size, quarantine, progress["n_done"], identity, n_threads)

    kept = [image_id for image_id in paths if image_id not in quarantine]
    np.save(partial / "image_ids.npy", np.array(kept, dtype=str))
    with (partial / "quarantine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "reason"), *quarantine.items()])
    (partial / "meta.json").write_text(json.dumps(identity | {"n_images": len(kept), "n_quarantined": len(quarantine)}, indent=1) + "\n")
    for name in ("image_ids.npy", "quarantine.csv", "meta.json"):
        _sync(partial / name)
    for name in ("progress.json", "lock"):
        (partial / name).unlink(missing_ok=True)
    partial.rename(folder)
    _sync(folder.parent)


def _read_progress(partial: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """How far an interrupted prepare of the same list, size and rule came; from the start if there was none."""
    try:
        progress = json.loads((partial / "progress.json").read_text())
    except (OSError, ValueError):
        return {"n_done": 0, "quarantine": {}}
    return progress if progress["identity"] == identity else {"n_done": 0, "quarantine": {}}


def _append_images(
    partial: Path, paths: Mapping[str, Path], size: int, quarantine: dict[str, str], n_done: int, identity: dict[str, Any], n_threads: int
) -> None:
    """Appends the films after the first n_done to images.npy in order, recording from time to time how many are safe on disk.

    Rows are appended, not scattered, so that a quarantined film leaves no gap; the header, which holds N, is written last.
    """
    ids = list(paths)
    path = partial / "images.npy"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + (n_done - len(quarantine)) * size * size)
        file.seek(0, os.SEEK_END)
        todo = [paths[image_id] for image_id in ids[n_done:]]
        bar = tqdm(_decode_in_order(todo, size, n_threads), desc="preparing images", unit="img", total=len(ids), initial=n_done, disable=None)
        for position, result in enumerate(bar, start=n_done):
            if isinstance(result, DecodeError):
                quarantine[ids[position]] = str(result)
            else:
                file.write(result)
            if (position + 1) % RECORD_EVERY == 0:
                file.flush()
                os.fsync(file.fileno())
                _write_atomically(partial / "progress.json", json.dumps({"identity": identity, "n_done": position + 1, "quarantine": quarantine}))
        header = io.BytesIO()
        shape = (len(ids) - len(quarantine), size, size)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        assert len(header.getvalue()) == HEADER_BYTES
        file.seek(0)
        file.write(header.getvalue())
        file.flush()
        os.fsync(file.fileno())


def _decode_in_order(paths: list[Path], size: int, n_threads: int) -> Iterator[np.ndarray | DecodeError]:
    """Decodes on a pool of threads, a few films ahead of the writer, so that memory stays flat for any number of films."""

    def attempt(path: Path) -> np.ndarray | DecodeError:
        try:
            return decode(path, size)
        except DecodeError as error:
            return error

    cv2.setNumThreads(1)  # one film per thread; OpenCV's own threads would only compete
    with ThreadPoolExecutor(n_threads) as pool:
        ahead = deque(pool.submit(attempt, path) for path in paths[: 4 * n_threads])
        for path in paths[4 * n_threads :]:
            yield ahead.popleft().result()
            ahead.append(pool.submit(attempt, path))
        while ahead:
            yield ahead.popleft().result()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    _sync(temporary)
    temporary.rename(path)


def _sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
