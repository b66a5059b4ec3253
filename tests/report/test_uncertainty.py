"""Mirrors report/uncertainty.py. The oracle is sklearn on labels that a plain loop has voted."""

from itertools import combinations

import made_up
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.report.uncertainty import label_shift, panels, unanimous_and_disputed

DRAWN = {"draws": 100, "seed": 0}


def test_the_label_shift_is_the_same_scores_on_the_same_films_against_both_labels() -> None:
    rng = np.random.default_rng(0)
    truth, patients = rng.random(300) < 0.3, rng.integers(120, size=300)
    mined = np.where(rng.random(300) < 0.2, ~truth, truth).astype(float)
    mined[:40] = np.nan
    score = truth + rng.normal(size=300)
    told = label_shift(score, truth, mined, patients, **DRAWN)
    known = slice(40, None)
    by_mined, by_truth = roc_auc_score(mined[known], score[known]), roc_auc_score(truth[known], score[known])
    assert told["auroc_text_mined"]["value"] == pytest.approx(by_mined, abs=1e-12)
    assert told["auroc_reference"]["value"] == pytest.approx(by_truth, abs=1e-12)
    assert told["difference"]["value"] == pytest.approx(by_truth - by_mined, abs=1e-12)
    assert told["difference"]["lo"] < by_truth - by_mined < told["difference"]["hi"]
    # paired: much narrower than if the two were independent
    apart = np.hypot(*(told[key]["hi"] - told[key]["lo"] for key in ("auroc_text_mined", "auroc_reference")))
    assert told["difference"]["hi"] - told["difference"]["lo"] < 0.9 * apart
    assert (told["n_images"], told["n_pos"], told["n_pos_text_mined"]) == (260, truth[known].sum(), mined[known].sum())


def test_the_label_shift_says_what_it_lacks() -> None:
    rng = np.random.default_rng(0)
    truth, patients, score = rng.random(300) < 0.3, np.arange(300), rng.normal(size=300)
    assert label_shift(score, truth, None, patients, **DRAWN)["reason"] == "no text-mined label"
    few = label_shift(score, truth, (np.arange(300) < 4).astype(float), patients, **DRAWN)
    assert (few["difference"], few["reason"]) == (None, "too few: 4 positive patients, fewer than 10")


def test_every_three_of_five_panel_is_the_loops_majority() -> None:
    predicted, references = made_up.study()
    reference = references["all_findings_test"]
    votes = reference.votes("Effusion", reference.films.image_id)
    score = made_up.mapping(predicted).scores(predicted, reference)["Effusion"].to_numpy()
    told = panels(score, reference.films.patient_id.to_numpy(), votes, jury=("1", "2", "3"), **DRAWN)
    assert len(told["panels"]) == 10
    for row, members in zip(told["panels"], combinations("12345", 3), strict=True):
        truth = [sum(votes.loc[image, reader] for reader in members) >= 2 for image in votes.index]
        assert row["readers"] == list(members)
        assert row["is_reference"] is (members == ("1", "2", "3"))
        assert row["n_pos"] == sum(truth)
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    areas = [row["auroc"]["value"] for row in told["panels"]]
    assert (told["lowest"], told["highest"]) == (min(areas), max(areas))


def test_unanimous_and_disputed_films_are_told_apart_film_by_film() -> None:
    nan = np.nan
    pattern = pd.DataFrame([[1, 1, 1], [0, 0, nan], [1, 0, 1], [1, 0.5, 1], [0.5, 0.5, 0.5], [1, nan, nan], [nan, nan, nan]], columns=["a", "b", "c"])
    votes = pd.concat([pattern] * 40, ignore_index=True)
    rng = np.random.default_rng(0)
    positive, score = rng.random(280) < 0.5, rng.normal(size=280)
    told = unanimous_and_disputed(score, positive, np.arange(280), votes, **DRAWN)
    kind = np.arange(280) % 7
    for name, kinds in (("unanimous", (0, 1)), ("disputed", (2, 3, 4))):
        inside = np.isin(kind, kinds)
        assert told[name]["n_images"] == inside.sum()
        assert told[name]["auroc"]["value"] == pytest.approx(roc_auc_score(positive[inside], score[inside]), abs=1e-12)
    assert told["n_left_out"] == 80
    few = unanimous_and_disputed(score[:14], positive[:14], np.arange(14), votes[:14], **DRAWN)
    assert few["unanimous"]["auroc"] is None
    assert "too few" in few["unanimous"]["reason"]
