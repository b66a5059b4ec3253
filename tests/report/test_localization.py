"""Mirrors report/localization.py: its numbers against loops, and that no threshold is chosen on a box that it judges."""

import numpy as np
import pandas as pd
import pytest

from cxr.report.localization import ALL, Traces, evaluate, trace
from cxr.stats.localization import HEAT_THRESHOLDS, blob

SIDE = 64


def study(n: int = 90, seed: int = 0) -> tuple[pd.DataFrame, dict[str, Traces]]:
    """Boxes, and a model that points near most of them; of Hernia there are four boxes."""
    rng = np.random.default_rng(seed)
    middle, half = rng.uniform(15, 49, (n, 2)), rng.uniform(3, 14, (n, 2))
    boxes = pd.DataFrame(np.hstack([middle - half, middle + half]), columns=["x", "y", "right", "below"])
    boxes["patient_id"], boxes["finding"] = rng.integers(0, 40, n), np.where(np.arange(n) < 4, "Hernia", np.where(np.arange(n) % 2, "Mass", "Nodule"))
    boxes["for_threshold"] = boxes.patient_id % 2 == 0
    points = {"model": middle + rng.normal(0, 5, (n, 2)), "centre": np.full((n, 2), SIDE / 2), "random": rng.uniform(0, SIDE, (n, 2))}
    traces = {source: Traces(*map(np.stack, zip(*(trace(blob(x, y, SIDE)) for x, y in at), strict=True))) for source, at in points.items()}
    return boxes, traces


def iou(one: np.ndarray, other: np.ndarray) -> float:
    common = max(0, min(one[2], other[2]) - max(one[0], other[0])) * max(0, min(one[3], other[3]) - max(one[1], other[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(common / (sum(area) - common))


def test_every_number_equals_a_loop_over_the_boxes() -> None:
    boxes, traces = study()
    corners = boxes[["x", "y", "right", "below"]].to_numpy()
    findings = evaluate(boxes, traces, side=SIDE, n_draws=100, seed=0).content["findings"]
    assert set(findings) == {"Hernia", "Mass", "Nodule", ALL}
    for source, kept in traces.items():
        judged_ious = []
        for finding in ("Hernia", "Mass", "Nodule"):
            told = findings[finding]
            mine = np.flatnonzero(boxes.finding == finding)
            hits = [corners[k, 0] <= kept.peaks[k, 0] < corners[k, 2] and corners[k, 1] <= kept.peaks[k, 1] < corners[k, 3] for k in mine]
            assert told["pointing"][source]["value"] == pytest.approx(np.mean(hits))
            assert told["threshold_of"] == (ALL if finding == "Hernia" else finding)
            choosing = np.flatnonzero(boxes.for_threshold) if finding == "Hernia" else mine[boxes.for_threshold[mine]]
            means = [np.mean([iou(kept.detected[k, t], corners[k]) for k in choosing]) for t in range(len(HEAT_THRESHOLDS))]
            assert told["heat_threshold"][source] == HEAT_THRESHOLDS[int(np.argmax(means))]
            judged = mine[~boxes.for_threshold[mine]]
            at = HEAT_THRESHOLDS.index(told["heat_threshold"][source])
            ious = np.array([iou(kept.detected[k, at], corners[k]) for k in judged])
            judged_ious += ious.tolist()
            assert told["n_boxes_judged"] == len(judged)
            assert told["mean_iou"][source]["value"] == pytest.approx(ious.mean())
            for least, rate in told["hit_rate"][source]["iou"].items():
                assert rate["value"] == pytest.approx((ious >= float(least)).mean())
                assert rate["lo"] <= rate["value"] <= rate["hi"]
        assert findings[ALL]["mean_iou"][source]["value"] == pytest.approx(np.mean(judged_ious))
    assert findings[ALL]["pointing"]["model"]["value"] > 0.7 > 0.5 > findings[ALL]["pointing"]["random"]["value"]
    difference = findings["Mass"]["pointing_less_centre"]["value"]
    assert difference == pytest.approx(findings["Mass"]["pointing"]["model"]["value"] - findings["Mass"]["pointing"]["centre"]["value"])


def test_thresholds_do_not_know_the_boxes_that_they_judge() -> None:
    boxes, traces = study()
    before = evaluate(boxes, traces, side=SIDE, n_draws=100, seed=0).content["findings"]
    spoiled = boxes.copy()
    spoiled.loc[~boxes.for_threshold, ["x", "y", "right", "below"]] = [0.0, 0.0, 3.0, 60.0]
    after = evaluate(spoiled, traces, side=SIDE, n_draws=100, seed=0).content["findings"]
    for finding in ("Hernia", "Mass", "Nodule"):
        assert after[finding]["heat_threshold"] == before[finding]["heat_threshold"]
        assert after[finding]["mean_iou"]["model"]["value"] < before[finding]["mean_iou"]["model"]["value"]


def test_the_best_the_median_and_the_worst_are_shown_of_judged_boxes_alone() -> None:
    boxes, traces = study()
    results = evaluate(boxes, traces, side=SIDE, n_draws=100, seed=0)
    ious = {which: one.iou for which, one in ((one.which, one) for one in results.shown if one.finding == "Mass")}
    assert ious["best"] > ious["median"] > ious["worst"]
    assert not boxes.for_threshold[[one.index for one in results.shown]].any()


def test_where_one_half_holds_no_box_nothing_is_made_up() -> None:
    boxes, traces = study(30)
    told = evaluate(boxes.assign(for_threshold=True), traces, side=SIDE, n_draws=100, seed=0).content["findings"]["Mass"]
    assert (told["mean_iou"]["model"], told["hit_rate"]["model"]["iou"]["0.5"], told["n_boxes_judged"]) == (None, None, 0)
    told = evaluate(boxes.assign(for_threshold=False), traces, side=SIDE, n_draws=100, seed=0).content["findings"]["Mass"]
    assert (told["heat_threshold"]["model"], told["threshold_of"]) == (0.5, None)
