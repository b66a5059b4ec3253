"""Mirrors model/interruption.py; tests/test_resume.py and tests/test_slurm.py stop whole trainings."""

import os
import signal
import time
from contextlib import suppress

import pytest

from cxr.model.interruption import Interrupted, StopRequest


def interrupt_what_forgives_failures() -> None:
    with suppress(Exception):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)


def test_a_request_to_stop_is_not_taken_for_a_failure_of_what_it_interrupts() -> None:
    with StopRequest() as stop, pytest.raises(Interrupted, match="stopped by SIGUSR1"):
        interrupt_what_forgives_failures()
    assert stop.name == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
