"""Mirrors report/evaluate.py. The oracle is sklearn on rows joined by hand."""

import re
from dataclasses import replace
from typing import Any

import made_up
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score

from cxr.cohort.findings import NIH_FINDINGS
from cxr.report.evaluate import evaluate, prevalences
from cxr.report.predictions import Predictions
from cxr.report.reference import ReferenceSet
from cxr.report.shortcuts import AGE_BANDS

N = 400


def reference(seed: int = 0) -> ReferenceSet:
    """400 films of about 160 patients; Hernia in few, Mass never, Nodule always, Fibrosis partly unknown."""
    table = made_up.films(N, seed=seed)
    table["Hernia"], table["Mass"], table["Nodule"] = (np.arange(N) < 5).astype(float), 0.0, 1.0
    table.loc[np.random.default_rng(seed).random(N) < 0.3, "Fibrosis"] = np.nan
    return made_up.nih(table)


def evaluated(predicted: Predictions, truth: ReferenceSet, available: bool = False) -> dict[str, Any]:
    val = made_up.films(200, first_patient=9000)
    everything = Predictions(pd.concat([predicted.table, made_up.predictions(val).table]), predicted.findings, {})
    references = {"nih_val": made_up.nih(val, "nih_val", "val"), truth.name: truth}
    frozen = made_up.frozen(everything, references, macro_available=available)
    return evaluate(everything, references, frozen, train_val=made_up.train_val())[truth.name]


def predicted_for(truth: ReferenceSet) -> Predictions:
    return made_up.predictions(truth.films.iloc[:0], truth.films)


def test_numbers_equal_sklearns_and_unknown_targets_take_no_part() -> None:
    truth = reference()
    predicted = predicted_for(truth)
    part = evaluated(predicted, truth)
    for finding in ("Effusion", "Fibrosis", "Hernia"):
        known = truth.films[finding].notna().to_numpy()
        positive, scores = truth.films[finding][known] == 1, predicted.table[f"logit_{finding}"][known].astype(float)
        row = part["findings"][finding]
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
        assert (row["n_pos"], row["n_neg"], row["n_unknown"]) == (positive.sum(), (~positive).sum(), (~known).sum())
    assert part["findings"]["Fibrosis"]["n_unknown"] > 50


def test_rows_meet_by_image_id_and_never_by_order() -> None:
    truth = reference()
    predicted = predicted_for(truth)
    shuffled = Predictions(predicted.table.sample(frac=1, random_state=0), predicted.findings, {})
    assert evaluated(shuffled, truth) == evaluated(predicted, truth)


def test_a_finding_of_one_class_is_null_with_its_reason_and_leaves_the_mean() -> None:
    truth = reference()
    part = evaluated(predicted_for(truth), truth)
    for finding, reason in (("Mass", "no positive image"), ("Nodule", "no negative image")):
        assert part["findings"][finding]["auroc"] is None
        assert part["findings"][finding]["auprc"] is None
        assert part["findings"][finding]["reason"] == reason
        assert finding not in part["macro"]["findings"]


def test_a_finding_the_model_does_not_predict_is_null_and_said_so() -> None:
    truth = reference()
    predicted = predicted_for(truth)
    partial = Predictions(predicted.table.drop(columns="logit_Edema"), [f for f in NIH_FINDINGS if f != "Edema"], {})
    part = evaluated(partial, truth)
    assert part["findings"]["Edema"]["reason"] == "not predicted by this model"
    assert part["macro"]["left_out"]["Edema"] == "not predicted by this model"


def test_the_mean_is_over_findings_with_twenty_positive_patients() -> None:
    truth = reference()
    part = evaluated(predicted_for(truth), truth)
    for finding in NIH_FINDINGS:
        n_patients = truth.films.patient_id[truth.films[finding] == 1].nunique()
        if finding not in ("Mass", "Nodule"):
            assert (finding in part["macro"]["findings"]) == (n_patients >= 20)
    assert part["macro"]["left_out"]["Hernia"] == "5 positive patients, fewer than 20"
    areas = [part["findings"][finding]["auroc"]["value"] for finding in part["macro"]["findings"]]
    assert part["macro"]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert part["macro"]["auroc"]["lo"] < np.mean(areas) < part["macro"]["auroc"]["hi"]


