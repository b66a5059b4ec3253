"""Runs beside each other: both AUROCs, their difference on the same films with its interval, and whether it could be chance. The content of compare.json.

Runs of one recipe that differ in their seed alone are one candidate: its AUROC is the mean over its runs, and how much training itself scatters is told beside
the interval, which is about patients. Differences are of each candidate less the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from cxr.report.evaluate import count, undefined
from cxr.report.mapping import FindingMapping
from cxr.report.pages import flat
from cxr.report.predictions import Predictions
from cxr.report.protocol import macro_list
from cxr.report.reading import estimate, too_few_patients
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import Bootstrapped, Estimate, bootstrap, logit_interval
from cxr.stats.delong import clustered_delong, delong, holm
from cxr.stats.ranking import auroc

Draws = dict[str, np.ndarray]

# what differs between runs that are worth comparing: the recipe. Everything else of the protocol decides what the numbers are about
RECIPE = (
    *("experiment", "members", "model", "weights", "pretraining", "image_size", "loss", "precision", "seed", "selection"),
    *("config_sha256", "package_version", "commit", "provenance"),
)
# of the frozen evaluation, what follows from the model's own validation predictions
OF_THE_MODEL = ("sha256", "thresholds", "recalibration", "operating_points", "train_prevalence", "prevalence")


class CompareError(ValueError):
    """These runs cannot be compared; says which, and why."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: unique among those compared.
        predictions: with every split.
        mapping: its own, frozen on its validation predictions.
        protocol: of its report.json.
    """

    name: str
    predictions: Predictions
    mapping: FindingMapping
    protocol: Mapping[str, Any]


def require_one_protocol(protocols: Mapping[str, Mapping[str, Any]], may_differ: Sequence[str]) -> None:
    """Raises CompareError, with every field and its values, where runs were evaluated by different protocols.

    Args:
        protocols: name of a run -> the protocol of its report.json; the first is what the others are held against.
        may_differ: dotted fields that the user knows to differ, or beginnings of such.
    """
    (first, usual), *others = ((name, dict(_stamp(protocol))) for name, protocol in protocols.items())
    for name, stamp in others:
        fields = [field for field in dict.fromkeys([*usual, *stamp]) if usual.get(field) != stamp.get(field)]
        refused = [field for field in fields if not any(field == may or field.startswith(f"{may}.") for may in may_differ)]
        if refused:
            told = "; ".join(f"{field}: {usual.get(field)} / {stamp.get(field)}" for field in refused)
            raise CompareError(
                f"{first} and {name} were evaluated by different protocols, and their numbers are about different things ({told})."
                f" If you know why, name what may differ: may_differ=[{','.join(refused)}]"
            )


def _stamp(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    kept = {key: value for key, value in protocol.items() if key not in RECIPE}
    if isinstance(kept.get("evaluation"), Mapping):
        kept["evaluation"] = {key: value for key, value in kept["evaluation"].items() if key not in OF_THE_MODEL}
    return list(flat(kept))


def compare(
    candidates: Mapping[str, Sequence[Run]], references: Mapping[str, ReferenceSet], *, draws: int, seed: int, intersection: bool = False
) -> dict[str, Any]:
    """Every reference set.

    Args:
        candidates: name -> its runs, one for each seed; the first is what the others are held against.
        references: complete sets.
        draws: of patients.
        seed: of the draws.
        intersection: compare on the films that all runs predicted, where they predicted different ones.

    Returns:
        reference set -> n_images, n_patients, findings, macro.

    Raises:
        CompareError: the runs predicted different films.
    """
    runs = [run for several in candidates.values() for run in several]
    told = {}
    for name, reference in references.items():
        scores = {run.name: run.mapping.scores(run.predictions, reference) for run in runs}
        images = _common(name, scores, intersection)
        if len(images):
            films = reference.films.set_index("image_id", drop=False).loc[images]
            told[name] = _one_set(candidates, reference, films, {run: table.loc[images] for run, table in scores.items()}, draws, seed)
            told[name]["n_left_out"] = max(len(table) for table in scores.values()) - len(images)
    return told


def _common(name: str, scores: Mapping[str, pd.DataFrame], intersection: bool) -> "pd.Index[str]":
    (first, table), *others = scores.items()
    images = table.index
    for other, its in others:
        if not its.index.sort_values().equals(table.index.sort_values()) and not intersection:
            raise CompareError(
                f"{name}: {first} predicted {len(table)} films and {other} {len(its)}, {len(table.index.intersection(its.index))} of them the same."
                " intersection=true compares on those"
            )
        images = images[images.isin(its.index)]
    return images


def _one_set(
    candidates: Mapping[str, Sequence[Run]], reference: ReferenceSet, films: pd.DataFrame, scores: Mapping[str, pd.DataFrame], draws: int, seed: int
) -> dict[str, Any]:
    runs = [run for several in candidates.values() for run in several]
    findings: dict[str, Any] = {}
    drawn: dict[str, Draws] = {}  # finding -> run -> draws
    for finding in tqdm(reference.findings, f"comparing on {reference.name}", unit="finding", disable=None, leave=False):
        counts = count(films, finding)
        spoken = all(finding in scores[run.name] for run in runs)
        known = films[finding].notna().to_numpy()
        positive, patients = films[finding].to_numpy()[known] == 1, films.patient_id.to_numpy()[known]
        reason = undefined(counts, spoken) or too_few_patients(positive, patients)
        if reason:
            findings[finding] = counts | {"auroc": None, "differences": None, "reason": reason}
            continue
        score = {run.name: scores[run.name][finding].to_numpy()[known] for run in runs}
        told = {name: bootstrap(auroc, values, positive, patients, n_draws=draws, seed=seed) for name, values in score.items()}
        drawn[finding] = {name: result.draws for name, result in told.items()}
        findings[finding] = counts | {
            "auroc": {name: _candidate([told[run.name] for run in several], positive, patients) for name, several in candidates.items()},
            "differences": _differences(candidates, told, score, positive, patients),
        }
    _adjust(findings, list(candidates)[1:])
    listed = [macro_list(reference, run.predictions.findings, run.mapping)[0] for run in runs]
    common = [finding for finding in listed[0] if all(finding in others for others in listed) and finding in drawn]
    return {
        "n_images": len(films),
        "n_patients": int(films.patient_id.nunique()),
        "adjudicated": reference.adjudicated,
        "findings": findings,
        "macro": _macro(candidates, common, findings, drawn)
        if common
        else {"auroc": None, "findings": [], "reason": "no finding belongs to the mean of every run"},
    }


def _candidate(told: Sequence[Bootstrapped], positive: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """The mean over runs, its interval over patients, and how training scatters."""
    n_deciding = min(np.unique(patients[positive]).size, np.unique(patients[~positive]).size)
    value = float(np.mean([result.value for result in told]))
    lo, hi = logit_interval(value, np.mean([result.draws for result in told], axis=0), n_deciding)
    return {**(estimate(Estimate(value, lo, hi)) or {}), **_scatter([result.value for result in told])}


def _scatter(values: Sequence[float]) -> dict[str, Any]:
    return {"n_seeds": len(values), "sd_seeds": float(np.std(values, ddof=1)), "by_seed": list(values)} if len(values) > 1 else {"n_seeds": 1}


def _differences(
    candidates: Mapping[str, Sequence[Run]], told: Mapping[str, Bootstrapped], score: Mapping[str, np.ndarray], positive: np.ndarray, patients: np.ndarray
) -> dict[str, Any]:
    first, *others = candidates
    differences = {}
    for other in others:
        sides = [[told[run.name] for run in candidates[name]] for name in (other, first)]
        values = [float(np.mean([result.value for result in side])) for side in sides]
        draws = [np.mean([result.draws for result in side], axis=0) for side in sides]
        found = _paired(values[0] - values[1], draws[0] - draws[1])
        if len(candidates[other]) == len(candidates[first]) == 1:
            pair = score[candidates[other][0].name], score[candidates[first][0].name]
            clustered, plain = clustered_delong(*pair, positive, patients), delong(*pair, positive)
            found |= {"clustered_delong": _delong(clustered), "delong": _delong(plain), "p": _number(clustered.p), "p_by": "clustered DeLong"}
        else:
            found |= {"clustered_delong": None, "delong": None, "p": found["p_bootstrap"], "p_by": "patient bootstrap"}
        differences[other] = found
    return differences


def _paired(value: float, draws: np.ndarray) -> dict[str, Any]:
    """A difference whose draws are paired; the interval is symmetric, of the draws' standard deviation, and the p-value is of the same normal distribution."""
    defined = draws[np.isfinite(draws)]
    deviation = float(np.std(defined, ddof=1))
    reach = float(norm.ppf(0.975)) * deviation
    p = 1.0 if value == 0 else float(2 * norm.sf(abs(value) / deviation)) if deviation else 0.0
    return {"value": value, "lo": value - reach, "hi": value + reach, "p_bootstrap": p}


