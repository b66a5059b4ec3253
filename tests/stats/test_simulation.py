"""Mirrors stats/simulation.py: the worlds are as true as they say, and a short form of its tables keeps its promises."""

import numpy as np
import pytest

from cxr.stats.simulation import World, covered, draw_films, draw_scores, falsely_different, repeat, tables


def test_a_worlds_truth_is_the_truth_of_its_films() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    world = World(0.85, 20_000)
    patients, positive = draw_films(world, rng)
    scores = draw_scores(patients, positive, [0.85, 0.75], rng)
    assert [roc_auc_score(positive, score) for score in scores] == pytest.approx([0.85, 0.75], abs=0.005)
    of_negatives = scores[0][~positive]
    assert (of_negatives.mean(), of_negatives.std()) == pytest.approx((0, 1), abs=0.02)
    assert len(set(patients[positive])) == 20_000
    assert not set(patients[positive]) & set(patients[~positive])
    assert 2.2 < np.bincount(patients).mean() < 2.6


def test_intervals_by_patient_cover_and_intervals_by_film_do_not() -> None:
    told = repeat(covered, World(0.85, 60), n_cohorts=200, n_draws=200, seed=1, n_processes=1)
    # 200 cohorts know a share of 95 % to 1.5 points
    assert 0.90 <= told["AUROC, patients drawn"] <= 0.99
    assert told["AUROC, films drawn"] < told["AUROC, patients drawn"] - 0.05
    assert 0.90 <= told["sensitivity at a frozen threshold"] <= 1.0
    assert 0.90 <= told["model less reader"] <= 1.0


def test_where_nothing_differs_hardly_anything_is_called_different() -> None:
    told = repeat(falsely_different, World(0.85, 60), n_cohorts=60, n_draws=200, seed=1, n_processes=1)
    assert told.pop("plain DeLong") > 0.1
    assert all(share <= 0.15 for share in told.values())


def test_the_tables_do_not_depend_on_the_number_of_processes() -> None:
    world = World(0.75, 10)
    one, two = (repeat(covered, world, n_cohorts=12, n_draws=50, seed=0, n_processes=n) for n in (1, 2))
    assert one == two
    assert tables(n_cohorts=2, n_draws=50, seed=0, n_processes=1).count("\n|") == 2 + 8 + 2 + 3
