"""Predictions and labels in, numbers out: the content of report.json. Knows nothing of how the model was trained."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm import tqdm

from cxr.report import shortcuts
from cxr.report.baseline import COLUMNS, Guess, fit_metadata
from cxr.report.beside_readers import beside_readers
from cxr.report.mapping import UNION_METHODS, Probe, logits_of
from cxr.report.predictions import Predictions
from cxr.report.protocol import MIN_POSITIVE_PATIENTS, Frozen, too_few
from cxr.report.reading import estimate, performance, too_few_patients
from cxr.report.reference import ReferenceSet
from cxr.report.uncertainty import label_shift, panels, unanimous_and_disputed
from cxr.stats.bootstrap import Estimate, bootstrap, bootstrap_difference, logit_interval, one_film_per_patient, patient_weights
from cxr.stats.calibration import calibration, prior_shift, reliability
from cxr.stats.operating import clustered_wilson, predictive_values
from cxr.stats.ranking import auroc, auroc_within, average_precision, sensitivity_at

BAND_RATES = np.linspace(0, 1, 51)  # false-positive rates at which a curve's band is told
BAND_DRAWS = 500
CHOICE_DRAWS = 200  # of one film per patient
THREADS = 8  # at most; each holds a few arrays of 16 MB


EVERYTHING = " and ".join(COLUMNS)
# what is known of the film -> a guess by that alone; EVERYTHING is one of them
Guesses = Mapping[str, Guess | None]


@dataclass(frozen=True)
class Scored:
    """The films of one set whose label for one finding is known, with the model's score: rows in the order of the set, N of them."""

    finding: str
    score: np.ndarray
    positive: np.ndarray
    patients: np.ndarray
    films: pd.DataFrame


def evaluate(predictions: Predictions, references: Mapping[str, ReferenceSet], frozen: Frozen, *, train_val: pd.DataFrame) -> dict[str, Any]:
    """Every reference set against the predictions, under a protocol that was frozen without them.

    Args:
        predictions: of one model.
        references: the sets, complete.
        frozen: mapping, thresholds, recalibration, lists of findings, draws and seeds.
        train_val: films that the metadata baseline is fitted on: view, sex, age, follow_up and a column per text-mined finding.

    Returns:
        reference set -> its part of report.json.
    """
    spoken = {finding for reference in references.values() if _has_baseline(reference) for finding in reference.findings if finding in train_val}
    by_metadata = {
        finding: {" and ".join(of): fit_metadata(train_val, train_val[finding].to_numpy(np.float64), of) for of in (COLUMNS, *((name,) for name in COLUMNS))}
        for finding in sorted(spoken)
    }
    return {name: _one_set(predictions, reference, frozen, by_metadata) for name, reference in references.items()}


def _one_set(predictions: Predictions, reference: ReferenceSet, frozen: Frozen, by_metadata: Mapping[str, Guesses]) -> dict[str, Any]:
    settings, name = frozen.content["settings"], reference.name
    scores = frozen.mapping.scores(predictions, reference)
    present = reference.films.image_id.isin(scores.index).to_numpy()
    films, mined = reference.films[present], reference.text_mined[present]

    def one(finding: str) -> tuple[dict[str, Any], np.ndarray | None]:
        return _one_finding(finding, scores, films, mined, reference, frozen, by_metadata)

    # numpy lets go of the interpreter where the time is spent, so threads share the findings; every draw has its own seed, so that they change nothing
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        told = list(tqdm(pool.map(one, reference.findings), f"evaluating {name}", len(reference.findings), unit="finding", disable=None, leave=False))
    results = {finding: result for finding, (result, _) in zip(reference.findings, told, strict=True)}
    draws = {finding: drawn for finding, (_, drawn) in zip(reference.findings, told, strict=True) if drawn is not None}
    part: dict[str, Any] = {
        "n_images": len(films),
        "n_patients": int(films.patient_id.nunique()),
        "n_missing_images": reference.n_listed - len(films),
        "adjudicated": reference.adjudicated,
        "views": _counts_of(films["view"]),
        "sexes": _counts_of(films["sex"]),
        "ages": _quantiles(films["age"]),
        "findings": results,
        "macro": _macro(frozen.content["macro"][name], results, draws, settings["macro_available"]),
    }
    if reference.adjudicated:
        part["text_mined_labels"] = {
            finding: performance(mined[finding].to_numpy(), films[finding].to_numpy(), films.patient_id.to_numpy())
            for finding in reference.findings
            if finding in mined
        }
    if reference.reads is not None:
        part["readers"] = beside_readers(scores, reference, frozen.content, results)
    if name.startswith("four_findings"):
        part["mapping_sensitivity"] = _mapping_sensitivity(predictions, reference, frozen, films)
    return part


