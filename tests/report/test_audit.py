"""Mirrors report/audit.py, audit_page.py and audit_figures.py. The oracle reads the files with the csv module, counts, and uses nothing of ours."""

import base64
import copy
import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
from commands import call

from cxr.report import audit_figures, audit_page
from cxr.report.wording import number

FOUR = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
OPACITY, NODULE = {"Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"}, {"Nodule", "Mass"}
FOURTEEN = {"Cardiomegaly", "Effusion", "Pneumothorax", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"} | OPACITY | NODULE
MINED = {"Airspace opacity": OPACITY, "Nodule or mass": NODULE, "Abnormal": FOURTEEN} | {finding: {finding} for finding in FOURTEEN}
SETS = {
    "four_findings_validation": ("four_findings_expert_labels/validation_labels.csv", "Image Index", FOUR),
    "four_findings_test": ("four_findings_expert_labels/test_labels.csv", "Image Index", FOUR),
    "all_findings_test": ("all_findings_expert_labels/test_labels.csv", "Image ID", ("Abnormal", *sorted(FOURTEEN), "Other")),
}
HELD_OUT = ("4343882583", "4343880271")
VALUES = {"YES": 1, "NO": 0, "1": 1, "0": 0, "HEDGE": "uncertain"}


class Audited(NamedTuple):
    root: Path
    experts: Path
    folder: Path
    audit: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that, on the path, makes every import of torch fail."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    return str(folder)


def run_audit(root: Path, experts: Path, folder: Path, without_torch: str, *arguments: str) -> Audited:
    paths = (f"data.root={root}", f"data.expert_labels={experts}", f"hydra.run.dir={folder}")
    done = call("scripts/audit_labels.py", *arguments, *paths, "report.draws=100", cwd=folder.parent, PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stdout + done.stderr
    return Audited(root, experts, folder, json.loads((folder / "audit.json").read_text()), done.stdout)


@pytest.fixture(scope="module")
def of_miniature(mini: Path, without_torch: str, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return run_audit(mini, mini / "expert_labels", tmp_path_factory.mktemp("audit") / "run", without_torch, "data=mini")


@pytest.fixture(scope="module")
def of_real(real: Path, without_torch: str, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return run_audit(real / "data/cxr14_256", real / "data/google_expert_labels", tmp_path_factory.mktemp("audit") / "run", without_torch)


@pytest.fixture(params=["miniature", "real"])
def audited(request: pytest.FixtureRequest) -> Audited:
    result: Audited = request.getfixturevalue(f"of_{request.param}")
    return result


# --- the oracle -------------------------------------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        return list(csv.DictReader(handle))


def cell(row: dict[str, str], finding: str) -> Any:
    return next(VALUES[row[name]] for name in (finding, finding.replace("_", " "), finding.replace(" or ", "/")) if name in row)


def mined_labels(path: Path) -> dict[str, set[str]]:
    return {row["Image Index"]: set(row["Finding Labels"].split("|")) for row in rows(path)}


def references(experts: Path, name: str) -> dict[str, dict[str, int]]:
    file, image, findings = SETS[name]
    return {row[image]: {finding: cell(row, finding) for finding in findings} for row in rows(experts / file)}


def owners(experts: Path, name: str) -> dict[str, str]:
    file, image, _ = SETS[name]
    return {row[image]: row["Patient ID"] for row in rows(experts / file)}


def reads(experts: Path, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(reader, image) -> finding -> 1, 0, "uncertain", or None where the reader contradicted himself."""
    folder, _, _ = SETS[name][0].partition("/")
    file = "test_individual_readers.csv" if name == "all_findings_test" else "individual_readers.csv"
    told = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for row in rows(experts / folder / file):
        if row.get("Set ID", "test") == ("val" if name == "four_findings_validation" else "test"):
            told[row["Reader ID"], row["Image ID"]].append({finding: cell(row, finding) for finding in SETS[name][2]})
    return {
        key: {finding: versions[0][finding] if len({version[finding] for version in versions}) == 1 else None for finding in SETS[name][2]}
        for key, versions in told.items()
    }


def as_policy(value: Any, policy: str) -> Any:
    return {"no": 0, "yes": 1, "drop": None}[policy] if value == "uncertain" else value


def same_as_counting(leaf: dict[str, Any], pairs: list[tuple[Any, int]]) -> None:
    """Holds a leaf of audit.json against (said, reference) of its films."""
    pairs = [pair for pair in pairs if None not in pair]
    n = {(said, true): sum(pair == (said, true) for pair in pairs) for said in (0, 1) for true in (0, 1)}
    assert (leaf["n_pos"], leaf["n_neg"]) == (n[1, 1] + n[0, 1], n[1, 0] + n[0, 0])
    shares = {
        "sensitivity": (n[1, 1], n[1, 1] + n[0, 1]),
        "specificity": (n[0, 0], n[0, 0] + n[1, 0]),
        "ppv": (n[1, 1], n[1, 1] + n[1, 0]),
        "npv": (n[0, 0], n[0, 0] + n[0, 1]),
    }
    for key, (part, whole) in shares.items():
        same_number(leaf, key, part / whole if whole else None)


def same_number(leaf: dict[str, Any], key: str, value: float | None) -> None:
    if value is None:
        assert leaf[key] is None
        assert leaf["reason"]
    else:
        assert leaf[key]["value"] == pytest.approx(value, rel=0, abs=1e-12)
        assert leaf[key]["lo"] <= leaf[key]["value"] <= leaf[key]["hi"]


def kappa(pairs: list[tuple[int, int]]) -> float | None:
    n = len(pairs)
    agree = sum(a == b for a, b in pairs) / n
    yes, too = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = yes * too + (1 - yes) * (1 - too)
    return None if chance == 1 else (agree - chance) / (1 - chance)


# --- the numbers ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("release", ["in use", "v2020", "2017"])
def test_text_mined_labels_equal_a_plain_count_of_the_files(audited: Audited, name: str, release: str) -> None:
    told = audited.audit["nih_labels"] if release == "in use" else audited.audit["nih_labels_by_release"][release]
    mined = mined_labels(audited.root / ("Data_Entry_2017.csv" if release == "2017" else "Data_Entry_2017_v2020.csv"))
    reference, patient = references(audited.experts, name), owners(audited.experts, name)
    assert told[name].keys() == set(SETS[name][2])
    for finding in SETS[name][2]:
        leaf = told[name][finding]
        positive = [image for image, labels in reference.items() if labels[finding]]
        assert (leaf["n_images"], leaf["n_pos"]) == (len(reference), len(positive))
        assert leaf["n_pos_patients"] == len({patient[image] for image in positive})
        same_number(leaf, "prevalence_reference", len(positive) / len(reference))
        if finding in MINED:
            pairs = [(int(bool(mined[image] & MINED[finding])), labels[finding]) for image, labels in reference.items()]
            same_as_counting(leaf, pairs)
            same_number(leaf, "kappa", kappa(pairs))
            same_number(leaf, "prevalence_text_mined", sum(said for said, _ in pairs) / len(pairs))
        else:
            assert leaf["reason"] == "no text-mined finding"
            assert {leaf[key] for key in ("sensitivity", "specificity", "ppv", "npv", "kappa", "prevalence_text_mined")} == {None}


@pytest.mark.parametrize("name", SETS)
def test_every_reader_and_all_of_them_equal_a_plain_count_under_every_policy(audited: Audited, name: str) -> None:
    reference, said = references(audited.experts, name), reads(audited.experts, name)
    of_set = audited.audit["readers"][name]
    for policy in ("no", "yes", "drop") if name.startswith("four") else ("",):
        told = of_set[policy] if policy else of_set
        assert told["by_reader"].keys() == {reader for reader, _ in said}
        for finding in SETS[name][2]:
            pairs = defaultdict[str, list[tuple[Any, int]]](list)
            for (reader, image), values in said.items():
                pairs[reader].append((as_policy(values[finding], policy or "no"), reference[image][finding]))
            for reader, of_reader in pairs.items():
                leaf = told["by_reader"][reader][finding]
                same_as_counting(leaf, of_reader)
                assert leaf["n_images"] == sum(call is not None for call, _ in of_reader)
                assert leaf["n_left_out"] == sum(call is None for call, _ in of_reader)
            pooled = [pair for of_reader in pairs.values() for pair in of_reader]
            same_as_counting(told["pooled"][finding], pooled)
            assert told["pooled"][finding]["n_reads"] == sum(call is not None for call, _ in pooled)


@pytest.mark.parametrize("name", ["four_findings_validation", "four_findings_test"])
def test_the_majority_of_first_reads_equals_a_plain_count(audited: Audited, name: str) -> None:
    votes = {finding: defaultdict[str, list[int]](list) for finding in FOUR}
    for (_, image), values in reads(audited.experts, name).items():
        for finding in FOUR:
            if values[finding] in (0, 1):
                votes[finding][image].append(values[finding])
    reference = references(audited.experts, name)
    for finding in FOUR:
        of_film = {image: votes[finding].get(image, []) for image in reference}
        majority = {image: sum(cast) * 2 > len(cast) for image, cast in of_film.items() if sum(cast) * 2 != len(cast)}
        differs = [image for image, most in majority.items() if most != bool(reference[image][finding])]
        leaf = audited.audit["first_round_majority"][name][finding]
        assert (leaf["n"], leaf["n_differs"]) == (len(majority), len(differs))
        assert leaf["n_to_present"] == sum(reference[image][finding] for image in differs)
        assert leaf["n_without_votes"] == sum(not cast for cast in of_film.values())
        assert leaf["n"] + leaf["n_ties"] + leaf["n_without_votes"] == len(reference)
        same_number(leaf, "share", len(differs) / len(majority))


def test_the_references_are_held_against_each_other_on_the_films_that_both_have(audited: Audited) -> None:
    four, everything = references(audited.experts, "four_findings_test"), references(audited.experts, "all_findings_test")
    for finding, members in (("Pneumothorax", {"Pneumothorax"}), ("Airspace opacity", OPACITY), ("Nodule or mass", NODULE)):
        pairs = [(four[image][finding], int(any(labels[member] for member in members))) for image, labels in everything.items()]
        leaf = audited.audit["references_against_each_other"][finding]
        assert (leaf["n_images"], leaf["n_disagree"]) == (len(everything), sum(one != other for one, other in pairs))
        same_number(leaf, "kappa", kappa(pairs))
        same_number(leaf, "prevalence_four_findings", sum(one for one, _ in pairs) / len(pairs))
        same_number(leaf, "prevalence_all_findings", sum(other for _, other in pairs) / len(pairs))


@pytest.mark.parametrize("name", SETS)
def test_two_readers_are_compared_where_they_read_a_hundred_films_together(audited: Audited, name: str) -> None:
    by_reader = defaultdict[str, dict[str, dict[str, Any]]](dict)
    for (reader, image), values in reads(audited.experts, name).items():
        by_reader[reader][image] = values
    expected = {}
    for a, b in combinations(sorted(by_reader), 2):
        common = sorted(by_reader[a].keys() & by_reader[b].keys())
        if len(common) >= 100:
            for finding in SETS[name][2]:
                both = [(as_policy(by_reader[a][image][finding], "no"), as_policy(by_reader[b][image][finding], "no")) for image in common]
                expected[finding, a, b] = [pair for pair in both if None not in pair]
    told = {(finding, *leaf["readers"]): leaf for finding, leaves in audited.audit["agreement"][name].items() for leaf in leaves}
    assert told.keys() == expected.keys()
    for key, pairs in expected.items():
        assert (told[key]["n_images"], told[key]["n_disagree"]) == (len(pairs), sum(a != b for a, b in pairs))
        same_number(told[key], "kappa", kappa(pairs))


def test_prevalences_equal_a_plain_count_by_set_and_view(audited: Audited) -> None:
    table = rows(audited.root / "Data_Entry_2017_v2020.csv")
    mined, view = mined_labels(audited.root / "Data_Entry_2017_v2020.csv"), {row["Image Index"]: row["View Position"] for row in table}
    tested = set((audited.root / "test_list.txt").read_text().split())
    for name in ("test", *SETS):
        reference = {} if name == "test" else references(audited.experts, name)
        for seen in ("all", "PA", "AP"):
            images = [image for image in (reference or tested & mined.keys()) if seen in ("all", view[image])]
            for finding, leaf in audited.audit["prevalences"][name][seen].items():
                assert leaf["n"] == len(images)
                if finding in MINED and images:
                    same_number(leaf, "text_mined", sum(bool(mined[image] & MINED[finding]) for image in images) / len(images))
                else:
                    assert leaf["text_mined"] is None
                    assert leaf["reason"]
                if reference and finding in SETS[name][2] and images:
                    same_number(leaf, "reference", sum(reference[image][finding] for image in images) / len(images))
    train, val = (audited.audit["prevalences"][split]["all"]["Mass"]["n"] for split in ("train", "val"))
    held_out = set(owners(audited.experts, "four_findings_validation").values())
    assert train + val == sum(row["Image Index"] not in tested and row["Patient ID"] not in held_out for row in table)


def test_releases_differ_where_a_plain_comparison_of_the_files_says(audited: Audited) -> None:
    one, other = (mined_labels(audited.root / file) for file in ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"))
    changed = {image for image in one if one[image] != other[image]}
    told = audited.audit["releases_differ"]
    assert told["test"]["n_differ"] == len(changed) > 0
    assert told["train"]["n_differ"] == told["val"]["n_differ"] == 0
    for name in SETS:
        assert told[name]["n_differ"] == len(changed & references(audited.experts, name).keys())


def test_the_facts_are_those_of_the_files(audited: Audited) -> None:
    facts = audited.audit["facts"]
    assert facts["n_rows"] == {file: len(rows(audited.experts / file)) for file in facts["n_rows"]}
    assert len(facts["n_rows"]) == 5
    for name in SETS:
        reference, patient = references(audited.experts, name), owners(audited.experts, name)
        for finding in SETS[name][2]:
            positive = [patient[image] for image, labels in reference.items() if labels[finding]]
            leaf = facts["positives"][name][finding]
            assert (leaf["n_pos"], leaf["n_pos_patients"], leaf["n_unknown"]) == (len(positive), len(set(positive)), 0)
            largest = max(map(positive.count, set(positive))) / len(positive) if positive else None
            assert leaf["largest_patient_share"] == (None if largest is None else pytest.approx(largest, abs=1e-12))


def test_the_real_files_say_what_is_known_of_them(of_real: Audited) -> None:
    audit = of_real.audit
    assert [audit["nih_labels"]["four_findings_test"][finding]["n_pos"] for finding in FOUR] == [72, 195, 1135, 295]
    assert audit["nih_labels"]["four_findings_test"]["Airspace opacity"]["kappa"]["value"] == pytest.approx(0.28, abs=0.005)
    of = audit["readers"]["all_findings_test"]["by_reader"]
    assert [round(of[reader]["Effusion"]["sensitivity"]["value"], 2) for reader in HELD_OUT] == [0.82, 0.39]
    disagreement = audit["references_against_each_other"]["Pneumothorax"]
    assert (disagreement["n_disagree"], disagreement["n_images"]) == (52, 810)
    assert audit["releases_differ"]["test"] == {"n_images": 25_596, "n_differ": 181}
    assert audit["facts"]["repeats"]["four_findings_test"] == {"pairs": 4, "conflicts": {"Airspace opacity": 4}}
    fracture = audit["facts"]["positives"]["four_findings_validation"]["Fracture"]
    assert (fracture["n_pos"], round(fracture["largest_patient_share"] * fracture["n_pos"])) == (114, 44)


# --- the command and the pages ----------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_everything_without_torch_and_leaves_nothing_half_made(of_miniature: Audited) -> None:
    names = {path.name for path in of_miniature.folder.iterdir()}
    assert names == {".hydra", "audit.html", "audit.json", "audit.md", "audit_labels.log", "figures"}
    pictures = sorted(path.name for path in (of_miniature.folder / "figures").iterdir())
    assert pictures == ["prevalences.png", "readers_all_findings.png", "readers_four_findings.png", "text_mined.png"]
    assert "four_findings_test" in of_miniature.printed
    assert str(of_miniature.folder / "audit.html") in of_miniature.printed
    protocol = of_miniature.audit["protocol"]
    assert protocol["labels"]["release"] == "v2020"
    assert protocol["draws"] == 100
    assert protocol["provenance"]["host"]


def test_every_undefined_number_has_a_reason(of_miniature: Audited) -> None:
    def leaves(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            yield part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from leaves(inner)

    numbers = ("sensitivity", "specificity", "ppv", "npv", "kappa", "share", "text_mined", "reference")
    undefined = [leaf for leaf in leaves({**of_miniature.audit, "protocol": {}}) if any(leaf.get(key, 0) is None for key in numbers)]
    assert undefined
    assert all(leaf["reason"] for leaf in undefined)


def test_without_expert_labels_it_says_so_at_once_in_one_line(mini: Path, tmp_path: Path) -> None:
    done = call("scripts/audit_labels.py", f"data.root={mini}", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: data.expert_labels: the audit holds the text-mined labels against radiologists'")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run/audit.json").exists()


def test_the_pages_say_what_the_numbers_are_worth_and_need_nothing_from_outside(of_miniature: Audited) -> None:
    html, markdown = ((of_miniature.folder / f"audit.{kind}").read_text() for kind in ("html", "md"))
    leaf = of_miniature.audit["nih_labels"]["four_findings_test"]["Airspace opacity"]
    for page in (html, markdown):
        assert number(leaf["sensitivity"]) in page
        assert number(leaf["kappa"]) in page
        assert "These readers made the reference" in page
        assert "had no part in the reference" in page
        assert all(f"{reader} (held out)" in page.replace("\\", "") for reader in HELD_OUT)
        assert "films are drawn by a program" in page
    assert not re.search(r"<script|<link|url\(|@import", html)
    sources = re.findall(r'src="([^"]*)"', html)
    pictures = [(of_miniature.folder / "figures" / f"{title}.png").read_bytes() for title in audit_figures_in_order(markdown)]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == pictures


def audit_figures_in_order(markdown: str) -> list[str]:
    return re.findall(r"!\[\w+\]\(figures/(\w+)\.png\)", markdown)


def test_readers_of_few_films_are_in_the_numbers_and_not_on_the_page(of_real: Audited) -> None:
    markdown = (of_real.folder / "audit.md").read_text()
    few = {
        reader
        for name in ("four_findings_validation", "four_findings_test")
        for reader, of in of_real.audit["readers"][name]["no"]["by_reader"].items()
        if max(leaf["n_images"] for leaf in of.values()) < 100
    }
    shown = set(re.findall(r"^\| (\d{10}) \|", markdown, re.MULTILINE))
    assert few - shown
    for name in ("four_findings_validation", "four_findings_test"):
        for reader, of in of_real.audit["readers"][name]["no"]["by_reader"].items():
            assert (max(leaf["n_images"] for leaf in of.values()) >= 100) == (f"| {reader} | Fracture | {of['Fracture']['n_images']:,} |" in markdown)


def test_an_earlier_audit_in_the_folder_is_replaced_as_a_whole(of_miniature: Audited, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/old.png").touch()
    (tmp_path / "audit.partial").mkdir()
    audit_page.write(tmp_path, of_miniature.audit)
    assert json.loads((tmp_path / "audit.json").read_text()) == of_miniature.audit
    assert not (tmp_path / "figures/old.png").exists()
    assert not (tmp_path / "audit.partial").exists()


def test_hostile_strings_are_shown_and_do_nothing(of_miniature: Audited, tmp_path: Path) -> None:
    hostile = copy.deepcopy(of_miniature.audit)
    hostile["protocol"]["validation"] = "<script>alert(1)</script> | `x`"
    hostile["nih_labels"]["four_findings_test"]["Fracture"]["reason"] = "<img src=x onerror=alert(1)>"
    audit_page.write(tmp_path, hostile)
    for page in ((tmp_path / f"audit.{kind}").read_text() for kind in ("html", "md")):
        assert "<script" not in page
        assert "<img src=x" not in page


def test_without_a_second_release_the_section_is_left_out(of_miniature: Audited, tmp_path: Path) -> None:
    audit_page.write(tmp_path, {key: part for key, part in of_miniature.audit.items() if "release" not in key})
    assert "The two label releases" not in (tmp_path / "audit.html").read_text()


# --- pictures ---------------------------------------------------------------------------------------------------------------------------------------


def marks(figure: Any, finding: str) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for panel in panels(figure, finding) for line in panel.lines if len(line.get_xdata()) == 1]


def panels(figure: Any, finding: str) -> list[Any]:
    return [panel for panel in figure.axes if panel.get_title("left") == finding]


def test_the_readers_stand_where_their_numbers_are(of_real: Audited) -> None:
    with matplotlib.rc_context(audit_figures.STYLE):
        drawn = marks(audit_figures.readers(of_real.audit, ("all_findings_test",)), "Effusion")
    told = of_real.audit["readers"]["all_findings_test"]
    leaves = [*(of["Effusion"] for of in told["by_reader"].values()), told["pooled"]["Effusion"], of_real.audit["nih_labels"]["all_findings_test"]["Effusion"]]
    np.testing.assert_allclose(sorted(drawn), sorted((1 - leaf["specificity"]["value"], leaf["sensitivity"]["value"]) for leaf in leaves))


def test_readers_of_few_films_are_not_drawn(of_real: Audited) -> None:
    with matplotlib.rc_context(audit_figures.STYLE):
        drawn = marks(audit_figures.readers(of_real.audit, ("four_findings_test", "four_findings_validation")), "Fracture")
    sets = [of_real.audit["readers"][name]["no"]["by_reader"].values() for name in ("four_findings_test", "four_findings_validation")]
    enough = sum(of["Fracture"]["n_images"] >= 100 for of_set in sets for of in of_set)
    assert enough < sum(map(len, sets))
    assert len(drawn) == enough + 2  # and all reads together, per set; text mining knows no fracture


def test_no_mark_falls_off_a_picture(audited: Audited) -> None:
    with matplotlib.rc_context(audit_figures.STYLE):
        for names in (("all_findings_test",), ("four_findings_test", "four_findings_validation")):
            figure = audit_figures.readers(audited.audit, names)
            for panel in figure.axes:
                (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
                for line in panel.lines:
                    assert left <= min(line.get_xdata()) <= max(line.get_xdata()) <= right
                    assert bottom <= min(line.get_ydata()) <= max(line.get_ydata()) <= top


def test_a_finding_without_numbers_leaves_its_panel_empty(of_miniature: Audited, tmp_path: Path) -> None:
    empty = copy.deepcopy(of_miniature.audit)
    for part in (empty["nih_labels"]["all_findings_test"], *empty["readers"]["all_findings_test"]["by_reader"].values()):
        part["Hernia"] |= {"sensitivity": None, "specificity": None, "kappa": None, "reason": "no positive image"}
    empty["readers"]["all_findings_test"]["pooled"]["Hernia"] |= {"sensitivity": None}
    assert set(audit_figures.draw(tmp_path, empty)) == {"text_mined", "readers_all_findings", "readers_four_findings", "prevalences"}
    with matplotlib.rc_context(audit_figures.STYLE):
        assert marks(audit_figures.readers(empty, ("all_findings_test",)), "Hernia") == []
