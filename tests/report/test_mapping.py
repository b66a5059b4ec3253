"""Mirrors report/mapping.py. The oracles are plain loops over films, and sklearn."""

import math

import made_up
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr.cohort.findings import FOUR_FINDINGS, NIH_FINDINGS, UNIONS, LabelError
from cxr.report.mapping import FindingMapping, MappingError, Probe, fit_probe, logits_of, make_mapping, union_score

RNG = np.random.default_rng(0)
LOGITS, PREVALENCE = RNG.normal(-2, 2, size=(50, 3)), np.array([0.2, 0.05, 0.0])


def test_a_union_is_what_a_loop_over_the_films_says() -> None:
    for row, told in zip(LOGITS, union_score(LOGITS, PREVALENCE, "max"), strict=True):
        rates = [max(rate, 0.001) for rate in PREVALENCE]
        assert told == pytest.approx(max(x - math.log(rate / (1 - rate)) for x, rate in zip(row, rates, strict=True)), abs=1e-12)
    for row, told in zip(LOGITS, union_score(LOGITS, PREVALENCE, "noisy_or"), strict=True):
        none = math.prod(1 - 1 / (1 + math.exp(-x)) for x in row)
        assert told == pytest.approx(math.log((1 - none) / none), abs=1e-9)
    assert union_score(LOGITS, PREVALENCE, "max_raw").tolist() == [max(row) for row in LOGITS.tolist()]


def test_noisy_or_survives_logits_beyond_all_measure() -> None:
    assert np.isfinite(union_score(np.array([[500.0, 700.0], [-500.0, -700.0]]), PREVALENCE[:2], "noisy_or")).all()


def test_scores_meet_the_set_by_image_id_and_only_what_the_model_speaks_of() -> None:
    predicted, references = made_up.study()
    mapping = made_up.mapping(predicted)
    reference = references["four_findings_test"]
    scores = mapping.scores(predicted, reference)
    assert list(scores.columns) == ["Pneumothorax", "Airspace opacity", "Nodule or mass"]
    assert scores.index.tolist() == reference.films.image_id.tolist()
    one = predicted.table.set_index("image_id").loc[scores.index[17]]
    assert scores["Pneumothorax"].iloc[17] == one["logit_Pneumothorax"]
    offsets = {finding: math.log(rate / (1 - rate)) for finding, rate in mapping.prevalence.items()}
    assert scores["Airspace opacity"].iloc[17] == pytest.approx(max(one[f"logit_{f}"] - offsets[f] for f in UNIONS["Airspace opacity"]), abs=1e-6)
    everything = mapping.scores(predicted, references["all_findings_test"])
    assert list(everything.columns) == ["Abnormal", *NIH_FINDINGS]
    assert not mapping.is_probability("Abnormal", references["all_findings_test"])
    assert mapping.is_probability("Effusion", references["all_findings_test"])


def test_a_union_of_findings_that_the_model_lacks_is_not_spoken_of() -> None:
    _, references = made_up.study()
    tables = [references[name].films for name in ("nih_val", "nih_test")]
    fewer = made_up.predictions(*tables, findings=tuple(f for f in NIH_FINDINGS if f != "Mass"))
    scores = made_up.mapping(fewer).scores(fewer, references["four_findings_test"])
    assert list(scores.columns) == ["Pneumothorax", "Airspace opacity"]


def fitted(n: int = 400, share: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    patients = rng.integers(n // 3, size=n)
    logits = rng.normal(size=(n, 14))
    return logits, logits[:, 0] + logits[:, 1] + rng.normal(size=n) > 3 * (0.5 - share) + 0.5, patients


def test_a_probes_out_of_fold_score_never_saw_the_patient() -> None:
    logits, positive, patients = fitted()
    probe = fit_probe(logits, positive, patients, seed=0)
    assert isinstance(probe, Probe)
    # were a patient's films on both sides, a label that is the patient would be found; it must not be
    of_patient = np.random.default_rng(3).random(patients.max() + 1) < 0.4
    leaking = np.eye(patients.max() + 1)[patients]
    told = fit_probe(np.hstack([logits, 5 * leaking]), of_patient[patients], patients, seed=0)
    assert isinstance(told, Probe)
    assert roc_auc_score(of_patient[patients], told.score(np.hstack([logits, 5 * leaking]))) > 0.95
    assert roc_auc_score(of_patient[patients], told.out_of_fold) < 0.65
    assert 0.8 < roc_auc_score(positive, probe.out_of_fold) <= roc_auc_score(positive, probe.score(logits)) + 0.01


def test_a_probe_is_a_regularised_logistic_regression_of_the_raw_logits() -> None:
    from sklearn.linear_model import LogisticRegression

    logits, positive, patients = fitted()
    probe = fit_probe(logits, positive, patients, seed=0)
    assert isinstance(probe, Probe)
    scaled = (logits - logits.mean(axis=0)) / logits.std(axis=0)
    oracle = LogisticRegression(C=probe.strength, max_iter=10_000, tol=1e-12).fit(scaled, positive)
    np.testing.assert_allclose(probe.score(logits), oracle.decision_function(scaled), atol=1e-6)


def test_too_few_patients_make_no_probe_and_few_or_one_make_a_warning() -> None:
    logits, positive, patients = fitted()
    few = positive & (np.cumsum(positive) <= 6)
    assert "fewer than 10" in str(fit_probe(logits, few, patients, seed=0))
    some = positive & np.isin(patients, np.unique(patients[positive])[:15])
    warned = fit_probe(logits, some, patients, seed=0)
    assert isinstance(warned, Probe)
    assert warned.warnings == ["only 15 patients have it on the films it was fitted on"]
    owners = np.where(some & (np.cumsum(some) % 2 == 0), 10_000, patients)
    owned = fit_probe(logits, some, owners, seed=0)
    assert isinstance(owned, Probe)
    assert any("one patient owns" in warning for warning in owned.warnings)


def test_what_cannot_be_mapped_is_refused_by_name() -> None:
    predicted, references = made_up.study()
    given = {"prevalence": dict.fromkeys(NIH_FINDINGS, 0.1), "seed": 0}
    with pytest.raises(LabelError, match=r"mapping\.airspace_opacity: Edma is no finding of the model"):
        make_mapping(predicted, None, method="max", airspace_opacity=["Edma"], nodule_or_mass=["Mass"], **given)
    with pytest.raises(LabelError, match=r"mapping\.nodule_or_mass: nothing is no finding"):
        make_mapping(predicted, None, method="max", airspace_opacity=["Edema"], nodule_or_mass=[], **given)
    with pytest.raises(MappingError, match=r"mapping\.method=maximum: choose max, max_raw, noisy_or or probe"):
        make_mapping(predicted, None, method="maximum", **made_up.MEMBERS, **given)
    with pytest.raises(MappingError, match="no probe can be fitted: the radiologists' validation films may not be used"):
        make_mapping(predicted, None, method="probe", **made_up.MEMBERS, **given)
    probed = made_up.mapping(predicted, references["four_findings_validation"], "probe")
    assert isinstance(probed, FindingMapping)
    assert all(isinstance(probed.probes[finding], Probe) for finding in FOUR_FINDINGS)
    assert len(probed.fitted_on) == len(logits_of(predicted, references["four_findings_validation"]))
