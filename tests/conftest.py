"""What tests share: the real material, the miniature, and one finished run of the real command on it."""

import fcntl
import os
import shutil
from pathlib import Path

os.environ["WANDB_MODE"] = "offline"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are taken by the other tests

import pytest
from commands import absent, call

from cxr import process
from cxr.config import PROJECT
from cxr.mini import write_miniature

process.prepare()  # as the entry points do, before torch is loaded

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
def finished_run(mini: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The run folder of the demo, run by the real command from another folder than the project's; of two processes that test side by side one makes it."""
    folder = tmp_path_factory.mktemp("run")
    shared = folder if worker_id == "master" else tmp_path_factory.getbasetemp().parent / "finished_run"
    with (shared.parent / "finished_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "console.txt").exists():
            shared.mkdir(exist_ok=True)
            places = (f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={shared}")
            done = call("train.py", "experiment=demo", "report.draws=300", "report.reader_draws=300", *places, cwd=shared)
            assert done.returncode == 0, done.stdout + done.stderr
            (shared / "console.txt").write_text(done.stdout)
    if shared != folder:
        shutil.copytree(shared, folder, symlinks=True, dirs_exist_ok=True)
        console = folder / "console.txt"
        console.write_text(console.read_text().replace(str(shared), str(folder)))
    return folder


# one process may make the finished run while the other does without it; and at the end none waits for another's last long file
LONGEST = ("resume", "train", "faults", "slurm", "several_processes", "wandb_server", "predicting", "comparing", "sweeping", "seeding", "multirun", "sources")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then the others that start commands."""
    place = {f"test_{name}.py": k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)) if item.path.parent == Path(__file__).parent else len(place) + 1)
