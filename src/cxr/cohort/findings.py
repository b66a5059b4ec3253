"""The findings each label file speaks of, by one spelling, and the only way their cells are read.

Every label file of this data set spells something differently (`Pleural_Thickening`, `Pleural Thickening`, `Nodule/mass`). The names below are the ones
used everywhere else; a spelling that is not listed here is an error, never a zero.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

# the 14 text-mined findings, in the order of Wang et al. 2017
NIH_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"

# the largest file of labels has 112,120 rows in 8 MB
MAX_BYTES, MAX_ROWS = 2**28, 2_000_000

# Majkowska et al., Radiology 2019
FOUR_FINDINGS = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")

# Nabulsi et al., Sci Rep 2021: the 14 and two summaries
ALL_FINDINGS = ("Abnormal", *NIH_FINDINGS, "Other")

# what a text-mined label has to say of the findings that only the experts' files name: any of these; a fracture is no text-mined finding
UNIONS = {
    "Airspace opacity": ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"),
    "Nodule or mass": ("Nodule", "Mass"),
    "Abnormal": NIH_FINDINGS,
}

# a reader who is uncertain
HEDGE = 0.5

# spelling in some file -> ours
SPELLINGS = {"Nodule/mass": "Nodule or mass", "Pleural Thickening": "Pleural_Thickening"}


class LabelError(ValueError):
    """A label file holds something that has no agreed meaning; the message names file, row and value."""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV as strings, exactly as written: nothing is guessed, "" stays "", unnamed trailing columns are dropped.

    Args:
        path: comma-separated with a header line, any line ending.

    Returns:
        One row per line; the index is the line number in the file (the header is line 1), for error messages.

    Raises:
        LabelError: the file cannot be read as a table, a row is longer or shorter than the header (a table reader that fills up or cuts off would move
            labels from one column to another without a word), or two columns share a name.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows, lines = list[list[str]](), list[int]()
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise LabelError(f"{path}: no header line")
        # NIH's headers of 2017 end in commas, one or three, and their rows do not
        width = max(i for i, name in enumerate(header) if name) + 1
        for row in reader:
            if not row:
                continue
            if not width <= len(row) <= len(header) or any(row[width:]):
                raise LabelError(f"{path}, row {reader.line_num}: {len(row)} cells under a header of {width} columns")
            rows.append(row[:width])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise LabelError(f"{path}, row {reader.line_num}: not a readable table ({error})") from error
    header = header[:width]
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise LabelError(f"{path}: two columns are named {repeated!r}")
    return pd.DataFrame(rows, columns=header, index=pd.Index(lines), dtype=str)


def read_text(path: Path) -> str:
    """A text file's content, unpacked where its name ends in .gz; LabelError if it is none, or far larger than any file of labels."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LabelError(f"{path}: not a whole gzip file ({error})") from error
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES or content.count(b"\n") > MAX_ROWS:
        raise LabelError(f"{path}: more than {MAX_BYTES >> 20} MB or {MAX_ROWS:,} lines, which is no file of labels")
    if b"\0" in content:
        raise LabelError(f"{path}: not a text file (NUL at byte {content.index(0)})")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not a text file ({error})") from error


