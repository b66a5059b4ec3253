"""Mirrors mini.py. The files are read back with the plain csv module and compared with the published files' facts; the drawn truth is asked of the cohort."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr import mini
from cxr.mini import MiniatureError, write_miniature

FOUR, ALL = "expert_labels/four_findings_expert_labels/", "expert_labels/all_findings_expert_labels/"
SPELLED = [finding.replace("_", " ") for finding in mini.NIH_FINDINGS]  # as in the all-findings files
JURY = ("4343882785", "4343883593", "4343883996")
SMALL = {"n_patients": 40, "n_images": 90, "size": 32, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default cohort, drawn small."""
    folder = tmp_path_factory.mktemp("mini") / "cxr14"
    write_miniature(folder, size=64, kaggle=True, progress=False)
    return folder


@pytest.fixture(scope="module")
def truth() -> dict[str, frozenset[str]]:
    return {film.image_id: film.truth for film in mini.draw_cohort(400, 1200, 0)}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as lines:
        return list(csv.reader(lines))


def table(path: Path) -> list[dict[str, str]]:
    """Rows by column: split at its commas the header has as many names as a row has cells (NIH's 2017 file one more)."""
    header, *body = rows(path)
    return [dict(zip(header, cells, strict=False)) for cells in body]


def id_list(path: Path) -> list[str]:
    return path.read_text().split("\n")


