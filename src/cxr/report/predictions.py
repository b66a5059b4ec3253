"""predictions.parquet: what a model said about each film, and everything needed to know which model that was."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("val", "test", "expert_validation")
METADATA_KEY = b"cxr"


class PredictionsError(ValueError):
    """The file is no predictions file of this project, or not a whole one."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model.

    Attributes:
        table: one row per image: image_id, patient_id, split, logit_<finding> float32.
        findings: what the model predicts, in order.
        metadata: checkpoint sha256, store meta, config hash, git commit, package version, ...
    """

    table: pd.DataFrame
    findings: list[str]
    metadata: dict[str, Any]


def write_predictions(path: Path, table: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """Writes under a temporary name and renames, so that a half-written file is never taken for a whole one."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()})
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        pq.write_table(arrow, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_predictions(path: Path, splits: tuple[str, ...] = SPLITS) -> Predictions:
    """Reads and checks a predictions file.

    Args:
        path: predictions.parquet.
        splits: whose rows are wanted; the others are not looked at.

    Raises:
        PredictionsError: it is missing, damaged, lacks a column, names an image twice, or holds a logit that is no finite number.
    """
    if not path.is_file():
        raise PredictionsError(f"{path}: no such file; it is written by train.py at the end of a run")
    try:
        arrow = pq.read_table(path)
        metadata = json.loads((arrow.schema.metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise PredictionsError(f"{path}: not a whole predictions file ({error})") from error
    table: pd.DataFrame = arrow.to_pandas()
    findings = [column.removeprefix("logit_") for column in table.columns if column.startswith("logit_")]
    missing = [column for column in ("image_id", "patient_id", "split") if column not in table.columns]
    if missing or not findings:
        raise PredictionsError(f"{path}: column {', '.join(missing) or 'logit_<finding>'} is missing")
    if not table.split.isin(SPLITS).all():
        raise PredictionsError(f"{path}: split {table.split[~table.split.isin(SPLITS)].iloc[0]!r} where one of {', '.join(SPLITS)} is expected")
    table = table[table.split.isin(splits)].reset_index(drop=True)
    if table.image_id.duplicated().any():
        raise PredictionsError(f"{path}: {table.image_id[table.image_id.duplicated()].iloc[0]} stands twice")
    logits = table[[f"logit_{finding}" for finding in findings]].to_numpy()
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise PredictionsError(f"{path}: {bad.sum()} images have logits that are not finite, the first is {table.image_id[bad].iloc[0]}")
    return Predictions(table, findings, metadata)
