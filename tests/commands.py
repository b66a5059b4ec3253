"""How tests run the entry points: as a user does."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from cxr.config import PROJECT


def call(script: str, *arguments: str, cwd: Path | None = None, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs an entry point as a user does, and returns what it printed and its exit status."""
    return subprocess.run(
        [sys.executable, str(PROJECT / script), *arguments],
        cwd=cwd or PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def absent(what: str) -> NoReturn:
    """Skips the test, loudly; where CXR_REQUIRE_REAL is set, fails it."""
    if os.environ.get("CXR_REQUIRE_REAL"):
        pytest.fail(what)
    pytest.skip(what)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