def patients(image_ids: list[str]) -> set[str]:
    return {image_id[:8] for image_id in image_ids}


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("name", "newline", "ends_in_newline", "header"),
    [
        ("Data_Entry_2017.csv", b"\r\n", True, b"View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"),
        ("Data_Entry_2017_v2020.csv", b"\n", True, b"View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"),
        ("sample_labels.csv", b"\r\n", True, b"OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"),
        ("BBox_List_2017.csv", b"\n", True, b"Image Index,Finding Label,Bbox [x,y,w,h],,,"),
        ("train_val_list.txt", b"\n", False, b".png"),
        ("test_list.txt", b"\n", False, b".png"),
        (FOUR + "validation_labels.csv", b"\r\n", False, b"y],Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"),
        (FOUR + "test_labels.csv", b"\r\n", False, b"y],Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"),
        (
            FOUR + "individual_readers.csv",
            b"\r\n",
            False,
            b"Patient ID,Image ID,Reader ID,Fracture,Pneumothorax,Airspace opacity,Nodule/mass,Set ID",
        ),
        (ALL + "test_labels.csv", b"\n", True, b"Emphysema,Fibrosis,Pleural Thickening,Hernia,Other"),
        (ALL + "test_individual_readers.csv", b"\n", True, b"Fibrosis,Pleural Thickening,Hernia,Other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_has_the_line_ending_the_last_line_and_the_header_of_the_published_one(
    folder: Path, name: str, newline: bytes, ends_in_newline: bool, header: bytes
) -> None:
    raw = (folder / name).read_bytes()

    assert raw.count(b"\n") == raw.count(newline) > 0
    assert raw.endswith(b"\n") == ends_in_newline
    assert raw.split(newline)[0].endswith(header)
    assert b'"' not in raw


def test_the_2017_release_pads_its_numbers_and_gives_ages_a_unit(folder: Path) -> None:
    entries = table(folder / "Data_Entry_2017.csv")

    assert len(entries) == 1200
    assert all(row["Image Index"] == f"{row['Patient ID']}_{row['Follow-up #']}.png" for row in entries)
    assert [row["Image Index"] for row in entries] == sorted(row["Image Index"] for row in entries)
    ages = [row["Patient Age"] for row in entries]
    assert all(len(age) == 4 for age in ages)
    assert [age for age in ages if not age.endswith("Y")] in (["011M", "001D"], ["001D", "011M"])
    assert sum(int(age[:3]) > 100 for age in ages) == 1


def test_v2020_counts_a_patients_films_in_time_so_that_its_rows_are_not_sorted_by_image(folder: Path) -> None:
    entries = table(folder / "Data_Entry_2017_v2020.csv")

    order = [(int(row["Patient ID"]), int(row["Follow-up #"])) for row in entries]
    assert order == sorted(order)
    image_ids = [row["Image Index"] for row in entries]
    assert image_ids != sorted(image_ids)
    ages = [(int(row["Patient ID"]), int(row["Patient Age"])) for row in entries]
    assert ages == sorted(ages)
    assert max(age for _, age in ages) < 100
    assert any(row["Patient ID"] != row["Image Index"][:8] for row in entries)
    assert ",0.14300000000000002,0.14300000000000002\n" in (folder / "Data_Entry_2017_v2020.csv").read_text()


def test_the_two_releases_differ_in_the_labels_of_a_few_test_images_only(folder: Path) -> None:
    old = {row["Image Index"]: row["Finding Labels"] for row in table(folder / "Data_Entry_2017.csv")}
    new = {row["Image Index"]: row["Finding Labels"] for row in table(folder / "Data_Entry_2017_v2020.csv")}

    changed = {image_id for image_id in old if old[image_id] != new[image_id]}
    assert 3 <= len(changed) <= 12
    assert changed <= set(id_list(folder / "test_list.txt"))


def test_kaggles_sample_is_part_of_the_2017_release_under_other_column_names(folder: Path) -> None:
    everything, sample = rows(folder / "Data_Entry_2017.csv"), rows(folder / "sample_labels.csv")
    assert 0 < len(sample) < len(everything)
    assert all(row in everything for row in sample[1:])


def test_no_patient_is_in_both_lists_and_three_in_ten_are_in_the_test_list(folder: Path) -> None:
    train_val, test = id_list(folder / "train_val_list.txt"), id_list(folder / "test_list.txt")

    assert not patients(train_val) & patients(test)
    assert len(patients(test)) == 120
    assert len(patients(train_val)) == 280
    assert sorted(train_val + test) == [row["Image Index"] for row in table(folder / "Data_Entry_2017.csv")]


def test_most_patients_have_one_film_and_some_have_fifteen(folder: Path) -> None:
    films = Counter(row["Patient ID"] for row in table(folder / "Data_Entry_2017.csv")).values()
    assert 0.45 < sum(n == 1 for n in films) / len(films) < 0.65
    assert sum(n >= 15 for n in films) >= 3


def test_a_film_is_8_bit_grey_or_one_in_fifty_three_equal_colours_and_opaque(folder: Path) -> None:
    films = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (folder / "images").iterdir()}

    assert sorted(films) == [row["Image Index"] for row in table(folder / "Data_Entry_2017.csv")]
    assert all(film.dtype == np.uint8 and film.shape[:2] == (64, 64) for film in films.values())
    coloured = [film for film in films.values() if film.ndim == 3]
    assert len(coloured) == 24
    assert all(film.shape[2] == 4 and (film[..., :3] == film[..., :1]).all() and (film[..., 3] == 255).all() for film in coloured)


