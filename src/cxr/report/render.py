"""The report for people: one self-contained page, the same as markdown, and a table for the console. Rewords report.json, computes nothing."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr.cohort import catalogue, experts
from cxr.report.figures import leading_set, percent, spell, with_numbers

# one patient who owns more of a finding's positive films than this decides its number
LARGE_SHARE = 0.2

INSIDE_TEST = "Its films lie inside the official test list, so this result and that of nih_test are not independent."
KIND = {
    "nih_val": "validation films, text-mined labels",
    "nih_test": "official test list, text-mined labels",
    "all_findings_test": "radiologists' labels, 14 findings",
    "four_findings_validation": "radiologists' labels, four findings",
    "four_findings_test": "radiologists' labels, four findings",
}
ABOUT = {
    "nih_val": "Labels were text-mined from radiologists' reports. The checkpoint was chosen on these films, so the result is optimistic.",
    "nih_test": "Labels were text-mined from radiologists' reports and are often wrong: this is agreement with the text mining. The published list holds more "
    "disease and more AP films than the training list (pneumothorax on 10.4 % of films against 3.0 %, AP 57 % against 35 %).",
    "all_findings_test": f"Labels are the majority of three radiologists who read the films (Nabulsi et al. 2021); "
    f"as published, PA films of adults only. {INSIDE_TEST}",
    "four_findings_validation": "Labels are the consensus of three radiologists who read the films (Majkowska et al. 2019).",
    "four_findings_test": f"Labels are the consensus of three radiologists who read the films (Majkowska et al. 2019). {INSIDE_TEST}",
}
CONTEXT = (
    "For comparison: DenseNet-121 on the official split scores 0.805–0.815 macro AUROC on nih_test; 0.84 in print means a random split. "
    "A number over fewer images or other findings is not comparable with these."
)
MEANING = (
    "AUROC is how often the model scores a film with the finding above a film without it: 1 is always, 0.5 is chance. "
    "AUPRC is the mean precision over the positive films; a useless model scores the prevalence. "
    "The bracket is a 95 % interval: how far the number may be off because other patients could have been in the set. "
    "With fewer than ten positive patients it is as wide as so few could make it at worst. It does not speak of other hospitals, nor of training once more."
)
MINIATURE = "This run used the miniature, whose films are drawn by a program. The numbers show that everything works and say nothing about chest X-rays."
COLUMNS = ("Finding", "Positive films", "Negative films", "Positive patients", "Largest patient share", "Prevalence", "AUROC", "AUPRC", "Note")


def attribution(data_name: str, has_experts: bool) -> list[str]:
    """What whoever shows these numbers has to say with them.

    Args:
        data_name: cxr14 or mini.
        has_experts: the radiologists' labels were used too.
    """
    if data_name == "mini":
        return ["The miniature's films, patients, readers and labels are made up by a program: nobody is to be credited."]
    nih = [
        f"Images: NIH ChestX-ray14, {catalogue.SOURCE}. The NIH Clinical Center is the data provider.",
        "Xiaosong Wang, Yifan Peng, Le Lu, Zhiyong Lu, Mohammadhadi Bagheri, Ronald Summers. ChestX-ray8: Hospital-scale Chest X-ray Database and "
        "Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases. IEEE CVPR, pp. 3462-3471, 2017.",
    ]
    labels = [
        f"Radiologists' labels: for research and educational purposes only, {experts.SOURCE}.",
        "Four findings: Anna Majkowska, Sid Mittal, David F. Steiner, Joshua J. Reicher, Scott Mayer McKinney, Gavin E. Duggan, Krish Eswaran, PoHsuan "
        "Cameron Chen, Yun Liu, Sreenivasa Raju Kalidindi, Alexander Ding, Greg S. Corrado, Daniel Tse, Shravya Shetty. Chest Radiograph Interpretation"
        " Using Deep Learning Models: Assessment Using Radiologist Adjudicated Reference Standards and Population-Adjusted Evaluation. Radiology, 2019.",
        "All findings: Zaid Nabulsi, Andrew Sellergren, Shahar Jamshy, Charles Lau, Eddie Santos, Atilla P. Kiraly, Wenxing Ye, Jie Yang, Sahar "
        "Kazemzadeh, Jin Yu, Raju Kalidindi, Mozziyar Etemadi, Florencia Garcia Vicente, David Melnick, Greg S. Corrado, Lily Peng, Krish Eswaran, "
        "Daniel Tse, Neeral Beladia, Yun Liu, Po-Hsuan Cameron Chen, Shravya Shetty. Deep Learning for Distinguishing Normal versus Abnormal Chest "
        "Radiographs and Generalization to Two Unseen Diseases Tuberculosis and COVID-19. Nature Scientific Reports, 2021.",
    ]
    return nih + labels if has_experts else nih


# --- pages ------------------------------------------------------------------------------------------------------------------------------------------


def write_pages(folder: Path, report: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """report.html, which needs no other file, and report.md, which links to the figures.

    Args:
        folder: where they go.
        report: the content of report.json.
        pictures: title -> PNG somewhere below `folder`.
    """
    told = _in_words(report)
    environment = Environment(loader=PackageLoader("cxr.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    embedded = {title: base64.b64encode(path.read_bytes()).decode() for title, path in pictures.items()}
    (folder / "report.html").write_text(environment.get_template("page.html").render(told, pictures=embedded), encoding="utf-8")
    links = {title: path.relative_to(folder).as_posix() for title, path in pictures.items()}
    (folder / "report.md").write_text("\n".join(_markdown(told, links)) + "\n", encoding="utf-8")


def _in_words(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything both pages say, as strings and lists of strings; nothing is escaped yet."""
    protocol = dict(report["protocol"])
    provenance = protocol.pop("provenance", {})
    sets = report["reference_sets"]
    labels = protocol.get("labels", {})
    return {
        "title": f"{protocol.get('model', 'model')} on chest X-rays",
        "facts": [
            f"experiment {protocol.get('experiment', '?')}",
            f"{protocol.get('image_size', '?')} pixels",
            f"labels {labels.get('release', '?')}",
            f"split {protocol.get('splits', '?')}",
            f"seed {protocol.get('seed', '?')}",
            f"commit {str(protocol.get('commit') or 'unknown')[:12]}",
            f"reported {str(provenance.get('reported', '?'))[:10]}",
        ],
        "warning": MINIATURE if protocol.get("data") == "mini" else None,
        "context": "" if protocol.get("data") == "mini" else CONTEXT,
        "meaning": MEANING,
        "columns": COLUMNS,
        "sets": [_set_in_words(name, part, str(protocol.get("primary_endpoint", ""))) for name, part in with_numbers(report).items()],
        "unreported": [(name, _coverage(part), part.get("reason", "no finding")) for name, part in sets.items() if not part["findings"]],
        "protocol": list(_flat(protocol)),
        "provenance": list(_flat(provenance)),
        "attribution": report["attribution"],
    }


