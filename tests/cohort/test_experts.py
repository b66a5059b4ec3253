"""Mirrors cohort/experts.py. The oracle for the real files is the csv module."""

import csv
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cxr.cohort.experts import ALL_READERS_FILE, FILES, FOUR_READERS_FILE, HELD_OUT, JURY, ExpertError, load_experts
from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, LabelError

COLUMNS = {"Pleural_Thickening": "Pleural Thickening"}  # finding -> its column in the all-findings files
READ = {"YES": 1.0, "NO": 0.0, "HEDGE": 0.5, "1": 1.0, "0": 0.0}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_real_labels_equal_a_plain_reading_of_the_files(real: Path) -> None:
    folder = real / "data" / "google_expert_labels"
    experts = load_experts(folder)
    assert list(experts.n_rows.values()) == [2_414, 1_962, 810, 13_081, 4_050]
    for name, (file, image_column, findings, _) in FILES.items():
        table = rows(folder / file)
        for finding in findings:
            column = COLUMNS.get(finding, finding) if name == "all_findings_test" else finding
            mine = experts.labels[name].set_index("image_id")[finding]
            assert len(mine) == len(table)
            assert all(mine[row[image_column]] == READ[row[column]] for row in table)
    positive = experts.labels["four_findings_test"][list(FOUR_FINDINGS)].sum()
    assert positive.tolist() == [72, 195, 1_135, 295]


@pytest.mark.parametrize("miniature", [False, True])
def test_reads_equal_a_plain_reading_of_the_files_repeats_once_and_contradictions_unknown(miniature: bool, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("mini") / "expert_labels" if miniature else request.getfixturevalue("real") / "data" / "google_expert_labels"
    experts = load_experts(folder)
    for file, findings, columns in (
        (FOUR_READERS_FILE, FOUR_FINDINGS, {"Nodule or mass": "Nodule/mass"}),
        (ALL_READERS_FILE, ALL_FINDINGS, COLUMNS),
    ):
        told = defaultdict[tuple[str, str], list[list[str]]](list)
        for row in rows(folder / file):
            told[row["Image ID"], row["Reader ID"]].append([row[columns.get(finding, finding)] for finding in findings])
        names = [name for name in experts.reads if name.startswith("four" if findings is FOUR_FINDINGS else "all")]
        mine = {(row.image_id, row.reader_id): row for name in names for row in experts.reads[name].itertuples(index=False)}
        assert mine.keys() == told.keys()
        for key, versions in told.items():
            for value, cells in zip(mine[key][3:], zip(*versions, strict=True), strict=True):
                assert value == READ[cells[0]] if len(set(cells)) == 1 else value != value
        repeated = [versions for versions in told.values() if len(versions) > 1]
        assert sum(experts.repeats[name]["pairs"] for name in names) == len(repeated)
    assert sum(experts.repeats["four_findings_test"]["conflicts"].values()) == (3 if miniature else 4)
    assert Counter(experts.reads["all_findings_test"].reader_id).keys() == {*JURY, *HELD_OUT}


def test_sets_lie_inside_each_other_as_they_should(mini: Path) -> None:
    labels = load_experts(mini / "expert_labels").labels
    assert all(len(labels[name]) for name in FILES)
    assert set(labels["all_findings_test"].image_id) <= set(labels["four_findings_test"].image_id)


ALL_LABELS, FOUR_TEST, FOUR_VAL = (FILES[name][0] for name in ("all_findings_test", "four_findings_test", "four_findings_validation"))


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "message"),
    [
        (FOUR_TEST, r",YES,", ",MAYBE,", "'MAYBE' where YES or NO"),
        (FOUR_TEST, r",test\b", ",val", "'val' where 'test'"),
        (FOUR_VAL, r"Nodule or mass", "Nodules", "column 'Nodule or mass' is missing"),
        (ALL_LABELS, r"Patient ID", "Patient", "column 'Patient ID' is missing"),
        (ALL_LABELS, r"\n(\d{8}_\d{3}\.png),(\d+)", r"\n\1,P\2", "where a patient number"),
        (ALL_LABELS, r"(\n\d{8}_\d{3}\.png,[^\n]*)", r"\1\1", "not named before"),
        (FOUR_READERS_FILE, r"HEDGE", "PERHAPS", "'PERHAPS' where YES or NO or HEDGE (column '"),
        (FOUR_READERS_FILE, r"Nodule/mass", "Nodules/masses", "column 'Nodule or mass' is missing"),
        (FOUR_READERS_FILE, r",4323195249,", ",4323195240,", "'4323195240' where one of the 1"),
        (FOUR_READERS_FILE, r",4295342357,([^\n]*),val", r",4295342357,\1,test", "where one of the 11 readers of four_findings_test"),
        (FOUR_READERS_FILE, r",test\r", ",tests\r", "'tests' where 'val' or 'test' (column 'Set ID')"),
        (FOUR_READERS_FILE, r"\n(\d+),(\d{8})_", r"\n\1,99\2_", "where an image of four_findings_"),
        (FOUR_READERS_FILE, r"\n(\d+),", r"\n9\1,", "where the patient that four_findings_"),
        (ALL_READERS_FILE, r",4343882583,", ",4343882584,", "'4343882584' where one of the 5 readers of all_findings_test"),
        (ALL_READERS_FILE, r",NO,", ",HEDGE,", "'HEDGE' where YES or NO (column '"),
        (ALL_READERS_FILE, r"(,4343882583),[01]", r"\1,2", "'2' where 1 or 0 (column 'Abnormal')"),
    ],
)
def test_a_spoiled_file_is_an_error_that_names_file_row_and_value(mini: Path, tmp_path: Path, file: str, pattern: str, replacement: str, message: str) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    path = folder / file
    spoiled, n = re.subn(pattern, replacement, path.read_bytes().decode(), count=1)
    assert n == 1
    path.write_bytes(spoiled.encode())
    with pytest.raises(LabelError) as caught:
        load_experts(folder)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "missing" in message or re.search(r", row \d+: ", str(caught.value))


