"""What a process asks for, seen from outside: by what the kernel hands out."""

import subprocess
import sys

import pytest

# of activations: taken, written and given back, as a network does it, in turns of several sizes
BATCHES = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB, whatever the system is set to
if sys.argv[1] == "prepared":
    from cxr import process
    process.prepare()
import torch

def batches(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for k in range(n):
        blocks = [torch.ones(size, 2**20, dtype=torch.uint8) for size in (40, 90, 10)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

batches(3)
print(batches(10))
"""


# a parent with many objects, and a child that searches for garbage: what the child has to itself afterwards
SHARED = """
import contextlib, gc, os, sys
from cxr import process

def own_kilobytes():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

gc.disable()  # a search in the parent at a moment of Python's choosing would copy them too
kept = [[] for _ in range(500_000)]
with process.shared_with_children() if sys.argv[1] == "prepared" else contextlib.nullcontext():
    if not os.fork():
        before = own_kilobytes()
        gc.collect()
        print(own_kilobytes() - before, flush=True)
        os._exit(0)
    os.wait()
assert gc.get_freeze_count() == 0
"""


def told(program: str, how: str) -> int:
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # none of what this process has set for itself
    done = subprocess.run([sys.executable, "-c", program, how], env=environment, capture_output=True, text=True, timeout=120, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's options")
def test_memory_of_a_batch_is_kept_for_the_next_one() -> None:
    assert 10 * told(BATCHES, "prepared") < told(BATCHES, "as it comes")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_search_for_garbage_gives_a_forked_process_no_copies() -> None:
    assert 10 * told(SHARED, "prepared") < told(SHARED, "as it comes")
