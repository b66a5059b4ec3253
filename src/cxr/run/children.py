"""Trainings as processes of their own: train.py as a user would start it, and no longer alive than who started it."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from cxr.config import PROJECT
from cxr.resume import quoted

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def start_training(arguments: list[str], output: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Starts train.py.

    On Linux it is killed when this process ends, however this process ends: a training without the one who asked for it would hold a GPU, and go on writing
    to a folder that is taken for dead.

    Args:
        arguments: of the command line.
        output: where it writes to; None is where we write to.
    """
    return subprocess.Popen([sys.executable, str(PROJECT / "train.py"), *arguments], stdout=output, stderr=output, preexec_fn=_die_with(os.getpid()))


def _die_with(parent: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: little is safe to do between fork and exec

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Dotted key -> value, as a command line writes it.

    >>> overrides({"optim.lr": 0.001, "data.labels": None, "optim.betas": [0.9, 0.999], "data.root": "/a b"})
    ['optim.lr=0.001', 'data.labels=null', 'optim.betas=[0.9,0.999]', 'data.root="/a b"']
    """
    return [f"{key}={_written(value)}" for key, value in settings.items()]


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        return quoted(value)
    return repr(value)
