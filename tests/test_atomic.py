"""Mirrors atomic.py."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.atomic import BusyError, claim, write_whole


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HOLD = """
import sys, time
from pathlib import Path
from cxr.atomic import claim
lock = claim(Path(sys.argv[1]), "is at work")
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_is_one_process_at_a_time_and_free_when_that_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match="another process is at work"):
        claim(tmp_path, "is at work")
    process.kill()
    process.wait()
    claim(tmp_path, "is at work").close()


HOLDER = """
import sys
from pathlib import Path
from cxr.atomic import claim
folder = Path(sys.argv[1])
lock = claim(folder, "holds it", name="worker.lock")
print("held", flush=True)
sys.stdin.read()
(folder / "done").touch()
"""


def test_a_folder_is_waited_for_where_that_is_asked_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError):
            claim(tmp_path, "wants it", name="worker.lock")
        claim(tmp_path, "wants it").close()  # another lock of the same folder
        holder.stdin.close()
        with claim(tmp_path, "wants it", name="worker.lock", wait=True):
            assert (tmp_path / "done").exists()