def test_missing_images_cannot_choose_the_list_of_the_mean() -> None:
    truth = reference()
    present = truth.films[(truth.films["Effusion"] == 0) | (truth.films.patient_id < 10)]
    predicted = made_up.predictions(present.iloc[:0], present)
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
    truth.films.loc[truth.films["Edema"] == 1, "patient_id"] = 999
    row = evaluated(predicted_for(truth), truth)["findings"]["Edema"]
    assert (row["n_pos_patients"], row["largest_patient_share"]) == (1, 1.0)


def test_a_set_without_a_present_image_is_all_null() -> None:
    truth = reference()
    part = evaluated(made_up.predictions(truth.films.iloc[:0], truth.films.iloc[:0]), truth)
    assert part["n_images"] == 0
    assert all(row["auroc"] is None for row in part["findings"].values())
    assert part["macro"]["auroc"] is None


def test_the_seed_gives_the_interval() -> None:
    truth = reference()
    predicted = predicted_for(truth)
    assert evaluated(predicted, truth) == evaluated(predicted, truth)


def test_subgroups_are_scored_on_their_own_films_and_too_small_ones_say_so() -> None:
    truth = reference()
    truth.films.loc[truth.films.age < 18, "Effusion"] = 0.0
    predicted = predicted_for(truth)
    groups = evaluated(predicted, truth)["findings"]["Effusion"]["subgroups"]
    score, positive = predicted.table["logit_Effusion"].to_numpy(float), truth.films["Effusion"].to_numpy() == 1
    for kind, column in (("view", "view"), ("sex", "sex")):
        for value, row in groups[kind].items():
            inside = (truth.films[column] == value).to_numpy()
            assert row["n_images"] == inside.sum()
            assert row["auroc"]["value"] == pytest.approx(roc_auc_score(positive[inside], score[inside]), abs=1e-12)
    assert groups["age"]["under 18"] == {"n_images": int((truth.films.age < 18).sum()), "n_pos": 0, "n_pos_patients": 0, "auroc": None} | {
        "reason": "too few: 0 positive patients, fewer than 10"
    }
    assert sum(row["n_images"] for row in groups["age"].values()) == N
    assert len(groups["age"]) == len(AGE_BANDS)


@pytest.fixture(scope="module")
def whole() -> tuple[Predictions, dict[str, ReferenceSet], Any, dict[str, Any]]:
    predicted, references = made_up.study()
    frozen = made_up.frozen(predicted, references)
    return predicted, references, frozen, evaluate(predicted, references, frozen, train_val=made_up.train_val())


def test_a_frozen_threshold_is_applied_unchanged_and_its_numbers_are_sklearns(whole: Any) -> None:
    predicted, references, frozen, report = whole
    for name, reference in references.items():
        if name == "nih_val":
            assert "operating_points" not in report[name]["findings"]["Effusion"]
            continue
        scores = frozen.mapping.scores(predicted, reference)
        for finding in scores:
            row = report[name]["findings"][finding]["operating_points"]
            expert = references["four_findings_validation"].films
            enough = name == "four_findings_test" and expert.patient_id[expert[finding] == 1].nunique() >= 30
            assert row["source"] == ("four_findings_validation" if enough else "nih_val")
            assert row["text_mined_target"] is (row["source"] == "nih_val")
            films = reference.films.set_index("image_id").loc[scores.index]
            for rule, point in row["rules"].items():
                assert point["threshold"] == frozen.content["operating_points"][name][finding]["rules"][rule]["threshold"]
                called = scores[finding] >= point["threshold"]
                (tn, fp), (fn, tp) = confusion_matrix(films[finding], called)
                for key, share in {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp)}.items():
                    assert point[key]["value"] == pytest.approx(share, abs=1e-12)
                pa = (films["view"] == "PA") & (films[finding] == 0)
                assert point["by_view"]["PA"]["specificity"]["value"] == pytest.approx((~called[pa]).mean(), abs=1e-12)
                rate = tp / (tp + fn) * 0.05
                ppv = rate / (rate + fp / (tn + fp) * 0.95)
                assert point["at_prevalence"]["0.05"]["ppv"]["value"] == pytest.approx(ppv, abs=1e-12)


