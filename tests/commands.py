"""How tests run the entry points: as a user does."""

import os
import subprocess
import sys
from pathlib import Path

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
