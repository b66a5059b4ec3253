"""Many files from somewhere: several at a time, each whole or not at all, with patience but not without end, and stopped by Ctrl-C without a loose end.

Whoever is interrupted starts again with the same command: what is whole is not fetched again.
"""

import contextlib
import logging
import os
import queue
import random
import shutil
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tqdm import tqdm

from cxr.atomic import claim
from cxr.sources import SourceError

log = logging.getLogger(__name__)
T = TypeVar("T")

# EX_TEMPFAIL of sysexits.h, as an interrupted training ends with
INTERRUPTED = 75
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# beside the files, out of the way of whoever lists them
PARTS = ".parts"
LOOK_S = 0.2
SAY_EVERY_S = 10.0
# for those at work to come to an end; whoever waits for a dead server is left behind
LEAVE_S = 3.0
# to connect, and between two pieces of an answer
TIMEOUT_S = (20.0, 60.0)


class InterruptedFetchError(SourceError):
    """It was asked to stop; what it fetched is kept."""

    exit_code = INTERRUPTED


class Again(Exception):
    """It did not work, and may the next time. Never leaves this room."""


class Absent(Exception):
    """This file cannot be had; others may. Never leaves this room."""


@dataclass(frozen=True)
class Patience:
    """How long a source may fail.

    Attributes:
        attempts: at one file or one question.
        first_wait_s: after the first failure, doubled after each, at most a minute, less up to a half at random so that nobody knocks in step.
        silence_s: nothing came from anywhere for so long: the end.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    silence_s: float = 300.0

    def waits(self) -> Iterator[float]:
        """Seconds between two attempts."""
        for k in range(self.attempts - 1):
            yield min(60.0, self.first_wait_s * 2**k) * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Wanted:
    """A file to be had.

    Attributes:
        name: in messages and at the source.
        path: where it is to lie when it is whole.
        n_bytes: its size, if that is known.
    """

    name: str
    path: Path
    n_bytes: int | None = None

    @property
    def part(self) -> Path:
        """Where it lies until it is whole."""
        return self.path.parent / PARTS / self.path.name


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        n_present: files that were there and whole before.
        n_fetched: files that came.
        n_bytes: that were received, of all of them.
        seconds: it took.
        missing: name -> why it is not there.
    """

    n_present: int = 0
    n_fetched: int = 0
    n_bytes: int = 0
    seconds: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)


