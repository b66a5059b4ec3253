"""How a model of 14 findings speaks of findings that only radiologists labelled: a union of its logits, or a probe fitted on their validation set.

Every score here is on the logit scale. A maximum is a score: it ranks films and is no probability.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr.cohort.findings import FOUR_FINDINGS, UNIONS, require_findings
from cxr.report.predictions import Predictions
from cxr.report.reference import ReferenceSet

UNION_METHODS = ("max", "max_raw", "noisy_or")
# a probe with fewer patients on either side is not fitted: one of five parts would hold hardly any
MIN_PROBE_PATIENTS = 10
# with fewer, or with one patient owning a larger share of the positive films, it is fitted and carries a warning
FEW_PROBE_PATIENTS, MAX_PATIENT_SHARE = 30, 0.2
FOLDS = 5
WIDE = 100  # inputs
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the likelihood against the penalty (C), chosen by cross-validation
# text mining gave none of the films this label: its log-odds are those of one film in a thousand
LEAST_PREVALENCE = 1e-3


class MappingError(ValueError):
    """The mapping names what the model does not have."""


def union_score(logits: np.ndarray, prevalence: np.ndarray, method: str) -> np.ndarray:
    """One score of several findings' logits.

    Args:
        logits: (N, M) of the findings that stand for another.
        prevalence: (M,) of each in training.
        method: max: the largest logit less its training log-odds, so that the commonest finding does not own the maximum. max_raw: the largest logit.
            noisy_or: the logit of 1 - prod(1 - p), the probability that any is present were they independent (Pearl 1988).

    Returns:
        (N,) on the logit scale.

    >>> union_score(np.array([[0.0, -1.0]]), np.array([0.5, 0.1]), "max").round(3), union_score(np.zeros((1, 2)), np.ones(2), "noisy_or").round(3)
    (array([1.197]), array([1.099]))
    """
    if method == "max":
        odds = np.clip(prevalence, LEAST_PREVALENCE, 1 - LEAST_PREVALENCE)
        result: np.ndarray = (logits - np.log(odds / (1 - odds))).max(axis=1)
    elif method == "max_raw":
        result = logits.max(axis=1)
    elif method == "noisy_or":
        none = np.logaddexp(0, logits).sum(axis=1)  # -log of the probability that no finding is there
        result = none + np.log(-np.expm1(-none))
    else:
        raise MappingError(f"mapping.method={method}: a union is made by {', '.join(UNION_METHODS)}")
    return result


@dataclass(frozen=True)
class Probe:
    """A regularised logistic regression, from all logits to one reference finding or from a network's features to what is known of the film.

    Attributes:
        coefficients, intercept: of the inputs as they are.
        strength: C, chosen by cross-validation.
        out_of_fold: (N,) the score of every film of the fitted set by a regression that saw no film of its patient.
        warnings: why it should not be trusted far.
    """

    coefficients: np.ndarray
    intercept: float
    strength: float
    out_of_fold: np.ndarray
    warnings: list[str]

    def score(self, logits: np.ndarray) -> np.ndarray:
        """(N, F) -> (N,), on the logit scale."""
        result: np.ndarray = logits @ self.coefficients + self.intercept
        return result


def fit_probe(logits: np.ndarray, positive: np.ndarray, patients: np.ndarray, *, seed: int) -> Probe | str:
    """Fits a probe, its strength chosen and its out-of-fold scores told by cross-validation in which no patient is on both sides.

    The out-of-fold scores are those of the chosen strength: one of four that the same folds chose, which flatters them by next to nothing.

    Args:
        logits: (N, F) of the validation films, or other numbers.
        positive: (N,) bool.
        patients: (N,).
        seed: of the folds.

    Returns:
        The probe, or why there is none.
    """
    per_patient = pd.Series(patients)[positive].value_counts()
    n_without = np.unique(patients[~positive]).size
    if min(len(per_patient), n_without) < MIN_PROBE_PATIENTS:
        return f"{len(per_patient)} patients with it and {n_without} without are on the present validation films, fewer than {MIN_PROBE_PATIENTS}"
    out_of_fold = np.empty((len(STRENGTHS), len(positive)))
    for training, held_out in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(logits, positive, patients):
        for row, strength in zip(out_of_fold, STRENGTHS, strict=True):
            row[held_out] = _regression(strength, logits.shape[1]).fit(logits[training], positive[training]).decision_function(logits[held_out])
    chosen = int(np.argmin(np.logaddexp(0, np.where(positive, -out_of_fold, out_of_fold)).sum(axis=1)))  # the largest likelihood
    fitted = _regression(STRENGTHS[chosen], logits.shape[1]).fit(logits, positive)
    coefficients = fitted[-1].coef_[0] / fitted[0].scale_
    intercept = float(fitted[-1].intercept_[0] - coefficients @ fitted[0].mean_)
    share = per_patient.iloc[0] / positive.sum()
    warnings = []
    if len(per_patient) < FEW_PROBE_PATIENTS:
        warnings.append(f"only {len(per_patient)} patients have it on the films it was fitted on")
    if share > MAX_PATIENT_SHARE:
        warnings.append(f"one patient owns {share:.0%} of the positive films it was fitted on")
    return Probe(coefficients, intercept, STRENGTHS[chosen], out_of_fold[chosen], warnings)


def _regression(strength: float, n_inputs: int) -> Any:
    # of a thousand features, exact Newton steps would take minutes
    how: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-8} if n_inputs <= WIDE else {"solver": "lbfgs", "max_iter": 2000}
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, **how))


# --- all findings of a model ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FindingMapping:
    """From the model's logits to a score for every finding of a reference set.

    Attributes:
        method: one of UNION_METHODS, or probe, which scores the four findings; other unions are then made by max.
        members: reference finding -> the model's findings that stand for it.
        prevalence: of every model finding in training.
        probes: of the four findings, or why there is none.
        fitted_on: the films (image_ids) of the probes, in the order of their out-of-fold scores.
    """

    method: str
    members: dict[str, list[str]]
    prevalence: dict[str, float]
    probes: dict[str, Probe | str]
    fitted_on: "pd.Index[str]"

    def scores(self, predictions: Predictions, reference: ReferenceSet) -> pd.DataFrame:
        """The score of every predicted film of the set, for each of its findings that the model can speak of.

        Returns:
            Indexed by image_id, in the order of the set: a float64 column per finding, on the logit scale; no column for a finding not spoken of.
        """
        logits = logits_of(predictions, reference)
        spoken = [finding for finding in reference.findings if self.speaks_of(finding, reference, predictions.findings)]
        return pd.DataFrame({finding: self._score(finding, logits, reference) for finding in spoken}, logits.index)

    def speaks_of(self, finding: str, reference: ReferenceSet, predicted: Sequence[str]) -> bool:
        """Whether there is a score for a finding of this set, by a model that predicts these."""
        if self._is_probed(reference):
            return isinstance(self.probes[finding], Probe)
        return finding in predicted or (finding in self.members and set(self.members[finding]) <= set(predicted))

    def _is_probed(self, reference: ReferenceSet) -> bool:
        return self.method == "probe" and reference.findings == FOUR_FINDINGS

    def _score(self, finding: str, logits: pd.DataFrame, reference: ReferenceSet) -> np.ndarray:
        probe = self.probes.get(finding)
        if self._is_probed(reference) and isinstance(probe, Probe):
            if reference.name == "four_findings_validation":  # fitted on these films
                out_of_fold: np.ndarray = pd.Series(probe.out_of_fold, self.fitted_on).reindex(logits.index).to_numpy()
                return out_of_fold
            return probe.score(logits.to_numpy())
        if finding in logits.columns:
            return logits[finding].to_numpy()
        return self.union(logits, self.members[finding], "max" if self.method == "probe" else self.method)

    def union(self, logits: pd.DataFrame, names: Sequence[str], method: str) -> np.ndarray:
        """(N,) the score of several findings as one, by any method of UNION_METHODS."""
        return union_score(logits[list(names)].to_numpy(), np.array([self.prevalence[name] for name in names]), method)

    def is_probability(self, finding: str, reference: ReferenceSet) -> bool:
        """Whether the score's sigmoid claims to be the finding's probability; a maximum only ranks."""
        return finding not in self.members or self.method == "noisy_or" or self._is_probed(reference)

    def says(self, finding: str, reference: ReferenceSet) -> str:
        """What the score of the finding is, in words."""
        if self._is_probed(reference):
            return "probe: logistic regression from all logits, fitted on the radiologists' validation set"
        if finding not in self.members:
            return "the model's own logit"
        how = {"max": "largest of the logits less their training log-odds", "max_raw": "largest logit", "noisy_or": "noisy-or"}
        return f"{how['max' if self.method == 'probe' else self.method]}: {', '.join(self.members[finding])}"


def logits_of(predictions: Predictions, reference: ReferenceSet) -> pd.DataFrame:
    """The raw logits of the set's predicted films: indexed by image_id in the order of the set, a float64 column per model finding."""
    logits = predictions.table.set_index("image_id")[[f"logit_{finding}" for finding in predictions.findings]].astype(np.float64)
    logits.columns = pd.Index(predictions.findings)
    present = reference.films.image_id[reference.films.image_id.isin(logits.index)]
    return logits.loc[present]


