"""Mirrors report/reading.py. The oracle is counting."""

import numpy as np
import pandas as pd
import pytest

from cxr.report.reading import HEDGE_POLICIES, calls, estimate, performance, reader_performance
from cxr.stats.bootstrap import Estimate

NAN = float("nan")


def test_a_number_has_its_ends_and_an_undefined_one_is_null() -> None:
    assert estimate(Estimate(0.5, 0.25, 0.75)) == {"value": 0.5, "lo": 0.25, "hi": 0.75}
    assert estimate(Estimate(NAN, NAN, NAN)) is None


@pytest.mark.parametrize(("policy", "uncertain"), zip(HEDGE_POLICIES, (0.0, 1.0, NAN), strict=True))
def test_an_uncertain_read_counts_as_the_policy_says_and_an_unknown_one_never_counts(policy: str, uncertain: float) -> None:
    np.testing.assert_array_equal(calls(pd.Series([1.0, 0.0, 0.5, NAN]), policy), [1.0, 0.0, uncertain, NAN])


def test_performance_is_a_table_of_four_counts_and_unknown_films_take_no_part() -> None:
    called = np.array([1, 1, 1, 0, 0, 0, 0, 1, NAN, 1])
    reference = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, NAN])
    patients = np.array([1, 1, 1, 2, 3, 3, 4, 2, 5, 6])
    leaf = performance(called, reference, patients)
    # true positives 3, false positives 1, false negatives 1, true negatives 3
    assert {key: leaf[key]["value"] for key in ("sensitivity", "specificity", "ppv", "npv")} == dict.fromkeys(
        ("sensitivity", "specificity", "ppv", "npv"), 0.75
    )
    assert all(leaf[key]["lo"] < 0.75 < leaf[key]["hi"] for key in ("sensitivity", "specificity", "ppv", "npv"))
    counted = {key: leaf[key] for key in ("n_images", "n_left_out", "n_pos", "n_neg", "n_pos_patients", "n_called")}
    assert counted == {"n_images": 8, "n_left_out": 2, "n_pos": 4, "n_neg": 4, "n_pos_patients": 2, "n_called": 4}
    assert "reason" not in leaf


@pytest.mark.parametrize(
    ("called", "reference", "missing", "reason"),
    [
        ([1.0, 0.0], [0.0, 0.0], {"sensitivity"}, "no positive image"),
        ([1.0, 0.0], [1.0, 1.0], {"specificity"}, "no negative image"),
        ([0.0, 0.0], [1.0, 0.0], {"ppv"}, "never called present"),
        ([1.0, 1.0], [1.0, 0.0], {"npv"}, "never called absent"),
        ([NAN], [1.0], {"sensitivity", "specificity", "ppv", "npv"}, "no positive image; no negative image; never called present; never called absent"),
    ],
)
def test_a_share_of_nothing_is_null_with_its_reason(called: list[float], reference: list[float], missing: set[str], reason: str) -> None:
    leaf = performance(np.array(called), np.array(reference), np.arange(len(called)))
    assert {key for key in ("sensitivity", "specificity", "ppv", "npv") if leaf[key] is None} == missing
    assert leaf["reason"] == reason


@pytest.fixture
def reads() -> pd.DataFrame:
    rows = [("a", 1, "x", 1.0), ("a", 1, "y", 0.0), ("b", 1, "x", 0.5), ("b", 1, "y", 1.0), ("c", 2, "x", 0.0), ("c", 2, "y", NAN), ("d", 3, "x", 1.0)]
    return pd.DataFrame(rows, columns=["image_id", "patient_id", "reader_id", "Mass"])


LABELS = pd.DataFrame({"image_id": ["d", "c", "b", "a"], "patient_id": [3, 2, 1, 1], "Mass": [0.0, 0.0, 1.0, 1.0]})


def test_readers_meet_the_reference_by_image_and_pooled_every_read_counts(reads: pd.DataFrame) -> None:
    told = reader_performance(reads, LABELS, ["Mass"], hedge="no")
    assert list(told["by_reader"]) == ["x", "y"]
    one = told["by_reader"]["x"]["Mass"]
    assert (one["n_pos"], one["n_neg"], one["sensitivity"]["value"], one["specificity"]["value"]) == (2, 2, 0.5, 0.5)
    pooled = told["pooled"]["Mass"]
    assert (pooled["n_reads"], pooled["n_images"], pooled["n_left_out"], pooled["n_pos_patients"]) == (6, 4, 1, 1)
    assert (pooled["n_pos"], pooled["n_neg"], pooled["sensitivity"]["value"]) == (4, 2, 0.5)


def test_a_policy_changes_the_uncertain_reads_alone(reads: pd.DataFrame) -> None:
    of = {policy: reader_performance(reads, LABELS, ["Mass"], hedge=policy)["by_reader"] for policy in HEDGE_POLICIES}
    assert [of[policy]["x"]["Mass"]["sensitivity"]["value"] for policy in HEDGE_POLICIES] == [0.5, 1.0, 1.0]
    assert [of[policy]["x"]["Mass"]["n_images"] for policy in HEDGE_POLICIES] == [4, 4, 3]
    assert of["no"]["y"] == of["yes"]["y"] == of["drop"]["y"]


def test_labels_of_some_films_leave_the_other_reads_out(reads: pd.DataFrame) -> None:
    told = reader_performance(reads, LABELS[LABELS.image_id != "a"], ["Mass"], hedge="no")
    assert told["by_reader"]["x"]["Mass"]["n_images"] == 3
    assert told["pooled"]["Mass"]["n_reads"] == 4
