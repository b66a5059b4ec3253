"""Mirrors cohort/catalogue.py. The oracle for the real files is the csv module and a loop."""

import csv
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from cxr.cohort.catalogue import Catalogue, CatalogueError, count_missing, find_images, load_catalogue
from cxr.cohort.findings import NIH_FINDINGS, LabelError
from cxr.mini import write_miniature


@cache
def loaded(labels: Path) -> Catalogue:
    """A real catalogue, read once for all tests that only look at it."""
    return load_catalogue(labels.parent, labels)


@pytest.mark.parametrize("release", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_the_real_catalogue_equals_a_plain_reading_of_the_files(real: Path, release: str) -> None:
    root = real / "data" / "cxr14_256"
    catalogue = loaded(root / release)

    with (root / release).open(newline="") as file:
        rows = {row[0]: row for row in list(csv.reader(file))[1:]}
    lists = {name: (root / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")}

    assert len(rows) == len(catalogue.images) == 112_120
    assert (len(lists["train_val"]), len(lists["test"])) == (86_524, 25_596)
    for name, n_images, n_patients in (("train_val", 86_524, 28_008), ("test", 25_596, 2_797)):
        mine = catalogue.images[catalogue.images.list == name]
        assert sorted(mine.image_id) == sorted(lists[name])
        assert len(mine) == n_images
        assert mine.patient_id.nunique() == len({int(rows[image][3]) for image in lists[name]}) == n_patients
    for finding in NIH_FINDINGS:
        assert catalogue.images[finding].sum() == sum(finding in row[1].split("|") for row in rows.values())
    first = catalogue.images.iloc[0]
    assert first.age == float(rows[first.image_id][4].rstrip("Y"))


def test_the_releases_differ_on_181_images_all_in_the_official_test_set(real: Path) -> None:
    root = real / "data" / "cxr14_256"
    old, new = (loaded(root / name).images for name in ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"))
    differs = (old[list(NIH_FINDINGS)] != new[list(NIH_FINDINGS)]).any(axis=1)
    assert differs.sum() == 181
    assert set(new.list[differs]) == {"test"}


def test_the_v2020_release_is_taken_where_both_lie_there(real: Path) -> None:
    assert load_catalogue(real / "data" / "cxr14_256").labels["release"] == "v2020"


def test_the_kaggle_variant_loads_and_what_it_does_not_label_counts_as_missing(real: Path) -> None:
    catalogue = load_catalogue(real / "data" / "cxr14_256", real / "data" / "kaggle_sample_labels.csv")
    assert catalogue.labels["release"] == "kaggle"
    assert len(catalogue.images) == 5_606
    missing = count_missing(catalogue, catalogue.images.image_id)
    assert sum(missing.values()) == 112_120 - 5_606


def test_ages_in_months_and_days_become_years(mini: Path) -> None:
    with (mini / "Data_Entry_2017.csv").open(newline="") as file:
        written = {row[0]: row[4] for row in list(csv.reader(file))[1:]}
    ages = load_catalogue(mini, mini / "Data_Entry_2017.csv").images.set_index("image_id").age
    units = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}
    assert {age[-1] for age in written.values()} == set(units)
    for image, age in written.items():
        assert ages[image] == pytest.approx(int(age[:-1]) * units[age[-1]], abs=1e-12)


@pytest.fixture
def copy(mini: Path, tmp_path: Path) -> Path:
    """The miniature's tables, to be spoiled."""
    for file in mini.glob("*.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "Data_Entry_2017_v2020.csv").unlink()
    return tmp_path


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_bytes(change(path.read_bytes().decode()).encode())


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"No Finding", "Healthy", "'Healthy' where 'No Finding'"),
        (r",M,PA", ",X,PA", "'X' where M or F"),
        (r",PA,", ",LL,", "'LL' where PA or AP"),
        (r"(\d{3})Y,", r"\1W,", "where an age"),
        (r"Patient ID", "Patient", "column 'Patient ID' is missing"),
        (r"\n(\d{8}_\d{3})\.png", r"\n../\1.png", "where a file name ending in .png"),
    ],
)
def test_a_cell_without_agreed_meaning_names_file_and_row(copy: Path, pattern: str, replacement: str, message: str) -> None:
    edit(copy / "Data_Entry_2017.csv", lambda text: re.sub(pattern, replacement, text, count=1))
    with pytest.raises(LabelError) as caught:
        load_catalogue(copy)
    assert message in str(caught.value)
    assert "Data_Entry_2017.csv" in str(caught.value)


def test_an_image_that_is_labelled_twice_is_refused(copy: Path) -> None:
    edit(copy / "Data_Entry_2017.csv", lambda text: text + text.splitlines()[1] + "\r\n")
    with pytest.raises(LabelError, match="not named before"):
        load_catalogue(copy)


def test_an_image_in_both_lists_or_in_none_is_refused(copy: Path) -> None:
    first, rest = (copy / "test_list.txt").read_text().split("\n", 1)
    (copy / "test_list.txt").write_text(rest)
    with pytest.raises(CatalogueError, match=f"1 images .* neither official list, the first is {first}"):
        load_catalogue(copy)
    (copy / "test_list.txt").write_text(first + "\n" + rest)
    edit(copy / "train_val_list.txt", lambda text: f"{text}\n{first}")
    with pytest.raises(CatalogueError, match=f"both official lists, the first is {first}"):
        load_catalogue(copy)


def test_a_folder_without_the_data_set_says_what_was_looked_for_where_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(tmp_path)
    for told in (str(tmp_path), "Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt", "https://", "data.root=", "python train.py"):
        assert told in str(caught.value)


def test_images_are_found_in_all_three_layouts(mini: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(mini)
    plain = find_images(mini, catalogue.images.image_id)
    assert len(plain) == len(catalogue.images)

    write_miniature(tmp_path / "archives", layout="archives", size=32, progress=False)
    archives = find_images(tmp_path / "archives", catalogue.images.image_id)
    assert len({path.parent for path in archives.values()}) == 12

    flat = tmp_path / "flat"
    shutil.copytree(mini / "images", flat)
    for found in (archives, find_images(flat, catalogue.images.image_id)):
        assert list(found) == list(plain)
        assert all(path.is_file() and path.name == name for name, path in found.items())


def test_dicom_films_are_found_by_their_stem_in_every_layout_and_a_png_comes_first(tmp_path: Path) -> None:
    wanted = pd.Series([f"0000000{i}_000.png" for i in range(1, 7)])
    places = ("images/00000001_000.dcm", "images_003/images/00000002_000.DICOM", "dicom/00000003_000.DCM", "00000004_000.dicom")
    both = ("dicom/00000005_000.dcm", "images/00000005_000.png")
    for place in (*places, *both, "dicom/00000009_000.dcm", "dicom/00000006_000.dcm.gz"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    found = find_images(tmp_path, wanted)
    assert found == {f"0000000{i}_000.png": tmp_path / place for i, place in enumerate((*places, both[1]), start=1)}
    assert list(found) == sorted(found)
    for again, told in (("images/00000003_000.dcm", "lies in two folders"), ("dicom/00000003_000.dicom", "lies twice in")):
        (tmp_path / again).write_bytes(b"")
        with pytest.raises(CatalogueError, match=told):
            find_images(tmp_path, wanted)
        (tmp_path / again).unlink()


def test_an_image_in_two_folders_is_refused(mini: Path, tmp_path: Path) -> None:
    name = next((mini / "images").iterdir()).name
    for folder in ("images_001/images", "images_002/images"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(b"")
    with pytest.raises(CatalogueError, match=f"{name} lies in two folders"):
        find_images(tmp_path, load_catalogue(mini).images.image_id)
