"""What other data sets' labels say in the words of this project: which of their columns stands for which finding, and what has no counterpart.

A table of this kind is a judgement, so each has a written source; docs/other_sets.md prints them. Nothing here is guessed from a name: a column that is not
listed does not count.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cxr.cohort.findings import NIH_FINDINGS

# of a film's path inside a data set: nothing that leads out of it
RELATIVE_PATH = r"[\w-][\w .-]*(/[\w-][\w .-]*)*"
# films are looked for as published, and converted
SUFFIXES = (".jpg", ".png", ".dcm")


class OtherSetError(ValueError):
    """A data set's files are not there, contradict each other, or must not be used like this."""


@dataclass(frozen=True)
class Space:
    """One data set's labels.

    Attributes:
        columns: finding, as it is reported -> the set's own name of it. One of the 14 is compared with the model's logit of it, and can be trained on.
        members: a finding that is none of the 14 -> the model's findings that stand for it.
        no_counterpart: a finding that no finding of the model stands for -> why.
        source: where the correspondence is argued.
    """

    columns: dict[str, str]
    members: dict[str, tuple[str, ...]]
    no_counterpart: dict[str, str]
    source: str

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(self.columns)


# Irvin et al. 2019, fig. 1: what is a lung opacity; Infiltration is NIH's word for one that CheXpert does not use
OPACITIES = ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Mass", "Nodule", "Pneumonia")

CHEXPERT = Space(
    columns={
        "Atelectasis": "Atelectasis",
        "Cardiomegaly": "Cardiomegaly",
        "Effusion": "Pleural Effusion",
        "Pneumonia": "Pneumonia",
        "Pneumothorax": "Pneumothorax",
        "Consolidation": "Consolidation",
        "Edema": "Edema",
        "Nodule or mass": "Lung Lesion",
        "Lung Opacity": "Lung Opacity",
        "Fracture": "Fracture",
        "Pleural Other": "Pleural Other",
        "Enlarged Cardiomediastinum": "Enlarged Cardiomediastinum",
        "Support Devices": "Support Devices",
    },
    members={"Lung Opacity": OPACITIES},
    no_counterpart={
        "Fracture": "no label of ChestX-ray14",
        "Pleural Other": "thickening, plaques and scars of the pleura together; ChestX-ray14 labels thickening alone",
        "Enlarged Cardiomediastinum": "a wide mediastinum of any cause, of which a large heart is one",
        "Support Devices": "no label of ChestX-ray14",
    },
    source="Irvin et al. 2019 (fig. 1, the hierarchy of the 14 observations; Lung Lesion is a nodule or a mass). Column by column as in Cohen et al. 2020, who "
    "trained across these sets, but that Pleural Other is not taken for pleural thickening.",
)
RSNA = Space(
    columns={"Airspace opacity": "Lung Opacity", "Pneumonia": "Lung Opacity", "Abnormal": "not Normal"},
    members={},
    no_counterpart={},
    source="Shih et al. 2019: a box is a lung opacity that, in the right clinical setting, would be called pneumonia. So it is held against the airspace "
    "opacities together and against pneumonia alone; a film of the class Normal is not abnormal, all others are.",
)
TBPORTALS = Space(
    columns={
        "Tuberculosis": "all films: there are patients with tuberculosis alone",
        "Cavity": "smallcavities, mediumcavities or largecavities above 0",
    },
    members={},
    no_counterpart={"Tuberculosis": "a diagnosis; no label of ChestX-ray14", "Cavity": "no label of ChestX-ray14"},
    source="TB Portals data dictionary (CXR manual annotations, a row per sextant and reader).",
)
SPACES = {"chexpert": CHEXPERT, "mimic": CHEXPERT, "rsna": RSNA, "tbportals": TBPORTALS}
# what a model of the 14 can be trained on at all
TRAINABLE = tuple(name for name, space in SPACES.items() if not set(space.findings).isdisjoint(NIH_FINDINGS))


@dataclass(frozen=True)
class OtherSet:
    """Who is in another data set.

    Attributes:
        name: of the data set.
        films: one row per frontal film, sorted by `image_id`: image_id and patient_id (both begin with the set's name, so that no two sets share any by
            chance), part, view, sex (M/F), age (years), follow_up (all but the first three may be unknown), path, and a column per finding (1, 0, NaN).
        adjudicated: part that is for testing -> whether its labels are radiologists', not read from reports by a program.
        training: the part that may be trained on; None where there is none.
        labels: what made them: {"files": {name: sha256}, and how uncertain and missing ones count}.
        left_out: what kind of film is not in `films` -> how many.
    """

    name: str
    films: pd.DataFrame
    adjudicated: dict[str, bool]
    training: str | None
    labels: dict[str, object]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        return SPACES[self.name]


def find_films(root: Path, films: pd.DataFrame) -> dict[str, Path]:
    """Where the films lie: image_id -> path, sorted; those that are not there are left out (the caller counts them).

    Args:
        root: the folder that holds the label files, or the one above.
        films: image_id and path, relative to the root; as published, or converted with the suffix changed.
    """
    found = {}
    for image_id, relative in tqdm(zip(films.image_id, films.path, strict=True), "finding films", len(films), unit="film", disable=None, leave=False):
        path: Path | None = root / relative
        if path and not path.is_file():
            path = next((converted for converted in map(path.with_suffix, SUFFIXES) if converted.is_file()), None)
        if path:
            found[image_id] = path
    return dict(sorted(found.items()))


def require_files(paths: Iterable[Path], what: str, source: str) -> None:
    """Raises OtherSetError naming every file that is not there, and where to get them."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise OtherSetError(f"{what} was not found: looked for {', '.join(missing)}. It is at {source}; name its folder: data.root=/path")


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """The sha256 of each file, by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
