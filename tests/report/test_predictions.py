"""Mirrors report/predictions.py: what is written comes back, and what is no whole predictions file is refused by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.report.predictions import PredictionsError, read_predictions, write_predictions

TABLE = pd.DataFrame(
    {
        "image_id": ["00000001_000.png", "00000002_000.png"],
        "patient_id": [1, 2],
        "split": ["val", "test"],
        "logit_Mass": np.array([0.5, -1.25], np.float32),
    }
)


def test_what_is_written_comes_back_with_its_metadata(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", TABLE, {"commit": "abc", "protocol": {"seed": 1}})
    read = read_predictions(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(read.table, TABLE, check_dtype=False)
    assert read.table["logit_Mass"].dtype == np.float32
    assert (read.findings, read.metadata) == (["Mass"], {"commit": "abc", "protocol": {"seed": 1}})
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(logit_Mass=np.float32("nan")), "2 images have logits that are not finite, the first is 00000001_000.png"),
        (lambda t: t.assign(image_id="00000001_000.png"), "00000001_000.png stands twice"),
        (lambda t: t.assign(split="train"), "split 'train' where one of val, test, expert_validation"),
        (lambda t: t.drop(columns="patient_id"), "column patient_id is missing"),
        (lambda t: t.drop(columns="logit_Mass"), "column logit_<finding> is missing"),
    ],
    ids=["not a number", "twice", "unknown split", "no patient", "no finding"],
)
def test_a_spoiled_table_is_refused_with_what_is_wrong(tmp_path: Path, change, message: str) -> None:
    write_predictions(tmp_path / "p.parquet", change(TABLE), {})
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path / "p.parquet")


def test_a_file_that_is_absent_truncated_or_not_ours_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"p\.parquet: no such file"):
        read_predictions(tmp_path / "p.parquet")
    write_predictions(tmp_path / "p.parquet", TABLE, {})
    whole = (tmp_path / "p.parquet").read_bytes()
    (tmp_path / "p.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PredictionsError, match="not a whole predictions file"):
        read_predictions(tmp_path / "p.parquet")
    TABLE.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(PredictionsError, match="not a whole predictions file"):
        read_predictions(tmp_path / "p.parquet")
