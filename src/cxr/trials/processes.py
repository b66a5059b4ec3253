"""Who is alive below a process, and killing one of them for certain: read from Linux's /proc."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one of the same number.

    Attributes:
        pid, parent: numbers.
        started: ticks since the machine started.
        command: its words.
    """

    pid: int
    parent: int
    started: int
    command: tuple[str, ...]


def look_at(pid: int) -> Process | None:
    """None if there is no such process, or it is only waiting to be buried."""
    try:
        # the name, in brackets, may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]), tuple(word.decode(errors="replace") for word in words))


def descendants(pid: int) -> list[Process]:
    """All living processes below this one."""
    everyone = [process for entry in os.listdir("/proc") if entry.isdigit() and (process := look_at(int(entry)))]
    found, parents = list[Process](), {pid}
    while children := [process for process in everyone if process.parent in parents and process not in found]:
        found += children
        parents = {process.pid for process in children}
    return found


def freeze(pid: int) -> Process | None:
    """SIGSTOP, and waits until nothing moves any more; the process as it then is, None if it has ended."""
    os.kill(pid, signal.SIGSTOP)
    while found := look_at(pid):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            break
        time.sleep(0.0005)
    return found


def kill(process: Process) -> bool:
    """SIGKILL; whether it hit this very process while it lived."""
    if look_at(process.pid) != process:
        return False
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + 10
    while look_at(process.pid) == process:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
