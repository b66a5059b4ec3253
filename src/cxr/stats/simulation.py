"""Do the intervals hold what they promise? Worlds whose truth is known, drawn again and again, and how often each interval covers it.

A film's score is binormal with a patient effect: N(shift * has_finding, 1), of whose variance a share is the patient's own and common to all of his films.
A patient has the finding on all of his films or on none, which is when clustering bites hardest. Films per patient are geometric: most have one, some ten.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from cxr.stats.bootstrap import bootstrap
from cxr.stats.delong import clustered_delong, delong, holm
from cxr.stats.operating import clustered_wilson
from cxr.stats.ranking import auroc
from cxr.stats.readers import reader_difference

NEGATIVES_PER_POSITIVE = 3  # patients
MORE_FILMS = 0.6  # chance that a patient has one film more
MOST_FILMS = 12
PATIENT_SHARE = 0.6  # of a score's variance
COMMON_SHARE = 0.5  # of the patient effect that model and reader, or two models, have in common
READER_AUROC, READER_FALSE_ALARMS = 0.85, 0.1
SPECIFICITY = 0.9  # at which the threshold was frozen elsewhere
COMPARISONS = 18  # of a family under Holm's procedure: nine findings, two readers


@dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
        auroc: of the model.
        n_positive_patients: with the finding; three times as many have it not.
    """

    auroc: float
    n_positive_patients: int


