"""Mirrors report/render.py: the pages say what report.json says, harm nobody, and need nothing from outside."""

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cxr.report import render

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
HOSTILE = "<script>alert('x')</script> | \"q\" `c`\n| x | [a](javascript:b)"
COUNTS = {"n_neg": 500, "n_unknown": 0, "largest_patient_share": 0.0123, "prevalence": 0.0456}


def numbers(value: float) -> dict[str, float]:
    return {"value": value, "lo": value - 0.0514, "hi": value + 0.0417}


def a_set(n_missing: int, macro: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_images": 1620,
        "n_patients": 604,
        "n_missing_images": n_missing,
        "views": {"AP": 700, "PA": 920},
        "ages": {"min": 18.0, "median": 49.0, "max": 91.0},
        "findings": {
            "Effusion": {**COUNTS, "n_pos": 120, "n_pos_patients": 101, "auroc": numbers(0.8126), "auprc": numbers(0.4443), "n_redrawn": 0},
            "Pleural_Thickening": {**COUNTS, "n_pos": 31, "n_pos_patients": 9, "auroc": numbers(0.7017), "auprc": numbers(0.1998), "n_redrawn": 37}
            | {"largest_patient_share": 0.3871},
            "Hernia": {**COUNTS, "n_pos": 0, "n_pos_patients": 0, "auroc": None, "auprc": None, "reason": "no positive image"}
            | {"largest_patient_share": None, "prevalence": 0.0},
        },
        "macro": {"findings": ["Effusion"], "left_out": {"Hernia": "0 positive patients, fewer than 20"}, **macro},
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "protocol": {
            "model": "densenet121",
            "image_size": 224,
            "splits": "official",
            "seed": 3,
            "commit": None,
            "primary_endpoint": "macro AUROC on all_findings_test",
            "labels": {"release": "v2020", "sha256": "ab" * 32},
            "selection": {"findings": ["Effusion", "Mass"], "left_out": {}},
            "provenance": {"reported": "2026-11-22T22:21:38+00:00", "host": "node17"},
        },
        "reference_sets": {
            "nih_val": a_set(0, {"auroc": numbers(0.7931)}),
            "nih_test": a_set(23976, {"auroc": None, "reason": "missing images leave Hernia with fewer than 20 positive patients"}),
            "all_findings_test": a_set(410, {"auroc": numbers(0.7612), "available_only": True}),
            "four_findings_test": {"n_images": 408, "n_missing_images": 1554, "findings": None, "reason": "its findings need a mapping"},
            "four_findings_validation": {"findings": None, "reason": "no expert labels were given"},
        },
        "attribution": render.attribution("cxr14", True),
    }


