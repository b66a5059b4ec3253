"""NIH ChestX-ray14 as tables: one row per image with its patient, its text-mined findings and its official list; and where the pixels lie."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr.cohort.findings import parse_finding_lists, read_table, read_text, refuse_rows, require_columns
from cxr.dicom import SUFFIXES

# newest first: the release used where several lie in one folder
LABEL_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
LIST_FILES = {"train_val": "train_val_list.txt", "test": "test_list.txt"}

SOURCE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"

# a 2017 age carries its unit; v2020 gives whole years. Ages over 100 are in the real files and stay as they are.
YEARS_PER = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}


class CatalogueError(ValueError):
    """The data set's files are not there or contradict each other."""


@dataclass(frozen=True)
class Catalogue:
    """Who is in the data set.

    Attributes:
        images: one row per labelled image, sorted by `image_id`: image_id, patient_id (int), follow_up (int), n_films (of its patient), age (years),
            sex (M/F), view (PA/AP), list (train_val/test), and a float32 column per finding (1 present, 0 absent, by text mining).
        lists: the image ids of each official list, labelled or not.
        labels: {"file", "release", "sha256"} of the label file: AUROCs of different releases are different protocols.
        lists_sha256: of the two official lists.
    """

    images: pd.DataFrame
    lists: dict[str, "pd.Index[str]"]
    labels: dict[str, str]
    lists_sha256: dict[str, str]


def load_catalogue(root: Path, labels: Path | None = None) -> Catalogue:
    """Reads the label file and the two official lists.

    Args:
        root: the folder that holds them, as NIH ships it.
        labels: the label file; None takes the newest release in `root`.

    Raises:
        CatalogueError: a file is missing, an image is in both lists or in none, or stands twice; the message says what to do.
        LabelError: a cell or column without agreed meaning, with file and row.
    """
    labels = labels or next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    lists = {name: root / file for name, file in LIST_FILES.items()}
    missing = [str(path) for path in lists.values() if not path.is_file()]
    if labels is None:
        missing.insert(0, f"{root / LABEL_FILES[0]} (or {LABEL_FILES[1]})")
    elif not labels.is_file():
        missing.insert(0, str(labels))
    if labels is None or missing:
        raise CatalogueError(
            f"ChestX-ray14 was not found: looked in {root} for {', '.join(missing)}.\n"
            f"  To get it: download the label file, both lists and the images from {SOURCE}, and name the folder: data.root=/path/to/folder (docs/data.md)\n"
            "  To try everything without it, on a miniature that is drawn in seconds: python train.py"
        )

    images, release = _read_labels(labels)
    members = {name: read_image_list(path) for name, path in lists.items()}
    both = members["train_val"].intersection(members["test"])
    if len(both):
        raise CatalogueError(f"{len(both)} images stand in both official lists, the first is {both[0]}: {lists['train_val']} and {lists['test']}")
    images["list"] = pd.Series("", images.index)
    for name, ids in members.items():
        images.loc[images.image_id.isin(ids), "list"] = name
    homeless = images.image_id[images.list == ""]
    if len(homeless):
        raise CatalogueError(f"{len(homeless)} images of {labels} stand in neither official list, the first is {homeless.iloc[0]}")

    return Catalogue(
        images=images.sort_values("image_id", ignore_index=True),
        lists=members,
        labels={"file": labels.name, "release": release, "sha256": _sha256(labels)},
        lists_sha256={name: _sha256(path) for name, path in lists.items()},
    )