@pytest.mark.parametrize("column", range(2, 18))
def test_an_all_findings_label_that_its_readers_votes_do_not_make_is_refused(mini: Path, tmp_path: Path, column: int) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    lines = (folder / ALL_LABELS).read_text().splitlines()
    cells = lines[7].split(",")
    cells[column] = {"YES": "NO", "NO": "YES"}[cells[column]]
    (folder / ALL_LABELS).write_text("\n".join([*lines[:7], ",".join(cells), *lines[8:]]))
    with pytest.raises(ExpertError, match=rf"1 of 231 all-findings labels are not the majority .* {cells[0]}, {ALL_FINDINGS[column - 2]}: {cells[column]} is"):
        load_experts(folder)


def test_a_juror_who_did_not_vote_leaves_no_majority(mini: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    lines = (folder / ALL_READERS_FILE).read_text().splitlines()
    gone = next(i for i, line in enumerate(lines) if f",{JURY[1]}," in line)
    (folder / ALL_READERS_FILE).write_text("\n".join([*lines[:gone], *lines[gone + 1 :]]))
    with pytest.raises(ExpertError, match=rf"1 images lack a vote of readers .* the first is {lines[gone].split(',')[0]}"):
        load_experts(folder)


def test_an_absent_value_is_unknown_and_never_no(mini: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    for file, name in ((FOUR_TEST, "labels"), (ALL_LABELS, "labels"), (FOUR_READERS_FILE, "reads")):
        path = folder / file
        path.write_bytes(path.read_bytes().replace(b",NO,", b",,", 1))
        tables = getattr(load_experts(folder), name)
        assert sum(int(table.isna().sum().sum()) for table in tables.values()) - 6 * (name == "reads") in (1, 2)


def test_an_image_outside_the_set_that_holds_it_is_refused(mini: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mini / "expert_labels", tmp_path / "labels")
    for file in (ALL_LABELS, ALL_READERS_FILE):
        text = (folder / file).read_text()
        image_id = rows(mini / "expert_labels" / ALL_LABELS)[0]["Image ID"]
        (folder / file).write_text(text.replace(image_id, "00000000_000.png"))
    with pytest.raises(ExpertError, match=r"1 all-findings images are not in the four-findings test set, the first is 00000000_000\.png"):
        load_experts(folder)


def test_absent_files_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ExpertError) as caught:
        load_experts(tmp_path)
    for told in ("validation_labels.csv", "all_findings_expert_labels/test_labels.csv", "individual_readers.csv", "https://", "data.expert_labels=null"):
        assert told in str(caught.value)
