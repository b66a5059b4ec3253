"""Mirrors report/render.py and the tables it is made of: the pages say what report.json says, harm nobody, and need nothing from outside."""

import base64
import copy
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cxr.report import pages, reader_tables, render, set_tables

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
HOSTILE = "<script>alert('x')</script> | \"q\" `c`\n| x | [a](javascript:b)"
PICTURES = (
    *("auroc", "nih_val_roc", "nih_test_precision_recall", "all_findings_test_readers", "all_findings_test_differences"),
    *("nih_test_groups", "shortcuts", "training"),
)


def number(told: dict[str, float] | None) -> str:
    return "–" if told is None else "{value:.3f} [{lo:.3f}, {hi:.3f}]".format(**told).replace("-", "−")


def difference(told: dict[str, float] | None) -> str:
    return "–" if told is None else "{value:+.3f} [{lo:+.3f}, {hi:+.3f}]".format(**told).replace("-", "−")


def estimates(told: Any) -> Iterator[dict[str, float]]:
    """Every number with an interval, however deep."""
    if isinstance(told, dict) and set(told) == {"value", "lo", "hi"}:
        yield told
    elif isinstance(told, dict | list):
        for inner in told.values() if isinstance(told, dict) else told:
            yield from estimates(inner)


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


def written(folder: Path, report: dict[str, Any]) -> tuple[Page, str, str]:
    (folder / "figures").mkdir(exist_ok=True)
    pictures = {title: folder / "figures" / f"{title}.png" for title in PICTURES}
    for path in pictures.values():
        path.write_bytes(PNG)
    render.write_pages(folder, report, pictures)
    html = (folder / "report.html").read_text()
    return Page(html), html, (folder / "report.md").read_text()


# --- numbers ----------------------------------------------------------------------------------------------------------------------------------------


def test_every_number_on_the_pages_is_one_of_the_report(tmp_path: Path, report: dict[str, Any]) -> None:
    known = {write(told) for told in estimates([report["reference_sets"], report["shortcuts"]]) for write in (number, difference)}
    page, _, markdown = written(tmp_path, report)
    for said in (page.text, markdown):
        told = re.findall(r"[−+]?\d\.\d{3} \[[^\]]*\]", said)
        assert len(told) > 1000
        assert set(told) <= known


