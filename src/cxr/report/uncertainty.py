"""How much of a number is the labels' doing: text-mined against adjudicated on the same films, and one panel of radiologists against another."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cxr.report.reading import estimate, too_few_patients
from cxr.stats.bootstrap import bootstrap, bootstrap_difference
from cxr.stats.ranking import auroc
from cxr.stats.readers import majority

PANEL = 3


def label_shift(score: np.ndarray, positive: np.ndarray, text_mined: np.ndarray | None, patients: np.ndarray, *, draws: int, seed: int) -> dict[str, Any]:
    """The same scores on the same films against both kinds of label, paired: what changes is the labels alone, not the films.

    Args:
        score, positive, patients: (N,) of the films with a known reference.
        text_mined: (N,) 1, 0 or NaN; None where text mining does not know the finding.
        draws, seed: of the bootstrap.

    Returns:
        n_images, n_pos_text_mined, n_pos, auroc_text_mined, auroc_reference, and their difference (reference less text-mined).
    """
    if text_mined is None:
        return {"difference": None, "reason": "no text-mined label"}
    known = ~np.isnan(text_mined)
    score, positive, patients, mined = score[known], positive[known], patients[known], text_mined[known] == 1
    counts = {"n_images": int(known.sum()), "n_pos_text_mined": int(mined.sum()), "n_pos": int(positive.sum())}
    reason = too_few_patients(positive, patients) or too_few_patients(mined, patients)
    if reason:
        return counts | {"difference": None, "reason": reason}
    drawn = {"n_draws": draws, "seed": seed}
    difference = bootstrap_difference(lambda w: auroc(score, positive, w), lambda w: auroc(score, mined, w), patients, n_draws=draws, seed=seed)
    return counts | {
        "auroc_text_mined": estimate(bootstrap(auroc, score, mined, patients, **drawn)),
        "auroc_reference": estimate(bootstrap(auroc, score, positive, patients, **drawn)),
        "difference": estimate(difference),
    }


def panels(score: np.ndarray, patients: np.ndarray, votes: pd.DataFrame, *, jury: tuple[str, ...], draws: int, seed: int) -> dict[str, Any]:
    """The AUROC had any other three of the five radiologists been the panel.

    Args:
        score, patients: (N,).
        votes: (N, R) 1, 0 or NaN, a column per reader.
        jury: the readers whose majority is the published reference.
        draws, seed: of the bootstrap.

    Returns:
        panels: [{readers, is_reference, n_pos, auroc or null with reason}]; lowest and highest AUROC among them.
    """
    rows: list[dict[str, Any]] = []
    for members in combinations(votes.columns, PANEL):
        said = majority(votes[list(members)].to_numpy())
        known = ~np.isnan(said)
        row = {"readers": list(members), "is_reference": set(members) == set(jury)}
        rows.append(row | _area(score[known], said[known] == 1, patients[known], draws, seed))
    areas = [row["auroc"]["value"] for row in rows if row["auroc"]]
    return {"panels": rows, "lowest": min(areas, default=None), "highest": max(areas, default=None)}


def unanimous_and_disputed(score: np.ndarray, positive: np.ndarray, patients: np.ndarray, votes: pd.DataFrame, *, draws: int, seed: int) -> dict[str, Any]:
    """The AUROC on films of which all first reads said the same, and on films on which they differed or one was uncertain.

    Args:
        score, positive, patients: (N,).
        votes: (N, R) 1, 0, 0.5 (uncertain) or NaN; a film with fewer than two known reads is in neither group.

    Returns:
        unanimous, disputed: {n_images, n_pos, n_neg, auroc or null with reason}; n_left_out.
    """
    said = votes.to_numpy()
    n_read = (~np.isnan(said)).sum(axis=1)
    agreed = ((said == 1).sum(axis=1) == n_read) | ((said == 0).sum(axis=1) == n_read)
    groups = {"unanimous": (n_read >= 2) & agreed, "disputed": (n_read >= 2) & ~agreed}
    told: dict[str, Any] = {name: _area(score[inside], positive[inside], patients[inside], draws, seed) for name, inside in groups.items()}
    return told | {"n_left_out": int((n_read < 2).sum())}


def _area(score: np.ndarray, positive: np.ndarray, patients: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    counts = {"n_images": len(positive), "n_pos": int(positive.sum()), "n_neg": int((~positive).sum())}
    reason = too_few_patients(positive, patients)
    if reason:
        return counts | {"auroc": None, "reason": reason}
    return counts | {"auroc": estimate(bootstrap(auroc, score, positive, patients, n_draws=draws, seed=seed))}
