"""The processes of one training: which of them this is, and how they begin together.

Those of one machine are started by Lightning, when the first of them has everything ready. SLURM and torchrun start all of them at once, on any number of
machines, each with the same command: then the first one makes the run folder and the image store, and the others wait until it has.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

LOOK_AGAIN_S = 0.2


class JobError(ValueError):
    """The processes of a job cannot train together as they were started."""


@dataclass(frozen=True)
class Job:
    """Processes that SLURM or torchrun started together.

    Attributes:
        launcher: "SLURM" or "torchrun".
        rank: of this process; 0 is the first.
        n_processes: on all machines together.
        n_nodes: machines, each with as many of them.
    """

    launcher: str
    rank: int
    n_processes: int
    n_nodes: int

    @property
    def n_per_node(self) -> int:
        return self.n_processes // self.n_nodes


def find_job() -> Job | None:
    """The job that this process belongs to, by the variables of its launcher; None if nobody started several.

    Raises:
        JobError: its machines have different numbers of processes.
    """

    def number(name: str, otherwise: int) -> int:
        return int(os.environ.get(name) or otherwise)

    # torchrun first, for srun may have started it
    if "TORCHELASTIC_RUN_ID" in os.environ:
        job, per_node = Job("torchrun", number("RANK", 0), number("WORLD_SIZE", 1), number("GROUP_WORLD_SIZE", 1)), number("LOCAL_WORLD_SIZE", 1)
    # by the step: the number of tasks alone is also in the environment of a batch script, which is one process
    elif number("SLURM_STEP_NUM_TASKS", 1) > 1:
        job, per_node = Job("SLURM", number("SLURM_PROCID", 0), number("SLURM_NTASKS", 1), number("SLURM_NNODES", 1)), number("SLURM_NTASKS_PER_NODE", 0)
    else:
        return None
    if per_node * job.n_nodes != job.n_processes:
        raise JobError(
            f"{job.launcher} started {job.n_processes} processes on {job.n_nodes} machines: every machine must have as many, one for each of its devices."
            + (" Give --nodes and --ntasks-per-node, and no --ntasks" if job.launcher == "SLURM" else "")
        )
    return job


def is_first() -> bool:
    """Whether this process speaks for all: it alone writes into the run folder, and to W&B."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def arguments(typed: list[str]) -> list[str]:
    """The command line of one of several processes: all have one run folder, and the first alone writes Hydra's files and the log.

    Args:
        typed: by the user, or in his name.

    Raises:
        JobError: each process would make a run folder of its own.
    """
    job = find_job()
    if job and job.n_processes > 1:
        told = f"{job.launcher} started {job.n_processes} processes, and they train one run together"
        if {"-m", "--multirun"} & set(typed):
            raise JobError(f"{told}: not with -m, which is several runs")
        if "resume=auto" in typed:
            raise JobError(f"{told}: name the run that goes on, resume=<its folder>, instead of resume=auto")
        if not any(argument.startswith("hydra.run.dir=") for argument in typed):
            raise JobError(f"{told}: give them one run folder, hydra.run.dir=<folder>, or resume=<folder> to go on (docs/clusters.md)")
    if is_first():
        return typed
    return [*typed, "hydra.output_subdir=null", "hydra.job_logging.root.handlers=[console]"]


def environment(job: Job | None) -> Any:
    """Lightning's word for who starts the processes. Said outright, for Lightning would take any batch script of SLURM's for one of its processes, and answer
    SIGUSR1 with a checkpoint and a requeue of its own."""
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if job is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if job.launcher == "torchrun" else SLURMEnvironment(auto_requeue=False)


class Start:
    """Where the processes of a job find each other before the training: the first one says when the others may begin, and whether there is anything to do.

    Keep it as long as the training lasts, for the same connection serves that.
    """

    def __init__(self, job: Job):
        from torch.distributed import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        place = environment(job)
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = str(place.main_address), str(place.main_port)
        try:
            store, _, _ = next(rendezvous("env://", job.rank, job.n_processes))
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise JobError(f"the {job.n_processes} processes of this job do not find each other at {place.main_address}:{place.main_port}: {reason}") from error
        self.job, self.store = job, PrefixStore("cxr", store)

    def say(self, go: bool) -> None:
        """The first process: go, or there is nothing to do. Returns when all have heard it."""
        self.store.set("go", str(int(go)))
        while self.store.add("heard", 0) < self.job.n_processes - 1:
            time.sleep(LOOK_AGAIN_S)

    def hear(self) -> bool:
        """The others: waits until the first one has said it, however long that takes.

        Raises:
            JobError: it has ended instead.
        """
        try:
            while not self.store.check(["go"]):  # not `wait`, during which no signal would be heard
                time.sleep(LOOK_AGAIN_S)
            go = self.store.get("go") == b"1"
            self.store.add("heard", 1)
        except RuntimeError as error:
            raise JobError("the first process of this job has ended, and said why above") from error
        return go
