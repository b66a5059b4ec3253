"""Mirrors report/evaluate.py. The oracle is sklearn on rows joined by hand."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.evaluate import evaluate
from cxr.report.predictions import Predictions

N = 400


def reference(seed: int = 0) -> pd.DataFrame:
    """400 films of about 160 patients; Hernia in few, Mass never, Nodule always, Fibrosis partly unknown."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image_id": [f"{i:08d}_000.png" for i in range(N)], "patient_id": rng.integers(200, size=N)})
    table["view"] = rng.choice(["PA", "AP"], N)
    table["age"] = rng.integers(18, 90, N).astype(float)
    for finding in NIH_FINDINGS:
        table[finding] = (rng.random(N) < 0.25).astype(float)
    table["Hernia"], table["Mass"], table["Nodule"] = (np.arange(N) < 5).astype(float), 0.0, 1.0
    table.loc[rng.random(N) < 0.3, "Fibrosis"] = np.nan
    return table


def predictions(table: pd.DataFrame, seed: int = 1) -> Predictions:
    rng = np.random.default_rng(seed)
    rows = table[["image_id", "patient_id"]].assign(split="test")
    for finding in NIH_FINDINGS:
        rows[f"logit_{finding}"] = np.round(rng.normal(size=len(rows)) + table[finding].fillna(0).to_numpy(), 2).astype(np.float32)
    return Predictions(rows, list(NIH_FINDINGS), {})


def evaluated(predicted: Predictions, truth: pd.DataFrame, available: bool = False) -> dict:
    return evaluate(predicted, {"set": truth}, n_listed={"set": len(truth)}, n_draws=100, seed=0, macro_available=available)["set"]


def test_numbers_equal_sklearns_and_unknown_targets_take_no_part() -> None:
    truth = reference()
    predicted = predictions(truth)
    part = evaluated(predicted, truth)
    for finding in ("Effusion", "Fibrosis", "Hernia"):
        known = truth[finding].notna().to_numpy()
        positive, scores = truth[finding][known] == 1, predicted.table[f"logit_{finding}"][known].astype(float)
        row = part["findings"][finding]
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
        assert (row["n_pos"], row["n_neg"], row["n_unknown"]) == (positive.sum(), (~positive).sum(), (~known).sum())
    assert part["findings"]["Fibrosis"]["n_unknown"] > 50


def test_rows_meet_by_image_id_and_never_by_order() -> None:
    truth = reference()
    predicted = predictions(truth)
    shuffled = Predictions(predicted.table.sample(frac=1, random_state=0), predicted.findings, {})
    assert evaluated(shuffled, truth) == evaluated(predicted, truth)


def test_a_finding_of_one_class_is_null_with_its_reason_and_leaves_the_mean() -> None:
    truth = reference()
    part = evaluated(predictions(truth), truth)
    for finding, reason in (("Mass", "no positive image"), ("Nodule", "no negative image")):
        assert part["findings"][finding]["auroc"] is None
        assert part["findings"][finding]["auprc"] is None
        assert part["findings"][finding]["reason"] == reason
        assert finding not in part["macro"]["findings"]


def test_a_finding_the_model_does_not_predict_is_null_and_said_so() -> None:
    truth = reference()
    predicted = predictions(truth)
    partial = Predictions(predicted.table.drop(columns="logit_Edema"), [f for f in NIH_FINDINGS if f != "Edema"], {})
    part = evaluated(partial, truth)
    assert part["findings"]["Edema"]["reason"] == "not predicted by this model"
    assert part["macro"]["left_out"]["Edema"] == "not predicted by this model"


def test_the_mean_is_over_findings_with_twenty_positive_patients() -> None:
    truth = reference()
    part = evaluated(predictions(truth), truth)
    for finding in NIH_FINDINGS:
        n_patients = truth.patient_id[truth[finding] == 1].nunique()
        if finding not in ("Mass", "Nodule"):
            assert (finding in part["macro"]["findings"]) == (n_patients >= 20)
    assert part["macro"]["left_out"]["Hernia"] == "5 positive patients, fewer than 20"
    areas = [part["findings"][finding]["auroc"]["value"] for finding in part["macro"]["findings"]]
    assert part["macro"]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert part["macro"]["auroc"]["lo"] < np.mean(areas) < part["macro"]["auroc"]["hi"]


def test_missing_images_cannot_choose_the_list_of_the_mean() -> None:
    truth = reference()
    present = truth[(truth["Effusion"] == 0) | (truth.patient_id < 10)]
    predicted = predictions(present)
    part = evaluated(predicted, truth)
    assert part["n_missing_images"] == N - len(present)
    assert part["macro"]["auroc"] is None
    assert "Effusion" in part["macro"]["reason"]
    assert "macro.available=true" in part["macro"]["hint"]

    flagged = evaluated(predicted, truth, available=True)["macro"]
    assert flagged["available_only"] is True
    assert "Effusion" not in flagged["findings"]
    assert re.fullmatch(r"\d+ positive patients? are present, fewer than 20", flagged["left_out"]["Effusion"])


def test_counts_speak_of_the_patients_behind_the_films() -> None:
    truth = reference()
    truth.loc[truth["Edema"] == 1, "patient_id"] = 999
    row = evaluated(predictions(truth), truth)["findings"]["Edema"]
    assert (row["n_pos_patients"], row["largest_patient_share"]) == (1, 1.0)


def test_a_set_without_a_present_image_is_all_null() -> None:
    truth = reference()
    part = evaluated(predictions(truth.iloc[:0]), truth)
    assert part["n_images"] == 0
    assert all(row["auroc"] is None for row in part["findings"].values())
    assert part["macro"]["auroc"] is None


def test_the_seed_gives_the_interval() -> None:
    truth = reference()
    predicted = predictions(truth)
    assert evaluated(predicted, truth) == evaluated(predicted, truth)
