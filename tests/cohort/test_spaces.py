"""Mirrors cohort/spaces.py, chexpert.py, rsna.py and tbportals.py: other sets' files as published, read by the csv module for an oracle."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cxr.cohort.chexpert import load_chexpert, load_mimic
from cxr.cohort.findings import NIH_FINDINGS, UNIONS, LabelError
from cxr.cohort.rsna import BOXES, CLASSES, MAPPING, load_rsna
from cxr.cohort.spaces import SPACES, OtherSetError, find_films
from cxr.cohort.tbportals import load_tbportals
from cxr.config import ReferenceMapping
from cxr.mini_external import write_chexpert, write_mimic, write_rsna, write_tbportals
from cxr.trials.fuzz import spoil

KEPT = {"uncertain": "ignore", "unmentioned": "zeros"}
COLUMN = {"Effusion": "Pleural Effusion", "Nodule or mass": "Lung Lesion"}  # named otherwise; every other finding of CheXpert's by its own name


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four, small."""
    folder = tmp_path_factory.mktemp("sets")
    write_chexpert(folder / "chexpert", n_patients=40, n_images=90, size=32)
    write_mimic(folder / "mimic", n_patients=40, n_images=90, size=32)
    write_rsna(folder / "rsna", n_patients=40, n_images=90, size=32, share=0.5, suffix=".png")
    write_tbportals(folder / "tbportals", n_patients=40, n_images=90, size=32)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("policy", "minus_one", "nothing"),
    [
        ({"uncertain": "ignore", "unmentioned": "zeros"}, np.nan, 0.0),
        ({"uncertain": "zeros", "unmentioned": "zeros"}, 0.0, 0.0),
        ({"uncertain": "ones", "unmentioned": "ignore"}, 1.0, np.nan),
    ],
    ids=["U-Ignore", "U-Zeroes", "U-Ones, the unmentioned unknown"],
)
def test_every_cell_of_chexpert_is_what_its_policy_makes_of_it(sets: Path, policy: dict[str, str], minus_one: float, nothing: float) -> None:
    films = load_chexpert(sets / "chexpert", **policy, training=True).films.set_index("image_id")
    meaning = {"1.0": 1.0, "0.0": 0.0, "-1.0": minus_one, "": nothing}
    told = [row for row in rows(sets / "chexpert/train.csv") if row["Frontal/Lateral"] == "Frontal"]
    assert {row[column] for row in told for column in list(row)[5:]} == set(meaning)
    assert (films.part == "chexpert_train").sum() == len(told)
    for row in told:
        film = films.loc["chexpert:" + row["Path"].removeprefix("CheXpert-v1.0-small/")]
        assert (film.patient_id, film.view, film.sex, film.age) == ("chexpert:" + row["Path"].split("/")[2], row["AP/PA"], row["Sex"][0], int(row["Age"]))
        for finding in SPACES["chexpert"].findings:
            np.testing.assert_equal(film[finding], meaning[row[COLUMN.get(finding, finding)]])


def test_the_radiologists_left_nothing_open_whatever_the_policy(sets: Path) -> None:
    other = load_chexpert(sets / "chexpert", uncertain="ones", unmentioned="ignore", training=False)
    told = [row for row in rows(sets / "chexpert/valid.csv") if row["Frontal/Lateral"] == "Frontal"]
    assert other.adjudicated == {"chexpert_valid": True}
    assert len(other.films) == len(told)
    assert other.left_out["lateral"] == len(rows(sets / "chexpert/valid.csv")) - len(told) > 0
    np.testing.assert_array_equal(other.films["Effusion"].sum(), sum(row["Pleural Effusion"] == "1.0" for row in told))


def test_mimic_joins_three_files_by_film_and_study(sets: Path) -> None:
    other = load_mimic(sets / "mimic", **KEPT, training=True)
    folder = sets / "mimic"
    labels = {row["study_id"]: row for row in rows(folder / "mimic-cxr-2.0.0-chexpert.csv.gz")}
    split = {row["dicom_id"]: row["split"] for row in rows(folder / "mimic-cxr-2.0.0-split.csv.gz")}
    metadata = rows(folder / "mimic-cxr-2.0.0-metadata.csv.gz")
    wanted = {row["dicom_id"]: row for row in metadata if row["ViewPosition"] in ("AP", "PA") and row["study_id"] in labels}
    films = other.films.set_index("image_id")
    assert set(films.index) == {f"mimic:{film}" for film in wanted}
    assert sum(other.left_out.values()) == len(metadata) - len(wanted)
    for film, row in wanted.items():
        read = films.loc[f"mimic:{film}"]
        assert read.part == ("mimic_test" if split[film] == "test" else "mimic_train")
        assert read.path == f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}/{film}.jpg"
        np.testing.assert_equal(read["Edema"], {"1.0": 1.0, "0.0": 0.0, "-1.0": np.nan, "": 0.0}[labels[row["study_id"]]["Edema"]])
    assert len(find_films(folder, other.films)) == len(other.films)


