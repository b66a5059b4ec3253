"""Mirrors trials/fuzz.py: a short form of scripts/fuzz.py, and that the trial itself would notice."""

from pathlib import Path

import pytest

from cxr.run import fuzz_readers
from cxr.trials.fuzz import fuzz, spoiled_input, summary, try_one
from cxr.trials.fuzz_readers import Reader, WrongError


def test_no_spoiled_file_makes_a_reader_fail(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, n_inputs=500, seed=1, n_processes=2, more=fuzz_readers.readers)
    assert {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures} == {}
    assert all(outcome.n_refused + outcome.n_accepted >= 500 // len(outcomes) for outcome in outcomes.values())
    assert sum(outcome.n_refused for outcome in outcomes.values()) > 250
    assert "| all |" in summary(outcomes)


def read(folder: Path) -> int:
    return int((folder / "number").read_text())


def check(file: str, content: bytes, number: int) -> None:
    if number != 7:
        raise WrongError(f"it was {number}")


READER = Reader("numbers", {"number": b"7"}, read, check)


@pytest.mark.parametrize(("content", "told"), [(b"8", "wrong: it was 8"), (b"seven", "ValueError")])
def test_a_wrong_belief_and_a_bare_exception_are_noticed(content: bytes, told: str) -> None:
    outcome = try_one(READER, "number", content)
    assert outcome is not None
    assert outcome[0] == "failed"
    assert told in outcome[1]
    assert try_one(READER, "number", b"7") is None


def test_an_input_is_a_function_of_seed_and_number() -> None:
    several = Reader("several", {"a": bytes(range(200)), "b": b"text" * 50}, read, check)
    inputs = [spoiled_input(several, 3, number) for number in range(40)]
    assert inputs == [spoiled_input(several, 3, number) for number in range(40)]
    assert inputs != [spoiled_input(several, 4, number) for number in range(40)]
    assert all(content != several.files[file] for file, content in inputs)
