"""The model beside the radiologists who read the same films: how well each read, who finds more at the same rate of false alarms, who agrees with whom."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cxr.report.protocol import MIN_POSITIVE_PATIENTS
from cxr.report.reading import HEDGE_POLICIES, calls, estimate, performance, reader_performance
from cxr.report.reference import ReferenceSet
from cxr.stats.bootstrap import FEW_PATIENTS, bootstrap
from cxr.stats.delong import holm
from cxr.stats.ranking import auroc, partial_auroc
from cxr.stats.readers import kappa_with_interval, leave_one_out, reader_difference

# a reader with fewer reads is part of what is pooled and is not shown alone
MIN_READS = 100
THREADS = 8  # at most


def beside_readers(scores: pd.DataFrame, reference: ReferenceSet, frozen: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about readers of one reference set.

    Args:
        scores: of the present films, indexed by image_id; a column per finding the model speaks of.
        reference: the set, with its reads.
        frozen: the content of the evaluation protocol.
        results: finding -> its numbers so far, for the operating point that the model's calls are made at.

    Returns:
        performance (by hedge policy where readers may hedge, else by "no"), held_out, made_the_reference, partial_auroc, kappa, and: differences
        (sets with held-out readers) or leave_one_out (the others).
    """
    assert reference.reads is not None
    settings = frozen["settings"]
    films = reference.films[reference.films.image_id.isin(scores.index)]
    reads = reference.reads[reference.reads.image_id.isin(scores.index)]
    n_reads = reads.reader_id.value_counts()
    policies = HEDGE_POLICIES if (reads[list(reference.findings)] == 0.5).any(axis=None) else ("no",)
    measured = {policy: reader_performance(reads, films, reference.findings, hedge=policy) for policy in policies}
    part: dict[str, Any] = {
        "n_reads": {reader: int(n) for reader, n in n_reads.items()},
        "shown": [reader for reader, n in n_reads.items() if n >= MIN_READS],
        "held_out": [reader for reader in reference.held_out if reader in n_reads],
        "performance": measured,
        "partial_auroc": {},
        "kappa": {},
    }
    for finding in reference.findings:
        votes = reference.votes(finding, films.image_id)
        part["kappa"][finding] = _kappa(votes, _calls_of(scores, finding, films, results[finding]), films, settings)
        if finding in scores and results[finding]["auroc"]:
            by_reader = measured["no"]["by_reader"]
            part["partial_auroc"][finding] = _partial(scores[finding], films, finding, [by_reader[reader][finding] for reader in part["shown"]], settings)
    if reference.held_out:
        part["differences"] = _differences(scores, films, reference, frozen, results)
    else:
        part["leave_one_out"] = {finding: _left_out_in_turn(scores, films, reference, finding, part["shown"], settings) for finding in reference.findings}
    return part


def _calls_of(scores: pd.DataFrame, finding: str, films: pd.DataFrame, result: Mapping[str, Any]) -> np.ndarray | None:
    """(N,) the model's yes and no at its frozen threshold; None where it has none."""
    points = result.get("operating_points")
    if finding not in scores or not points or points["source"] is None:
        return None
    called: np.ndarray = scores.loc[films.image_id, finding].to_numpy() >= points["rules"][points["shown"]]["threshold"]
    return called


def _kappa(votes: pd.DataFrame, called: np.ndarray | None, films: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Cohen's kappa of every two readers who share enough films, and of the model with each; an uncertain read counts as no."""
    said, patients = votes.apply(lambda column: calls(column, "no")), films.patient_id.to_numpy()
    drawn = {"n_draws": min(settings["draws"], 1000), "seed": settings["seed"]}

    def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, Any] | None:
        both = ~(np.isnan(one) | np.isnan(other))
        if both.sum() < MIN_READS:
            return None
        return {"n_images": int(both.sum()), "kappa": estimate(kappa_with_interval(one[both] == 1, other[both] == 1, patients[both], **drawn))}

    pairs = {(a, b): agreement(said[a].to_numpy(), said[b].to_numpy()) for a, b in combinations(said.columns, 2)}
    told: dict[str, Any] = {"between_readers": [{"readers": list(pair), **row} for pair, row in pairs.items() if row], "with_model": None}
    if called is not None:
        rows = {reader: agreement(said[reader].to_numpy(), called.astype(float)) for reader in said.columns}
        told["with_model"] = {reader: row for reader, row in rows.items() if row}
    return told