def test_rsna_films_are_known_by_nihs_patient_and_boxes_are_opacities(sets: Path) -> None:
    films = load_rsna(sets / "rsna").films.set_index("image_id")
    mapping = {record["subset_img_id"]: record["img_id"] for record in json.loads((sets / "rsna" / MAPPING).read_text())}
    with_box = {row["patientId"] for row in rows(sets / "rsna" / BOXES) if row["Target"] == "1"}
    kinds = {row["patientId"]: row["class"] for row in rows(sets / "rsna" / CLASSES)}
    assert set(films.index) == {f"rsna:{film}" for film in kinds}
    assert len(mapping) > len(kinds)
    for film, kind in kinds.items():
        read = films.loc[f"rsna:{film}"]
        assert read.patient_id == str(int(mapping[film][:8]))
        assert read["Airspace opacity"] == read["Pneumonia"] == (film in with_box) == (kind == "Lung Opacity")
        assert read["Abnormal"] == (kind != "Normal")


def test_tb_portals_are_read_for_one_country_with_cavities_of_any_sextant(sets: Path) -> None:
    other = load_tbportals(sets / "tbportals", country="Belarus")
    table = rows(sets / "tbportals/TB_Portals_CXRs_August_2023.csv")
    readings = rows(sets / "tbportals/TB_Portals_CXR_Manual_Annotations_August_2023.csv")
    wanted = {f"tbportals:{row['series_instance_content_url']}": row for row in table if row["country"] == "Belarus"}
    assert set(other.films.image_id) == set(wanted)
    assert other.left_out["of another country"] == len(table) - len(wanted) > 0
    for film in other.films.itertuples():
        told = [row for row in readings if row["imagingstudy_id"] == wanted[film.image_id]["imagingstudy_id"]]
        expected = float(any(row[size] not in ("", "0") for row in told for size in ("smallcavities", "mediumcavities", "largecavities"))) if told else np.nan
        np.testing.assert_equal((film.Tuberculosis, film.Cavity), (1.0, expected))
    assert len(load_tbportals(sets / "tbportals", country=None).films) == len(table)
    with pytest.raises(OtherSetError, match=r"no film of Mars; it has Belarus, Georgia: data\.country"):
        load_tbportals(sets / "tbportals", country="Mars")


def load(name: str) -> Callable[[Path], object]:
    return {
        "chexpert": lambda root: load_chexpert(root, **KEPT, training=False),
        "mimic": lambda root: load_mimic(root, **KEPT, training=False),
        "rsna": load_rsna,
        "tbportals": lambda root: load_tbportals(root, country=None),
    }[name]


@pytest.mark.parametrize(
    ("name", "file", "before", "after", "said"),
    [
        ("chexpert", "valid.csv", "Frontal,AP,0.0", "Frontal,AP,0.5", r"valid\.csv, row \d+: '0\.5' where 1\.0, 0\.0, -1\.0 or nothing"),
        ("chexpert", "valid.csv", "Pleural Effusion", "Effusion", r"column 'Pleural Effusion' is missing"),
        ("chexpert", "valid.csv", "CheXpert-v1.0-small/valid/", "../../", r"row 2: '\.\./\.\./.*' where a path such as"),
        ("rsna", BOXES, ",1\n", ",0\n", r"a box beside every Target of 1, and none beside 0"),
        ("rsna", BOXES, ".0,1\n", ".0/,1\n", r"row \d+: '\d+\.0/' where a number of pixels \(column 'height'\)"),
        ("rsna", CLASSES, ",Normal", ",Healthy", r"'Healthy' where one of Normal, Lung Opacity, No Lung Opacity / Not Normal"),
        ("rsna", MAPPING, "_000.png", "_000.jpg", r"where a film of ChestX-ray14 such as"),
        ("rsna", MAPPING, '"img_id": "0', '"img_id": "٠', r"'٠.*' where a film of ChestX-ray14 such as"),  # a digit, and another patient's name
        ("rsna", MAPPING, '"img_id"', '"film"', r"no list of records with subset_img_id and img_id \(KeyError"),
        ("tbportals", "TB_Portals_CXR_Manual_Annotations_August_2023.csv", ",1,0,", ",many,0,", r"'many' where how many \(column 'smallcavities'\)"),
    ],
)
def test_what_has_no_agreed_meaning_is_one_message_with_file_and_place(
    sets: Path, tmp_path: Path, name: str, file: str, before: str, after: str, said: str
) -> None:
    for path in (sets / name).iterdir():
        (tmp_path / path.name).symlink_to(path)
    text = (sets / name / file).read_text()
    assert before in text
    (tmp_path / file).unlink()
    (tmp_path / file).write_text(text.replace(before, after))
    with pytest.raises(LabelError, match=said):
        load(name)(tmp_path)


