"""The image store: every film decoded and resized once, so that training reads a memory-mapped array and never a PNG or a DICOM file.

A store is a folder: images.npy (N, size, size) uint8, image_ids.npy (N,), meta.json, quarantine.csv (files that could not be read, with the reason).
Films come as files, or stream out of archives in whatever order those hold them; the store is the same.
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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import cv2
import numpy as np
from tqdm import tqdm

from cxr.atomic import sync, write_whole
from cxr.data.decode import USUAL, DecodeError, Reading, decode, is_dicom
from cxr.dicom import load

# films between two points from which a killed prepare can go on: about ten seconds of work
RECORD_EVERY = 512
# pages of images.npy that are looked at when a store is opened, evenly spaced: some milliseconds
N_PAGES = 64
# np.save pads its header to a multiple of 64 bytes; for any shape of ours it needs 128
HEADER_BYTES = 128


class StoreError(ValueError):
    """The store is not there, not whole, or was made from something else."""


class Archive(Protocol):
    """A file that holds many films, to be read once from its beginning to its end."""

    @property
    def name(self) -> str:
        """Of the file."""

    @property
    def fingerprint(self) -> str:
        """Changes when the file does."""

    def films(self) -> Iterator[tuple[str, bytes]]:
        """(image_id, content) in the archive's order; other names too."""


