"""Mirrors report/beside_readers.py. The oracles are sklearn and plain loops over the reads."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import made_up
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from cxr.report.evaluate import evaluate


@pytest.fixture(scope="module")
def whole() -> tuple[Any, Any, Any, Any]:
    predicted, references = made_up.study()
    frozen = made_up.frozen(predicted, references)
    return predicted, references, frozen, evaluate(predicted, references, frozen, train_val=made_up.train_val())


def votes_of(reference: Any, finding: str) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = {}
    for row in reference.reads.to_dict("records"):
        told.setdefault(row["reader_id"], {})[row["image_id"]] = row[finding]
    return told


def test_readers_are_measured_under_every_policy_where_they_hedge_and_once_where_they_do_not(whole: Any) -> None:
    _, references, _, report = whole
    assert set(report["four_findings_test"]["readers"]["performance"]) == {"no", "yes", "drop"}
    assert set(report["all_findings_test"]["readers"]["performance"]) == {"no"}
    reference = references["four_findings_test"]
    truth = dict(zip(reference.films.image_id, reference.films["Nodule or mass"], strict=True))
    for policy, value in (("no", 0.0), ("yes", 1.0), ("drop", None)):
        for reader, said in votes_of(reference, "Nodule or mass").items():
            called = {image: value if vote == 0.5 else vote for image, vote in said.items()}
            hits = [called[image] == 1 for image in called if truth[image] == 1 and called[image] is not None]
            row = report["four_findings_test"]["readers"]["performance"][policy]["by_reader"][reader]["Nodule or mass"]
            assert row["sensitivity"]["value"] == pytest.approx(np.mean(hits), abs=1e-12)


def test_the_primary_family_alone_is_tested_and_holm_steps_down(whole: Any) -> None:
    *_, frozen, report = whole
    told = report["all_findings_test"]["readers"]["differences"]
    family = frozen.content["primary_family"]["findings"]
    assert set(told["by_reader"]) == {"4", "5"}
    tested = {(reader, finding): row for reader, rows in told["by_reader"].items() for finding, row in rows.items() if row["in_primary_family"]}
    assert {finding for _, finding in tested} | set(told["not_tested"]) == set(family)
    assert told["n_comparisons"] == len(tested)
    assert told["by_reader"]["4"]["Abnormal"]["p"] is None
    ordered, highest = sorted(tested.values(), key=lambda row: row["p"]), 0.0
    for rank, row in enumerate(ordered):
        highest = max(highest, min(1.0, row["p"] * (len(ordered) - rank)))
        assert row["p_holm"] == pytest.approx(highest, abs=1e-12)


def test_a_finding_that_missing_films_leave_with_too_few_patients_is_not_tested(whole: Any) -> None:
    predicted, references, *_ = whole
    truth = references["all_findings_test"].films
    gone = truth.image_id[(truth["Edema"] == 1) & (truth.patient_id % 4 > 0)]
    fewer = replace(predicted, table=predicted.table[~predicted.table.image_id.isin(gone)])
    frozen = made_up.frozen(fewer, references)
    told = evaluate(fewer, references, frozen, train_val=made_up.train_val())["all_findings_test"]["readers"]["differences"]
    assert "Edema" in frozen.content["primary_family"]["findings"]
    assert "Edema" in told["not_tested"]
    assert told["by_reader"]["4"]["Edema"]["p"] is None


def test_a_held_out_reader_is_compared_at_his_own_rate_of_false_alarms(whole: Any) -> None:
    predicted, references, frozen, report = whole
    reference = references["all_findings_test"]
    scores = frozen.mapping.scores(predicted, reference)
    truth = reference.films["Effusion"].to_numpy() == 1
    said = np.array([votes_of(reference, "Effusion")["4"][image] for image in reference.films.image_id]) == 1
    row = report["all_findings_test"]["readers"]["differences"]["by_reader"]["4"]["Effusion"]
    assert row["reader_sensitivity"] == pytest.approx(said[truth].mean(), abs=1e-12)
    assert row["reader_specificity"] == pytest.approx((~said[~truth]).mean(), abs=1e-12)
    # as many false alarms as the reader, no fewer and no more than one film's worth
    n_allowed = said[~truth].sum()
    score = scores["Effusion"].to_numpy()
    negatives = np.sort(score[~truth])[::-1]
    bounds = [(score[truth] >= negatives[n_allowed - 1]).mean(), (score[truth] >= negatives[min(n_allowed + 1, negatives.size - 1)]).mean()]
    assert bounds[0] - 0.05 <= row["model_sensitivity"] <= bounds[1] + 0.05
    assert row["difference"]["value"] == pytest.approx(row["model_sensitivity"] - row["reader_sensitivity"], abs=1e-12)


def test_kappa_is_sklearns_between_readers_and_with_the_models_calls(whole: Any) -> None:
    predicted, references, frozen, report = whole
    for name, finding in (("all_findings_test", "Effusion"), ("four_findings_test", "Nodule or mass")):
        reference = references[name]
        votes = {reader: [vote == 1 for vote in said.values()] for reader, said in votes_of(reference, finding).items()}
        told = report[name]["readers"]["kappa"][finding]
        assert [tuple(row["readers"]) for row in told["between_readers"]] == list(combinations(sorted(votes), 2))
        for row in told["between_readers"]:
            assert row["kappa"]["value"] == pytest.approx(cohen_kappa_score(*(votes[reader] for reader in row["readers"])), abs=1e-12)
        threshold = frozen.content["operating_points"][name][finding]["rules"]["specificity"]["threshold"]
        called = frozen.mapping.scores(predicted, reference)[finding].to_numpy() >= threshold
        for reader, row in told["with_model"].items():
            assert row["kappa"]["value"] == pytest.approx(cohen_kappa_score(votes[reader], called), abs=1e-12)


def test_leave_one_out_scores_reader_and_model_on_what_all_others_agreed_on(whole: Any) -> None:
    predicted, references, frozen, report = whole
    reference = references["four_findings_test"]
    scores = frozen.mapping.scores(predicted, reference)["Airspace opacity"]
    votes = votes_of(reference, "Airspace opacity")
    for reader, row in report["four_findings_test"]["readers"]["leave_one_out"]["Airspace opacity"].items():
        agreed = {}
        for image, said in votes[reader].items():
            others = {votes[other][image] for other in votes if other != reader}
            if len(others) == 1 and others <= {0.0, 1.0} and said != 0.5:
                agreed[image] = others.pop()
        assert row["n_reads"] - row["n_excluded"] == len(agreed)
        assert row["share_excluded"] == pytest.approx(1 - len(agreed) / len(votes[reader]), abs=1e-12)
        hits = [votes[reader][image] == 1 for image, truth in agreed.items() if truth == 1]
        assert row["reader"]["sensitivity"]["value"] == pytest.approx(np.mean(hits), abs=1e-12)
        assert row["model"]["auroc"]["value"] == pytest.approx(roc_auc_score(list(agreed.values()), scores[list(agreed)]), abs=1e-12)
    assert "differences" not in report["four_findings_test"]["readers"]
    assert "leave_one_out" not in report["all_findings_test"]["readers"]


def test_a_reader_of_few_films_is_pooled_and_not_shown() -> None:
    predicted, references = made_up.study()
    reference = references["four_findings_test"]
    few = reference.reads[(reference.reads.reader_id != "d") | (reference.reads.index % 7 == 0)]
    references |= {"four_findings_test": replace(reference, reads=few)}
    part = evaluate(predicted, references, made_up.frozen(predicted, references), train_val=made_up.train_val())["four_findings_test"]["readers"]
    assert part["n_reads"] == dict(Counter(few.reader_id))
    assert part["shown"] == ["a", "b", "c"]
    assert "d" in part["performance"]["no"]["by_reader"]
    assert all("d" not in rows for rows in part["leave_one_out"].values())


def test_the_partial_area_spans_the_readers_rates(whole: Any) -> None:
    *_, report = whole
    part = report["all_findings_test"]["readers"]
    rates = [1 - rows["Effusion"]["specificity"]["value"] for rows in part["performance"]["no"]["by_reader"].values()]
    assert part["partial_auroc"]["Effusion"]["false_positive_rates"] == pytest.approx([min(rates), max(rates)], abs=1e-12)
    assert 0 <= part["partial_auroc"]["Effusion"]["partial_auroc"]["value"] <= 1