def test_boxes_are_on_test_films_in_1024_pixel_coordinates_around_what_is_drawn(folder: Path, truth: dict[str, frozenset[str]]) -> None:
    boxes = rows(folder / "BBox_List_2017.csv")[1:]

    assert {row[1] for row in boxes} == {
        *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltrate", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    }
    assert {row[0] for row in boxes} <= set(id_list(folder / "test_list.txt"))
    for image_id, finding, *box in boxes:
        assert finding.replace("Infiltrate", "Infiltration") in truth[image_id]
        x, y, width, height = map(float, box)
        assert min(x, y) >= 0
        assert min(width, height) > 0
        assert max(x + width, y + height) <= 1024
    assert max(float(row[2]) for row in boxes) > 512


def test_expert_sets_lie_inside_the_right_lists(folder: Path) -> None:
    train_val, test = set(id_list(folder / "train_val_list.txt")), set(id_list(folder / "test_list.txt"))
    validation = {row["Image Index"] for row in table(folder / FOUR / "validation_labels.csv")}
    four_test = {row["Image Index"] for row in table(folder / FOUR / "test_labels.csv")}
    all_test = {row["Image ID"] for row in table(folder / ALL / "test_labels.csv")}

    assert validation < train_val
    assert any(image_id[:8] in patients(list(validation)) for image_id in train_val - validation)  # patients come whole, films do not
    assert all_test < four_test < test
    assert 200 <= len(all_test) <= 260
    assert len(patients(list(all_test))) >= 100
    entries = {row["Image Index"]: row for row in table(folder / "Data_Entry_2017_v2020.csv")}
    assert all(entries[i]["View Position"] == "PA" and int(entries[i]["Patient Age"]) >= 18 for i in all_test)


def test_at_least_twelve_findings_have_twenty_positive_patients_and_hernia_has_not(folder: Path) -> None:
    labels = table(folder / ALL / "test_labels.csv")
    positive = {finding: len({row["Patient ID"] for row in labels if row[finding] == "YES"}) for finding in SPELLED}

    assert sum(count >= 20 for count in positive.values()) >= 12
    assert 0 < positive["Hernia"] < 20
    fractures = {row["Image Index"][:8] for row in table(folder / FOUR / "test_labels.csv") if row["Fracture"] == "YES"}
    assert len(fractures) >= 20


@pytest.mark.parametrize("seed", range(1, 5))
def test_another_seed_is_as_rich(seed: int) -> None:
    films = mini.draw_cohort(400, 1200, seed)
    all_test = mini.choose_expert_films(films, seed)[2]
    positive = {finding: len({film.patient_id for film in all_test if finding in film.truth}) for finding in mini.NIH_FINDINGS}
    assert sum(count >= 20 for count in positive.values()) >= 12
    assert positive["Hernia"] < 20


def test_adjudicated_labels_are_the_drawn_truth(folder: Path, truth: dict[str, frozenset[str]]) -> None:
    for row in table(folder / ALL / "test_labels.csv"):
        drawn = {finding.replace("_", " ") for finding in truth[row["Image ID"]]} - {"Fracture"}
        assert {finding for finding in SPELLED if row[finding] == "YES"} == drawn
    opacities = {"Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"}
    for name in ("validation_labels.csv", "test_labels.csv"):
        for row in table(folder / FOUR / name):
            drawn = truth[row["Image Index"]]
            said = [row[finding] == "YES" for finding in ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")]
            assert said == ["Fracture" in drawn, "Pneumothorax" in drawn, bool(drawn & opacities), bool(drawn & {"Mass", "Nodule"})]


def test_the_majority_of_three_readers_and_the_rule_for_other_rebuild_every_label(folder: Path) -> None:
    by_image = defaultdict(list)
    for row in table(folder / ALL / "test_individual_readers.csv"):
        if row["Reader ID"] in JURY:
            by_image[row["Image ID"]].append(row)

    by_rule_only = 0
    for label in table(folder / ALL / "test_labels.csv"):
        reads = by_image[label["Image ID"]]
        assert len(reads) == 3
        majority = {finding: sum(read[finding] == "YES" for read in reads) >= 2 for finding in [*SPELLED, "Other"]}
        abnormal = sum(read["Abnormal"] == "1" for read in reads) >= 2
        by_rule = abnormal and not any(majority[finding] for finding in SPELLED)
        by_rule_only += by_rule and not majority["Other"]
        rebuilt = {**majority, "Abnormal": abnormal, "Other": majority["Other"] or by_rule}
        assert {column: label[column] == "YES" for column in rebuilt} == rebuilt
    assert by_rule_only > 0  # the rule is exercised


def test_each_of_five_readers_read_every_all_findings_film(folder: Path) -> None:
    reads, labels = table(folder / ALL / "test_individual_readers.csv"), table(folder / ALL / "test_labels.csv")

    assert len(reads) == 5 * len(labels)
    assert [row["Image ID"] for row in reads[::5]] == [row["Image ID"] for row in labels]
    assert [row["Image ID"] for row in labels] != sorted(row["Image ID"] for row in labels)
    assert {row["Abnormal"] for row in reads} == {"0", "1"}
    assert {row["Abnormal"] for row in labels} == {"YES", "NO"}
    assert all(row["Patient ID"] == str(int(row["Image ID"][:8])) for row in reads + labels)


def test_the_two_held_out_readers_differ_in_effusion_as_set(folder: Path) -> None:
    positive = {row["Image ID"] for row in table(folder / ALL / "test_labels.csv") if row["Effusion"] == "YES"}
    reads = [row for row in table(folder / ALL / "test_individual_readers.csv") if row["Image ID"] in positive]
    for reader, expected in [("4343882583", 0.82), ("4343880271", 0.39)]:
        said = [row["Effusion"] for row in reads if row["Reader ID"] == reader]
        assert abs(said.count("YES") / len(said) - expected) < 3.3 * np.sqrt(expected * (1 - expected) / len(said))


def test_four_findings_readers_err_at_the_rates_set(folder: Path, truth: dict[str, frozenset[str]]) -> None:
    members = {"Airspace opacity": {"Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"}, "Nodule/mass": {"Nodule", "Mass"}}
    reads = table(folder / FOUR / "individual_readers.csv")
    for finding, rates in zip(("Fracture", "Pneumothorax", "Airspace opacity", "Nodule/mass"), mini.FOUR_READS.values(), strict=True):
        for present, rate in zip((True, False), rates, strict=True):
            decided = [
                row[finding] == "YES" for row in reads if bool(truth[row["Image ID"]] & members.get(finding, {finding})) == present and row[finding] != "HEDGE"
            ]
            assert abs(np.mean(decided) - rate) < 4 * np.sqrt(rate * (1 - rate) / len(decided)) + 0.02  # 0.02: what hedging takes out


def test_four_findings_readers_hedge_repeat_and_miss_films_as_the_real_ones_do(folder: Path) -> None:
    reads = table(folder / FOUR / "individual_readers.csv")
    adjudicated = {"val": table(folder / FOUR / "validation_labels.csv"), "test": table(folder / FOUR / "test_labels.csv")}

    for set_id, labels in adjudicated.items():
        assert {row["Image ID"] for row in reads if row["Set ID"] == set_id} == {row["Image Index"] for row in labels}
    assert {row["Fracture"] for row in reads} == {row["Airspace opacity"] for row in reads} == {"YES", "NO"}
    assert {row["Pneumothorax"] for row in reads} == {row["Nodule/mass"] for row in reads} == {"YES", "NO", "HEDGE"}
    per_film = Counter(Counter(row["Image ID"] for row in reads).values())
    assert set(per_film) == {1, 2, 3, 4, 5}
    assert per_film[3] > 0.9 * per_film.total()

    in_set = {set_id: {row["Reader ID"] for row in reads if row["Set ID"] == set_id} for set_id in adjudicated}
    assert [len(in_set["val"]), len(in_set["test"]), len(in_set["val"] & in_set["test"])] == [13, 11, 2]

    pairs = defaultdict(list)
    for row in reads:
        pairs[row["Image ID"], row["Reader ID"]].append(row)
    repeated = [first | {"again": again} for first, again in (reads for reads in pairs.values() if len(reads) == 2)]
    differing = [{column for column in pair["again"] if pair[column] != pair["again"][column]} for pair in repeated]
    assert differing.count(set()) >= 2
    assert differing.count({"Airspace opacity"}) >= 2
    assert all(columns in (set(), {"Airspace opacity"}) for columns in differing)


def test_text_mined_labels_miss_and_invent_findings_at_the_rates_set(folder: Path, truth: dict[str, frozenset[str]]) -> None:
    entries = table(folder / "Data_Entry_2017.csv")
    cells = {row["Image Index"]: row["Finding Labels"].split("|") for row in entries}

    assert all(names == ["No Finding"] or set(names) <= set(mini.NIH_FINDINGS) for names in cells.values())
    for finding, (_, sensitivity, false_positives) in mini.FINDINGS.items():
        for present, rate in [(True, sensitivity), (False, false_positives)]:
            said = [finding in cells[image_id] for image_id, drawn in truth.items() if (finding in drawn) == present]
            assert abs(np.mean(said) - rate) < 4 * np.sqrt(rate * (1 - rate) / len(said))


def test_bedside_films_are_sicker_and_every_finding_but_hernia_is_common_in_train_val() -> None:
    films = mini.draw_cohort(400, 1200, 0)
    load = {view: np.mean([len(film.truth) for film in films if film.view == view]) for view in ("PA", "AP")}
    assert load["AP"] > load["PA"] + 0.2
    for finding in set(mini.NIH_FINDINGS) - {"Hernia"}:
        assert 0.1 <= np.mean([finding in film.truth for film in films if not film.in_test]) <= 0.25


def test_the_same_arguments_write_the_same_bytes_and_another_seed_writes_others(tmp_path: Path) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        write_miniature(tmp_path / name, seed=seed, **SMALL)
    first, again, other = (every_file(tmp_path / name) for name in "abc")
    assert first == again
    assert first["Data_Entry_2017.csv"] != other["Data_Entry_2017.csv"]


def test_the_archives_layout_spreads_the_same_films_over_twelve_folders(tmp_path: Path) -> None:
    write_miniature(tmp_path / "flat", **SMALL)
    write_miniature(tmp_path / "archives", layout="archives", **SMALL)

    spread = list((tmp_path / "archives").glob("images_*/images/*.png"))
    assert {path.parent.parent.name for path in spread} == {f"images_{k:03d}" for k in range(1, 13)}
    assert {p.name: p.read_bytes() for p in spread} == {p.name: p.read_bytes() for p in (tmp_path / "flat/images").iterdir()}


def test_a_complete_miniature_is_left_as_it_is(tmp_path: Path) -> None:
    write_miniature(tmp_path / "mini", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mini").rglob("*")}
    write_miniature(tmp_path / "mini", **SMALL)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mini").rglob("*")} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "mini"]


def test_a_folder_made_with_other_arguments_is_refused_and_kept(tmp_path: Path) -> None:
    write_miniature(tmp_path / "mini", **SMALL)
    with pytest.raises(MiniatureError, match=r"seed 0 instead of 5: delete the folder, or name another"):
        write_miniature(tmp_path / "mini", seed=5, **SMALL)
    assert (tmp_path / "mini/miniature.json").exists()


def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MiniatureError, match="not a miniature"):
        write_miniature(tmp_path, **SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("content", [b"[]", b"[" * 3000, b"7", b"\xff", b""])
def test_a_damaged_note_of_how_it_was_made_is_no_miniature(tmp_path: Path, content: bytes) -> None:
    """Found by scripts/fuzz.py: nested so deep that Python gave up, and JSON that was no object."""
    (tmp_path / "miniature.json").write_bytes(content)
    with pytest.raises(MiniatureError, match="not a miniature"):
        write_miniature(tmp_path, **SMALL)


@pytest.mark.parametrize("wrong", [{"n_patients": 10}, {"n_images": 79}, {"size": 8}, {"layout": "flat"}])
def test_arguments_that_make_no_miniature_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(MiniatureError, match="take at least 40 patients"):
        write_miniature(tmp_path / "mini", **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())


def writer(folder: Path) -> subprocess.Popen:
    call = f"write_miniature(Path({str(folder)!r}), n_patients=100, n_images=400, size=64, progress=False)"
    code = f"from pathlib import Path; from cxr.mini import write_miniature; {call}"
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path(mini.__file__).parents[1])})


def test_a_killed_writer_leaves_a_temporary_folder_only_which_the_next_call_clears_away(tmp_path: Path) -> None:
    process = writer(tmp_path / "mini")
    while not list(tmp_path.glob(".mini.partial/images/*.png")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".mini.partial"]
    (tmp_path / ".mini.partial/images/half_written.png").write_bytes(b"")

    write_miniature(tmp_path / "mini", **SMALL)
    assert list(tmp_path.iterdir()) == [tmp_path / "mini"]
    assert len(list((tmp_path / "mini/images").iterdir())) == SMALL["n_images"]


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    both = [writer(tmp_path / "mini"), writer(tmp_path / "mini")]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "mini"]
    assert json.loads((tmp_path / "mini/miniature.json").read_text())["n_images"] == 400
