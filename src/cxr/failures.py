"""What went wrong in a training, said to people: failures of the machine in one message with the way out, in the place of a library's traceback."""

import errno
import re
import time
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_failure(error: OSError) -> str:
    """What a disk refused, where, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}the disk is full. Free some of it and start again; what was finished is kept, and nothing is half-written"
    return f"{where}{(error.strerror or str(error)).lower()}"


def explain(error: BaseException, run_dir: Path) -> str | None:
    """The message for a failure that is known; None for one that is not, which then keeps its traceback.

    Args:
        error: what ended the training.
        run_dir: the run's folder, for the way to go on.
    """
    go_on = f"Go on with: python train.py resume={run_dir}"
    text = str(error)
    if isinstance(error, OSError) and (error.filename or error.errno in FULL):
        return f"{disk_failure(error)}. {go_on}"
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the GPU's memory is too small for this. Lower data.batch_size (trainer.accumulate_grad_batches makes up for it) or data.image_size, use"
            f" trainer.precision=bf16-mixed, or more GPUs (trainer=ddp): a new run, for these change its numbers. If something else filled the GPU: {go_on}"
        )
    if worker := re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", text):
        return (
            f"a process that prepares batches (pid {worker[1]}) died. If the system ended it for want of memory, lower data.num_workers"
            f" (data.num_workers=0 does without). {go_on}"
        )
    # an exception of ours, wrapped by the loader with the traceback of the process that raised it
    if wrapped := re.match(r"Caught (\w+) in DataLoader worker process", text):
        own = re.findall(rf"^(?:\w+\.)*{wrapped[1]}: (.*(?:\n.*)*)", text, re.MULTILINE)
        if own and type(error).__module__.startswith("cxr."):
            return f"{own[-1].strip()}. {go_on}"
    if "Connection closed by peer" in text or "Connection reset by peer" in text or type(error).__name__ == "DistNetworkError":
        time.sleep(1)  # `cxr.model.interruption.watch_children` looks twice a second which one it was, and speaks first
        return f"another process of this job has ended, and said why above. {go_on}"
    return None