class Page(HTMLParser):
    """A page as its text, its tags and its tables' rows."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def pages(folder: Path, report: dict[str, Any]) -> tuple[Page, str, str]:
    (folder / "figures").mkdir(exist_ok=True)
    pictures = {title: folder / "figures" / f"{title}.png" for title in ("auroc", "nih_val_roc", "nih_val_precision_recall", "training")}
    for path in pictures.values():
        path.write_bytes(PNG)
    render.write_pages(folder, report, pictures)
    html = (folder / "report.html").read_text()
    return Page(html), html, (folder / "report.md").read_text()


def test_the_numbers_are_those_of_the_report(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = pages(tmp_path, report)
    row = ["Effusion", "120", "500", "101", "1.2 %", "4.6 %", "0.813 [0.761, 0.854]", "0.444 [0.393, 0.486]", ""]

    assert page.rows.count(row) == 3
    assert markdown.count(f"| {' | '.join(row)} |") == 3
    for said in (page.text, markdown):
        assert "0.793 [0.742, 0.835]" in said
        assert "1,620 images of 604 patients" in said
        assert "Views: 700 AP, 920 PA. Age in years: median 49, 18 to 91." in said


def test_a_finding_without_a_number_gives_its_reason_and_no_zero(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = pages(tmp_path, report)
    hernia = ["Hernia", "0", "500", "0", "–", "0.0 %", "undefined: no positive image", "not in the mean: 0 positive patients, fewer than 20"]

    assert page.rows.count(hernia) == 3
    assert markdown.count("| undefined: no positive image | undefined: no positive image |") == 3
    assert "0.000" not in page.text + markdown


def test_what_limits_a_number_stands_beside_it(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = pages(tmp_path, report)
    for said in (page.text, markdown):
        assert "23,976 of the set's 25,596 images are missing" in said
        assert "missing images leave Hernia with fewer than 20 positive patients" in said
        assert re.search("mean over 1 of 3 findings,? only the findings that the present images allow", said)
        assert "one patient owns over 20% of the positive films" in said
        assert "Draws without both classes, drawn anew: Pleural Thickening 37." in said
        assert "DenseNet-121 on the official split scores 0.805–0.815" in said
        assert "The checkpoint was chosen on these films" in said
        assert "are not independent" in said
    assert ["four_findings_test", "408 of 1,962", "its findings need a mapping"] in page.rows
    assert ["four_findings_validation", "–", "no expert labels were given"] in page.rows


def test_every_key_of_the_protocol_is_there_with_provenance_after_it(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, _ = pages(tmp_path, report)
    stamp = {row[0]: row[1] for row in page.rows if len(row) == 2}

    assert stamp["labels.sha256"] == "ab" * 32
    assert (stamp["selection.findings"], stamp["selection.left_out"], stamp["commit"]) == ("Effusion, Mass", "none", "none")
    assert list(stamp).index("host") > list(stamp).index("selection.left_out")


def test_hostile_strings_are_shown_and_do_nothing(tmp_path: Path, report: dict[str, Any]) -> None:
    harmless = pages(tmp_path, report)
    hostile = copy.deepcopy(report)
    hostile["protocol"] |= {"loss": HOSTILE, HOSTILE: "value", "model": HOSTILE}
    hostile["attribution"].append(HOSTILE)
    for part in hostile["reference_sets"].values():
        part["reason"] = HOSTILE
        for row in (part["findings"] or {}).values():
            row |= {"auroc": None, "auprc": None, "reason": HOSTILE}
    page, html, markdown = pages(tmp_path, hostile)

    assert "<script" not in html + markdown
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless[0].tags}
    assert " ".join(HOSTILE.split()) in page.text
    assert "](javascript" not in markdown
    table_rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table_rows) == len([line for line in harmless[2].splitlines() if line.startswith("|")]) + 2
    for line in table_rows:
        assert len(re.findall(r"(?<!\\)\|", line)) - 1 in (2, 3, 5, len(render.COLUMNS))
        assert not re.search(r"(?<!\\)`", line)


def test_the_page_needs_nothing_from_outside(tmp_path: Path, report: dict[str, Any]) -> None:
    page, html, markdown = pages(tmp_path, report)
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]

    assert len(sources) == 4
    assert all(base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG for source in sources)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert {tag for tag, attributes in page.tags if "href" in attributes} == {"a"}
    assert not re.search(r"url\(|@import", html)
    assert [link for link in re.findall(r"!\[\w+\]\((.*?)\)", markdown) if not (tmp_path / link).is_file()] == []


def test_the_miniature_is_called_one(tmp_path: Path, report: dict[str, Any]) -> None:
    assert render.MINIATURE not in pages(tmp_path, report)[0].text
    report["protocol"]["data"] = "mini"
    page, _, markdown = pages(tmp_path, report)
    assert render.MINIATURE in page.text
    assert render.MINIATURE in markdown


def test_a_set_with_no_present_image_renders(tmp_path: Path, report: dict[str, Any]) -> None:
    empty = report["reference_sets"]["nih_test"]
    empty |= {"n_images": 0, "n_patients": 0, "n_missing_images": 25596, "views": {}, "ages": {"min": None, "median": None, "max": None}}
    for row in empty["findings"].values():
        row |= {"n_pos": 0, "n_neg": 0, "largest_patient_share": None, "prevalence": None, "auroc": None, "auprc": None, "reason": "no positive image"}
    page, _, markdown = pages(tmp_path, report)

    for said in (page.text, markdown, render.summary(report)):
        assert "25,596" in said
    assert ["Effusion", "0", "0", "101", "–", "–", "undefined: no positive image", ""] in page.rows


def test_the_summary_leads_with_every_set_and_lists_the_findings_of_the_experts(report: dict[str, Any]) -> None:
    lines = [" ".join(line.split()) for line in render.summary(report).splitlines()]

    assert lines[1] == "nih_val 1,620 0 0.793 [0.742, 0.835] over 1 finding"
    assert lines[2] == "nih_test 1,620 23,976 undefined: missing images leave Hernia with fewer than 20 positive patients"
    assert lines[5] == "four_findings_validation – – undefined: no expert labels were given"
    assert lines[7].startswith("all_findings_test")
    assert lines[8:] == ["Effusion 120 0.813 [0.761, 0.854]", "Pleural_Thickening 31 0.702 [0.650, 0.743]", "Hernia 0 undefined: no positive image"]


def test_the_attribution_names_whom_the_data_requires(report: dict[str, Any]) -> None:
    nih, everything = " ".join(render.attribution("cxr14", False)), " ".join(render.attribution("cxr14", True))

    assert all(name in nih for name in ("https://nihcc.app.box.com/v/ChestXray-NIHCC", "NIH Clinical Center", "ChestX-ray8", "Summers"))
    assert "Majkowska" not in nih
    assert all(name in everything for name in ("research and educational purposes only", "Majkowska", "Radiology, 2019", "Nabulsi", "Scientific Reports, 2021"))
