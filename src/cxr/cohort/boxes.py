"""Where a radiologist saw a finding: the boxes that NIH published for some films of the official test set (Wang et al. 2017)."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.cohort.catalogue import Catalogue
from cxr.cohort.findings import NIH_FINDINGS, read_table, refuse_rows, require_columns

BOX_FILE = "BBox_List_2017.csv"
# the films as NIH ships them are squares of so many pixels, and the boxes are told in these, whatever the size of the file at hand
FILM_PIXELS = 1024
COLUMNS = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]  # the header's last name holds commas of its own
SPELLINGS = {"Infiltrate": "Infiltration"}
CORNERS = ["x", "y", "right", "below"]


def load_boxes(path: Path, catalogue: Catalogue) -> pd.DataFrame:
    """Reads the boxes, one a film and finding.

    Args:
        path: the file, as published.
        catalogue: who is in the data set.

    Returns:
        A row per box in the file's order: image_id, patient_id, finding, and x, y, right, below in pixels of the film as NIH ships it: edges, so that a box
        over the whole film is (0, 0, 1024, 1024).

    Raises:
        LabelError: a column, film, finding or number without agreed meaning, with file and row.
    """
    table = read_table(path)
    require_columns(table, COLUMNS, path)
    image, finding = table["Image Index"].str.strip(), table["Finding Label"].str.strip()
    test = catalogue.images[catalogue.images.list == "test"].set_index("image_id")
    refuse_rows(~image.isin(test.index), image, path, "a labelled film of the official test list")
    finding = finding.replace(SPELLINGS)
    refuse_rows(~finding.isin(NIH_FINDINGS), finding, path, "one of the 14 findings, or Infiltrate,")
    refuse_rows((image + finding).duplicated(), image + ", " + finding, path, "a film and finding that was not named before")
    numbers = {}
    for column, name in zip(COLUMNS[2:], ("x", "y", "width", "height"), strict=True):
        cells = table[column].str.strip()
        refuse_rows(~cells.str.fullmatch(r"\d{1,4}(\.\d{1,20})?"), cells, path, f"a number of pixels ({name} of the box)")
        numbers[name] = cells.astype("float64")
    ends = {"x": numbers["x"], "y": numbers["y"], "right": numbers["x"] + numbers["width"], "below": numbers["y"] + numbers["height"]}
    told = table[COLUMNS[2:]].agg(", ".join, axis=1)
    outside = (numbers["width"] == 0) | (numbers["height"] == 0) | (ends["right"] > FILM_PIXELS) | (ends["below"] > FILM_PIXELS)
    refuse_rows(outside, told, path, f"x, y, width and height of a box within {FILM_PIXELS} pixels")
    boxes = pd.DataFrame({"image_id": image, "patient_id": image.map(test.patient_id), "finding": finding} | ends)
    return boxes.reset_index(drop=True)


def in_first_half(patients: "pd.Series[int]", seed: int) -> np.ndarray:
    """(N,) bool: a coin for each patient, keyed by the seed and the patient's number, so that it falls alike whoever else is there."""
    coin = {patient: hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=1).digest()[0] % 2 == 0 for patient in patients.unique()}
    return patients.map(coin).to_numpy(bool)