def test_calibration_is_told_before_and_after_and_a_maximum_is_no_probability(whole: Any) -> None:
    predicted, references, frozen, report = whole
    row = report["all_findings_test"]["findings"]["Effusion"]["calibration"]
    reference = references["all_findings_test"]
    logits = frozen.mapping.scores(predicted, reference)["Effusion"].to_numpy()
    refit = frozen.content["recalibration"]["all_findings_test"]["Effusion"]
    for key, probability in {"before": expit(logits), "platt": expit(refit["slope"] * logits + refit["intercept"])}.items():
        assert row[key]["brier"]["value"] == pytest.approx(brier_score_loss(reference.films["Effusion"], probability), abs=1e-12)
    assert row["fitted_on"] == "nih_val"
    assert row["text_mined_target"] is True
    assert {row["operating_points"]["source"] for row in report["four_findings_test"]["findings"].values() if row["auroc"]} == {
        "four_findings_validation",
        "nih_val",
    }
    opacity = report["four_findings_test"]["findings"]["Airspace opacity"]["calibration"]
    assert opacity["before"] is None
    assert "no probability" in opacity["reason"]
    assert opacity["platt"]["ece"]["value"] >= 0
    assert opacity["fitted_on"] == "four_findings_validation"


def test_the_metadata_baseline_stands_beside_every_radiologists_finding(whole: Any) -> None:
    *_, report = whole
    for name in ("four_findings_validation", "four_findings_test", "all_findings_test"):
        for finding, row in report[name]["findings"].items():
            if row["auroc"] is None:
                continue
            baseline = row["metadata_baseline"]
            if finding in ("Fracture", "Other"):
                assert baseline["reason"] == "no text-mined label to fit it on"
            else:
                assert baseline["difference"]["value"] == pytest.approx(row["auroc"]["value"] - baseline["auroc"]["value"], abs=1e-12)
    for finding, row in report["nih_test"]["findings"].items():  # on text-mined labels too, of films that chose nothing
        if row["auroc"]:
            told = row["metadata_baseline"]
            assert told["difference"]["value"] == pytest.approx(row["auroc"]["value"] - told["auroc"]["value"], abs=1e-12), finding
    assert "metadata_baseline" not in report["nih_val"]["findings"]["Effusion"]


def test_what_each_thing_known_of_a_film_predicts_alone_is_a_regression_on_it_alone(whole: Any) -> None:
    _, references, _, report = whole
    films, train_val = references["nih_test"].films, made_up.train_val()
    alone = report["nih_test"]["findings"]["Effusion"]["metadata_baseline"]["alone"]
    positive = films["Effusion"] == 1
    for name, value in (("view", "AP"), ("sex", "M")):
        more = train_val.Effusion[train_val[name] == value].mean() > train_val.Effusion[train_val[name] != value].mean()
        assert alone[name]["value"] == pytest.approx(roc_auc_score(positive, (films[name] == value) == more), abs=1e-12)
    age = LogisticRegression(penalty=None, max_iter=10_000).fit(np.stack([a := train_val.age / 100, a**2], axis=1), train_val.Effusion)
    guessed = age.decision_function(np.stack([a := films.age / 100, a**2], axis=1))
    assert alone["age"]["value"] == pytest.approx(roc_auc_score(positive, guessed), abs=0.01)