@dataclass(frozen=True)
class Content:
    """A film's file that has been read already, to be opened as its path would be."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def open(self, mode: str = "rb") -> IO[bytes]:
        return io.BytesIO(self.data)


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


def check_store(store: Store, folder: Path, image_ids: list[str], size: int, rule: str, streams: dict[str, Any]) -> None:
    """Raises StoreError, naming what differs, if the store was made from another list of images, at another size, by another rule, or from other archives.

    Args:
        store: it.
        folder: in which it lies.
        image_ids: of the films that lie there as files.
        size: side in pixels that is wanted.
        rule: by which films are to be read.
        streams: what `_streams` says of the archives that lie there; empty if there are none.
    """
    wanted: dict[str, Any] = {"size": size, "rule": rule}
    if not streams:
        wanted["list_sha256"] = list_sha256(image_ids)
    differing = [f"{key}: store {store.meta.get(key)!r}, now {value!r}" for key, value in wanted.items() if store.meta.get(key) != value]
    if streams:
        # what an archive holds is known to the store alone: reading it again would take minutes
        made_from = store.meta.get("archives", {})
        changed = [name for name, fingerprint in streams["archives"].items() if made_from.get(name) != fingerprint]
        strange = set(image_ids) - set(store.image_ids.tolist()) - store.quarantine.keys()
        differing += [f"archives: {', '.join(changed)} changed or new since"] * bool(changed)
        differing += [f"films: {len(strange)} lie in the folders and not in the store, the first is {min(strange, default='')}"] * bool(strange)
        differing += ["the list of images that are wanted"] * (store.meta.get("wanted_sha256", streams["wanted_sha256"]) != streams["wanted_sha256"])
    if differing:
        listed = store.meta["n_images"] + len(store.quarantine)
        raise StoreError(
            f"the image store at {folder} was made from something else ({', '.join(differing)}; it lists {listed} images, now"
            f" {'at least ' * bool(streams)}{len(image_ids)}).\n"
            "  Delete that folder to make it anew, or name another: data.store_dir=/path"
        )


def build_store(
    folder: Path,
    paths: Mapping[str, Path],
    *,
    size: int,
    source: str,
    package_version: str,
    reading: Reading = USUAL,
    n_threads: int | None = None,
    archives: Sequence[Archive] = (),
    wanted: Collection[str] = (),
) -> Store:
    """Decodes every film into a new store, or opens the one that is there.

    Args:
        folder: the store's folder.
        paths: image_id -> file, in sorted order; the store's rows are sorted by image_id.
        size: side of the stored images in pixels.
        source: what the films are, for meta.json.
        package_version: for meta.json.
        reading: how films that are not square, and DICOM films, become squares of grey.
        n_threads: decoding threads; None uses every core (OpenCV releases the interpreter lock).
        archives: to take films from that are not in `paths`.
        wanted: image ids to take from them; whatever else they hold is left.

    Raises:
        StoreError: a store is there and was made from something else, or there is nothing to make one from, or an image stands twice in the archives.
        MissingPackageError: a film is DICOM, and what reads it is not installed.
        Whatever the archives raise: films before that are kept.
    """
    image_ids = list(paths)
    rule = reading.rule(paths.values())
    identity = {"source": source, "size": size, "rule": rule, "list_sha256": list_sha256(image_ids), "package_version": package_version}
    streams = _streams(archives, wanted)
    partial = folder.with_name(folder.name + ".partial")
    if not _is_whole(folder):
        if not paths and not archives:
            raise StoreError(f"no image was found to make the store {folder} from")
        if any(is_dicom(path) for path in paths.values()):
            load()  # or says what is missing, before a folder is made
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process of the same job waits here, and finds the store made
            if _is_whole(folder):
                shutil.rmtree(partial, ignore_errors=True)
            else:
                films = Films(paths, archives, frozenset(wanted))
                try:
                    _write_store(folder, partial, films, size, reading, identity, streams, n_threads or os.cpu_count() or 1)
                except OSError as error:
                    error.filename = error.filename or str(partial)  # a write that fails does not say of itself where
                    raise
    store = open_store(folder)
    check_store(store, folder, image_ids, size, rule, streams)
    return store


def _streams(archives: Sequence[Archive], wanted: Collection[str]) -> dict[str, Any]:
    """What tells one set of archives, and the films wanted from them, from another; empty if there are none."""
    if not archives:
        return {}
    return {"wanted_sha256": list_sha256(sorted(wanted)), "archives": {archive.name: archive.fingerprint for archive in archives}}


def _is_whole(folder: Path) -> bool:
    return (folder / "meta.json").is_file()


@dataclass(frozen=True)
class Film:
    """One that is to be decoded.

    Attributes:
        image_id: its name.
        source: where its file is.
        archive: the archive that it comes from; "" for a file of its own.
        last: no film: the archive has been read to its end.
    """

    image_id: str
    source: Path | Content
    archive: str = ""
    last: bool = False


@dataclass(frozen=True)
class Films:
    """What a store is made from: files, then archives."""

    paths: Mapping[str, Path]
    archives: Sequence[Archive]
    wanted: frozenset[str]

    def after(self, progress: "Progress") -> Iterator[Film]:
        """The films that are still to be done."""
        for image_id in list(self.paths)[progress.n_done :]:
            yield Film(image_id, self.paths[image_id])
        elsewhere = {image_id: name for name, image_ids in progress.streamed.items() for image_id in image_ids}
        for archive in self.archives:
            if archive.name in progress.finished:
                continue
            seen = set[str]()
            for image_id, data in archive.films():
                # what lies unpacked is taken from there
                if image_id not in self.wanted or image_id in self.paths:
                    continue
                if image_id in seen or elsewhere.get(image_id, archive.name) != archive.name:
                    where = f"twice in {archive.name}" if image_id in seen else f"in {elsewhere[image_id]} and in {archive.name}"
                    raise StoreError(f"{image_id} lies {where}: nobody could say which one was used. Take one away, or unpack the right one into images/")
                seen.add(image_id)
                if image_id not in elsewhere:
                    yield Film(image_id, Content(image_id, data), archive.name)
            elsewhere |= dict.fromkeys(seen, archive.name)
            yield Film("", Content("", b""), archive.name, last=True)


@dataclass
class Progress:
    """How far a prepare came.

    Attributes:
        identity: of what is made.
        n_done: files done.
        streamed: archive -> films taken from it, in its order.
        finished: archive -> fingerprint, of those read to their end.
        quarantine: image_id -> why it could not be read.
    """

    identity: dict[str, Any]
    n_done: int = 0
    streamed: dict[str, list[str]] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    quarantine: dict[str, str] = field(default_factory=dict)

    @property
    def n_films(self) -> int:
        return self.n_done + sum(map(len, self.streamed.values()))

    def image_ids(self, paths: Mapping[str, Path]) -> list[str]:
        """Of the films that are done, in the order in which they were."""
        return [*list(paths)[: self.n_done], *(image_id for image_ids in self.streamed.values() for image_id in image_ids)]


def _write_store(
    folder: Path, partial: Path, films: Films, size: int, reading: Reading, identity: dict[str, Any], streams: dict[str, Any], n_threads: int
) -> None:
    if _is_whole(partial):  # killed between its last file and its name
        try:
            meta = open_store(partial).meta
        except StoreError:
            meta = {}
        # the list of a store that archives went into is known only when they have been read
        if all(meta.get(key) == value for key, value in (identity | streams).items() if not (streams and key == "list_sha256")):
            _give_name(partial, folder)
            return
        (partial / "meta.json").unlink()
    progress = _read_progress(partial, identity | ({"wanted_sha256": streams["wanted_sha256"]} if streams else {}), streams.get("archives", {}))
    _append_images(partial, films, size, reading, progress, n_threads)

    image_ids = progress.image_ids(films.paths)
    if not image_ids:
        raise StoreError(f"no image that the labels know was found in {', '.join(archive.name for archive in films.archives)}")
    kept = [image_id for image_id in image_ids if image_id not in progress.quarantine]
    _sort_images(partial, kept, size)
    np.save(partial / "image_ids.npy", np.array(sorted(kept), dtype=str))
    with (partial / "quarantine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "reason"), *sorted(progress.quarantine.items())])
    meta = identity | streams | {"list_sha256": list_sha256(sorted(image_ids)), "n_images": len(kept), "n_quarantined": len(progress.quarantine)}
    # read once more, from the system's cache: a killed prepare went on from films that it had not hashed
    seal(partial, meta, images_sha256(partial / "images.npy"))
    _give_name(partial, folder)


def _sort_images(partial: Path, image_ids: list[str], size: int) -> None:
    """Brings rows into the order of their image ids, where an archive had another."""
    order = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    if order == list(range(len(image_ids))):
        return
    with (partial / "images.npy").open("rb") as file, (partial / "sorted.npy").open("wb") as into:
        into.write(file.read(HEADER_BYTES))
        for row in tqdm(order, desc="sorting images", unit="img", disable=None):
            into.write(os.pread(file.fileno(), size * size, HEADER_BYTES + row * size * size))
        into.flush()
        os.fsync(into.fileno())
    # whoever is killed from here on finds rows that are sorted and a record that is not, so the record goes first
    (partial / "progress.json").unlink(missing_ok=True)
    (partial / "sorted.npy").replace(partial / "images.npy")


def _give_name(partial: Path, folder: Path) -> None:
    for name in ("progress.json", "lock"):
        (partial / name).unlink(missing_ok=True)
    partial.rename(folder)
    sync(folder.parent)


def _read_progress(partial: Path, identity: dict[str, Any], archives: dict[str, str]) -> Progress:
    """How far an interrupted prepare of the same films, size and rule came; from the start if there was none."""
    try:
        progress = Progress(**json.loads((partial / "progress.json").read_bytes()))
        n_safe = HEADER_BYTES + (progress.n_films - len(progress.quarantine)) * identity["size"] ** 2
        # an archive that was read in part may have been fetched again since; one that was read whole must be the same
        same = progress.streamed.keys() <= archives.keys() and progress.finished.items() <= archives.items()
        if progress.identity == identity and same and progress.n_done >= 0 and n_safe <= (partial / "images.npy").stat().st_size:
            return progress
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # of another version, or damaged: the films are all still there
    return Progress(identity)


def _append_images(partial: Path, films: Films, size: int, reading: Reading, progress: Progress, n_threads: int) -> None:
    """Appends the films that are still to be done to images.npy, recording from time to time how many are safe on disk.

    Rows are appended, not scattered, so that a quarantined film leaves no gap; the header, which holds N, is written last.
    """
    path = partial / "images.npy"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + (progress.n_films - len(progress.quarantine)) * size * size)
        file.seek(0, os.SEEK_END)

        def record() -> None:
            file.flush()
            os.fsync(file.fileno())
            write_whole(partial / "progress.json", json.dumps(asdict(progress)).encode())

        total = max(len(films.paths), len(films.wanted) if films.archives else 0)
        fingerprints = {archive.name: archive.fingerprint for archive in films.archives}
        with tqdm(desc="preparing images", unit="img", total=total, initial=progress.n_films, disable=None) as bar:
            try:
                for film, result in decode_in_order(films.after(progress), size, reading, n_threads=n_threads, ahead=4 * n_threads):
                    if film.last:
                        progress.finished[film.archive] = fingerprints[film.archive]
                        continue
                    if isinstance(result, DecodeError):
                        _refuse_vanished(film, result, partial)
                        progress.quarantine[film.image_id] = str(result)
                    else:
                        file.write(result)
                    if film.archive:
                        progress.streamed.setdefault(film.archive, []).append(film.image_id)
                    else:
                        progress.n_done += 1
                    if progress.n_films % RECORD_EVERY == 0:
                        record()
                    bar.update()
            except ValueError:  # of an archive, or ours: what was done stays done
                record()
                raise
        header = io.BytesIO()
        shape = (progress.n_films - len(progress.quarantine), size, size)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        assert len(header.getvalue()) == HEADER_BYTES
        file.seek(0)
        file.write(header.getvalue())
        file.flush()
        os.fsync(file.fileno())


def _refuse_vanished(film: Film, error: DecodeError, partial: Path) -> None:
    if isinstance(film.source, Path) and isinstance(error.__cause__, OSError) and not os.path.lexists(film.source):
        raise StoreError(
            f"{film.source} was there and is gone: is the disk still mounted? Films that were prepared are kept in {partial}, and"
            " preparing goes on from there when it is started again"
        )


def decode_in_order(
    films: Iterable[Film], size: int, reading: Reading, *, n_threads: int, ahead: int
) -> Iterator[tuple[Film, np.ndarray | DecodeError | None]]:
    """Decodes on a pool of threads, some films ahead of whoever takes them, so that memory stays flat for any number of films.

    What ends `films` too early is raised after all before it has been given out.

    Args:
        films: any number of them.
        size: side in pixels that is wanted.
        reading: what is up to the user.
        n_threads: that decode.
        ahead: films at most that are decoded and not yet taken.
    """

    def attempt(film: Film) -> np.ndarray | DecodeError | None:
        try:
            return None if film.last else decode(film.source, size, reading)  # type: ignore[arg-type]
        except DecodeError as error:
            return error

    cv2.setNumThreads(1)  # one film per thread; OpenCV's own threads would only compete
    failure: Exception | None = None
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = deque[tuple[Film, Future[np.ndarray | DecodeError | None]]]()
        films = iter(films)
        while True:
            try:
                film = next(films)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            waiting.append((film, pool.submit(attempt, film)))
            if len(waiting) > ahead:
                film, future = waiting.popleft()
                yield film, future.result()
        while waiting:
            film, future = waiting.popleft()
            yield film, future.result()
    if failure is not None:
        raise failure