def prevalences(predictions: Predictions, references: Mapping[str, ReferenceSet], train_val: pd.DataFrame) -> dict[str, Any]:
    """How common every finding is, set beside set: by text mining everywhere, by the reference where there is one; of the films evaluated.

    Returns:
        set (train_val first, complete) -> {"text_mined": {finding: share}, "reference": {finding: share}}.
    """
    known = next(iter(references.values())).text_mined.columns
    table: dict[str, Any] = {"train_val": {"text_mined": _shares(train_val[known]), "reference": {}}}
    for name, reference in references.items():
        present = reference.films.image_id.isin(predictions.table.image_id).to_numpy()
        adjudicated = reference.films.loc[present, list(reference.findings) if reference.adjudicated else []]
        table[name] = {"text_mined": _shares(reference.text_mined[present]), "reference": _shares(adjudicated)}
    return table


def _shares(labels: pd.DataFrame) -> dict[str, float | None]:
    return {str(finding): None if np.isnan(share) else float(share) for finding, share in labels.mean().items()}


# --- one finding ------------------------------------------------------------------------------------------------------------------------------------


def count(films: pd.DataFrame, finding: str) -> dict[str, Any]:
    """Who has the finding among the films: counts, and whether one patient decides the number."""
    known = films[films[finding].notna()]
    positive = known[finding] == 1
    per_patient = known.patient_id[positive].value_counts()
    return {
        "n_pos": int(positive.sum()),
        "n_neg": int((~positive).sum()),
        "n_unknown": len(films) - len(known),
        "n_pos_patients": len(per_patient),
        "largest_patient_share": float(per_patient.iloc[0] / positive.sum()) if len(per_patient) else None,
        "prevalence": float(positive.mean()) if len(positive) else None,
    }


def undefined(counts: Mapping[str, Any], is_spoken_of: bool) -> str | None:
    """Why nothing can be said of a finding; None where something can."""
    if not is_spoken_of:
        return "not predicted by this model"
    if not counts["n_pos"]:
        return "no positive image"
    return None if counts["n_neg"] else "no negative image"


