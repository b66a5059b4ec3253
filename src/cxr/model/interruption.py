"""SIGTERM, SIGUSR1 and Ctrl-C: what is being trained comes to a point from which it can go on, and then the program ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h, "try again": batch systems can be told to requeue on it
INTERRUPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# how long the first process of a job may take to close what it has open after another one has died
PATIENCE_S = 30


class Interrupted(BaseException):
    """The program was asked to stop, and what it did is kept. No Exception, for whatever it interrupts would take it for a failure of its own."""

    exit_code = INTERRUPTED


class StopRequest:
    """Listens for the signals while it is entered.

    Attributes:
        name: of the signal that came, "SIGTERM"; None as long as none did.
        patient: whoever is at work looks at `name` and comes to an end by himself. Otherwise a signal raises Interrupted where it arrives.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.patient = False

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """(Again:) Lightning puts a handler of its own before ours, which speaks to the other processes from wherever it interrupts."""
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.name == "SIGINT":
            raise KeyboardInterrupt  # asked twice: at once
        self.name = signal.Signals(number).name
        if not self.patient:
            raise Interrupted(f"stopped by {self.name}")


def watch_children(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Ends a job of several processes when one of them dies, with a word about which.

    In the place of Lightning's own watch, which kills all the others without one, within five seconds, whatever they are just writing. The first process
    mostly notices by itself, for the connection breaks, and gets the time to close what it has open; where it hangs, it is ended.
    """

    def watch() -> None:
        while not any(process.poll() for process in processes):
            if all(process.returncode == 0 for process in processes):
                return
            time.sleep(0.5)
        for rank, process in enumerate(processes, start=1):
            if process.returncode:
                how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else f"ended with status {process.returncode}"
                print(f"error: process {rank} of this job {how}; the others are stopped", file=sys.stderr, flush=True)
            elif process.returncode is None:
                process.kill()
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
