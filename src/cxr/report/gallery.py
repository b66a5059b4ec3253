"""gallery.html: the films on which a model is most sure and the radiologists disagree, with heat maps and votes.

The one page that holds films of patients. It is made on request, needs no other file, and stays where it was made.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cxr.report.pages import MINIATURE
from cxr.report.reference import ReferenceSet
from cxr.report.wording import MINUS, percent, spell
from cxr.report.worst_errors import ANSWERS, FALSE_ALARM, MISS, votes_in_words, worst_errors

FILE = "gallery.html"
Pictures = tuple[np.ndarray, np.ndarray | None]
JPEG_QUALITY = 90  # a film of 256 pixels then takes some 12 kB


@dataclass(frozen=True)
class Errors:
    """The errors of one finding of one set that are shown.

    Attributes:
        name, finding: of the set, and in it.
        threshold: of a yes, fixed on validation films; None where there is none, and an error is then whatever film of the other kind is ranked beyond.
        table: a row per film, misses first, the most confident first: as `worst_errors` gives it, and view, sex, age.
        n_misses, n_false_alarms, n_pos, n_neg: of all films of the set.
    """

    name: str
    finding: str
    threshold: float | None
    table: pd.DataFrame
    n_misses: int
    n_false_alarms: int
    n_pos: int
    n_neg: int


def confident_errors(sets: Mapping[str, Any], scores: Mapping[str, pd.DataFrame], references: Mapping[str, ReferenceSet], *, n: int) -> list[Errors]:
    """Of every finding that radiologists labelled and the model speaks of, those that have an error.

    Args:
        sets: reference_sets of report.json.
        scores: reference set -> the model's scores, indexed by image_id.
        references: the sets, complete.
        n: at most so many misses, and so many false alarms.
    """
    found = []
    for name, reference in reversed(list(references.items())):  # the sets that are read first are made last
        for finding in reference.findings if reference.adjudicated else ():
            if finding not in scores[name]:
                continue
            row = sets[name]["findings"][finding]
            points = row.get("operating_points") or {"source": None}
            threshold = points["rules"][points["shown"]]["threshold"] if points["source"] else None
            table = worst_errors(scores[name], reference, finding, n=len(scores[name]))
            if threshold is not None:
                table = table[(table["score"] >= threshold) == (table["error"] == FALSE_ALARM)]
            counts = table["error"].value_counts()
            known = reference.films.set_index("image_id")[["view", "sex", "age"]]
            shown = table.groupby("error", sort=False).head(n).reset_index(drop=True).join(known, on="image_id")
            if len(shown):
                n_misses, n_alarms = (int(counts.get(kind, 0)) for kind in (MISS, FALSE_ALARM))
                found.append(Errors(name, finding, threshold, shown, n_misses, n_alarms, row["n_pos"], row["n_neg"]))
    return found


def page(errors: Sequence[Errors], pictures: Sequence[Sequence[Pictures]], seen: Sequence[Sequence[str]], *, model: str, data: str) -> bytes:
    """gallery.html.

    Args:
        errors: from `confident_errors`.
        pictures: for each of them and each of its rows, the film (H, W) uint8 and the film under its heat map (H, W, 3) uint8, or None.
        seen: likewise, the finding of the model whose heat map it is.
        model, data: whose errors, and of which data set.
    """
    sections: dict[str, list[dict[str, Any]]] = {}
    for of, shown, findings in zip(errors, pictures, seen, strict=True):
        films = [
            {
                "error": film["error"].capitalize(),
                "is_miss": film["error"] == MISS,
                "image_id": str(film["image_id"]),
                "lines": [*_lines(film, of.threshold), *([] if heat is None else [f"heat map: {spell(finding)}"])],
            }
            | {"film": _jpeg(picture), "heat": "" if heat is None else _jpeg(heat)}
            for (_, film), (picture, heat), finding in zip(of.table.iterrows(), shown, findings, strict=True)
        ]
        sections.setdefault(spell(of.name), []).append({"finding": spell(of.finding), "told": _told(of), "films": films})
    environment = Environment(loader=PackageLoader("cxr.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    warning = MINIATURE if data == "mini" else ""
    return environment.get_template(FILE).render(model=model, sections=sections, warning=warning).encode()


def _told(of: Errors) -> str:
    if of.threshold is None:
        return (
            f"No threshold was fixed for this finding. {of.n_misses:,} of {of.n_pos:,} films with it score below some film without it, and "
            f"{of.n_false_alarms:,} of {of.n_neg:,} without it above some film with it."
        )
    return f"At the fixed threshold {of.n_misses:,} of {of.n_pos:,} films with it are missed, and {of.n_false_alarms:,} of {of.n_neg:,} without it are called."


def _lines(film: "pd.Series[Any]", threshold: float | None) -> list[str]:
    limit = "" if threshold is None else f", threshold {threshold:.2f}"
    mined = "unknown" if pd.isna(film["text_mined"]) else ANSWERS[film["text_mined"]]
    age = "age unknown" if pd.isna(film["age"]) else f"{film['age']:.0f} years"
    who = ", ".join("unknown" if pd.isna(word) else str(word) for word in (film["view"], film["sex"]))
    return [
        f"score {film['score']:.2f}{limit}; above {percent(film['scored_lower'])} of the set's other films".replace("-", MINUS),
        f"radiologists' label {ANSWERS[film['reference']]}, text mining {mined}",
        f"readers: {votes_in_words(film) or 'unknown'}",
        f"{who}, {age}",
    ]


def _jpeg(picture: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8, as text for a page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
