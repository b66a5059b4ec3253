"""Processes that torchrun starts; and a real SLURM of two machines, where a training comes to its time limit, is requeued, and goes on."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import absent, free_port
from slurm import Slurm, missing_programs

from cxr.config import PROJECT
from cxr.trials.torture import same_training

EPOCHS = 8
SETTINGS = [
    f"trainer.max_epochs={EPOCHS}",
    "model.refit_c=0.001",
    "data.image_size=32",
    "data.batch_size=160",
    "data.num_workers=0",
    "data.expert_labels=null",
    "report.draws=100",
    "report.reader_draws=100",
]
SECONDS = 300


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if missing := missing_programs():
        absent(f"SLURM ABSENT: no {', '.join(missing)}; apt-get install slurm-wlm munge")
    cluster = Slurm()
    try:
        cluster.start()
    except (AssertionError, OSError) as error:
        absent(f"SLURM DOES NOT START: {error}")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def arguments(mini: Path) -> list[str]:
    return [f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", *SETTINGS]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes that torchrun started."""
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    done = subprocess.run(
        [*launcher, "train.py", *arguments, "trainer.strategy=ddp", f"hydra.run.dir={folder}"], cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "console.txt").write_text(done.stdout)
    return folder


def epochs(folder: Path) -> list[str]:
    """The epochs that the run's log tells of, in order."""
    return [line.split("epoch ")[1].split()[0] for line in (folder / "train.log").read_text().splitlines() if ": epoch " in line]


def test_what_torchrun_started_trains_one_run_of_which_one_process_tells(undisturbed: Path) -> None:
    assert json.loads((undisturbed / "report/report.json").read_text())["reference_sets"]["nih_test"]["n_images"] > 0
    assert [path.name for path in undisturbed.glob("*.log")] == ["train.log"]
    assert epochs(undisturbed) == [str(n) for n in range(1, EPOCHS + 1)]
    for text in ((undisturbed / "train.log").read_text(), (undisturbed / "console.txt").read_text()):
        assert text.count("2 processes, started by torchrun") == 1
    assert len(list((undisturbed / "wandb").glob("offline-run-*"))) == 1


def test_a_job_that_comes_to_its_time_limit_is_requeued_and_ends_with_the_same_bytes(
    slurm: Slurm, undisturbed: Path, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").symlink_to(PROJECT / "train.py")
    # machines without GPU; and their names are not to be found in any network
    machines = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={tmp_path}/console.txt"]
    place = {"CXR_PYTHON": sys.executable, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    job = slurm.submit(*machines, str(PROJECT / "scripts/slurm/train.sbatch"), *arguments, cwd=tmp_path, **place)
    folder, console = tmp_path / f"outputs/slurm/job-{job}", tmp_path / "console.txt"

    def told() -> str:
        return console.read_text() if console.is_file() else ""

    def trains() -> bool:
        assert slurm.look_at(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), told()
        return (folder / "checkpoints/resume.ckpt").is_file()

    slurm.wait_until(trains, "the training has a checkpoint", SECONDS)
    slurm.signal(job, "USR1")
    slurm.wait_until(lambda: slurm.look_at(job)["Restarts"] == "1", f"the job is requeued. It said: {told()}", 60)
    assert f"start 1 of job {job}: status 75" in told()
    assert "stopped by SIGUSR1 after step" in told()
    assert 1 <= len(epochs(folder)) < EPOCHS
    assert not (folder / "predictions.parquet").exists()

    slurm.wait_until(lambda: slurm.look_at(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), "the job ends", SECONDS)
    facts = slurm.look_at(job)
    assert (facts["JobState"], facts["Restarts"], facts["NumNodes"]) == ("COMPLETED", "1", "2"), told()
    assert f"Requeuing JobId={job}" in slurm.log()
    assert f"start 2 of job {job}: status 0" in told()
    assert "Going on after step" in told()
    assert same_training(folder, undisturbed)

    # one folder, written by one process
    assert [path.name for path in folder.parent.iterdir()] == [f"job-{job}"]
    assert [path.name for path in folder.glob("*.log")] == ["train.log"]
    assert epochs(folder) == [str(n) for n in range(1, EPOCHS + 1)]
    assert told().count("2 processes, started by SLURM; machines: 2") == 2  # each start says it once
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