def make_mapping(
    predictions: Predictions,
    validation: ReferenceSet | None,
    *,
    method: str,
    airspace_opacity: Sequence[str],
    nodule_or_mass: Sequence[str],
    prevalence: Mapping[str, float],
    seed: int,
    others: Mapping[str, Sequence[str]] | None = None,
) -> FindingMapping:
    """The mapping of a configuration, with its probes fitted.

    Args:
        predictions: of the validation films at least; no test film is looked at.
        validation: the radiologists' four-findings validation set; None where it may not be used.
        method, airspace_opacity, nodule_or_mass: the configuration.
        prevalence: of every model finding in training.
        seed: of the probes' folds.
        others: finding that only other data sets label -> the model's findings that stand for it.

    Raises:
        MappingError: an unknown method, or a probe without films to fit it on.
        LabelError: an unknown finding.
    """
    members = {"Airspace opacity": list(airspace_opacity), "Nodule or mass": list(nodule_or_mass), "Abnormal": list(UNIONS["Abnormal"])}
    members |= {finding: list(names) for finding, names in (others or {}).items()}
    for finding, names in members.items():
        require_findings(names, f"mapping.{finding.lower().replace(' ', '_')}")
    if method not in (*UNION_METHODS, "probe"):
        raise MappingError(f"mapping.method={method}: choose {', '.join(UNION_METHODS)} or probe")
    probes: dict[str, Probe | str] = dict.fromkeys(FOUR_FINDINGS, "the radiologists' validation films may not be used, or are not there")
    fitted_on = pd.Index([], dtype=str)
    if validation is not None:
        logits = logits_of(predictions, validation)
        films = validation.films.set_index("image_id").loc[logits.index]
        fitted_on = pd.Index(films.index[films[list(FOUR_FINDINGS)].notna().all(axis=1)])
        for finding in FOUR_FINDINGS:
            positive = films.loc[fitted_on, finding].to_numpy() == 1
            probes[finding] = fit_probe(logits.loc[fitted_on].to_numpy(), positive, films.loc[fitted_on, "patient_id"].to_numpy(), seed=seed)
    if method == "probe" and all(isinstance(probe, str) for probe in probes.values()):
        raise MappingError(f"mapping.method=probe: no probe can be fitted: {probes[FOUR_FINDINGS[0]]}")
    return FindingMapping(method, members, dict(prevalence), probes, fitted_on)