def draw_films(world: World, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(patients (N,), positive (N,)) of one cohort."""
    n_patients = world.n_positive_patients * (1 + NEGATIVES_PER_POSITIVE)
    n_films = np.minimum(rng.geometric(1 - MORE_FILMS, n_patients), MOST_FILMS)
    patients = np.repeat(np.arange(n_patients), n_films)
    return patients, patients < world.n_positive_patients


def draw_scores(patients: np.ndarray, positive: np.ndarray, areas: list[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Scores of several raters with these true AUROCs, who share part of what they see in a patient."""
    n_patients = int(patients.max()) + 1
    common = rng.normal(size=n_patients)
    scores = []
    for area in areas:
        own = rng.normal(size=n_patients)
        patient_effect = np.sqrt(COMMON_SHARE) * common + np.sqrt(1 - COMMON_SHARE) * own
        noise = rng.normal(size=patients.size)
        score = np.sqrt(PATIENT_SHARE) * patient_effect[patients] + np.sqrt(1 - PATIENT_SHARE) * noise
        scores.append(score + np.sqrt(2) * ndtri(area) * positive)
    return scores


def covered(world: World, n_draws: int, seed: tuple[int, ...]) -> dict[str, bool]:
    """One cohort: which intervals hold the truth."""
    rng = np.random.default_rng(seed)
    patients, positive = draw_films(world, rng)
    score, seen = draw_scores(patients, positive, [world.auroc, READER_AUROC], rng)
    drawn = {"n_draws": n_draws, "seed": int(rng.integers(2**31))}

    by_patient = bootstrap(auroc, score, positive, patients, **drawn)
    by_film = bootstrap(auroc, score, positive, np.arange(score.size), **drawn)
    sensitivity = clustered_wilson(score[positive] >= ndtri(SPECIFICITY), patients[positive])
    true_sensitivity = _true_sensitivity(world.auroc, 1 - SPECIFICITY)
    difference = reader_difference(score, positive, seen >= -ndtri(READER_FALSE_ALARMS), patients, **drawn).difference
    true_difference = _true_sensitivity(world.auroc, READER_FALSE_ALARMS) - _true_sensitivity(READER_AUROC, READER_FALSE_ALARMS)
    return {
        "AUROC, patients drawn": by_patient.lo <= world.auroc <= by_patient.hi,
        "AUROC, films drawn": by_film.lo <= world.auroc <= by_film.hi,
        "sensitivity at a frozen threshold": sensitivity.lo <= true_sensitivity <= sensitivity.hi,
        "model less reader": difference.lo <= true_difference <= difference.hi,
    }


def _true_sensitivity(area: float, false_positive_rate: float) -> float:
    return float(ndtr(np.sqrt(2) * ndtri(area) + ndtri(false_positive_rate)))


def falsely_different(world: World, n_draws: int, seed: tuple[int, ...]) -> dict[str, bool]:
    """One cohort in which nothing differs: which tests say at 5 % that something does.

    A family is COMPARISONS model-reader differences on the same films, as in the primary family of a report.
    """
    rng = np.random.default_rng(seed)
    patients, positive = draw_films(world, rng)
    one, other = draw_scores(patients, positive, [world.auroc, world.auroc], rng)
    drawn = {"n_draws": n_draws, "seed": int(rng.integers(2**31))}
    by_reader, by_model = [], []
    for _ in range(COMPARISONS):
        score, seen = draw_scores(patients, positive, [world.auroc, world.auroc], rng)
        by_reader.append(reader_difference(score, positive, seen >= -ndtri(READER_FALSE_ALARMS), patients, **drawn).p)
        by_model.append(clustered_delong(score, seen, positive, patients).p)
    return {
        "clustered DeLong": clustered_delong(one, other, positive, patients).p <= 0.05,
        "plain DeLong": delong(one, other, positive).p <= 0.05,
        "model less reader": by_reader[0] <= 0.05,
        f"Holm over {COMPARISONS} differences from readers": bool((holm(np.array(by_reader)) <= 0.05).any()),
        f"Holm over {COMPARISONS} clustered DeLong tests": bool((holm(np.array(by_model)) <= 0.05).any()),
    }


def repeat(
    one: Callable[[World, int, tuple[int, ...]], dict[str, bool]], world: World, *, n_cohorts: int, n_draws: int, seed: int, n_processes: int
) -> dict[str, float]:
    """The share of cohorts in which each of `one`'s answers is true.

    Args:
        one: `covered` or `falsely_different`.
        world: what is true.
        n_cohorts, n_draws: how many cohorts, and bootstrap draws in each.
        seed: of the whole; the answer does not depend on the number of processes.
        n_processes: side by side.
    """
    seeds = [(seed, round(world.auroc * 1000), world.n_positive_patients, i) for i in range(n_cohorts)]
    told = f"{one.__name__}, AUROC {world.auroc}, {world.n_positive_patients} patients"
    if n_processes == 1:
        answers = [one(world, n_draws, at) for at in tqdm(seeds, told, disable=None)]
    else:
        with ProcessPoolExecutor(n_processes) as pool:
            jobs = pool.map(one, [world] * n_cohorts, [n_draws] * n_cohorts, seeds, chunksize=10)
            answers = list(tqdm(jobs, told, n_cohorts, disable=None))
    return {name: float(np.mean([answer[name] for answer in answers])) for name in answers[0]}


def tables(*, n_cohorts: int, n_draws: int, seed: int, n_processes: int) -> str:
    """Both tables of docs/statistics.md, as markdown.

    Args:
        n_cohorts: of every world; the share of 1,000 is known to 0.7 points.
        n_draws: bootstrap draws in each.
        seed, n_processes: as in `repeat`.
    """
    how = {"n_cohorts": n_cohorts, "n_draws": n_draws, "seed": seed, "n_processes": n_processes}
    truths = [World(area, n) for n in (60, 200) for area in (0.75, 0.85, 0.95)] + [World(0.85, n) for n in (20, 40)]
    coverage = {world: repeat(covered, world, **how) for world in truths}
    nothing = {world: repeat(falsely_different, world, **how) for world in (World(0.75, 60), World(0.85, 60), World(0.85, 200))}
    return f"Covered by 95 % intervals\n\n{_table(coverage)}\nCalled different at 5 % where nothing differs\n\n{_table(nothing)}"


def _table(rows: dict[World, dict[str, float]]) -> str:
    names = list(next(iter(rows.values())))
    lines = [["true AUROC", "positive patients", *names], ["---"] * (2 + len(names))]
    lines += [[f"{world.auroc:g}", f"{world.n_positive_patients}", *(f"{100 * row[name]:.1f} %" for name in names)] for world, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