def _set_in_words(name: str, part: Mapping[str, Any], primary_endpoint: str) -> dict[str, Any]:
    macro, findings = part["macro"], part["findings"]
    used, n_listed = macro["findings"], part["n_images"] + part["n_missing_images"]
    views = ", ".join(f"{count:,} {view}" for view, count in part["views"].items())
    ages = "" if part["ages"]["median"] is None else "Age in years: median {median:.0f}, {min:.0f} to {max:.0f}.".format(**part["ages"])
    notes = [
        ("Not adjudicated, and left out of that finding", {f: f"{row['n_unknown']:,}" for f, row in findings.items() if row.get("n_unknown")}),
        ("Draws without both classes, drawn anew", {f: f"{row['n_redrawn']:,}" for f, row in findings.items() if row.get("n_redrawn")}),
    ]
    return {
        "name": name,
        "kind": KIND.get(name, ""),
        "about": ABOUT.get(name, ""),
        "is_primary": name in primary_endpoint.split(),
        "macro": f"{macro['auroc']['value']:.3f}" if macro["auroc"] else None,
        "interval": _interval(macro["auroc"]) if macro["auroc"] else None,
        "reason": macro.get("reason"),
        "mean_of": f"mean over {len(used)} of {len(findings)} findings" if macro["auroc"] else None,
        "only": "only the findings that the present images allow" if macro.get("available_only") else None,
        "used": ", ".join(map(spell, used)),
        "n_images": f"{part['n_images']:,} images of {part['n_patients']:,} patients",
        "missing": f"{part['n_missing_images']:,} of the set's {n_listed:,} images are missing" if part["n_missing_images"] else None,
        "who": " ".join(filter(None, [f"Views: {views}." if views else "", ages])),
        "rows": [_row(finding, row, macro) for finding, row in findings.items()],
        "notes": [f"{what}: {', '.join(f'{spell(finding)} {count}' for finding, count in counts.items())}." for what, counts in notes if counts],
    }


def _row(finding: str, row: Mapping[str, Any], macro: Mapping[str, Any]) -> dict[str, Any]:
    share = row["largest_patient_share"]
    dominated = bool(share and share > LARGE_SHARE)
    why = macro["left_out"].get(finding)
    notes = [
        f"one patient owns over {LARGE_SHARE:.0%} of the positive films" if dominated else "",
        f"not in the mean: {why}" if why else "",
    ]
    shares = ["–" if value is None else percent(value) for value in (share, row["prevalence"])]
    return {
        "cells": [spell(finding), f"{row['n_pos']:,}", f"{row['n_neg']:,}", f"{row['n_pos_patients']:,}", *shares],
        "estimates": [f"{row[metric]['value']:.3f} {_interval(row[metric])}" if row[metric] else None for metric in ("auroc", "auprc")],
        "undefined": f"undefined: {row.get('reason', 'no reason was recorded')}",
        "dominated": dominated,
        "note": "; ".join(filter(None, notes)),
    }


