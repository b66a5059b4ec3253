"""Spoils files of every kind that the program reads, and watches: a clear refusal, or the right content; never a crash, a hang, or a wrong belief."""

import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cxr.trials.fuzz_readers import Reader, WrongError, readers

# what a reader may take for one small file
SECONDS, MEMORY = 10.0, 3 * 2**30


@dataclass
class Outcome:
    """Of one reader.

    Attributes:
        n_refused, n_accepted: inputs.
        failures: (file, seed, what happened) of each crash, hang or wrong belief.
        said: messages of refusals without their particulars, and how often.
    """

    n_refused: int = 0
    n_accepted: int = 0
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)


# --- spoiling ---------------------------------------------------------------------------------------------------------------------------------------

TOKENS = (
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b",", b"|", b"../", b"/", b"\\", b"=", b"{", b"}", b"[", b"]", b":", b"null"),
    *(b"NaN", b"-1", b"1e999", b"0", b"99999999999999999999", b"4294967295", b"YES", b"NO", b"HEDGE", b"No Finding", b"Effusion", b"true", b"<script>"),
    *("٣".encode(), "é".encode(), b"A" * 5000, b"[" * 3000, b"${oc.env:HOME}", b"!!python/object/apply:os.system [id]", b"\x80", b"\x7f\xff\xff\xff"),
)


def spoil(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: a bit, a byte, a piece taken out, doubled, moved or replaced by a word that readers trip over; or an end cut off."""
    spoiled = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(spoiled) + 1)), int(2 ** rng.uniform(0, 8))
        if rng.random() < 0.3:
            at = min(at, int(2 ** rng.uniform(0, 8)))  # headers are small, and matter
        match int(rng.integers(8)):
            case 0 if spoiled:
                spoiled[min(at, len(spoiled) - 1)] ^= 1 << int(rng.integers(8))
            case 1 if spoiled:
                spoiled[min(at, len(spoiled) - 1)] = int(rng.integers(256))
            case 2:
                del spoiled[at : at + length]
            case 3:
                spoiled[at:at] = spoiled[at : at + length]
            case 4:
                piece = bytes(spoiled[at : at + length])
                del spoiled[at : at + length]
                to = int(rng.integers(len(spoiled) + 1))
                spoiled[to:to] = piece
            case 5:
                token = TOKENS[int(rng.integers(len(TOKENS)))]
                spoiled[at : at + (len(token) if rng.random() < 0.5 else 0)] = token
            case 6 if rng.random() < 0.3:
                del spoiled[at:]
            case 7:
                spoiled[at : at + length] = bytes(len(spoiled[at : at + length]))
    return bytes(spoiled)


# --- the trial --------------------------------------------------------------------------------------------------------------------------------------


More = Callable[[Path], list[Reader]]


def fuzz(folder: Path, *, n_inputs: int, seed: int, n_processes: int, real: Path | None = None, more: More | None = None) -> dict[str, Outcome]:
    """Spoils and reads so many files, shared evenly among the readers.

    Args:
        folder: for the sound files; every failure's input is kept in `failures/`.
        n_inputs: over all readers.
        seed: of the spoiling: input i of a reader is a function of (seed, reader, i).
        n_processes: side by side.
        real: see `readers`.
        more: further readers, whose sound files go into a folder; a function of a module, for it goes to other processes.
    """
    (folder / "failures").mkdir(parents=True)
    mini = folder / "mini"
    names = [reader.name for reader in _all_readers(folder, mini, real, more)]
    each = -(-n_inputs // len(names))
    pieces = [(name, start, min(start + 50, each)) for start in range(0, each, 50) for name in names]
    outcomes = {name: Outcome() for name in names}
    with (
        ProcessPoolExecutor(
            n_processes, multiprocessing.get_context("spawn"), initializer=_prepare_process, initargs=(mini, real, more, seed, folder / "failures")
        ) as pool,
        tqdm(total=each * len(names), desc="reading spoiled files", unit="file", disable=None) as bar,
    ):
        for (name, start, stop), found in zip(pieces, pool.map(_read_piece, pieces), strict=True):
            total = outcomes[name]
            total.n_refused, total.n_accepted = total.n_refused + found.n_refused, total.n_accepted + found.n_accepted
            total.failures += found.failures
            total.said += found.said
            bar.update(stop - start)
    shutil.rmtree(mini)
    return outcomes


_readers: dict[str, Reader] = {}
_place: tuple[int, Path] = (0, Path())


def _all_readers(folder: Path, mini: Path, real: Path | None, more: More | None) -> list[Reader]:
    found = readers(folder, mini, real)
    if more:
        (folder / "more").mkdir()
        found += more(folder / "more")
    return found


def _prepare_process(mini: Path, real: Path | None, more: More | None, seed: int, failures: Path) -> None:
    global _place
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        _readers.update({reader.name: reader for reader in _all_readers(Path(temporary), mini, real, more)})
    _place = seed, failures
    size = int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_slow)


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"it took more than {SECONDS:g} s")


def _read_piece(piece: tuple[str, int, int]) -> Outcome:
    name, start, stop = piece
    reader, outcome = _readers[name], Outcome()
    for number in range(start, stop):
        file, content = spoiled_input(reader, _place[0], number)
        told = try_one(reader, file, content)
        if told is None:
            outcome.n_accepted += 1
        elif told[0] == "refused":
            outcome.n_refused += 1
            outcome.said[told[1]] += 1
        else:
            outcome.failures.append((file, number, told[1]))
            (_place[1] / f"{name.replace(' ', '_')}_{number}_{Path(file).name}").write_bytes(content)
    return outcome


def spoiled_input(reader: Reader, seed: int, number: int) -> tuple[str, bytes]:
    """(which file, its spoiled content), the same for the same seed and number."""
    rng = np.random.default_rng([seed, zlib.crc32(reader.name.encode()), number])
    file = list(reader.files)[int(rng.integers(len(reader.files)))]
    content = spoil(reader.files[file], rng)
    while content == reader.files[file]:  # zeros where there were zeros
        content = spoil(content, rng)
    return file, reader.mend(content) if reader.mend and rng.random() < 0.6 else content


def try_one(reader: Reader, file: str, content: bytes) -> tuple[str, str] | None:
    """Reads one spoiled file among its sound companions: None if it was accepted and rightly so, ("refused", message) or ("failed", what happened)."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as temporary:
        folder = Path(temporary)
        alone = {file: content} if reader.name.startswith("films") else reader.files | {file: content}
        for name, whole in alone.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(whole)
        with _bounded():
            try:
                reader.check(file, content, reader.read(folder))
            except WrongError as error:
                return "failed", f"wrong: {error}"
            except Exception as error:
                if type(error).__module__.startswith("cxr.") or type(error).__module__.startswith("omegaconf"):
                    return ("refused", f"{type(error).__name__}") if str(error).strip() else ("failed", f"{type(error).__name__} without a word")
                return "failed", "".join(traceback.format_exception(error))[-1500:]
    return None


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def summary(outcomes: dict[str, Outcome]) -> str:
    """A table: files read, refused with a message, accepted rightly, failed."""
    rows = ["| kind | spoiled | refused with a message | accepted, rightly | failed |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        numbers = (outcome.n_refused + outcome.n_accepted + len(outcome.failures), outcome.n_refused, outcome.n_accepted, len(outcome.failures))
        rows.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    total = [sum(column) for column in zip(*((o.n_refused, o.n_accepted, len(o.failures)) for o in outcomes.values()), strict=True)]
    return "\n".join([*rows, f"| all | {sum(total):,} | {total[0]:,} | {total[1]:,} | {total[2]:,} |"])