def test_the_pages_leave_out_no_number_that_they_promise(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = written(tmp_path, report)
    for name, part in report["reference_sets"].items():
        expected = [number(part["macro"]["auroc"])]
        for row in part["findings"].values():
            expected += [number(row.get(key)) for key in ("auroc", "auprc", "one_film_per_patient", "auroc_within_view")]
            expected += [number(told) for told in estimates(row.get("subgroups"))]
            shift, baseline, points = (row.get(key) or {} for key in ("label_shift", "metadata_baseline", "operating_points"))
            expected += [number(shift.get(key)) for key in ("auroc_text_mined", "auroc_reference")] + [difference(shift.get("difference"))]
            expected += [number(baseline.get("auroc")), difference(baseline.get("difference")), *(number(told) for told in estimates(baseline.get("alone")))]
            apart = row.get("subgroup_differences") if part["adjudicated"] or name == "nih_test" else {}
            expected += [difference(told) for told in estimates(apart)]
            for rule, achieved in points.get("rules", {}).items():
                expected += [number(achieved[key]) for key in ("sensitivity", "specificity", "ppv", "npv")]
                expected += [number(told) for key in ("by_view", "at_prevalence") for told in estimates(achieved[key]) if rule == points["shown"]]
            for stage in ("before", "platt", "prior_shift"):
                told = (row.get("calibration") or {}).get(stage)
                expected += [difference(told["intercept"]), *(number(told[key]) for key in ("slope", "brier", "ece"))] if told else []
        readers = part.get("readers", {})
        for of in readers.get("performance", {}).values():
            leaves = [leaf for reader in readers["shown"] for leaf in of["by_reader"][reader].values()] + list(of["pooled"].values())
            expected += [number(leaf[key]) for leaf in leaves for key in ("sensitivity", "specificity", "ppv")]
        expected += [difference(told) for told in estimates(readers.get("differences"))]
        expected += [number(told) for key in ("partial_auroc",) for told in estimates(readers.get(key))]
        expected += [number(told) for told in estimates(part.get("mapping_sensitivity"))]
        for said in (page.text, markdown):
            assert [told for told in expected if told not in said] == [], name


def test_a_row_of_text_mined_labels_and_one_of_radiologists(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = written(tmp_path, report)
    row = report["reference_sets"]["nih_test"]["findings"]["Effusion"]
    counts = [str(row[key]) for key in ("n_pos", "n_neg", "n_pos_patients")]
    shares = [f"{100 * row[key]:.1f} %" for key in ("largest_patient_share", "prevalence")]
    mined = ["Effusion", *counts, *shares, number(row["auroc"]), number(row["auprc"]), ""]
    row = report["reference_sets"]["all_findings_test"]["findings"]["Effusion"]
    baseline = row["metadata_baseline"]
    told = [number(row["auroc"]), number(row["auprc"]), number(baseline["auroc"]), difference(baseline["difference"])]
    read = ["Effusion", str(row["n_pos"]), str(row["n_pos_patients"]), f"{100 * row['prevalence']:.1f} %", *told, ""]

    for name, cells in (("nih_test", mined), ("all_findings_test", read)):
        assert len(cells) == len(set_tables.findings(report["reference_sets"][name]).tables[0].columns)
    for cells in (mined, read):
        assert page.rows.count(cells) == 1
        assert markdown.count(f"| {' | '.join(cells)} |") == 1


def test_the_primary_comparisons_stand_apart_from_the_descriptive_ones(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, _ = written(tmp_path, report)
    for reader, of in report["reference_sets"]["all_findings_test"]["readers"]["differences"]["by_reader"].items():
        for finding, row in of.items():
            measured = [f"{row[key]:.3f}" for key in ("reader_sensitivity", "reader_specificity", "model_sensitivity")]
            p = [f"{row[key]:.4f}" for key in ("p", "p_holm")] if row["in_primary_family"] else []
            assert page.rows.count([finding.replace("_", " "), reader, str(row["n_pos"]), *measured, difference(row["difference"]), *p]) == 1


def test_uncertain_reads_are_counted_three_ways_side_by_side(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, _ = written(tmp_path, report)
    performance = report["reference_sets"]["four_findings_test"]["readers"]["performance"]
    for policy, words in reader_tables.POLICIES.items():
        leaf = performance[policy]["pooled"]["Nodule or mass"]
        measured = [number(leaf[key]) for key in ("sensitivity", "specificity", "ppv")]
        assert page.rows.count(["Nodule or mass", words, f"{leaf['n_reads']:,}", str(leaf["n_pos"]), *measured]) == 1


def test_the_prevalences_stand_side_by_side_train_val_first(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, _ = written(tmp_path, report)
    told = report["prevalences"]
    columns = [(name, kind) for name, of in told.items() for kind in ("text_mined", "reference") if of[kind]]
    assert columns[0] == ("train_val", "text_mined")
    for finding in ("Pneumothorax", "Fracture"):
        shares = [told[name][kind].get(finding) for name, kind in columns]
        assert [finding, *("–" if share is None else f"{100 * share:.1f} %" for share in shares)] in page.rows


def test_a_finding_without_a_number_gives_its_reason_and_no_zero(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = written(tmp_path, report)
    n_neg = str(report["reference_sets"]["nih_test"]["findings"]["Hernia"]["n_neg"])
    hernia = ["Hernia", "0", n_neg, "0", "–", "0.0 %", "undefined: no positive image", "–", "not in the mean"]

    assert page.rows.count(hernia) == 1
    assert markdown.count(f"| {' | '.join(hernia)} |") == 1
    fracture = report["reference_sets"]["four_findings_test"]["findings"]["Fracture"]
    counts = [str(fracture["n_pos"]), str(fracture["n_pos_patients"]), f"{100 * fracture['prevalence']:.1f} %"]
    assert ["Fracture", *counts, "undefined: not predicted by this model", "–", "–", "–", "not in the mean"] in page.rows


# --- words ------------------------------------------------------------------------------------------------------------------------------------------


def test_what_limits_a_number_is_said(tmp_path: Path, report: dict[str, Any]) -> None:
    sets = report["reference_sets"]
    sets["nih_test"] |= {"n_images": 1620, "n_missing_images": 23976, "macro": sets["nih_test"]["macro"] | {"available_only": True}}
    sets["all_findings_test"]["macro"] |= {"auroc": None, "reason": "missing images leave Hernia with fewer than 20 positive patients"}
    sets["nih_val"]["findings"]["Effusion"] |= {"largest_patient_share": 0.3871, "n_redrawn": 37}
    sets["four_findings_validation"] = {"n_images": 408, "n_missing_images": 1554, "findings": None, "reason": "trained on these patients"}
    page, _, markdown = written(tmp_path, report)
    for said in (page.text, markdown):
        assert "23,976 of the set's 25,596 images are missing" in said
        assert "missing images leave Hernia with fewer than 20 positive patients" in said
        assert re.search("mean over 13 of 14 findings,? only the findings that the present images allow", said)
        assert "one patient owns over 20%" in said
        assert "Draws without both classes, drawn anew: Effusion 37." in said
        assert "Not in the mean over findings: Fracture (not predicted by this model)." in said
        assert "DenseNet-121 on the official split scores 0.805–0.815" in said
        assert "The checkpoint was chosen on these films" in said
        assert "are not independent" in said
        assert reader_tables.JURORS in said
        assert reader_tables.MADE_THE_REFERENCE in said
        assert "Easy cases." in said
        assert "text-mined target" in said
    assert ["Four findings, validation", "408 of 1,962", "trained on these patients"] in page.rows


@pytest.mark.parametrize(
    ("n", "n_protocols", "words"),
    [(1, 1, "looked at once, under one evaluation protocol"), (5, 2, "looked at 5 times, under 2 different evaluation protocols. The protocol (mapping")],
)
def test_the_looks_are_counted_and_a_changed_protocol_is_said(tmp_path: Path, report: dict[str, Any], n: int, n_protocols: int, words: str) -> None:
    report["protocol"]["provenance"]["looks"] = {"n": n, "n_protocols": n_protocols}
    page, _, markdown = written(tmp_path, report)
    for said in (page.text, markdown):
        assert words in said
        assert ("was changed after a look" in said) == (n_protocols > 1)


def test_the_published_facts_are_claimed_of_the_real_data_alone(tmp_path: Path, report: dict[str, Any]) -> None:
    claims = (*render.SCOPE.values(), render.CONTEXT, set_tables.BASELINE_SCALE.strip())
    assert [claim for claim in claims if claim not in written(tmp_path, report)[0].text] == []
    report["protocol"]["data"] = "mini"
    page, _, markdown = written(tmp_path, report)
    for said in (page.text, markdown):
        assert pages.MINIATURE in said
        assert [claim for claim in claims if claim in said] == []


def test_what_matters_most_lies_open_and_the_primary_set_comes_first(tmp_path: Path, report: dict[str, Any]) -> None:
    _, html, _ = written(tmp_path, report)
    headings = re.findall(r"<h2>([^<]*?) *<", html)
    first = html[html.index("<h2>NIH test") : html.index("<h2>All findings, test")]

    assert report["protocol"]["evaluation"]["primary_endpoint"].endswith("nih_test")
    assert headings.index("NIH test") < headings.index("All findings, test") < headings.index("NIH val")
    assert first.index("<table") < first.index("<details")
    experts = html[html.index("<h2>All findings, test") : html.index("<h2>Four findings, test")]
    opened = re.sub(r"<details>.*?</details>", "", experts, flags=re.DOTALL)
    assert re.findall(r"<h3>(.*?)</h3>", opened) == ["The model among the readers", "Every finding", "Readers beside the model: 4 and 5"]
    assert "<details><summary>Label noise or case mix?</summary>" in experts


def test_the_audit_says_how_to_get_features_where_none_were_kept_and_how_many_differences_chance_would_make(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, markdown = written(tmp_path, report)
    groups = [of["auroc"] for row in report["reference_sets"]["nih_test"]["findings"].values() if row["auroc"] for kind in row["subgroup_differences"].values()
              for of in kind["groups"].values() if of["auroc"]]  # fmt: skip
    apart = sum(of["lo"] > 0 or of["hi"] < 0 for of in groups)
    for said in (page.text, markdown):
        assert "report.shortcuts=true" in said
        assert f"Intervals that leave 0 out: {apart} of {len(groups)} differences in AUROC" in said
    view = report["shortcuts"]["view"]
    row = next(row for row in page.rows if row[0] == "AP or PA")
    assert row[1:4] == [f"{view[key]:,}" for key in ("n_fitted", "n_images", "n_pos")]
    assert row[4:] == [number(view["labels"]["auroc"]), number(view["logits"]["auroc"]), "undefined: no features were kept"]


def test_the_gallery_is_linked_where_there_is_one(tmp_path: Path, report: dict[str, Any]) -> None:
    assert "gallery.html" not in "".join(written(tmp_path, report)[1:])
    page, _, markdown = written(tmp_path, report | {"gallery": {"n_films": 7, "n_shown": 9, "heat_maps": "gradcam"}})
    assert [attributes["href"] for _, attributes in page.tags if attributes.get("href") == "gallery.html"] == ["gallery.html"]
    assert "](gallery.html)" in markdown
    assert "7 films with heat maps" in page.text


def test_the_protocol_is_there_without_every_threshold_and_provenance_after_it(tmp_path: Path, report: dict[str, Any]) -> None:
    page, _, _ = written(tmp_path, report)
    stamp = {row[0]: row[1] for row in page.rows if len(row) == 2}

    assert stamp["labels.sha256"] == "ab" * 32
    assert (stamp["selection.findings"], stamp["selection.left_out"], stamp["commit"]) == ("Effusion, Mass", "none", "none")
    assert stamp["evaluation.sha256"] == report["protocol"]["evaluation"]["sha256"]
    assert stamp["evaluation.mapping.method"] == "max"
    assert stamp["evaluation.thresholds.four_findings_test.from four_findings_validation"] == "Airspace opacity, Nodule or mass"
    assert stamp["evaluation.settings.rule"] == "specificity"
    assert not [key for key in stamp if key.endswith("threshold") or "recalibration" in key]
    assert list(stamp).index("reported") > list(stamp).index("selection.left_out")
    assert "host" not in stamp  # pages are passed on


# --- safety -----------------------------------------------------------------------------------------------------------------------------------------


def test_hostile_strings_are_shown_and_do_nothing(tmp_path: Path, report: dict[str, Any]) -> None:
    harmless = written(tmp_path, report)
    hostile = copy.deepcopy(report)
    hostile["protocol"] |= {"loss": HOSTILE, HOSTILE: "value", "model": HOSTILE}
    hostile["attribution"].append(HOSTILE)
    for part in hostile["reference_sets"].values():
        part["macro"] |= {"auroc": None, "reason": HOSTILE, "left_out": {HOSTILE: HOSTILE}}
        for row in part["findings"].values():
            row |= {"auroc": None, "auprc": None, "reason": HOSTILE}
            if row.get("operating_points", {}).get("source"):
                row["operating_points"]["not_from"] = {HOSTILE: HOSTILE}
        for of in part.get("mapping_sensitivity", {}).values():
            of["probe"] |= {"warnings": [HOSTILE]}
        if "readers" in part:
            part["readers"]["partial_auroc"] = {HOSTILE: {"partial_auroc": None, "reason": HOSTILE}}
    page, html, markdown = written(tmp_path, hostile)

    assert "<script" not in html + markdown
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless[0].tags}
    assert " ".join(HOSTILE.split()) in page.text
    assert "](javascript" not in markdown
    n_columns = 0
    for line in markdown.splitlines():
        if line.startswith("|"):
            n_cells = len(re.findall(r"(?<!\\)\|", line)) - 1
            n_columns = n_columns or n_cells
            assert n_cells == n_columns
            assert not re.search(r"(?<!\\)`", line)
        else:
            n_columns = 0


def test_the_page_needs_nothing_from_outside(tmp_path: Path, report: dict[str, Any]) -> None:
    page, html, markdown = written(tmp_path, report)
    sources = [attributes["src"] or "" for _, attributes in page.tags if "src" in attributes]

    assert len(sources) == len(PICTURES)
    assert all(base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG for source in sources)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert {tag for tag, attributes in page.tags if "href" in attributes} == {"a"}
    assert not re.search(r"url\(|@import", html)
    links = re.findall(r"!\[\w+\]\((.*?)\)", markdown)
    assert len(links) == len(PICTURES)
    assert [link for link in links if not (tmp_path / link).is_file()] == []


def test_a_set_with_no_present_image_renders(tmp_path: Path, report: dict[str, Any]) -> None:
    empty = report["reference_sets"]["nih_test"]
    empty |= {"n_images": 0, "n_patients": 0, "n_missing_images": 25596, "views": {}, "sexes": {}, "ages": {"min": None, "median": None, "max": None}}
    empty["macro"] |= {"auroc": None, "reason": "missing images"}
    for finding, row in empty["findings"].items():
        counts = {"n_pos": 0, "n_neg": 0, "n_unknown": 0, "n_pos_patients": 0, "largest_patient_share": None, "prevalence": None}
        empty["findings"][finding] = counts | {"auroc": None, "auprc": None, "reason": row.get("reason", "no positive image")}
    page, _, markdown = written(tmp_path, report)

    for said in (page.text, markdown, render.summary(report)):
        assert "25,596" in said
    assert ["Effusion", "0", "0", "0", "–", "–", "undefined: no positive image", "–", ""] in page.rows


def test_a_block_without_tables_and_without_its_picture_is_left_out(tmp_path: Path, report: dict[str, Any]) -> None:
    _, html, markdown = written(tmp_path, report)

    assert html.count("<summary>ROC curves</summary>") == markdown.count("### ROC curves") == 1
    assert list(pages.with_something([("title", [pages.Block("", ("words",), picture="nowhere")])], {})) == []


# --- console and attribution ------------------------------------------------------------------------------------------------------------------------


def test_the_summary_leads_with_every_set_and_lists_the_findings_of_the_experts(report: dict[str, Any]) -> None:
    sets = report["reference_sets"]
    sets["nih_test"] |= {"n_images": 1620, "n_missing_images": 23976}
    sets["nih_test"]["macro"] |= {"auroc": None, "reason": "missing images"}
    sets["four_findings_validation"] = {"findings": None, "reason": "no expert labels were given"}
    lines = [" ".join(line.split()) for line in render.summary(report).splitlines()]

    assert lines[1] == f"nih_val 300 0 {number(sets['nih_val']['macro']['auroc'])} over {len(sets['nih_val']['macro']['findings'])} findings"
    assert lines[2] == "nih_test 1,620 23,976 undefined: missing images"
    assert lines[3] == "four_findings_validation – – undefined: no expert labels were given"
    assert lines[7].startswith("all_findings_test")
    row = sets["all_findings_test"]["findings"]["Abnormal"]
    assert lines[8] == f"Abnormal {row['n_pos']} {number(row['auroc'])}"
    assert lines[23] == f"Other {sets['all_findings_test']['findings']['Other']['n_pos']} undefined: not predicted by this model"
    tested = [row for of in sets["all_findings_test"]["readers"]["differences"]["by_reader"].values() for row in of.values() if row["in_primary_family"]]
    assert f"differ in {sum(row['p_holm'] < 0.05 for row in tested)} of {len(tested)} primary comparisons" in lines[-1]


def test_the_attribution_names_whom_the_data_requires() -> None:
    nih, everything = " ".join(render.attribution("cxr14", False)), " ".join(render.attribution("cxr14", True))

    assert all(name in nih for name in ("https://nihcc.app.box.com/v/ChestXray-NIHCC", "NIH Clinical Center", "ChestX-ray8", "Summers"))
    assert "Majkowska" not in nih
    assert all(name in everything for name in ("research and educational purposes only", "Majkowska", "Radiology, 2019", "Nabulsi", "Scientific Reports, 2021"))


def test_a_table_in_a_notebook_says_what_the_page_says(report: dict[str, Any]) -> None:
    table = set_tables.findings(report["reference_sets"]["nih_test"]).tables[0]
    assert [[name, *cells] for name, cells in zip(table.frame.index, table.frame.to_numpy().tolist(), strict=True)] == table.words
    assert [table.frame.index.name, *table.frame.columns] == table.columns
    assert table.frame.loc["Effusion", "AUROC"] == number(report["reference_sets"]["nih_test"]["findings"]["Effusion"]["auroc"])
