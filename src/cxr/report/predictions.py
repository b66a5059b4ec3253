"""predictions.parquet: what a model said about each film, and everything needed to know which model that was."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr.atomic import write_whole

SPLITS = ("val", "test", "expert_validation")
METADATA_KEY, CHECKSUM_KEY = b"cxr", b"cxr_sha256"
# parquet says how large it is before it is unpacked: films, at a few dozen columns each, are far below
MAX_ROWS, MAX_BYTES = 10_000_000, 2**32


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
    """Writes the file whole or not at all, with a checksum over all that it says."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    told = json.dumps(metadata).encode()
    arrow = arrow.replace_schema_metadata({METADATA_KEY: told, CHECKSUM_KEY: _checksum(table, told).encode()})
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer)
    write_whole(path, buffer.getbuffer())


def _checksum(table: pd.DataFrame, metadata: bytes) -> str:
    """Of every column, in order, and of the metadata: parquet's own checksums cover neither its header nor ours."""
    digest = hashlib.sha256(metadata)
    for name in table.columns:
        values = table[name]
        digest.update(f"|{name}|{len(values)}|".encode())
        digest.update(values.to_numpy().tobytes() if values.dtype.kind in "if" else "\n".join(map(str, values)).encode())
    return digest.hexdigest()


def read_predictions(path: Path, splits: tuple[str, ...] = SPLITS) -> Predictions:
    """Reads and checks a predictions file.

    Args:
        path: predictions.parquet.
        splits: whose rows are wanted; the others are not looked at.

    Raises:
        PredictionsError: it is missing, damaged, changed, lacks a column, names an image twice, or holds a logit that is no finite number.
    """
    if not path.is_file():
        raise PredictionsError(f"{path}: no such file; it is written by train.py at the end of a run")
    try:
        # from memory, for what arrow maps and then finds damaged it may touch once more
        file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
        groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        if file.metadata.num_rows > MAX_ROWS or sum(groups) > MAX_BYTES:
            raise PredictionsError(f"{path}: it claims {file.metadata.num_rows} rows, more than there are films")
        arrow = file.read()
        told = (arrow.schema.metadata or {})[METADATA_KEY]
        kept = (arrow.schema.metadata or {}).get(CHECKSUM_KEY, b"").decode()
        metadata = json.loads(told)
        table: pd.DataFrame = arrow.replace_schema_metadata(None).to_pandas()
        is_whole = kept == _checksum(table, told)  # the first to look at every value
    except PredictionsError:
        raise
    except Exception as error:  # whatever arrow says of a file that is damaged, or none
        raise PredictionsError(f"{path}: not a whole predictions file ({(str(error).splitlines() or [type(error).__name__])[0][:200]})") from error
    if not is_whole:
        raise PredictionsError(f"{path}: it is not what was written, for its checksum is wrong; predict again")
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
