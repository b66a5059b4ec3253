"""What an entry point asks of the C library, seen from outside: does the kernel hand out the memory of a batch once, or again and again?"""

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


def page_faults(how: str) -> int:
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # none of what this process has set for itself
    done = subprocess.run([sys.executable, "-c", BATCHES, how], env=environment, capture_output=True, text=True, timeout=120, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's options")
def test_memory_of_a_batch_is_kept_for_the_next_one() -> None:
    assert 10 * page_faults("prepared") < page_faults("as it comes")
