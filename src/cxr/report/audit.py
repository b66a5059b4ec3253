"""How good the labels are that models learn from and are judged by: text-mined ones against radiologists', radiologists against each other.

The content of audit.json. No film and no model takes part.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.cohort.catalogue import Catalogue
from cxr.cohort.experts import FILES, Experts
from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, NIH_FINDINGS, text_mined
from cxr.cohort.splits import Splits
from cxr.report.reading import HEDGE_POLICIES, calls, counts, estimate, performance, reader_performance
from cxr.stats.operating import clustered_wilson
from cxr.stats.readers import kappa_with_interval

# every finding of any label file, the summaries last
FINDINGS = (
    *FOUR_FINDINGS,
    *(finding for finding in ALL_FINDINGS if finding not in FOUR_FINDINGS and finding not in ("Abnormal", "Other")),
    "Abnormal",
    "Other",
)
SPLITS = ("train", "val", "test")
VIEWS = ("all", "PA", "AP")
# what both reference standards speak of, in the words of the four findings
IN_BOTH = ("Pneumothorax", "Airspace opacity", "Nodule or mass")
# two readers with fewer common films are not compared with each other
MIN_COMMON_FILMS = 100
# behind each of the hundreds of kappas between two readers, at most: the width of an interval is then known to 4 %
MAX_AGREEMENT_DRAWS = 500

NOT_MINED = "no text-mined finding"
ALWAYS_AGREE = "both say the same of every image"


def audit(catalogue: Catalogue, experts: Experts, splits: Splits, releases: Sequence[Catalogue], *, n_draws: int, seed: int) -> dict[str, Any]:
    """Every label against every other that speaks of the same film.

    Args:
        catalogue: the label release in use.
        experts: both reference standards with their readers.
        splits: who trains, validates and tests.
        releases: NIH's releases that are at hand, the one in use perhaps among them.
        n_draws: patient-bootstrap draws behind every kappa.
        seed: of the draws.

    Returns:
        audit.json but for its protocol and attribution.
    """
    draws = {"n_draws": n_draws, "seed": seed}
    mined = nih_labels(catalogue, experts, **draws)
    return {
        "nih_labels": mined,
        **(_by_release(catalogue, experts, splits, releases, mined, **draws) if len(releases) > 1 else {}),
        "readers": {name: _readers(experts, name) for name in FILES},
        "first_round_majority": {name: _first_round(experts, name) for name in FILES if FILES[name][2] == FOUR_FINDINGS},
        "references_against_each_other": _references(experts, **draws),
        "agreement": _agreement(experts, n_draws=min(n_draws, MAX_AGREEMENT_DRAWS), seed=seed),
        "prevalences": prevalences(catalogue, experts, splits),
        "facts": {
            "n_rows": experts.n_rows,
            "repeats": experts.repeats,
            "positives": {name: {finding: _positives(labels, finding) for finding in FILES[name][2]} for name, labels in experts.labels.items()},
        },
    }


# --- text-mined labels ------------------------------------------------------------------------------------------------------------------------------


def nih_labels(catalogue: Catalogue, experts: Experts, *, n_draws: int, seed: int) -> dict[str, Any]:
    """reference set -> finding -> how well the text-mined label tells the reference."""
    images, result = catalogue.images[["image_id", *NIH_FINDINGS]], dict[str, Any]()
    for name, labels in tqdm(experts.labels.items(), desc=f"text-mined labels {catalogue.labels['release']}", unit="set", disable=None, leave=False):
        rows, result[name] = labels.merge(images, on="image_id", how="left", suffixes=("_reference", "")), {}
        patients = rows.patient_id.to_numpy()
        for finding in FILES[name][2]:
            reference = rows[f"{finding}_reference" if finding in NIH_FINDINGS else finding].to_numpy()
            mined = text_mined(rows, finding)
            result[name][finding] = _one_label(None if mined is None else mined.to_numpy(np.float64), reference, patients, n_draws, seed)
    return result


def _one_label(mined: np.ndarray | None, reference: np.ndarray, patients: np.ndarray, n_draws: int, seed: int) -> dict[str, Any]:
    if mined is None:
        known = ~np.isnan(reference)
        undefined = dict.fromkeys(("sensitivity", "specificity", "ppv", "npv", "kappa", "prevalence_text_mined"))
        share = estimate(clustered_wilson(reference[known] == 1, patients[known]))
        return counts(known, reference, patients) | undefined | {"prevalence_reference": share, "reason": NOT_MINED}
    known = ~(np.isnan(mined) | np.isnan(reference))
    said, positive, owners = mined[known] == 1, reference[known] == 1, patients[known]
    return (
        _kappa(said, positive, owners, n_draws, seed)
        | performance(mined, reference, patients)  # second: where kappa is undefined, its reason says more
        | {"prevalence_text_mined": estimate(clustered_wilson(said, owners)), "prevalence_reference": estimate(clustered_wilson(positive, owners))}
    )


def _kappa(a: np.ndarray, b: np.ndarray, patients: np.ndarray, n_draws: int, seed: int) -> dict[str, Any]:
    kappa = estimate(kappa_with_interval(a, b, patients, n_draws=n_draws, seed=seed)) if a.size else None
    return {"kappa": kappa} | ({} if kappa else {"reason": ALWAYS_AGREE if a.size else "no image"})


def _by_release(
    catalogue: Catalogue, experts: Experts, splits: Splits, releases: Sequence[Catalogue], in_use: Mapping[str, Any], *, n_draws: int, seed: int
) -> dict[str, Any]:
    """The same of every release, and how many images they label differently."""
    one, other = (release.images.set_index("image_id")[list(NIH_FINDINGS)] for release in releases)
    common = one.index.intersection(other.index)
    differs = (one.loc[common] != other.loc[common]).any(axis=1)
    of = {name: differs.reindex(table.image_id).dropna() for name, table in _all_sets(experts, splits).items()}
    return {
        "nih_labels_by_release": {
            release.labels["release"]: in_use if release.labels == catalogue.labels else nih_labels(release, experts, n_draws=n_draws, seed=seed)
            for release in releases
        },
        "releases_differ": {name: {"n_images": len(found), "n_differ": int(found.sum())} for name, found in of.items()},
    }


# --- readers ----------------------------------------------------------------------------------------------------------------------------------------


def _readers(experts: Experts, name: str) -> dict[str, Any]:
    """Readers against the reference of their set: under every policy for uncertain reads where the set knows such."""
    reads, labels, findings = experts.reads[name], experts.labels[name], FILES[name][2]
    if findings == ALL_FINDINGS:
        return reader_performance(reads, labels, findings, hedge="no")
    return {policy: reader_performance(reads, labels, findings, hedge=policy) for policy in HEDGE_POLICIES}


def _first_round(experts: Experts, name: str) -> dict[str, Any]:
    """finding -> how often the discussion ended elsewhere than the majority of the first reads stood; an uncertain read is no vote."""
    labels, result = experts.labels[name].set_index("image_id"), {}
    for finding in FILES[name][2]:
        votes = calls(experts.reads[name].set_index("image_id")[finding], "drop")
        by_film = votes.groupby(level=0).agg(["sum", "count"]).reindex(labels.index, fill_value=0)
        twice_yes, n_votes = (2 * by_film["sum"]).to_numpy(), by_film["count"].to_numpy()
        decided = (twice_yes != n_votes) & labels[finding].notna().to_numpy()
        majority, consensus = (twice_yes > n_votes)[decided], (labels[finding] == 1).to_numpy()[decided]
        differs = majority != consensus
        share = estimate(clustered_wilson(differs, labels.patient_id.to_numpy()[decided]))
        result[finding] = {
            "n": int(decided.sum()),
            "n_differs": int(differs.sum()),
            "n_to_present": int((differs & consensus).sum()),
            "n_to_absent": int((differs & majority).sum()),
            "n_ties": int(((twice_yes == n_votes) & (n_votes > 0)).sum()),
            "n_without_votes": int((n_votes == 0).sum()),
            "share": share,
            **({} if share else {"reason": "no image with a majority"}),
        }
    return result


def _agreement(experts: Experts, *, n_draws: int, seed: int) -> dict[str, Any]:
    """reference set -> finding -> kappa of every two readers with enough films in common; an uncertain read counts as no."""
    of = {name: {str(reader): rows.set_index("image_id") for reader, rows in experts.reads[name].groupby("reader_id", sort=False)} for name in FILES}
    pairs = [(name, a, b) for name, readers in of.items() for a, b in combinations(sorted(readers), 2)]
    result: dict[str, Any] = {name: {finding: [] for finding in FILES[name][2]} for name in FILES}
    for name, a, b in tqdm(pairs, desc="readers with each other", unit="pair", disable=None, leave=False):
        common = of[name][a].index.intersection(of[name][b].index)
        if len(common) < MIN_COMMON_FILMS:
            continue
        one, other = of[name][a].loc[common], of[name][b].loc[common]
        for finding in FILES[name][2]:
            said, also = (calls(rows[finding], "no") for rows in (one, other))
            known = (said.notna() & also.notna()).to_numpy()
            yes, too = said.to_numpy()[known] == 1, also.to_numpy()[known] == 1
            kappa = _kappa(yes, too, one.patient_id.to_numpy()[known], n_draws, seed)
            result[name][finding].append({"readers": [a, b], "n_images": int(known.sum()), "n_disagree": int((yes != too).sum())} | kappa)
    return result


# --- references -------------------------------------------------------------------------------------------------------------------------------------


def _references(experts: Experts, *, n_draws: int, seed: int) -> dict[str, Any]:
    """finding -> the two reference standards on the films that both have; all_findings speaks of the unions of its findings."""
    four, everything = experts.labels["four_findings_test"], experts.labels["all_findings_test"]
    rows, result = four.merge(everything, on=["image_id", "patient_id"], suffixes=("_four", "")), {}
    for finding in IN_BOTH:
        union = text_mined(rows, finding)
        assert union is not None
        one, other = rows[f"{finding}_four" if finding in NIH_FINDINGS else finding].to_numpy(), union.to_numpy()
        known = ~(np.isnan(one) | np.isnan(other))
        said, also, patients = one[known] == 1, other[known] == 1, rows.patient_id.to_numpy()[known]
        result[finding] = {
            "n_images": int(known.sum()),
            "n_disagree": int((said != also).sum()),
            "n_only_four_findings": int((said & ~also).sum()),
            "n_only_all_findings": int((also & ~said).sum()),
            **_kappa(said, also, patients, n_draws, seed),
            "prevalence_four_findings": estimate(clustered_wilson(said, patients)),
            "prevalence_all_findings": estimate(clustered_wilson(also, patients)),
        }
    return result


def prevalences(catalogue: Catalogue, experts: Experts, splits: Splits) -> dict[str, Any]:
    """split or reference set -> view -> finding -> its share by text mining and, where there is one, by the reference."""
    images = catalogue.images.set_index("image_id")
    result: dict[str, Any] = {}
    for name, table in tqdm(_all_sets(experts, splits).items(), desc="prevalences", unit="set", disable=None, leave=False):
        labelled = table.set_index("image_id")
        mined = images.reindex(labelled.index)
        for view in VIEWS:
            seen = np.ones(len(mined), bool) if view == "all" else (mined["view"] == view).to_numpy()
            reference_of = FILES[name][2] if name in FILES else ()
            result.setdefault(name, {})[view] = {
                finding: _shares(text_mined(mined[seen], finding), labelled.loc[seen, finding] if finding in reference_of else None, labelled.patient_id[seen])
                for finding in FINDINGS
            }
    return result


def _all_sets(experts: Experts, splits: Splits) -> dict[str, pd.DataFrame]:
    return {name: getattr(splits, name) for name in SPLITS} | experts.labels


def _shares(mined: "pd.Series[float] | None", reference: "pd.Series[float] | None", patients: "pd.Series[int]") -> dict[str, Any]:
    """The finding's share of these films by either label, with how many films that label knows."""
    result: dict[str, Any] = {"n": len(patients)}
    for source, labels in (("text_mined", mined), ("reference", reference)):
        if labels is not None:
            known = labels.notna().to_numpy()
            share = estimate(clustered_wilson(labels.to_numpy()[known] == 1, patients.to_numpy()[known]))
            result |= {source: share, f"n_{source}": int(known.sum())} | ({} if share else {"reason": "no image"})
    return result | ({"text_mined": None, "reason": NOT_MINED} if mined is None else {})


def _positives(labels: pd.DataFrame, finding: str) -> dict[str, Any]:
    per_patient = labels.patient_id[labels[finding] == 1].value_counts()
    return {
        "n_images": len(labels),
        "n_pos": int(per_patient.sum()),
        "n_unknown": int(labels[finding].isna().sum()),
        "n_pos_patients": len(per_patient),
        "largest_patient_share": float(per_patient.iloc[0] / per_patient.sum()) if len(per_patient) else None,
    }