def test_the_band_of_a_curve_holds_the_curve(whole: Any) -> None:
    predicted, references, frozen, report = whole
    from cxr.stats.ranking import sensitivity_at

    reference = references["all_findings_test"]
    scores = frozen.mapping.scores(predicted, reference)
    for finding in ("Effusion", "Abnormal"):
        band = report["all_findings_test"]["findings"][finding]["roc_band"]
        rates = np.array(band["false_positive_rate"])
        curve = sensitivity_at(scores[finding].to_numpy(), reference.films[finding].to_numpy() == 1, rates[None, :])[0]
        inside = (np.array(band["lo"]) <= curve + 0.02) & (curve <= np.array(band["hi"]) + 0.02)
        assert inside.mean() > 0.95
        assert np.mean(np.array(band["hi"]) - np.array(band["lo"])) > 0.05


def test_fracture_and_other_are_not_predicted_and_their_readers_are_told_all_the_same(whole: Any) -> None:
    *_, report = whole
    fracture = report["four_findings_test"]["findings"]["Fracture"]
    assert (fracture["auroc"], fracture["reason"]) == (None, "not predicted by this model")
    assert report["four_findings_test"]["readers"]["performance"]["no"]["by_reader"]["a"]["Fracture"]["sensitivity"]["value"] > 0.5
    assert report["all_findings_test"]["findings"]["Other"]["auroc"] is None
    assert report["all_findings_test"]["macro"]["left_out"]["Abnormal"] == "a summary of the other findings"


def test_every_mapping_is_told_beside_the_chosen_one(whole: Any) -> None:
    predicted, references, _, report = whole
    table = report["four_findings_test"]["mapping_sensitivity"]["Airspace opacity"]
    assert {method for method, row in table.items() if row["chosen"]} == {"max"}
    assert table["max"]["auroc"] == report["four_findings_test"]["findings"]["Airspace opacity"]["auroc"]
    assert {"max_raw", "noisy_or", "max, with Effusion", "probe"} < table.keys()
    again = evaluate(predicted, references, made_up.frozen(predicted, references, "noisy_or"), train_val=made_up.train_val())
    assert again["four_findings_test"]["findings"]["Airspace opacity"]["auroc"] == table["noisy_or"]["auroc"]


def test_a_probe_speaks_of_fracture_and_is_told_out_of_fold_where_it_was_fitted(whole: Any) -> None:
    predicted, references, _, report = whole
    frozen = made_up.frozen(predicted, references, "probe")
    probed = evaluate(predicted, references, frozen, train_val=made_up.train_val())
    for name in ("four_findings_validation", "four_findings_test"):
        for finding, row in probed[name]["findings"].items():
            assert row["auroc"] == report[name]["mapping_sensitivity"][finding]["probe"]["auroc"]
    assert probed["all_findings_test"]["findings"] == report["all_findings_test"]["findings"]
    in_sample = frozen.mapping.probes["Fracture"].score(predicted.table[predicted.table.split == "expert_validation"].filter(like="logit_").to_numpy(float))
    truth = references["four_findings_validation"].films["Fracture"]
    assert probed["four_findings_validation"]["findings"]["Fracture"]["auroc"]["value"] < roc_auc_score(truth, in_sample)


def test_prevalences_of_all_sets_stand_side_by_side(whole: Any) -> None:
    predicted, references, *_ = whole
    train_val = made_up.train_val()
    table = prevalences(predicted, references, train_val)
    assert list(table) == ["train_val", *references]
    assert table["train_val"]["text_mined"]["Edema"] == train_val["Edema"].mean()
    assert table["four_findings_test"]["reference"]["Fracture"] == references["four_findings_test"].films["Fracture"].mean()
    assert table["nih_test"]["reference"] == {}
    half = replace(predicted, table=predicted.table[predicted.table.image_id.isin(references["four_findings_test"].films.image_id[:100])])
    assert prevalences(half, references, train_val)["four_findings_test"]["reference"]["Fracture"] == (
        references["four_findings_test"].films["Fracture"][:100].mean()
    )