def _partial(scores: "pd.Series[float]", films: pd.DataFrame, finding: str, readers: list[dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The model's partial AUROC over the false-positive rates at which the readers work, standardised."""
    rates = [1 - row["specificity"]["value"] for row in readers if row["specificity"]]
    if len(rates) < 2 or min(rates) >= max(rates):
        return {"partial_auroc": None, "reason": "fewer than two readers with rates of false alarms of their own"}
    lo, hi = min(rates), max(rates)
    known = films[finding].notna().to_numpy()
    rows = films[known]
    score, positive, patients = scores.loc[rows.image_id].to_numpy(), rows[finding].to_numpy() == 1, rows.patient_id.to_numpy()
    found = positive & (score >= np.quantile(score[~positive], 1 - hi))
    n_found = np.unique(patients[found]).size
    if n_found < FEW_PATIENTS:  # the draws would hold the same few again and again
        return {"false_positive_rates": [lo, hi], "partial_auroc": None, "reason": f"the model finds {n_found} patients at these rates, too few"}
    drawn = {"n_draws": min(settings["draws"], 1000), "seed": settings["seed"]}
    area = bootstrap(lambda s, p, weights: partial_auroc(s, p, lo, hi, weights), score, positive, patients, **drawn)
    return {"false_positive_rates": [lo, hi], "partial_auroc": estimate(area)}


def _differences(scores: pd.DataFrame, films: pd.DataFrame, reference: ReferenceSet, frozen: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The model at each held-out reader's rate of false alarms, less that reader; p-values and Holm's for the primary family alone."""
    family, settings = frozen["primary_family"]["findings"], frozen["settings"]
    by_reader: dict[str, dict[str, Any]] = {reader: {} for reader in reference.held_out}
    held_out = [reader for reader in reference.held_out if (reference.reads is not None and (reference.reads.reader_id == reader).any())]
    pairs = [(finding, reader) for finding in reference.findings if finding in scores and results[finding]["auroc"] for reader in held_out]

    def one(pair: tuple[str, str]) -> dict[str, Any]:
        finding, reader = pair
        said = reference.votes(finding, films.image_id)[reader].to_numpy()
        known = films[finding].notna().to_numpy() & ~np.isnan(said)
        rows = films[known]
        score, positive = scores.loc[rows.image_id, finding].to_numpy(), rows[finding].to_numpy() == 1
        drawn = {"n_draws": settings["reader_draws"], "seed": settings["seed"]}
        result = reader_difference(score, positive, said[known] == 1, rows.patient_id.to_numpy(), **drawn)
        in_family = finding in family and results[finding]["n_pos_patients"] >= MIN_POSITIVE_PATIENTS  # missing films may have taken some
        return {
            "n_images": len(rows),
            "n_pos": int(positive.sum()),
            "reader_sensitivity": _number(result.reader_sensitivity),
            "reader_specificity": _number(result.reader_specificity),
            "model_sensitivity": _number(result.model_sensitivity),
            "difference": estimate(result.difference),
            "reverse": estimate(result.reverse),
            "in_primary_family": in_family,
            "p": _number(result.p) if in_family else None,
            "p_holm": None,
        }

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for (finding, reader), row in zip(pairs, pool.map(one, pairs), strict=True):
            by_reader[reader][finding] = row
    tested = [row for rows in by_reader.values() for row in rows.values() if row["in_primary_family"]]
    for row, adjusted in zip(tested, holm(np.array([row["p"] for row in tested])) if tested else [], strict=True):
        row["p_holm"] = float(adjusted)
    missing = [finding for finding in family if not any(row.get(finding, {}).get("in_primary_family") for row in by_reader.values())]
    return {"n_draws": settings["reader_draws"], "n_comparisons": len(tested), "not_tested": missing, "by_reader": by_reader}


def _left_out_in_turn(
    scores: pd.DataFrame, films: pd.DataFrame, reference: ReferenceSet, finding: str, shown: list[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Every reader, and the model on the same films, against what the others of a film all said: no read counts for itself, and only easy films are left."""
    votes = reference.votes(finding, films.image_id)
    patients = films.patient_id.to_numpy()
    told: dict[str, Any] = {}
    for column, reader in enumerate(votes.columns):
        if reader not in shown:
            continue
        said = calls(votes[reader], "drop").to_numpy()
        others = leave_one_out(votes.to_numpy(), column)
        read, defined = votes[reader].notna().to_numpy(), ~np.isnan(others) & ~np.isnan(said)
        n_read = int(read.sum())
        row: dict[str, Any] = {
            "n_reads": n_read,
            "n_excluded": n_read - int(defined.sum()),
            "share_excluded": 1 - float(defined.sum()) / n_read,
            "reader": performance(said[defined], others[defined], patients[defined]),
            "model": None,
            "difference": None,
        }
        positive = others[defined] == 1
        if finding in scores and 0 < positive.sum() < positive.size:
            score = scores.loc[films.image_id, finding].to_numpy()[defined]
            area = bootstrap(auroc, score, positive, patients[defined], n_draws=settings["draws"], seed=settings["seed"])
            beside = reader_difference(score, positive, said[defined] == 1, patients[defined], n_draws=settings["draws"], seed=settings["seed"])
            row["model"] = {"auroc": estimate(area), "sensitivity_at_readers_specificity": _number(beside.model_sensitivity)}
            row["difference"] = estimate(beside.difference)
        told[reader] = row
    return told


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