@pytest.mark.parametrize(("name", "lacking"), [("chexpert", "valid.csv"), ("mimic", "split.csv.gz"), ("rsna", MAPPING), ("tbportals", "TB_Portals_CXRs_*.csv")])
def test_a_set_that_is_not_there_says_what_was_looked_for_and_where_it_is_to_be_had(sets: Path, tmp_path: Path, name: str, lacking: str) -> None:
    for path in (sets / name).iterdir():
        if not path.match(f"*{lacking}"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(OtherSetError, match=r"was not found: looked for .*. It is at https://.*; name its folder: data\.root=/path") as told:
        load(name)(tmp_path)
    assert lacking in str(told.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [("chexpert", "valid.csv"), ("mimic", "mimic-cxr-2.0.0-split.csv.gz"), ("rsna", CLASSES), ("tbportals", "TB_Portals_CXRs_August_2023.csv")],
)
def test_a_table_of_which_only_the_header_is_left_is_refused(sets: Path, tmp_path: Path, name: str, file: str) -> None:
    for path in (sets / name).iterdir():
        (tmp_path / path.name).symlink_to(path)
    content = (sets / name / file).read_bytes()
    header = (gzip.decompress(content) if file.endswith(".gz") else content).splitlines()[0]
    (tmp_path / file).unlink()
    (tmp_path / file).write_bytes(gzip.compress(header) if file.endswith(".gz") else header)
    with pytest.raises(LabelError, match=rf"{file}: no row under its header"):
        load(name)(tmp_path)


def test_a_study_that_two_tables_give_to_two_patients_is_refused(sets: Path, tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: a changed digit in a study's number, and its labels were another patient's."""
    for path in (sets / "mimic").glob("*.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    header, first, *others = gzip.decompress(file.read_bytes()).decode().splitlines()
    subject = first.split(",")[0]
    file.write_bytes(gzip.compress("\n".join([header, first.replace(subject, "19999999"), *others]).encode()))
    with pytest.raises(OtherSetError, match=rf"chexpert\.csv\.gz and .*split\.csv\.gz disagree on whose study {first.split(',')[1]} is"):
        load("mimic")(tmp_path)


def test_a_packed_table_that_was_cut_is_refused(sets: Path, tmp_path: Path) -> None:
    for path in (sets / "mimic").glob("*.gz"):
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:-40] if "split" in path.name else content)
    with pytest.raises(LabelError, match=r"split\.csv\.gz: not a whole gzip file"):
        load("mimic")(tmp_path)


def test_every_finding_of_a_space_is_the_models_or_a_union_or_says_why_it_has_no_counterpart() -> None:
    for space in SPACES.values():
        for finding in space.findings:
            spoken = finding in NIH_FINDINGS or finding in UNIONS or finding in space.members
            assert spoken != (finding in space.no_counterpart), finding
        assert all(set(members) <= set(NIH_FINDINGS) for members in space.members.values())
    assert ReferenceMapping().lung_opacity == list(SPACES["chexpert"].members["Lung Opacity"])


def test_films_are_found_as_published_or_converted(sets: Path, tmp_path: Path) -> None:
    films = load_rsna(sets / "rsna").films
    assert films.path.str.endswith(".dcm").all()  # as published; the miniature's are converted
    found = find_films(sets / "rsna", films)
    assert list(found) == sorted(films.image_id)
    assert {path.suffix for path in found.values()} == {".png"}
    assert find_films(tmp_path, films) == {}


@pytest.mark.parametrize("name", SPACES)
def test_a_spoiled_file_is_refused_with_a_message_or_read(sets: Path, tmp_path: Path, name: str) -> None:
    tables = [path for path in (sets / name).iterdir() if path.is_file()]
    n_refused = 0
    for number in range(60):
        rng = np.random.default_rng([len(name), number])
        for path in tables:
            (tmp_path / path.name).write_bytes(path.read_bytes())
        chosen = tables[int(rng.integers(len(tables)))]
        content = gzip.decompress(chosen.read_bytes()) if chosen.suffix == ".gz" and number % 2 else chosen.read_bytes()
        spoiled = spoil(content, rng)
        (tmp_path / chosen.name).write_bytes(gzip.compress(spoiled) if chosen.suffix == ".gz" and number % 2 else spoiled)
        try:
            load(name)(tmp_path)
        except Exception as error:
            if not type(error).__module__.startswith("cxr.cohort") or not str(error):  # a crash
                raise
            n_refused += 1
    assert n_refused > 20