def _read_labels(path: Path) -> tuple[pd.DataFrame, str]:
    """(images without their list, name of the release) from any release: they share these seven columns and spell ages in two ways."""
    table = read_table(path)
    columns = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    require_columns(table, columns, path)
    image, findings, follow_up, patient, age, sex, view = (table[column].str.strip() for column in columns)

    refuse_rows(image.duplicated(), image, path, "an image that was not named before")
    refuse_rows(~image.str.fullmatch(r"[\w.-]+\.png"), image, path, "a file name ending in .png")
    refuse_rows(~patient.str.fullmatch(r"\d{1,9}"), patient, path, "a patient number")
    refuse_rows(~follow_up.str.fullmatch(r"\d{1,6}"), follow_up, path, "a follow-up number")
    refuse_rows(~age.str.fullmatch(r"\d{1,3}[YMD]?"), age, path, "an age such as 058Y or 58")
    refuse_rows(~sex.isin(["M", "F"]), sex, path, "M or F")
    refuse_rows(~view.isin(["PA", "AP"]), view, path, "PA or AP")

    unit = age.str.extract(r"([YMD])$", expand=False)
    images = pd.DataFrame(
        {
            "image_id": image,
            "patient_id": patient.astype("int64"),
            "follow_up": follow_up.astype("int64"),
            "n_films": patient.map(patient.value_counts()),
            "age": age.str.rstrip("YMD").astype("float64") * unit.map(YEARS_PER).fillna(1.0),
            "sex": sex,
            "view": view,
        }
    ).join(parse_finding_lists(findings, path))
    # Google's table repeats the release of 2017, without the unit of ages
    told = {"SOPInstanceUID": "google", "OriginalImageWidth": "kaggle"}
    by_age = "2017" if unit.notna().any() else "v2020"
    release = next((name for column, name in told.items() if column in table.columns), by_age)
    return images, release


def read_image_list(path: Path) -> "pd.Index[str]":
    """The image names in a text file, one a line, with or without a final newline; LabelError on a repeated or strange one."""
    names = pd.Series(read_text(path).split(), dtype=str)
    names.index += 1
    refuse_rows(~names.str.fullmatch(r"[\w.-]+\.png"), names, path, "an image name ending in .png")
    refuse_rows(names.duplicated(), names, path, "an image that was not named before")
    return pd.Index(names)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def image_folders(root: Path) -> list[Path]:
    """Where NIH's archives unpack to: `images/`, `images_001/images/` ... `images_012/images/`, or beside the label file; and Google's `dicom/`."""
    folders = [root / "images", *sorted(root.glob("images_[0-9][0-9][0-9]/images")), root / "dicom", root]
    by_place = {folder.resolve(): folder for folder in reversed(folders) if folder.is_dir()}  # two names of one folder are one
    return list(by_place.values())[::-1]


def find_images(root: Path, wanted: "pd.Series[str]") -> dict[str, Path]:
    """Paths of the wanted images that lie in any of the layouts: `NAME.png`, or else its DICOM copy `NAME.dcm` or `NAME.dicom`.

    Args:
        root: the data set's folder.
        wanted: image ids, which end in .png.

    Returns:
        image_id -> path, sorted by image_id; images that are not there are left out (the caller counts them).

    Raises:
        CatalogueError: two PNG or two DICOM files of one image: nobody could say which one was used. Of a PNG and a DICOM file it is the PNG.
    """
    names = set(wanted)
    films, dicom = dict[str, Path](), dict[str, Path]()
    for folder in image_folders(root):
        for entry in os.scandir(folder):
            stem, suffix = os.path.splitext(entry.name)
            image_id, found = (f"{stem}.png", dicom) if suffix.lower() in SUFFIXES else (entry.name, films)
            # neither folders nor pipes, and no link that ends nowhere or in itself; a plain file is known without asking the disk once more
            if image_id in names and (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                if image_id in found:
                    where = f"in two folders, {found[image_id].parent} and {folder}" if found[image_id].parent != folder else f"twice in {folder}"
                    raise CatalogueError(f"{entry.name} lies {where}: remove one of them")
                found[image_id] = Path(entry.path)
    return dict(sorted((dicom | films).items()))


def count_missing(catalogue: Catalogue, present: "pd.Index[str]") -> dict[str, int]:
    """How many images of each official list cannot be used: their pixels are not present, or the label file has no row for them."""
    usable = catalogue.images.image_id.isin(present)
    return {name: len(listed) - int((usable & (catalogue.images.list == name)).sum()) for name, listed in catalogue.lists.items()}
