"""The RSNA pneumonia challenge of 2018 as a table.

Its 30,000 films are NIH's under other names: 21,804 of the official train_val list and 8,196 of the test list. So a
model that was trained on ChestX-ray14 has seen most of them, and a patient of this set is known by NIH's number.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.cohort.findings import LabelError, read_table, read_text, refuse_rows, require_columns
from cxr.cohort.spaces import OtherSet, OtherSetError, hashes, require_files

BOXES, CLASSES, MAPPING = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv", "pneumonia-challenge-dataset-mappings_2018.json"
SOURCE = "https://www.rsna.org/artificial-intelligence/ai-image-challenge/rsna-pneumonia-detection-challenge-2018"
NORMAL, OPACITY = "Normal", "Lung Opacity"
CLASS_NAMES = (NORMAL, OPACITY, "No Lung Opacity / Not Normal")


def load_rsna(root: Path) -> OtherSet:
    """All films with published labels.

    Args:
        root: holds BOXES (a row per box, or one without a box), CLASSES, MAPPING, and the films in stage_2_train_images/.

    Returns:
        As `OtherSet` says, and `nih_image_id`; patient_id is NIH's number in digits, as it is in every set of that patient's films.

    Raises:
        OtherSetError: a file is not there (without MAPPING nobody can say whose film it is), or they contradict each other.
        LabelError: a cell or column without agreed meaning, with file and row.
    """
    boxes_path, classes_path, mapping_path = (root / name for name in (BOXES, CLASSES, MAPPING))
    require_files((boxes_path, classes_path, mapping_path), "the RSNA pneumonia challenge", SOURCE)
    boxes, classes = read_table(boxes_path), read_table(classes_path)
    box = ["x", "y", "width", "height"]
    require_columns(boxes, ["patientId", *box, "Target"], boxes_path)
    require_columns(classes, ["patientId", "class"], classes_path)
    # "patientId" names a film, not a patient
    refuse_rows(~boxes.patientId.str.fullmatch(r"[\w-]+"), boxes.patientId, boxes_path, "a film's name")
    refuse_rows(~boxes.Target.isin(["0", "1"]), boxes.Target, boxes_path, "0 or 1 (column 'Target')")
    has_box = (boxes[box] != "").all(axis=1)
    refuse_rows(has_box != (boxes.Target == "1"), boxes.Target, boxes_path, "a box beside every Target of 1, and none beside 0,")
    for column in box:
        number = boxes[column].str.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,20})?") | ~has_box
        refuse_rows(~number, boxes[column], boxes_path, f"a number of pixels (column {column!r})")
    refuse_rows(~classes["class"].isin(CLASS_NAMES), classes["class"], classes_path, f"one of {', '.join(CLASS_NAMES)}")

    target, kinds = boxes.groupby("patientId").Target, classes.groupby("patientId")["class"]
    _require(target.min() == target.max(), f"{boxes_path}: with and without a box")
    _require(kinds.min() == kinds.max(), f"{classes_path}: of two classes")
    films = pd.DataFrame({"target": target.first(), "kind": kinds.first()})
    _require(films.notna().all(axis=1), f"in one of {BOXES} and {CLASSES} alone")
    _require((films.target == "1") == (films.kind == OPACITY), f"{BOXES} and {CLASSES} disagree on")

    of_nih = _read_mapping(mapping_path)
    _require(pd.Series(films.index.isin(of_nih.index), films.index), f"{MAPPING} does not name")
    nih = of_nih.loc[films.index]
    opacity = (films.target == "1").astype("float64")
    return OtherSet(
        "rsna",
        pd.DataFrame(
            {
                "image_id": "rsna:" + films.index,
                "patient_id": nih.str.slice(0, 8).astype("int64").astype(str),
                "part": "rsna",
                "view": pd.Series(np.nan, films.index, dtype=object),
                "sex": pd.Series(np.nan, films.index, dtype=object),
                "age": np.nan,
                "follow_up": np.nan,
                "path": "stage_2_train_images/" + films.index + ".dcm",
                "Airspace opacity": opacity,
                "Pneumonia": opacity,
                "Abnormal": (films.kind != NORMAL).astype("float64"),
                "nih_image_id": nih,
            }
        ).sort_values("image_id", ignore_index=True),
        adjudicated={"rsna": True},
        training="rsna",
        labels={"files": hashes((boxes_path, classes_path, mapping_path))},
    )


def _read_mapping(path: Path) -> "pd.Series[str]":
    """Film of the challenge -> NIH's film; the published file is a list of records with `subset_img_id`, `img_id` and identifiers of DICOM."""
    try:
        records = json.loads(read_text(path))
        pairs = [(record["subset_img_id"], record["img_id"]) for record in records]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"{path}: no list of records with subset_img_id and img_id ({error!r})") from error
    table = pd.DataFrame(pairs, columns=["film", "nih"], dtype=str, index=pd.RangeIndex(1, len(pairs) + 1))
    refuse_rows(~table.nih.str.fullmatch(r"[0-9]{8}_[0-9]{3}\.png"), table.nih, path, "a film of ChestX-ray14 such as 00000001_000.png")
    for column in ("film", "nih"):
        refuse_rows(table[column].duplicated(), table[column], path, "a film that was not named before")
    return table.set_index("film").nih


def _require(holds: "pd.Series[bool]", what: str) -> None:
    if not holds.all():
        wrong = holds.index[~holds]
        raise OtherSetError(f"{what} {len(wrong)} film{'s' * (len(wrong) > 1)}, the first is {wrong[0]}")