def _interval(estimate: Mapping[str, float]) -> str:
    return f"[{estimate['lo']:.3f}, {estimate['hi']:.3f}]"


def _coverage(part: Mapping[str, Any]) -> str:
    return f"{part['n_images']:,} of {part['n_images'] + part['n_missing_images']:,}" if "n_images" in part else "–"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted key, words).

    >>> list(_flat({"labels": {"release": "v2020"}, "findings": ["Mass", "Edema"], "commit": None}))
    [('labels.release', 'v2020'), ('findings', 'Mass, Edema'), ('commit', 'none')]
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        yield key, ", ".join(map(str, value)) or "none"
    elif key:
        yield key, "none" if value is None or value == {} else str(value)


# --- markdown ---------------------------------------------------------------------------------------------------------------------------------------


def _markdown(told: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[str]:
    def picture(title: str) -> list[str]:
        return [f"![{title}]({links[title]})", ""] if title in links else []

    yield from (f"# {_plain(told['title'])}", "", _plain(" · ".join(told["facts"])), "")
    if told["warning"]:
        yield from (f"**{_plain(told['warning'])}**", "")
    headline = []
    for part in told["sets"]:
        number = ", ".join(filter(None, [f"{part['macro']} {part['interval']}", part["mean_of"], part["only"]]))
        name = part["name"] + " (primary endpoint)" * part["is_primary"]
        headline.append([name, part["kind"], number if part["macro"] else f"undefined: {part['reason']}", part["n_images"], part["missing"] or "complete"])
    yield from _table(("Reference set", "What it is", "Macro AUROC [95 % interval]", "Present", "Coverage"), headline)
    yield from (told["context"], "", told["meaning"], "", *picture("auroc"))
    for part in told["sets"]:
        mean = f"The mean is over {part['used']}." if part["macro"] else ""
        yield from (f"## {_plain(part['name'])}", "", _plain(f"{part['about']} {part['n_images']}. {part['who']} {mean}"), "")
        yield from _table(COLUMNS, [[*row["cells"], *(estimate or row["undefined"] for estimate in row["estimates"]), row["note"]] for row in part["rows"]])
        yield from (line for note in part["notes"] for line in (_plain(note), ""))
        yield from (*picture(f"{part['name']}_roc"), *picture(f"{part['name']}_precision_recall"))
    if told["unreported"]:
        yield from ("## Sets without numbers", "", *_table(("Reference set", "Images present", "Why"), told["unreported"]))
    if "training" in links:
        yield from ("## Training", "", *picture("training"))
    yield from ("## Protocol", "", *_table(("Key", "Value"), told["protocol"]), "## Provenance", "", *_table(("Key", "Value"), told["provenance"]))
    yield from ("## Attribution", "", *(f"- {_plain(line)}" for line in told["attribution"]))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(map(_plain, cells))} |"
    yield ""


def _plain(text: str) -> str:
    """Text that markdown shows as it is: no cell, line, code, link or tag can begin in it.

    >>> _plain("a|b `c` <d>")
    'a\\\\|b \\\\`c\\\\` &lt;d&gt;'
    """
    one_line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\|`*]|(?<=\])\(", r"\\\g<0>", one_line)


# --- console ----------------------------------------------------------------------------------------------------------------------------------------


def summary(report: Mapping[str, Any]) -> str:
    """The headline of the report in a few aligned lines."""
    lines = [("reference set", "images", "missing", "macro AUROC [95 % interval]")]
    for name, part in report["reference_sets"].items():
        macro = part.get("macro") or part
        told = f"undefined: {macro.get('reason', 'no finding')}"
        if macro.get("auroc"):
            only = ", only those that the present images allow" if macro.get("available_only") else ""
            told = f"{macro['auroc']['value']:.3f} {_interval(macro['auroc'])}  over {len(macro['findings'])} finding{'s' * (len(macro['findings']) > 1)}{only}"
        lines.append((name, *(f"{part[key]:,}" if key in part else "–" for key in ("n_images", "n_missing_images")), told))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    told_lines = [f"{name:<{widths[0]}}  {images:>{widths[1]}}  {missing:>{widths[2]}}  {told}" for name, images, missing, told in lines]

    sets = with_numbers(report)
    if sets:
        leading = leading_set(sets)
        findings = sets[leading]["findings"]
        width = max(len(leading), *map(len, findings))
        told_lines += ["", f"{leading:<{width}}  positive  AUROC [95 % interval]"]
        for finding, row in findings.items():
            told = f"{row['auroc']['value']:.3f} {_interval(row['auroc'])}" if row["auroc"] else f"undefined: {row.get('reason', 'no reason was recorded')}"
            told_lines.append(f"{finding:<{width}}  {row['n_pos']:>8,}  {told}")
    return "\n".join(told_lines)
