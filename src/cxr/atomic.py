"""Files that appear whole or not at all, and folders that one process writes at a time."""

import fcntl
import os
from pathlib import Path
from typing import IO


class BusyError(ValueError):
    """Another process is at work there."""


def write_whole(path: Path, content: "bytes | bytearray | memoryview") -> None:
    """Writes a file under another name, makes it safe on disk, and renames it: a reader finds the old file or the new one, after a kill or a power cut too.

    Raises:
        OSError: as the disk says it, with the file's name; the old file is then as it was, and nothing else is left behind.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a write that fails does not say of itself where
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def claim(folder: Path, purpose: str, *, name: str = "lock", wait: bool = False) -> IO[str]:
    """Takes a folder for this process, until the returned file is closed or the process ends, however it ends.

    Args:
        folder: in which a file is made.
        purpose: for the message, "trains here".
        name: of the file.
        wait: for another process that has it.

    Raises:
        BusyError: another process has it.
    """
    file = (folder / name).open("a")
    try:
        # not flock: that would outlive a killed process in the workers it has forked
        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BusyError(f"{folder}: another process {purpose}; wait for it, or stop it") from error
    return file
