"""Five facts from the headers of a folder of DICOM films, as a table: whose film, which view, sex and age. Nothing else of a header is read."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cxr.cohort.catalogue import YEARS_PER, CatalogueError
from cxr.dicom import SUFFIXES, DicomError, read_header, text, word

KEYWORDS = ("SOPInstanceUID", "PatientID", "ViewPosition", "PatientSex", "PatientAge")
# DICOM counts weeks too
AGES = YEARS_PER | {"W": 7 / 365.25}
HASH_LENGTH = 16  # hexadecimal digits: two of a million patients share one with a chance of 3e-8


def read_dicom_headers(folder: Path, *, image_id: str = "stem", salt: str | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Reads the headers, and no pixel, of all DICOM files below a folder.

    Args:
        folder: searched with its subfolders for .dcm and .dicom files.
        image_id: "stem" names an image by its file, NAME.dcm as NAME.png; "SOPInstanceUID" by the header.
        salt: where given, `patient_id` is the beginning of sha256(salt + id): the same for all films of a patient. Keep it secret:
            who has it can try all numbers.

    Returns:
        (a row per file, sorted by image_id: image_id, patient_id, view (PA, AP, or missing), sex (M, F, or missing), age (years, NaN where missing or no age);
        file name -> why it could not be read). Without a patient's number `patient_id` is missing, with salt or without.

    Raises:
        CatalogueError: no DICOM file is there, or two are of one image.
        MissingPackageError: pydicom is not installed.

    >>> years("011M")
    0.9166666666666666
    """
    if image_id not in ("stem", "SOPInstanceUID"):
        raise ValueError(f"image_id={image_id!r}: stem or SOPInstanceUID")
    paths = sorted(_films(folder))
    if not paths:
        raise CatalogueError(f"no DICOM file ({', '.join(SUFFIXES)}) lies in {folder}")
    rows, refused = [], dict[str, str]()
    for path in tqdm(paths, desc="reading headers", unit="film", disable=None):
        try:
            with path.open("rb") as file:
                header, _, _ = read_header(file, KEYWORDS)
            name = f"{path.stem}.png" if image_id == "stem" else text(header, "SOPInstanceUID")
            if not re.fullmatch(r"[\w.-]+\.png" if image_id == "stem" else r"[\d.]{1,64}", name):
                raise DicomError("its name cannot be an image's" if image_id == "stem" else "its header has no SOPInstanceUID")
            patient, view, sex = text(header, "PatientID"), word(header, "ViewPosition"), word(header, "PatientSex")
            rows.append(
                {
                    "image_id": name,
                    "patient_id": (patient if salt is None else hashlib.sha256((salt + patient).encode()).hexdigest()[:HASH_LENGTH]) if patient else None,
                    "view": view if view in ("PA", "AP") else None,
                    "sex": sex if sex in ("M", "F") else None,
                    "age": years(word(header, "PatientAge")),
                    "file": path,
                }
            )
        except DicomError as error:
            refused[path.name] = str(error)
        except OSError as error:
            refused[path.name] = f"cannot be read: {error.strerror}"
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "view", "sex", "age", "file"])
    twice = table[table.image_id.duplicated(keep=False)]
    if len(twice):
        first = twice[twice.image_id == twice.image_id.iloc[0]].file
        raise CatalogueError(f"{len(twice)} files share their image with another, the first are {first.iloc[0]} and {first.iloc[1]}: remove one of them")
    return table.drop(columns="file").sort_values("image_id", ignore_index=True).astype({"age": "float64"}), refused


def years(age: str) -> float:
    """DICOM's age (058Y, 011M, 003W, 001D) in years; NaN for anything else."""
    return int(age[:3]) * AGES[age[3]] if re.fullmatch(r"[0-9]{3}[YMWD]", age) else float("nan")


def _films(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
