"""Mirrors cohort/findings.py: what a cell may say, and what happens when it says something else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.cohort.findings import NIH_FINDINGS, LabelError, parse_finding_lists, parse_yes_no, read_table

FILE = Path("labels.csv")


def test_a_finding_whose_name_lies_inside_another_is_not_matched() -> None:
    # "Pneumonia" and "Pneumothorax" share a beginning; a substring search would confuse "Mass" with anything that contains it
    parsed = parse_finding_lists(pd.Series(["Pneumothorax", "Pleural_Thickening|Nodule"]), FILE)
    assert parsed.columns[parsed.iloc[0] == 1].tolist() == ["Pneumothorax"]
    assert parsed.columns[parsed.iloc[1] == 1].tolist() == ["Nodule", "Pleural_Thickening"]


@pytest.mark.parametrize("cell", ["Effusion|No Finding", "effusion", "Effusion|Effusion", "Effusion,Mass", "", "Effusion|", "Pleural Thickening"])
def test_a_list_without_agreed_meaning_is_an_error_with_file_row_and_value(cell: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse_finding_lists(pd.Series(["Mass", cell], [2, 3]), FILE)
    assert "labels.csv, row 3" in str(caught.value)
    assert repr(cell) in str(caught.value)


def test_an_absent_adjudication_is_unknown_and_never_no() -> None:
    assert np.isnan(parse_yes_no(pd.Series([""], name="Fracture"), FILE)[0])


@pytest.mark.parametrize("cell", ["yes", "1", "HEDGE", " YES", "nan"])
def test_an_adjudication_that_is_neither_yes_nor_no_is_an_error(cell: str) -> None:
    with pytest.raises(LabelError, match=r"row 7: .* \(column 'Fracture'\)"):
        parse_yes_no(pd.Series([cell], [7], name="Fracture"), FILE)


def test_rows_are_numbered_as_in_the_file_and_text_is_not_interpreted(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b,\r\nNA,007\r\n,1e3\r\n")  # NIH's 2017 dialect: the header alone ends in a comma
    table = read_table(path)
    assert table.columns.tolist() == ["a", "b"]
    assert table.loc[2].tolist() == ["NA", "007"]
    assert table.loc[3].tolist() == ["", "1e3"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00a", b'a,b\n"1,2\n'], ids=["empty", "not text", "open quote"])
def test_a_file_that_is_no_table_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=r"table\.csv"):
        read_table(path)


def test_there_are_fourteen_findings() -> None:
    assert len(set(NIH_FINDINGS)) == 14
