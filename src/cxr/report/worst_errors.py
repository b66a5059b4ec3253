"""The films on which a model contradicts the labels most: which they are, and a picture of them.

For the screen of whoever may see the films; no such picture is saved.
"""

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.report.drawing import GREY, INK, VERMILION, WIDTH
from cxr.report.reference import ReferenceSet
from cxr.report.wording import percent, spell

MISS, FALSE_ALARM = "miss", "false alarm"
ABOUT = ("error", "image_id", "score", "scored_lower", "reference", "text_mined", "view", "sex", "age")  # a film; the other columns are readers
ANSWERS = {1.0: "yes", 0.0: "no", 0.5: "uncertain"}


def worst_errors(scores: pd.DataFrame, reference: ReferenceSet, finding: str, *, n: int) -> pd.DataFrame:
    """The films with the finding that score lowest, and those without it that score highest.

    A film is an error only where some film of the other kind is on the wrong side of it, so a model that tells all apart has none; no threshold is needed.

    Args:
        scores: of the present films, indexed by image_id, a column per finding.
        reference: the set, which meets the scores by image_id.
        finding: one that the model speaks of.
        n: at most so many of each kind.

    Returns:
        misses, then false alarms, the worst first: error, image_id, score, scored_lower (which share of the set's other films), reference (1, 0), text_mined
        (1, 0; NaN where text mining does not know the finding), and a column per reader of these films: 1, 0, 0.5 (uncertain) or NaN.

    Raises:
        ValueError: the model does not speak of the finding, or the set has no label for it.
    """
    if finding not in scores or finding not in reference.findings:
        both = [spoken for spoken in reference.findings if spoken in scores]
        raise ValueError(f"{reference.name} and the model have no {finding} in common; there are {', '.join(both)}")
    films = reference.films.assign(text_mined=reference.text_mined.get(finding, np.nan))
    films = films.set_index("image_id").loc[scores.index].assign(score=scores[finding])
    films = films[films[finding].notna()].sort_index()
    films["scored_lower"] = (films["score"].rank(method="min") - 1) / max(len(films) - 1, 1)
    present, absent = films[films[finding] == 1], films[films[finding] == 0]
    misses = present[present["score"] < absent["score"].max()].sort_values("score", kind="stable").head(n)
    alarms = absent[absent["score"] > present["score"].min()].sort_values("score", ascending=False, kind="stable").head(n)
    worst = pd.concat([misses.assign(error=MISS), alarms.assign(error=FALSE_ALARM)]).rename(columns={finding: "reference"}).reset_index()
    votes = reference.votes(finding, worst["image_id"]).dropna(axis=1, how="all")
    told: pd.DataFrame = worst[["error", "image_id", "score", "scored_lower", "reference", "text_mined"]]
    return told.join(votes.reset_index(drop=True))


def gallery(films: np.ndarray, errors: pd.DataFrame, finding: str, *, columns: int = 4) -> Figure:
    """The films with what everybody says of them, those of a kind under each other.

    Args:
        films: (N, H, W) uint8, 0 black.
        errors: N rows as `worst_errors` gives them.
        finding: for the title.
        columns: of films.
    """
    kinds = [(kind, np.flatnonzero(errors["error"] == kind)) for kind in (MISS, FALSE_ALARM)]
    kinds = [(kind, rows) for kind, rows in kinds if len(rows)]
    n_rows = sum(math.ceil(len(rows) / columns) for _, rows in kinds)
    side, told, top = (WIDTH - 0.2 * (columns - 1)) / columns, 0.95, 0.45
    height = top + n_rows * (side + told)
    figure, y = Figure(figsize=(WIDTH, height)), top
    figure.text(0, 1, f"{spell(finding)}: the worst errors" if kinds else f"{spell(finding)}: no error", va="top", fontsize=12, fontweight="bold", color=INK)
    for kind, rows in kinds:
        for start in range(0, len(rows), columns):
            for k, row in enumerate(rows[start : start + columns]):
                panel = figure.add_axes((k * (side + 0.2) / WIDTH, 1 - (y + side) / height, side / WIDTH, side / height))
                panel.imshow(films[row], cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
                panel.set_axis_off()
                film = errors.iloc[row]
                panel.text(0, -0.03, kind.capitalize(), transform=panel.transAxes, va="top", fontsize=10, fontweight="bold", color=VERMILION)
                panel.text(1, -0.03, str(film["image_id"]), transform=panel.transAxes, va="top", ha="right", fontsize=8, color=GREY)
                panel.text(0, -0.11, _in_words(film), transform=panel.transAxes, va="top", fontsize=9, linespacing=1.35, color=INK)
            y += side + told
    return figure


def votes_in_words(film: "pd.Series[Any]") -> str:
    """How many readers said what of a row of `worst_errors`; empty where nobody's reading is known."""
    votes = film.drop([column for column in film.index if column in ABOUT]).dropna()
    return ", ".join(f"{(votes == value).sum()} {answer}" for value, answer in ANSWERS.items() if (votes == value).any())


def _in_words(film: "pd.Series[Any]") -> str:
    """Score, labels and votes in three lines."""
    label = f"label {ANSWERS[film['reference']]}" + (f", text mining {ANSWERS[film['text_mined']]}" if pd.notna(film["text_mined"]) else "")
    lines = [f"score {film['score']:.2f}, above {percent(film['scored_lower'])} of the others", label]
    votes = votes_in_words(film)
    return "\n".join([*lines, *textwrap.wrap(f"readers: {votes}" if votes else "", 44)]).replace("-", "−")