def _delong(result: Any) -> dict[str, Any]:
    return {"difference": estimate(result.difference), "p": _number(result.p)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _adjust(findings: Mapping[str, Any], others: Sequence[str]) -> None:
    """Holm's p-values over the findings of a set, for each candidate."""
    for other in others:
        asked = [row["differences"][other] for row in findings.values() if row["differences"]]
        raw = np.array([np.nan if told["p"] is None else told["p"] for told in asked], float)
        for told, adjusted in zip(asked, holm(raw), strict=True):
            told["p_holm"] = _number(adjusted)


def _macro(candidates: Mapping[str, Sequence[Run]], common: Sequence[str], findings: Mapping[str, Any], drawn: Mapping[str, Draws]) -> dict[str, Any]:
    """The mean over one list of findings, the same for all."""
    n_deciding = min(findings[finding]["n_pos_patients"] for finding in common)
    draws = {run.name: np.mean([drawn[finding][run.name] for finding in common], axis=0) for several in candidates.values() for run in several}

    def value(name: str, run: Run) -> float:
        at = [other.name for other in candidates[name]].index(run.name)
        return float(np.mean([(findings[f]["auroc"][name].get("by_seed") or [findings[f]["auroc"][name]["value"]])[at] for f in common]))

    values = {name: [value(name, run) for run in several] for name, several in candidates.items()}
    mean = {name: np.mean([draws[run.name] for run in several], axis=0) for name, several in candidates.items()}
    areas = {}
    for name in candidates:
        lo, hi = logit_interval(float(np.mean(values[name])), mean[name], n_deciding)
        areas[name] = {**(estimate(Estimate(float(np.mean(values[name])), lo, hi)) or {}), **_scatter(values[name])}
    first, *others = candidates
    return {
        "auroc": areas,
        "findings": list(common),
        "differences": {other: _paired(float(np.mean(values[other]) - np.mean(values[first])), mean[other] - mean[first]) for other in others},
    }
