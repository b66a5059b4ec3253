"""A SLURM cluster of two machines on this one, for tests: the real programs, on the loopback, in a folder of their own, as the user who runs them."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
START_S = 30

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job may start when its old credential has expired, by default after two minutes
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if _find(name) is None]


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_ports() -> tuple[int, int, int]:
    """Three, of which the last two follow each other."""
    for _ in range(100):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            port = two.getsockname()[1]
            try:
                three.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return one.getsockname()[1], port, port + 1
    raise OSError("no free ports")


class Slurm:
    """Runs from `start` to `stop`.

    Attributes:
        folder: for everything that the programs write.
        environment: variables by which SLURM's commands find it.
    """

    def start(self) -> None:
        """AssertionError, with what they said, if the programs do not come up."""
        # not a test's folder: the path of a socket must be short
        self.folder = Path(tempfile.mkdtemp(prefix="cxr-slurm-"))
        self.folder.chmod(0o755)
        for name in ("munge", "state", "spool_n1", "spool_n2"):
            (self.folder / name).mkdir(mode=0o755)
        host = socket.gethostname().split(".")[0]
        config = self.folder / "slurm.conf"
        config.write_text(CONFIG.format(host=host, user=getpass.getuser(), ports=free_ports(), folder=self.folder))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self.environment = {"SLURM_CONF": str(config)}
        self.programs: list[subprocess.Popen[bytes]] = []
        try:
            munge = [f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "pid", "seed", "log")]
            self._start("munged", "-F", f"--socket={self.folder}/munge/socket", *munge)
            self.wait_until(lambda: (self.folder / "munge/socket").exists(), "munged answers", START_S)
            self._start("slurmctld", "-D", "-c", "-f", str(config))
            for node in ("n1", "n2"):
                self._start("slurmd", "-D", "-f", str(config), "-N", node)
            self.wait_until(lambda: self._ask("sinfo", "-h", "-o", "%T %D").stdout.split() == ["idle", "2"], "both machines are idle", START_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if len(self.programs) == 4:
            # a job outlives the program that started it
            self._ask("scancel", "--user", getpass.getuser())
            deadline = time.monotonic() + START_S
            while self._ask("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
                time.sleep(0.1)
        for program in reversed(self.programs):
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.programs.append(subprocess.Popen([str(_find(name)), *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environment()))

    def _environment(self, **more: str) -> dict[str, str]:
        """Nothing of a cluster that this may itself run on."""
        return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SRUN", "SBATCH"))} | self.environment | more

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=60)

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        """AssertionError, with what the programs said, if it does not become true in time."""
        deadline = time.monotonic() + seconds
        while not true():
            ended = [str(program.args) for program in self.programs if program.poll() is not None]
            assert not ended, f"{ended} ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in [*self.folder.glob("*.out"), *self.folder.glob("*.log")])

    def submit(self, *arguments: str, cwd: Path, **environment: str) -> str:
        """The job's number."""
        done = subprocess.run(["sbatch", "--parsable", *arguments], cwd=cwd, env=self._environment(**environment), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def signal(self, job: str, name: str) -> None:
        """To all processes of its steps, as --signal does at the time limit."""
        done = self._ask("scancel", f"--signal={name}", job)
        assert done.returncode == 0, done.stderr

    def look_at(self, job: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, Restarts, ExitCode, ..."""
        return dict(word.split("=", 1) for word in self._ask("scontrol", "--oneliner", "show", "job", job).stdout.split() if "=" in word)

    def log(self) -> str:
        """The controller's."""
        return (self.folder / "slurmctld.log").read_text()
