"""CheXpert and MIMIC-CXR as tables. Their labels were read from reports by the same program: 1, 0, -1 (the report is uncertain) or empty (not mentioned)."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxr.cohort.findings import read_table, refuse_rows, require_columns
from cxr.cohort.spaces import CHEXPERT, RELATIVE_PATH, OtherSet, OtherSetError, hashes, require_files

# one more column, which says that all of the others are absent
NO_FINDING = "No Finding"
COLUMNS = (NO_FINDING, *CHEXPERT.columns.values())
CELLS = {"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": -1.0, "-1": -1.0, "": np.nan}

# policy -> what it makes of -1, or of an empty cell
VALUES = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}

CHEXPERT_SOURCE = "https://stanfordmlgroup.github.io/competitions/chexpert/"
MIMIC_SOURCE = "https://physionet.org/content/mimic-cxr-jpg/"
FRONTAL = ("AP", "PA")


def read_labels(table: pd.DataFrame, path: Path, *, uncertain: str, unmentioned: str) -> pd.DataFrame:
    """The labeller's columns as findings.

    Args:
        table: with COLUMNS, as written.
        path: for the message.
        uncertain: what -1 counts as: "ignore" (unknown: U-Ignore), "zeros" (U-Zeroes) or "ones" (U-Ones) of Irvin et al. 2019.
        unmentioned: what an empty cell counts as: "zeros" or "ignore".

    Returns:
        A float column per finding of the space: 1, 0 or NaN.

    Raises:
        LabelError: another value, or a column is missing.
    """
    require_columns(table, list(COLUMNS), path)
    for column in COLUMNS:
        cells = table[column].str.strip()
        refuse_rows(~cells.isin(CELLS), cells, path, f"1.0, 0.0, -1.0 or nothing (column {column!r})")
    labels = {}
    for finding, column in CHEXPERT.columns.items():
        read = table[column].str.strip().map(CELLS).astype("float64")
        labels[finding] = read.mask(read == -1, VALUES[uncertain]).mask(read.isna(), VALUES[unmentioned])
    return pd.DataFrame(labels, table.index)


def load_chexpert(root: Path, *, uncertain: str, unmentioned: str, training: bool) -> OtherSet:
    """CheXpert: `valid.csv`, whose labels are the consensus of three radiologists, to test on; `train.csv`, whose labels are text-mined, to train on.

    Args:
        root: holds the label files as published, and the folders train/ and valid/.
        uncertain, unmentioned: see `read_labels`; of train.csv. The radiologists left nothing open.
        training: read train.csv too.

    Raises:
        OtherSetError: a file is not there.
        LabelError: a cell or column without agreed meaning, with file and row.
    """
    parts = {"chexpert_valid": root / "valid.csv"} | ({"chexpert_train": root / "train.csv"} if training else {})
    require_files(parts.values(), "CheXpert", CHEXPERT_SOURCE)
    tables, n_lateral = [], 0
    for part, path in parts.items():
        table = read_table(path)
        columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
        require_columns(table, columns, path)
        film, sex, age, side, view = (table[column].str.strip() for column in columns)
        refuse_rows(~film.str.fullmatch(RELATIVE_PATH), film, path, "a path such as CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")
        relative = film.str.split("/", n=1).str[1].fillna("")  # the first folder names the release
        patient = film.str.extract("/(patient[0-9]+)/", expand=False)
        refuse_rows(patient.isna(), film, path, "a path with a folder patient<number>")
        refuse_rows(relative.duplicated(), film, path, "a film that was not named before")
        refuse_rows(~sex.isin(["Male", "Female", "Unknown"]), sex, path, "Male, Female or Unknown")
        refuse_rows(~age.str.fullmatch("[0-9]{1,3}"), age, path, "an age in years")
        refuse_rows(~side.isin(["Frontal", "Lateral"]), side, path, "Frontal or Lateral")
        policy = {"uncertain": "ignore", "unmentioned": "ignore"} if part == "chexpert_valid" else {"uncertain": uncertain, "unmentioned": unmentioned}
        films = pd.DataFrame(
            {
                "image_id": "chexpert:" + relative,
                "patient_id": "chexpert:" + patient,
                "part": part,
                "view": view.where(view.isin(FRONTAL)),
                "sex": sex.map({"Male": "M", "Female": "F"}),
                "age": age.astype("float64"),
                "follow_up": np.nan,
                "path": relative,
            }
        ).join(read_labels(table, path, **policy))
        n_lateral += int((side == "Lateral").sum())
        tables.append(films[side == "Frontal"])
    return OtherSet(
        "chexpert",
        pd.concat(tables).sort_values("image_id", ignore_index=True),
        adjudicated={"chexpert_valid": True},
        training="chexpert_train" if training else None,
        labels={"files": hashes(parts.values()), "uncertain": uncertain, "unmentioned": unmentioned},
        left_out={"lateral": n_lateral},
    )


def load_mimic(root: Path, *, uncertain: str, unmentioned: str, training: bool) -> OtherSet:
    """MIMIC-CXR-JPG: its published test part to test on, train and validate together to train on. All labels are text-mined; age and sex are not in it.

    Args:
        root: holds `mimic-cxr-2.0.0-chexpert.csv.gz`, `...-split.csv.gz`, `...-metadata.csv.gz` (unpacked ones will do) and `files/p10/p10000032/...`.
        uncertain, unmentioned: see `read_labels`.
        training: keep the films of train and validate.

    Raises:
        OtherSetError: a file is not there, or they disagree on whose film it is.
        LabelError: a cell or column without agreed meaning, with file and row.
    """
    paths = {}
    for kind in ("chexpert", "split", "metadata"):
        packed = root / f"mimic-cxr-2.0.0-{kind}.csv.gz"
        paths[kind] = packed if packed.is_file() or not packed.with_suffix("").is_file() else packed.with_suffix("")
    require_files(paths.values(), "MIMIC-CXR-JPG", MIMIC_SOURCE)

    labels = read_table(paths["chexpert"])
    require_columns(labels, ["subject_id", "study_id"], paths["chexpert"])
    _require_numbers(labels, paths["chexpert"])
    refuse_rows(labels.study_id.duplicated(), labels.study_id, paths["chexpert"], "a study that was not named before")
    findings = read_labels(labels, paths["chexpert"], uncertain=uncertain, unmentioned=unmentioned).set_index(labels.study_id)

    split = read_table(paths["split"])
    require_columns(split, ["dicom_id", "study_id", "subject_id", "split"], paths["split"])
    refuse_rows(~split.split.isin(["train", "validate", "test"]), split.split, paths["split"], "train, validate or test")
    metadata = read_table(paths["metadata"])
    require_columns(metadata, ["dicom_id", "subject_id", "study_id", "ViewPosition"], paths["metadata"])
    for table, path in ((split, paths["split"]), (metadata, paths["metadata"])):
        refuse_rows(table.dicom_id.duplicated(), table.dicom_id, path, "a film that was not named before")
        refuse_rows(~table.dicom_id.str.fullmatch(r"[0-9a-f-]+"), table.dicom_id, path, "a film's name of hexadecimal digits")
        _require_numbers(table, path)

    both = split.merge(metadata, on="dicom_id", suffixes=("", "_metadata"))
    wrong = both[(both.subject_id != both.subject_id_metadata) | (both.study_id != both.study_id_metadata)]
    if len(wrong) or len(both) < len(split):
        first = wrong.dicom_id.iloc[0] if len(wrong) else split.dicom_id[~split.dicom_id.isin(metadata.dicom_id)].iloc[0]
        raise OtherSetError(f"{paths['split']} and {paths['metadata']} disagree on {len(wrong) or len(split) - len(both)} films, the first is {first}")
    of_study = both.study_id.map(labels.set_index("study_id").subject_id)
    strange = both[of_study.notna() & (of_study != both.subject_id)]
    if len(strange):
        raise OtherSetError(f"{paths['chexpert']} and {paths['split']} disagree on whose study {strange.study_id.iloc[0]} is")
    is_frontal, is_labelled = both.ViewPosition.isin(FRONTAL), both.study_id.isin(findings.index)
    kept = both[is_frontal & is_labelled & (training | (both.split == "test"))]
    films = pd.DataFrame(
        {
            "image_id": "mimic:" + kept.dicom_id,
            "patient_id": "mimic:" + kept.subject_id,
            "part": np.where(kept.split == "test", "mimic_test", "mimic_train"),
            "view": kept.ViewPosition,
            "sex": pd.Series(np.nan, kept.index, dtype=object),
            "age": np.nan,
            "follow_up": np.nan,
            "path": "files/p" + kept.subject_id.str[:2] + "/p" + kept.subject_id + "/s" + kept.study_id + "/" + kept.dicom_id + ".jpg",
        }
    ).join(findings.loc[kept.study_id].set_index(kept.index))
    return OtherSet(
        "mimic",
        films.sort_values("image_id", ignore_index=True),
        adjudicated={"mimic_test": False},
        training="mimic_train" if training else None,
        labels={"files": hashes(paths.values()), "uncertain": uncertain, "unmentioned": unmentioned},
        left_out={"lateral or of another view": int((~is_frontal).sum()), "of a study without labels": int((is_frontal & ~is_labelled).sum())},
    )


def _require_numbers(table: pd.DataFrame, path: Path) -> None:
    """Raises LabelError unless patients and studies are written as they are published: a digit of another script would name another patient."""
    for column, first in (("subject_id", 1), ("study_id", 5)):
        refuse_rows(~table[column].str.fullmatch(rf"{first}[0-9]{{7}}"), table[column], path, f"eight digits, the first of them {first} (column {column!r})")