def require_columns(table: pd.DataFrame, columns: list[str], path: Path) -> None:
    """Raises LabelError naming every column of `columns` that the table lacks, and those it has; or where it has no row, as a file that was cut."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise LabelError(f"{path}: column {', '.join(map(repr, missing))} is missing; the file has {', '.join(map(repr, table.columns))}")
    if table.empty:
        raise LabelError(f"{path}: no row under its header")


def refuse_rows(wrong: "pd.Series[bool]", values: "pd.Series[str]", path: Path, expected: str) -> None:
    """Raises LabelError for the first row where `wrong` holds, with file, row number, value and what was expected.

    >>> refuse_rows(pd.Series([False, True], [2, 3]), pd.Series(["NO", "MAYBE"], [2, 3]), Path("labels.csv"), "YES or NO")
    Traceback (most recent call last):
    cxr.cohort.findings.LabelError: labels.csv, row 3: 'MAYBE' where YES or NO is expected (1 such row)
    """
    if wrong.any():
        rows = wrong.index[wrong]
        raise LabelError(f"{path}, row {rows[0]}: {values[rows[0]]!r} where {expected} is expected ({len(rows)} such row{'s' * (len(rows) > 1)})")


def require_findings(names: Sequence[str], where: str) -> None:
    """Raises LabelError if nothing is named, or something that is none of the 14; `where` is the key that named it."""
    strangers = [name for name in names if name not in NIH_FINDINGS]
    if strangers or not names:
        raise LabelError(f"{where}: {strangers[0] if strangers else 'nothing'} is no finding of the model; it has {', '.join(NIH_FINDINGS)}")


def parse_finding_lists(cells: "pd.Series[str]", path: Path) -> pd.DataFrame:
    """NIH's `Finding Labels` ("Effusion|Mass", "No Finding") as one column per finding.

    Args:
        cells: (N,) names joined by `|`, or `No Finding` alone; split on `|` exactly, so that a name inside another never matches.
        path: for the message.

    Returns:
        (N, 14) float32: 1 present, 0 absent.

    Raises:
        LabelError: an unknown or repeated name, or `No Finding` beside others.

    >>> parse_finding_lists(pd.Series(["Effusion|Mass", "No Finding"]), Path("x.csv"))[["Mass", "Hernia"]].to_numpy().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    known = {NO_FINDING: np.zeros(len(NIH_FINDINGS), np.float32)}
    unknown = set()
    for cell in cells.unique():  # about 840 different cells among 112,120
        names = cell.split("|")
        if all(name in NIH_FINDINGS for name in names) and len(set(names)) == len(names):
            known[cell] = np.isin(NIH_FINDINGS, names).astype(np.float32)
        elif cell != NO_FINDING:
            unknown.add(cell)
    refuse_rows(cells.isin(unknown), cells, path, f"'{NO_FINDING}', or names of the 14 findings joined by '|', each once,")
    return pd.DataFrame(np.stack([known[cell] for cell in cells]), cells.index, list(NIH_FINDINGS))


def parse_yes_no(cells: "pd.Series[str]", path: Path) -> "pd.Series[float]":
    """An adjudicated column: YES is 1, NO is 0, an empty cell is NaN (not adjudicated for this finding: unknown, never NO).

    Raises:
        LabelError: any other value.

    >>> parse_yes_no(pd.Series(["YES", "NO", ""]), Path("x.csv")).tolist()
    [1.0, 0.0, nan]
    """
    values = cells.map({"YES": 1.0, "NO": 0.0, "": np.nan})
    refuse_rows(values.isna() & (cells != ""), cells, path, f"YES or NO (column '{cells.name}')")
    return values.astype("float64")


def parse_reads(cells: "pd.Series[str]", path: Path, *, may_hedge: bool) -> "pd.Series[float]":
    """A reader's column: YES (or 1) is 1, NO (or 0) is 0, HEDGE is 0.5, an empty cell is NaN.

    Args:
        cells: `Abnormal` is written 0/1 and every other column YES/NO.
        path: for the message.
        may_hedge: the file knows uncertain reads.

    Raises:
        LabelError: any other value.

    >>> parse_reads(pd.Series(["YES", "HEDGE", "NO"], name="Nodule or mass"), Path("x.csv"), may_hedge=True).tolist()
    [1.0, 0.5, 0.0]
    """
    known = {"1": 1.0, "0": 0.0} if cells.name == "Abnormal" else {"YES": 1.0, "NO": 0.0} | ({"HEDGE": HEDGE} if may_hedge else {})
    values = cells.map(known | {"": np.nan})
    refuse_rows(values.isna() & (cells != ""), cells, path, f"{' or '.join(known)} (column '{cells.name}')")
    return values.astype("float64")


def text_mined(images: pd.DataFrame, finding: str, unions: Mapping[str, Sequence[str]] = UNIONS) -> "pd.Series[float] | None":
    """What the text-mined labels say of a finding of any label file, by its own name or as a union.

    Args:
        images: with a column per NIH finding, 1 or 0.
        finding: of any reference set.
        unions: finding that is none of the 14 -> those any of which make it.

    Returns:
        1, 0 or NaN per row; None for a finding that text mining does not know (Fracture, Other).

    >>> text_mined(pd.DataFrame({"Nodule": [0.0, 1.0], "Mass": [0.0, 0.0]}), "Nodule or mass").tolist()
    [0.0, 1.0]
    """
    members = unions.get(finding) or ((finding,) if finding in NIH_FINDINGS else ())
    return images[list(members)].max(axis=1, skipna=False) if members else None
