"""What a process asks of OpenMP and of the C library before torch is loaded: threads that sleep while they wait, and memory that is kept.

Measured on two cores (EfficientNet-Lite0 at 224 pixels, batches of 64, films/s without and with memory that is kept): prediction 14 and 50, training 5 and 10,
for a seventh more of memory.
"""

import ctypes
import os

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def prepare() -> None:
    """Sets them for this process; what the user has set in the environment stays. Memory is left as it is where the C library is not glibc."""
    # spinning threads cost a factor of three as soon as anything else wants the core, even a data worker
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Activations on a CPU are of many megabytes each. glibc takes every such block from the kernel and gives it back at once, and the kernel clears it page by
    # page each time: more than half of the time went there. Blocks are kept for the next batch now.
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)
