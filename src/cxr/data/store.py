"""The image store: every film decoded and resized once, so that training reads a memory-mapped array and never a PNG.

A store is a folder: images.npy (N, size, size) uint8, image_ids.npy (N,), meta.json, quarantine.csv (files that could not be read, with the reason).
It is written into `<folder>.partial` and renamed when it is whole. A prepare that was killed goes on from its last recorded film. meta.json holds checksums of
everything, itself included; of images.npy, which has gigabytes, opening checks the size and some pages, and scripts/prepare.py all of it.
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
from typing import Any, BinaryIO

import cv2
import numpy as np
from tqdm import tqdm

from cxr.atomic import sync, write_whole
from cxr.data.decode import RULE, DecodeError, decode

# films between two points from which a killed prepare can go on: about ten seconds of work
RECORD_EVERY = 512
# pages of images.npy that are looked at when a store is opened, evenly spaced: some milliseconds
N_PAGES = 64
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
        handle: the open images.npy.
        opened: its size and time of change at that moment.
    """

    images: np.ndarray
    image_ids: np.ndarray
    quarantine: dict[str, str]
    meta: dict[str, Any]
    file: mmap.mmap | None = None
    handle: BinaryIO | None = None
    opened: tuple[int, int] = (0, 0)

    def changed(self) -> str | None:
        """What happened to images.npy, if it was written to or cut since it was opened: other pixels, or the end of the process without a word (SIGBUS)."""
        if self.handle is None:
            return None
        now = os.fstat(self.handle.fileno())
        if (now.st_size, now.st_mtime_ns) == self.opened:
            return None
        return (
            f"{self.handle.name} was changed while it was read: it had {self.opened[0]} bytes and has {now.st_size}. Find out what writes there; then"
            " delete that store, prepare it again, and go on with: python train.py resume=<run folder>"
        )

    def require_unchanged(self) -> None:
        """StoreError with `changed`."""
        if told := self.changed():
            raise StoreError(told)

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
        meta = json.loads((folder / "meta.json").read_bytes())
        if "sha256" not in meta:
            raise StoreError("made by an older version, which kept no checksums")
        if meta["sha256"] != _meta_sha256(meta):
            raise StoreError("meta.json was changed")
        opened = {name: (folder / name).read_bytes() for name in ("image_ids.npy", "quarantine.csv")}
        for name, content in opened.items():
            if hashlib.sha256(content).hexdigest() != meta["files"][name]["sha256"]:
                raise StoreError(f"{name} is not what was written")
        handle = (folder / "images.npy").open("rb", buffering=0)
        status = os.fstat(handle.fileno())
        if status.st_size != meta["files"]["images.npy"]["n_bytes"]:
            raise StoreError(f"images.npy has {status.st_size} bytes, and had {meta['files']['images.npy']['n_bytes']}")
        if _pages_sha256(handle.fileno(), status.st_size) != meta["files"]["images.npy"]["pages_sha256"]:
            raise StoreError("images.npy is not what was written")
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        image_ids = np.load(io.BytesIO(opened["image_ids.npy"]), allow_pickle=False)
        quarantine = {row["image_id"]: row["reason"] for row in csv.DictReader(io.StringIO(opened["quarantine.csv"].decode(), newline=""))}
        expected = (meta["n_images"], meta["size"], meta["size"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"the image store at {folder} is damaged ({error}): delete the folder and prepare it again") from error
    if images.shape != expected or images.dtype != np.uint8 or image_ids.shape != expected[:1]:
        raise StoreError(
            f"the image store at {folder} is damaged (images {images.shape} {images.dtype}, meta.json says {expected} uint8):"
            " delete the folder and prepare it again"
        )
    return Store(np.asarray(images), image_ids, quarantine, meta, file=images.base, handle=handle, opened=(status.st_size, status.st_mtime_ns))


def seal(folder: Path, meta: dict[str, Any], images_sha256: str | None = None) -> None:
    """Writes meta.json, the last file of a store, with what the others must be.

    Args:
        folder: holds the other three files.
        meta: n_images, size and whatever else is to be kept.
        images_sha256: of images.npy; None where nobody will ask for all of it.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in ("image_ids.npy", "quarantine.csv"):
        files[name] = {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        sync(folder / name)
    with (folder / "images.npy").open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        files["images.npy"] = {"n_bytes": n_bytes, "sha256": images_sha256, "pages_sha256": _pages_sha256(file.fileno(), n_bytes)}
    meta = meta | {"files": files}
    write_whole(folder / "meta.json", (json.dumps(meta | {"sha256": _meta_sha256(meta)}, indent=1) + "\n").encode())


def _meta_sha256(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps({key: value for key, value in meta.items() if key != "sha256"}, sort_keys=True).encode()).hexdigest()


def _pages_sha256(handle: int, n_bytes: int) -> str:
    """Of the first page, the last, and some between."""
    digest = hashlib.sha256()
    for start in np.linspace(0, max(0, n_bytes - mmap.PAGESIZE), N_PAGES).astype(int).tolist():
        digest.update(os.pread(handle, mmap.PAGESIZE, start))
    return digest.hexdigest()


def images_sha256(path: Path) -> str:
    """Of the whole of images.npy, with a progress bar."""
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm(total=path.stat().st_size, desc="checking images", unit="B", unit_scale=True, disable=None) as bar:
        while block := file.read(2**24):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def verify_store(store: Store, folder: Path) -> None:
    """Reads every byte of a store; StoreError if one is not what was written. `open_store` has seen the rest."""
    expected = store.meta["files"]["images.npy"]["sha256"]
    if images_sha256(folder / "images.npy") != expected:
        raise StoreError(f"the image store at {folder} is damaged (images.npy is not what was written): delete the folder and prepare it again")


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
                try:
                    _write_store(folder, partial, paths, size, identity, n_threads or os.cpu_count() or 1)
                except OSError as error:
                    error.filename = error.filename or str(partial)  # a write that fails does not say of itself where
                    raise
    store = open_store(folder)
    check_store(store, folder, image_ids, size)
    return store


def _is_whole(folder: Path) -> bool:
    return (folder / "meta.json").is_file()


def _write_store(folder: Path, partial: Path, paths: Mapping[str, Path], size: int, identity: dict[str, Any], n_threads: int) -> None:
    if _is_whole(partial):  # killed between its last file and its name
        try:
            meta = open_store(partial).meta
        except StoreError:
            meta = {}
        if all(meta.get(key) == value for key, value in identity.items()):
            _give_name(partial, folder)
            return
        (partial / "meta.json").unlink()
    progress = _read_progress(partial, identity)
    quarantine: dict[str, str] = dict(progress["quarantine"])
    _append_images(partial, paths, size, quarantine, progress["n_done"], identity, n_threads)

    kept = [image_id for image_id in paths if image_id not in quarantine]
    np.save(partial / "image_ids.npy", np.array(kept, dtype=str))
    with (partial / "quarantine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "reason"), *quarantine.items()])
    # read once more, from the system's cache: a killed prepare went on from films that it had not hashed
    seal(partial, identity | {"n_images": len(kept), "n_quarantined": len(quarantine)}, images_sha256(partial / "images.npy"))
    _give_name(partial, folder)


def _give_name(partial: Path, folder: Path) -> None:
    for name in ("progress.json", "lock"):
        (partial / name).unlink(missing_ok=True)
    partial.rename(folder)
    sync(folder.parent)


def _read_progress(partial: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """How far an interrupted prepare of the same list, size and rule came; from the start if there was none."""
    try:
        progress = json.loads((partial / "progress.json").read_bytes())
        n_safe = HEADER_BYTES + (progress["n_done"] - len(progress["quarantine"])) * identity["size"] ** 2
        if progress["identity"] == identity and progress["n_done"] >= 0 and n_safe <= (partial / "images.npy").stat().st_size:
            return progress
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # of another version, or damaged: the films are all still there
    return {"n_done": 0, "quarantine": {}}


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
                if isinstance(result.__cause__, OSError) and not os.path.lexists(todo[position - n_done]):
                    raise StoreError(
                        f"{todo[position - n_done]} was there and is gone: is the disk still mounted? Films that were prepared are kept in {partial}, and"
                        " preparing goes on from there when it is started again"
                    )
                quarantine[ids[position]] = str(result)
            else:
                file.write(result)
            if (position + 1) % RECORD_EVERY == 0:
                file.flush()
                os.fsync(file.fileno())
                progress = {"identity": identity, "n_done": position + 1, "quarantine": quarantine}
                write_whole(partial / "progress.json", json.dumps(progress).encode())
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
