"""Mirrors report/charts.py: against sklearn, and against the report."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from cxr.report.charts import POINTS, charts
from cxr.report.wording import spell


@pytest.fixture(scope="module")
def made(evaluated: Any) -> dict[str, Any]:
    return charts(*evaluated)


def test_there_is_a_line_for_every_finding_that_has_an_auroc(evaluated: Any, made: dict[str, Any]) -> None:
    n_lines = 0
    for name, part in evaluated.report["reference_sets"].items():
        defined = [finding for finding, row in part["findings"].items() if row["auroc"]]
        assert list(made[f"{name}/roc"].lines) == list(made[f"{name}/precision_recall"].lines) == defined
        assert made[f"{name}/roc"].title == f"{spell(name)}: ROC"
        n_lines += len(defined)
    assert n_lines > 30
    assert "Hernia" not in made["nih_test/roc"].lines


def test_the_points_lie_on_the_curves_of_sklearn(evaluated: Any, made: dict[str, Any]) -> None:
    for name, reference in evaluated.references.items():
        for finding, (x, y) in made[f"{name}/roc"].lines.items():
            films = reference.films.set_index("image_id")[finding].dropna()
            score = evaluated.scores[name][finding].reindex(films.index).dropna()
            positive = films[score.index] == 1
            false_positive_rate, sensitivity, _ = roc_curve(positive, score, drop_intermediate=False)
            points = set(zip(false_positive_rate.round(12), sensitivity.round(12), strict=True))
            assert set(zip(x.round(12), y.round(12), strict=True)) <= points
            assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
            assert len(x) <= POINTS
            assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(positive, score), abs=0.01)
            recall, its_precision = made[f"{name}/precision_recall"].lines[finding]
            precision, its_recall, _ = precision_recall_curve(positive, score)
            points = set(zip(its_recall.round(12), precision.round(12), strict=True))
            assert set(zip(recall.round(12), its_precision.round(12), strict=True)) <= points


def test_the_reliability_is_that_of_the_report(evaluated: Any, made: dict[str, Any]) -> None:
    told = evaluated.report["reference_sets"]["nih_test"]["findings"]
    lines = made["nih_test/reliability"].lines
    assert len(lines) > 5
    for finding, (probability, observed) in lines.items():
        bins = told[finding]["calibration"]["before"]["bins"]
        assert probability.tolist() == [b["mean_probability"] for b in bins]
        assert observed.tolist() == [b["observed"]["value"] for b in bins]
