"""What tests share: the real material, the miniature, and one finished run of the real command on it."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the entry points do, before torch is loaded
os.environ["WANDB_MODE"] = "offline"

import pytest
from commands import absent, call

from cxr.config import PROJECT
from cxr.mini import write_miniature

REAL = Path(os.environ.get("CXR_REAL", PROJECT.parent / "shared"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with real films and real expert labels; without it the test is skipped, or fails where CXR_REQUIRE_REAL is set."""
    if not (REAL / "data" / "cxr14_256").is_dir():
        absent(f"REAL MATERIAL ABSENT: no films and expert labels in {REAL}; set CXR_REAL")
    return REAL


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete miniature with expert labels."""
    folder = tmp_path_factory.mktemp("data") / "mini"
    write_miniature(folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def finished_run(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the demo, run by the real command from another folder than the project's."""
    folder = tmp_path_factory.mktemp("run")
    done = call("train.py", "experiment=demo", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "console.txt").write_text(done.stdout)
    return folder
