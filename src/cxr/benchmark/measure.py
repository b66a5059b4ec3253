"""Contests: several ways to do one thing, timed in turn so that the machine's moods meet all of them alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Case:
    """One way to do it.

    Attributes:
        name: in the table.
        role: "ours", "peer", or "limit": what the machine could do at best.
        work: does a fixed piece of work and returns its units (films, draws, ...), or its units and the seconds that count, where it has to start up first;
            units of one contest are comparable.
        before: brings about the state that `work` starts from, untimed; None where there is nothing to do.
    """

    name: str
    role: str
    work: Callable[[], int | tuple[int, float]]
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Contest:
    """Cases that do the same work.

    Attributes:
        title, unit: what is done, and what is counted, in the plural.
        cases: timed in turn.
        compared: pairs of names (one, other): how many times as fast one is.
        missing: case -> why it could not take part.
        notes: sentences to print beneath, such as how large a difference in the results was.
    """

    title: str
    unit: str
    cases: list[Case]
    compared: list[tuple[str, str]]
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def hold(contest: Contest, rounds: int) -> dict[str, Any]:
    """Times every case once per round, each round beginning with another one, after a round that does not count.

    Returns:
        title, unit, missing, notes; cases: [{name, role, per_second, seconds: {median, min, max}}], seconds being those of one unit; compared: [{one, other,
        times: {median, min, max}}], the ratio taken round by round.
    """
    seconds: dict[str, list[float]] = {case.name: [] for case in contest.cases}
    with tqdm(total=(rounds + 1) * len(contest.cases), desc=contest.title, unit="run", leave=False, disable=None) as bar:
        for number in range(rounds + 1):
            turn = number % len(contest.cases)
            for case in contest.cases[turn:] + contest.cases[:turn]:
                if case.before:
                    case.before()
                start = time.perf_counter()
                done = case.work()
                n_units, elapsed = done if isinstance(done, tuple) else (done, time.perf_counter() - start)
                if number:
                    seconds[case.name].append(elapsed / n_units)
                bar.update()
    cases = [{"name": case.name, "role": case.role, "per_second": 1 / statistics.median(seconds[case.name])} for case in contest.cases]
    compared = []
    for one, other in contest.compared:
        if one in seconds and other in seconds:
            times = [slow / quick for quick, slow in zip(seconds[one], seconds[other], strict=True)]
            compared.append({"one": one, "other": other, "times": _spread(times)})
    return {
        "title": contest.title,
        "unit": contest.unit,
        "rounds": rounds,
        "cases": [case | {"seconds": _spread(seconds[str(case["name"])])} for case in cases],
        "compared": compared,
        "missing": contest.missing,
        "notes": contest.notes,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
