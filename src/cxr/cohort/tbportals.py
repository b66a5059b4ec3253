"""X-rays of the TB Portals (the oldest is that of Belarus) as a table. Every patient has tuberculosis, which no finding of the 14 is."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxr.cohort.findings import read_table, refuse_rows, require_columns
from cxr.cohort.spaces import RELATIVE_PATH, OtherSet, OtherSetError, hashes, require_files

SOURCE = "https://tbportals.niaid.nih.gov/download-data"
FILMS, ANNOTATIONS = "TB_Portals_CXRs_*.csv", "TB_Portals_CXR_Manual_Annotations_*.csv"
CAVITIES = ("smallcavities", "mediumcavities", "largecavities")


def load_tbportals(root: Path, *, country: str | None) -> OtherSet:
    """The films of one country, or of all.

    Args:
        root: holds FILMS (one release), ANNOTATIONS if there are any, and the films where `series_instance_content_url` says.
        country: as in the table; None takes all.

    Raises:
        OtherSetError: no table is there, or several; or it has no film of the country.
        LabelError: a cell or column without agreed meaning, with file and row.
    """
    path = _one(root, FILMS)
    if path is None:
        require_files([root / FILMS], "the TB Portals' table of X-rays", SOURCE)
    assert path is not None
    table = read_table(path)
    require_columns(table, ["condition_id", "imagingstudy_id", "series_instance_content_url", "country"], path)
    film = table.series_instance_content_url.str.strip()
    refuse_rows(~film.str.fullmatch(RELATIVE_PATH), film, path, "a path inside the data set (column 'series_instance_content_url')")
    refuse_rows(film.duplicated(), film, path, "a film that was not named before")
    # a patient may have several conditions; where the table tells patients, they count
    patient = table["patient_id" if "patient_id" in table else "condition_id"].str.strip()
    refuse_rows(patient == "", patient, path, "a patient's identifier")
    chosen = table.country.str.strip() == country if country else pd.Series(True, table.index)
    if not chosen.any():
        raise OtherSetError(f"{path} has no film of {country}; it has {', '.join(sorted(table.country.str.strip().unique()))}: data.country")

    cavities, annotations = pd.Series(dtype="float64"), _one(root, ANNOTATIONS)
    if annotations:
        read = read_table(annotations)
        require_columns(read, ["imagingstudy_id", *CAVITIES], annotations)
        counts = read[list(CAVITIES)].replace("", "0")
        for column in CAVITIES:
            refuse_rows(~counts[column].str.fullmatch(r"[0-9]{1,3}(\.0)?"), counts[column], annotations, f"how many (column {column!r})")
        cavities = (counts.astype("float64").max(axis=1) > 0).groupby(read.imagingstudy_id).max().astype("float64")
    films = pd.DataFrame(
        {
            "image_id": "tbportals:" + film,
            "patient_id": "tbportals:" + patient,
            "part": "tbportal",
            "view": pd.Series(np.nan, table.index, dtype=object),
            "sex": pd.Series(np.nan, table.index, dtype=object),
            "age": np.nan,
            "follow_up": np.nan,
            "path": film,
            "Tuberculosis": 1.0,
            "Cavity": table.imagingstudy_id.map(cavities).astype("float64"),
        }
    )
    return OtherSet(
        "tbportals",
        films[chosen].sort_values("image_id", ignore_index=True),
        adjudicated={"tbportal": True},
        training=None,
        labels={"files": hashes([path, *([annotations] if annotations else [])]), "country": country or "all"},
        left_out={"of another country": int((~chosen).sum())},
    )


def _one(root: Path, pattern: str) -> Path | None:
    found = sorted(root.glob(pattern))
    if len(found) > 1:
        raise OtherSetError(f"{root} holds {len(found)} files {pattern}, of several releases: leave the one that belongs to the films")
    return found[0] if found else None
