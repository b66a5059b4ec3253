"""Mirrors job.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call, free_port

from cxr import job
from cxr.job import Job, JobError

BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
STEP = BATCH_SCRIPT | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
# one task of srun on each machine, which is torchrun
TORCHRUN = BATCH_SCRIPT | {
    "SLURM_STEP_NUM_TASKS": "2",
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch):
    def launch(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.mark.parametrize(
    ("variables", "expected", "first"),
    [
        ({}, None, True),
        ({"LOCAL_RANK": "1"}, None, False),  # a process that Lightning started
        (BATCH_SCRIPT, None, True),
        (STEP, Job("SLURM", 3, 4, 2), False),
        (STEP | {"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, Job("SLURM", 2, 4, 2), False),
        (STEP | {"SLURM_PROCID": "0"}, Job("SLURM", 0, 4, 2), True),
        (TORCHRUN, Job("torchrun", 1, 4, 2), False),
    ],
    ids=["alone", "Lightning", "batch script", "srun", "srun, first of its machine", "srun, first", "torchrun in srun"],
)
def test_a_process_knows_which_of_how_many_it_is(launched, variables: dict[str, str], expected: Job | None, first: bool) -> None:
    launched(variables)
    assert (job.find_job(), job.is_first()) == (expected, first)


def test_machines_with_different_numbers_of_processes_are_refused(launched) -> None:
    launched(STEP | {"SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"})
    with pytest.raises(JobError, match=r"SLURM started 3 processes on 2 machines.*--ntasks-per-node"):
        job.find_job()


@pytest.mark.parametrize(("typed", "told"), [([], "hydra.run.dir=<folder>"), (["resume=auto"], "instead of resume=auto"), (["-m", "seed=1,2"], "not with -m")])
def test_processes_that_could_not_agree_on_a_run_folder_are_refused(launched, typed: list[str], told: str) -> None:
    launched(STEP)
    with pytest.raises(JobError, match=told):
        job.arguments(typed)
    assert job.arguments(["hydra.run.dir=x"])[0] == "hydra.run.dir=x"


def test_a_refusal_is_one_line_of_the_first_process_alone(tmp_path: Path) -> None:
    variables = STEP | {"SLURM_PROCID": "0"}
    done = call("train.py", "data=mini", cwd=tmp_path, **variables)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "SLURM started 4 processes, and they train one run together: give them one run folder" in done.stderr
    other = call("train.py", "data=mini", cwd=tmp_path, **STEP)
    assert (other.returncode, other.stderr) == (1, "")

    done = call("train.py", "trainer.num_nodes=3", f"hydra.run.dir={tmp_path / 'run'}", **variables)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "trainer.num_nodes=3, and SLURM started this on 2" in done.stderr
    done = call("train.py", "trainer.num_nodes=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert "neither SLURM nor torchrun started this" in done.stderr


# a process of two; in turn the first one says go, that there is nothing to do, and dies without a word
TAKES_PART = """
import os, sys
from cxr.job import JobError, Start, find_job, is_first
for does, port in zip(("go", "not", "die"), sys.argv[1:]):
    os.environ["MASTER_PORT"] = port
    start = Start(find_job())
    try:
        if not is_first():
            print("heard", start.hear(), flush=True)
        elif does == "die":
            os._exit(9)
        else:
            start.say(does == "go")
    except JobError as error:
        print(error)
"""


def test_the_others_wait_for_the_word_of_the_first() -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, "-c", TAKES_PART, *(str(free_port()) for _ in range(3))]
    processes = [subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        told = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [9, 0]
    assert told == ["", "heard True\nheard False\nthe first process of this job has ended, and said why above\n"]