class Stop:
    """Whether to go on.

    Attributes:
        event: set when everybody at work shall come to an end.
        name: of the signal that asked for it.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.name: str | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A signal sets the event; a second Ctrl-C ends the program at once."""

        def receive(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and self.name == "SIGINT":
                raise KeyboardInterrupt
            self.name = signal.Signals(number).name
            self.event.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def refuse(self) -> None:
        """Raises InterruptedFetchError if a signal came."""
        if self.name:
            raise InterruptedFetchError(f"stopped by {self.name}")


def persist(attempt: Callable[[], T], patience: Patience, stop: Stop) -> T:
    """The first answer that is none of `Again`; waits between attempts.

    Raises:
        Again: the last one.
        InterruptedFetchError: a signal came while it waited.
    """
    for wait in patience.waits():
        try:
            return attempt()
        except Again as failure:
            log.debug("%s; again in %.1f s", failure, wait)
        stop.event.wait(wait)
        stop.refuse()
    return attempt()


class Fetcher(ABC):
    """What a source has to know of itself.

    `is_whole` looks at a file that lies there; `fetch` brings one to `wanted.part`, whole and checked, and calls `received` with the number of bytes of each
    piece, which raises when it is time to stop.
    """

    @abstractmethod
    def is_whole(self, wanted: Wanted) -> bool: ...

    @abstractmethod
    def fetch(self, wanted: Wanted, received: Callable[[int], None]) -> None: ...


def fetch_all(wanted: Sequence[Wanted], source: Fetcher, *, workers: int, patience: Patience, stop: Stop) -> Outcome:
    """Fetches what is not there.

    Args:
        wanted: all of one folder.
        source: where from.
        workers: files at a time.
        patience: with it.
        stop: listening.

    Returns:
        What is there and what is missing. Files that are not whole are never there.

    Raises:
        SourceError: it will give nothing to anybody (no right to it, nobody pays); or it was silent for too long.
        InterruptedFetchError: a signal came.
        OSError: the disk is full.
    """
    if not wanted:
        return Outcome()
    folder = wanted[0].path.parent
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    lock = claim(folder / PARTS, "downloads into it")
    work = _Work(wanted, source, workers, patience, stop)
    try:
        return work.run()
    finally:
        lock.close()
        if stop.name or not work.outcome.missing:
            shutil.rmtree(folder / PARTS, ignore_errors=True)


class _Work:
    def __init__(self, wanted: Sequence[Wanted], source: Fetcher, workers: int, patience: Patience, stop: Stop):
        self.source, self.patience, self.stop, self.workers = source, patience, stop, workers
        self.todo = deque(wanted)
        self.n_files = len(wanted)
        self.results: queue.SimpleQueue[tuple[Wanted, str | BaseException | None]] = queue.SimpleQueue()
        self.outcome = Outcome()
        self.counting = threading.Lock()
        self.heard = time.monotonic()

    def run(self) -> Outcome:
        began = said = time.monotonic()
        threads = [threading.Thread(target=self.serve, daemon=True) for _ in range(min(self.workers, self.n_files))]
        for thread in threads:
            thread.start()
        n_done, failure = 0, None
        with tqdm(desc="downloading", unit="file", total=self.n_files, disable=None) as bar:
            while n_done < self.n_files and failure is None and not self.stop.name:
                with contextlib.suppress(queue.Empty):
                    one, result = self.results.get(timeout=LOOK_S)
                    n_done += 1
                    bar.update()
                    if isinstance(result, BaseException):
                        failure = result
                    elif result is not None:
                        self.outcome.missing[one.name] = result
                now = time.monotonic()
                bar.set_postfix_str(self.so_far(now - began), refresh=False)
                if not sys.stderr.isatty() and now - said > SAY_EVERY_S:
                    said = now
                    log.info("  %d of %d files, %s", n_done, self.n_files, self.so_far(now - began))
                if now - self.heard > self.patience.silence_s:
                    failure = SourceError(
                        f"nothing came for {self.patience.silence_s:.0f} s: {n_done} of {self.n_files} files are done. Look at the network, and start again:"
                        " what is whole is not fetched again"
                    )
        self.stop.event.set()
        until = time.monotonic() + LEAVE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.outcome.seconds = time.monotonic() - began
        if failure is not None:
            raise failure
        if self.stop.name:
            raise InterruptedFetchError(
                f"stopped by {self.stop.name}: {self.outcome.n_present + self.outcome.n_fetched} of {self.n_files} files are there, all of them whole."
                " Start again to go on"
            )
        return self.outcome

    def so_far(self, seconds: float) -> str:
        return f"{size_in_words(self.outcome.n_bytes)}, {size_in_words(self.outcome.n_bytes / max(seconds, 0.1))}/s"

    def serve(self) -> None:
        while not self.stop.event.is_set():
            try:
                one = self.todo.popleft()
            except IndexError:
                return
            try:
                self.results.put((one, self.get(one)))
            except InterruptedFetchError:
                return
            except BaseException as error:
                self.results.put((one, error))
                return

    def get(self, one: Wanted) -> str | None:
        """Why it is not there; None if it is."""
        if one.path.is_file() and self.source.is_whole(one):
            self.count(0)
            with self.counting:
                self.outcome.n_present += 1
            return None
        try:
            persist(lambda: self.source.fetch(one, self.count), self.patience, self.stop)
        except (Again, Absent) as failure:
            return str(failure)
        with one.part.open("rb") as file:
            os.fsync(file.fileno())
        one.part.replace(one.path)
        with self.counting:
            self.outcome.n_fetched += 1
        return None

    def count(self, n_bytes: int) -> None:
        self.heard = time.monotonic()
        if self.stop.event.is_set():
            raise InterruptedFetchError("stopped")
        with self.counting:
            self.outcome.n_bytes += n_bytes


def size_in_words(n_bytes: float) -> str:
    """
    >>> size_in_words(999), size_in_words(1_530_000), size_in_words(42e9)
    ('999 B', '1.5 MB', '42.0 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"