def _one_finding(
    finding: str,
    scores: pd.DataFrame,
    films: pd.DataFrame,
    mined: pd.DataFrame,
    reference: ReferenceSet,
    frozen: Frozen,
    by_metadata: Mapping[str, Guesses],
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Everything about one finding of one set but its readers; and its AUROC in every draw for the mean over findings."""
    settings, mapping = frozen.content["settings"], frozen.mapping
    counts = count(films, finding)
    reason = undefined(counts, finding in scores)
    if reason:
        return counts | {"auroc": None, "auprc": None, "reason": reason}, None
    known = films[finding].notna().to_numpy()
    scored = Scored(
        finding,
        score=scores[finding].to_numpy()[known],
        positive=films[finding].to_numpy()[known] == 1,
        patients=films.patient_id.to_numpy()[known],
        films=films[known],
    )
    ranking, drawn = _ranking(scored, settings)
    groups, points = shortcuts.groups_of(scored.films), frozen.content["operating_points"].get(reference.name, {}).get(finding, {"source": None})
    threshold = points["rules"][settings["rule"]]["threshold"] if points["source"] else None
    drawn_by = {"draws": settings["draws"], "seed": settings["seed"]}
    result = counts | ranking | {"score": mapping.says(finding, reference), "subgroups": _subgroups(scored, groups, settings)}
    result["subgroup_differences"] = shortcuts.differences(scored.score, scored.positive, scored.patients, groups, threshold, **drawn_by)
    if reference.name in frozen.content["operating_points"]:
        result["operating_points"] = _operating(scored, frozen.content["operating_points"][reference.name][finding], settings)
        refit, is_probability = frozen.content["recalibration"][reference.name][finding], mapping.is_probability(finding, reference)
        result["calibration"] = _calibration(scored, refit, is_probability, mapping.prevalence.get(finding))
    if reference.adjudicated:
        text_mined = mined[finding].to_numpy()[known] if finding in mined else None
        result["roc_band"] = _band(scored, settings["seed"])
        result["label_shift"] = label_shift(scored.score, scored.positive, text_mined, scored.patients, **drawn_by)
    if _has_baseline(reference):
        most = settings["draws"] if reference.adjudicated else shortcuts.DRAWS
        result["metadata_baseline"] = _baseline(scored, by_metadata, settings | {"draws": min(settings["draws"], most)})
    if reference.reads is not None:
        result["reference_uncertainty"] = _reference_uncertainty(scored, reference, settings)
    return result, drawn


def _ranking(scored: Scored, settings: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """AUROC and average precision, within view and with one film per patient; and the AUROC in every draw for the mean over findings."""
    arrays, drawn = (scored.score, scored.positive, scored.patients), {"n_draws": settings["draws"], "seed": settings["seed"]}
    area = bootstrap(auroc, *arrays, **drawn)
    views = scored.films["view"].astype(str).to_numpy()
    within = bootstrap(lambda score, positive, weights: auroc_within(score, positive, weights, views), *arrays, **drawn)
    result = {
        "auroc": estimate(area),
        "auprc": estimate(bootstrap(average_precision, *arrays, **drawn)),
        "n_redrawn": area.n_redrawn,
        "auroc_within_view": estimate(within),
        "one_film_per_patient": estimate(one_film_per_patient(auroc, *arrays, n_draws=min(settings["draws"], CHOICE_DRAWS), seed=settings["seed"])),
    }
    return result, area.draws


def _subgroups(scored: Scored, groups: shortcuts.Groups, settings: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC by view, sex, age band and films of the patient; a group with too few patients says so and gives none."""
    return {kind: {name: _subgroup(scored, inside, settings) for name, inside in members.items()} for kind, members in groups.items()}


def _subgroup(scored: Scored, inside: np.ndarray, settings: Mapping[str, Any]) -> dict[str, Any]:
    positive, patients = scored.positive[inside], scored.patients[inside]
    counts = {"n_images": int(inside.sum()), "n_pos": int(positive.sum()), "n_pos_patients": int(np.unique(patients[positive]).size)}
    reason = too_few_patients(positive, patients)
    if reason:
        return counts | {"auroc": None, "reason": reason}
    drawn = {"n_draws": min(settings["draws"], shortcuts.DRAWS), "seed": settings["seed"]}
    return counts | {"auroc": estimate(bootstrap(auroc, scored.score[inside], positive, patients, **drawn))}


def _operating(scored: Scored, chosen: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the frozen thresholds give on these films: aimed at and achieved, over all and by view; predictive values here and at stated prevalences."""
    if chosen["source"] is None:
        return {"source": None, "reason": chosen["reason"]}
    reference, views = scored.positive.astype(float), scored.films["view"].to_numpy()
    rules = {}
    for rule, frozen in chosen["rules"].items():
        called = scored.score >= frozen["threshold"]
        result = performance(called.astype(float), reference, scored.patients)
        elsewhere = {}
        sensitivity, specificity = (clustered_wilson(*hits) for hits in _hits(called, scored))
        for prevalence in settings["prevalences"]:
            ppv, npv = predictive_values(sensitivity, specificity, prevalence)
            elsewhere[f"{prevalence:g}"] = {"ppv": estimate(ppv), "npv": estimate(npv)}
        by_view = {
            view: dict(zip(("sensitivity", "specificity"), (estimate(clustered_wilson(*hits)) for hits in _hits(called, scored, views == view)), strict=True))
            for view in ("PA", "AP")
        }
        rules[rule] = dict(frozen) | result | {"by_view": by_view, "at_prevalence": elsewhere}
    told = ("source", "text_mined_target", "n_pos_patients", "not_from")
    return {key: chosen[key] for key in told} | {"shown": settings["rule"], "rules": rules}


def _hits(called: np.ndarray, scored: Scored, inside: np.ndarray | bool = True) -> list[tuple[np.ndarray, np.ndarray]]:
    """(right calls, their patients) among the films with the finding, and among those without."""
    sides = ((scored.positive & inside, called), (~scored.positive & inside, ~called))
    return [(right[side], scored.patients[side]) for side, right in sides]


def _calibration(scored: Scored, refit: Mapping[str, Any], is_probability: bool, trained_prevalence: float | None) -> dict[str, Any]:
    """Whether the score's probability holds, as it comes and after each correction that validation films gave; their bins for the picture."""

    def told(logits: np.ndarray) -> dict[str, Any]:
        numbers = calibration(logits, scored.positive, scored.patients)
        bins = reliability(expit(logits), scored.positive, scored.patients)
        return {name: estimate(getattr(numbers, name)) for name in ("intercept", "slope", "brier", "ece")} | {
            "bins": [{"mean_probability": b.mean_probability, "observed": estimate(b.observed), "n_images": b.n_films} for b in bins]
        }

    result: dict[str, Any] = {"is_probability": is_probability, "before": None, "platt": None, "prior_shift": None}
    reason = too_few_patients(scored.positive, scored.patients)
    if reason:
        return result | {"fitted_on": None, "not_fitted": reason, "reason": reason}
    if is_probability:
        result["before"] = told(scored.score)
    else:
        result["reason"] = "a largest logit ranks films and is a score, no probability, until it is calibrated"
    if refit["source"] is None:
        return result | {"fitted_on": None, "not_fitted": refit["reason"]}
    result["platt"] = told(refit["slope"] * scored.score + refit["intercept"])
    if is_probability and trained_prevalence and 0 < trained_prevalence < 1:
        shifted = prior_shift(scored.score, trained_prevalence=trained_prevalence, target_prevalence=refit["prevalence"])
        result["prior_shift"] = told(shifted)
    return result | {"fitted_on": refit["source"], "text_mined_target": refit["text_mined_target"]}


def _band(scored: Scored, seed: int) -> dict[str, list[float]] | None:
    """Where 95 % of the ROC curves of drawn patients run, rate by rate; None where there are too few to draw from."""
    if too_few_patients(scored.positive, scored.patients):
        return None
    curves = []
    for weights in patient_weights(scored.patients, BAND_DRAWS, seed):
        curves.append(sensitivity_at(scored.score, scored.positive, np.broadcast_to(BAND_RATES, (len(weights), BAND_RATES.size)), weights))
    lo, hi = np.nanquantile(np.concatenate(curves), [0.025, 0.975], axis=0)
    return {"false_positive_rate": BAND_RATES.round(4).tolist(), "lo": lo.round(4).tolist(), "hi": hi.round(4).tolist()}


def _baseline(scored: Scored, by_metadata: Mapping[str, Guesses], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The AUROC of view, sex, age and follow-up number alone, how far the model is above it, and the AUROC of each of them."""
    guess = by_metadata.get(scored.finding, {}).get(EVERYTHING)
    if guess is None:
        reason = "train_val holds one class only" if scored.finding in by_metadata else "no text-mined label to fit it on"
        return {"auroc": None, "difference": None, "reason": reason}
    if scored.films[["view", "sex", "age", "follow_up"]].isna().any(axis=None):
        return {"auroc": None, "difference": None, "reason": "metadata of a film is unknown"}
    if few := too_few_patients(scored.positive, scored.patients):
        return {"auroc": None, "difference": None, "reason": few}
    guessed, drawn = guess(scored.films), {"n_draws": settings["draws"], "seed": settings["seed"]}
    area = bootstrap(auroc, guessed, scored.positive, scored.patients, **drawn)
    ahead = bootstrap_difference(_area_of(scored.score, scored.positive), _area_of(guessed, scored.positive), scored.patients, **drawn)
    alone, drawn = {}, drawn | {"n_draws": min(settings["draws"], shortcuts.DRAWS)}
    for name in COLUMNS:
        single = by_metadata[scored.finding][name]
        assert single is not None
        by_one = single(scored.films)
        alone[name] = estimate(bootstrap(auroc, by_one, scored.positive, scored.patients, **drawn)) if np.ptp(by_one) else None
    return {"auroc": estimate(area), "difference": estimate(ahead), "alone": alone}


def _reference_uncertainty(scored: Scored, reference: ReferenceSet, settings: Mapping[str, Any]) -> dict[str, Any]:
    votes, drawn = reference.votes(scored.finding, scored.films.image_id), {"draws": settings["draws"], "seed": settings["seed"]}
    if reference.held_out:  # the others are the reference: another panel might have been
        jury = tuple(reader for reader in votes.columns if reader not in reference.held_out)
        return panels(scored.score, scored.patients, votes, jury=jury, **drawn)
    return unanimous_and_disputed(scored.score, scored.positive, scored.patients, votes, **drawn)


def _area_of(score: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray | None], np.ndarray]:
    return lambda weights: auroc(score, positive, weights)


def _has_baseline(reference: ReferenceSet) -> bool:
    return reference.adjudicated or reference.split == "test"


# --- one set ----------------------------------------------------------------------------------------------------------------------------------------


def _macro(fixed: Mapping[str, Any], results: Mapping[str, Any], draws: Mapping[str, np.ndarray], available: bool) -> dict[str, Any]:
    """The mean AUROC over the list of findings that the complete labels fix."""
    listed, left_out = fixed["findings"], fixed["left_out"]
    short = {f: too_few(n, " are present") for f in listed if (n := results[f]["n_pos_patients"]) < MIN_POSITIVE_PATIENTS}
    if short and not available:
        reason = f"missing images leave {', '.join(short)} with fewer than {MIN_POSITIVE_PATIENTS} positive patients"
        hint = "macro.available=true takes the mean over the others, flagged"
        return {"auroc": None, "findings": listed, "left_out": left_out, "reason": reason, "hint": hint}
    used = [finding for finding in listed if finding not in short and finding in draws]
    if not used:
        return {"auroc": None, "findings": [], "left_out": left_out | short, "reason": f"no finding has {MIN_POSITIVE_PATIENTS} positive patients"}
    value = float(np.mean([results[finding]["auroc"]["value"] for finding in used]))
    n_deciding = min(results[finding]["n_pos_patients"] for finding in used)
    # one draw of patients serves all findings, so the draws of the mean are the means of the draws
    mean = Estimate(value, *logit_interval(value, np.mean([draws[finding] for finding in used], axis=0), n_deciding))
    macro = {"auroc": estimate(mean), "findings": used, "left_out": left_out | short}
    return macro | ({"available_only": True} if short else {})


def _mapping_sensitivity(predictions: Predictions, reference: ReferenceSet, frozen: Frozen, films: pd.DataFrame) -> dict[str, Any]:
    """The AUROC under every mapping that was not chosen, beside the one that was: how much the choice matters."""
    mapping, settings = frozen.mapping, frozen.content["settings"]
    logits = logits_of(predictions, reference)
    on_validation = reference.name == "four_findings_validation"
    table: dict[str, Any] = {}
    for finding in reference.findings:
        scores = dict[str, np.ndarray]()
        if finding in mapping.members:
            names = mapping.members[finding]
            scores = {method: mapping.union(logits, names, method) for method in UNION_METHODS}
            if finding == "Airspace opacity" and "Effusion" not in names:
                scores["max, with Effusion"] = mapping.union(logits, [*names, "Effusion"], "max")
        elif finding in logits:
            scores["own logit"] = logits[finding].to_numpy()
        probe = mapping.probes[finding]
        if isinstance(probe, Probe):
            out_of_fold = pd.Series(probe.out_of_fold, mapping.fitted_on)
            scores["probe"] = out_of_fold.reindex(logits.index).to_numpy() if on_validation else probe.score(logits.to_numpy())
        known = films[finding].notna().to_numpy()
        positive, patients = films[finding].to_numpy()[known] == 1, films.patient_id.to_numpy()[known]
        rows: dict[str, Any] = {}
        for method, score in scores.items():
            area = bootstrap(auroc, score[known], positive, patients, n_draws=settings["draws"], seed=settings["seed"])
            rows[method] = {"auroc": estimate(area), "chosen": method == mapping.method or (method == "own logit" and mapping.method != "probe")}
        if isinstance(probe, Probe):
            rows["probe"]["warnings"] = probe.warnings
        else:
            rows["probe"] = {"auroc": None, "chosen": False, "reason": probe}
        table[finding] = rows
    return table


def _counts_of(values: "pd.Series[str]") -> dict[str, int]:
    return {str(value): int(n) for value, n in values.value_counts().sort_index().items()}


def _quantiles(ages: "pd.Series[float]") -> dict[str, float | None]:
    ages = ages.dropna()
    if ages.empty:
        return {"min": None, "median": None, "max": None}
    return {"min": float(ages.min()), "median": float(ages.median()), "max": float(ages.max())}
