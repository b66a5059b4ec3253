"""The report for people: one self-contained page, the same as markdown, and a table for the console. Rewords report.json, computes nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr.cohort import catalogue, experts
from cxr.report import reader_tables, set_tables
from cxr.report.figures import leading_set, with_numbers
from cxr.report.pages import Block, Table, as_table, flat, html_page, in_markdown, picture_link, plain
from cxr.report.wording import NOTHING, interval, percent, spell, spell_set

# after the set of the primary endpoint: radiologists before text mining, test before validation
READING_ORDER = ("all_findings_test", "four_findings_test", "nih_test", "four_findings_validation", "nih_val")
INSIDE_TEST = "Its films lie inside the official test list, so this result and that of NIH test are not independent."
KIND = {
    "nih_val": "validation films, text-mined labels",
    "nih_test": "official test list, text-mined labels",
    "all_findings_test": "radiologists' labels, 14 findings",
    "four_findings_validation": "radiologists' labels, four findings",
    "four_findings_test": "radiologists' labels, four findings",
}
ABOUT = {
    "nih_val": "Labels were text-mined from radiologists' reports. The checkpoint was chosen on these films, so the result is optimistic.",
    "nih_test": "Labels were text-mined from radiologists' reports and are often wrong: this is agreement with the text mining.",
    "all_findings_test": f"Labels are the majority of three radiologists who read the films; two more read them and had no part in the labels. {INSIDE_TEST}",
    "four_findings_validation": "Labels are the consensus of three radiologists who read the films. They lie inside the official training list; "
    "their patients took no part in training.",
    "four_findings_test": f"Labels are the consensus of three radiologists who read the films. {INSIDE_TEST}",
}
# what is true of the real files, complete
SCOPE = {
    "nih_test": "The published list holds more disease and more AP films than the training list: text-mined airspace opacity on 38.5 % of films against 26.0 "
    "%, pneumothorax on 10.4 % against 3.0 %, AP views 57 % against 35 %.",
    "all_findings_test": "As published (Nabulsi et al. 2021): 810 films of 532 patients, all of them PA, of adults. It says nothing of bedside films nor of "
    "children. The two held-out readers differ hugely: they find 82 % and 39 % of the effusions.",
    "four_findings_validation": "As published (Majkowska et al. 2019) it is the odd one of the sets: 88 % of its films are AP, 1.8 % show a pneumothorax, and "
    "one patient owns 44 of the 114 films with a fracture. Thresholds and probes that are fitted here transfer badly.",
    "four_findings_test": "As published (Majkowska et al. 2019) it is representative of the official test list (text-mined airspace opacity 38.1 % against "
    "38.5 %, AP 57 % against 57 %), and that list differs from the training list: 26.0 % opacity, pneumothorax 3.0 % against 10.4 %, AP 35 %.",
}
CONTEXT = (
    "For comparison: DenseNet-121 on the official split scores 0.805–0.815 macro AUROC on NIH test; 0.84 in print means a random split. "
    "A number over fewer images or other findings is not comparable with these."
)
MEANING = (
    "AUROC is how often the model scores a film with the finding above a film without it: 1 is always, 0.5 is chance. "
    "AUPRC is the mean precision over the positive films; a useless model scores the prevalence. "
    "The bracket is a 95 % interval: how far the number may be off because other patients could have been in the set. "
    "With fewer than ten positive patients it is as wide as so few could make it at worst. It does not speak of other hospitals, nor of training once more."
)
LOOKED = "The test predictions have been looked at {times}, under {protocols}."
CHANGED = (
    " The protocol (mapping, thresholds, settings) was changed after a look, so the numbers below may have been chosen by the test films they are measured on."
)
UNCHANGED = " Mapping, thresholds and comparisons were fixed before the first look."
PREVALENCES = (
    "Share of films with each finding, of the films that are evaluated (NIH train and val: of all). By text mining everywhere, by the radiologists where "
    "they labelled. Thresholds, PPV and calibration carry over between sets only as far as these columns resemble each other."
)
LEVEL = 0.05  # of the primary comparisons, on the console
MINIATURE = "This run used the miniature, whose films are drawn by a program. The numbers show that everything works and say nothing about chest X-rays."


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
    (folder / "report.html").write_text(html_page("page.html", told, pictures), encoding="utf-8")
    links = {title: path.relative_to(folder).as_posix() for title, path in pictures.items()}
    (folder / "report.md").write_text("\n".join(_markdown(told, links)) + "\n", encoding="utf-8")


def _in_words(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything both pages say, as strings and blocks of strings; nothing is escaped yet."""
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
        "looks": _looks(provenance["looks"]),
        "prevalences": _prevalences(report["prevalences"]),
        "sets": sorted((_set_in_words(name, part, report) for name, part in with_numbers(report).items()), key=lambda told: int(told["rank"])),
        "unreported": [(spell_set(name), _coverage(part), part.get("reason", "no finding")) for name, part in sets.items() if not part["findings"]],
        "protocol": list(flat(_without_numbers(protocol))),
        "provenance": list(flat(provenance)),
        "attribution": report["attribution"],
    }


def _looks(looks: Mapping[str, int]) -> dict[str, Any]:
    times = {1: "once", 2: "twice"}.get(looks["n"], f"{looks['n']:,} times")
    protocols = "one evaluation protocol" if looks["n_protocols"] == 1 else f"{looks['n_protocols']:,} different evaluation protocols"
    changed = looks["n_protocols"] > 1
    return {"words": LOOKED.format(times=times, protocols=protocols) + (CHANGED if changed else UNCHANGED), "changed": changed}


def _prevalences(told: Mapping[str, Any]) -> Block:
    columns = [(name, kind) for name, of in told.items() for kind in ("text_mined", "reference") if of[kind]]
    findings = list(dict.fromkeys(finding for name, kind in columns for finding in told[name][kind]))
    rows = [[spell(finding), *(percent(told[name][kind].get(finding)) for name, kind in columns)] for finding in findings]
    words = {"text_mined": "text mining", "reference": "radiologists"}
    header = ["Finding", *(f"{spell_set(name)}: {words[kind]}" for name, kind in columns)]
    return Block("How common each finding is", (PREVALENCES,), [Table(header, rows, counts=range(1, len(header)))])


def _without_numbers(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol with the source of every threshold instead of the threshold, and no coefficient: those are in report.json."""
    evaluation = dict(protocol["evaluation"])
    mapping = dict(evaluation["mapping"])
    mapping["probes"] = mapping["probes"] and {
        finding: probe if isinstance(probe, str) else f"C = {probe['C']:g}; {'; '.join(probe['warnings']) or 'no warning'}"
        for finding, probe in mapping["probes"].items()
    }
    thresholds: dict[str, dict[str, list[str]]] = {}
    for name, of in evaluation.pop("operating_points").items():
        for finding, chosen in of.items():
            thresholds.setdefault(name, {}).setdefault(f"from {chosen['source'] or 'nowhere'}", []).append(finding)
    del evaluation["recalibration"]  # from the same films as the thresholds
    return dict(protocol) | {"evaluation": evaluation | {"mapping": mapping, "thresholds": thresholds}}


def _set_in_words(name: str, part: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    macro, findings, protocol = part["macro"], part["findings"], report["protocol"]
    used, n_listed = macro["findings"], part["n_images"] + part["n_missing_images"]
    counted = {"Views": part["views"], "Sexes": part["sexes"]}
    who = [f"{what}: {', '.join(f'{count:,} {value}' for value, count in of.items())}." for what, of in counted.items() if of]
    if part["ages"]["median"] is not None:
        who.append("Age in years: median {median:.0f}, {min:.0f} to {max:.0f}.".format(**part["ages"]))
    is_real, is_primary = protocol.get("data") == "cxr14", name in protocol["evaluation"]["primary_endpoint"].split()
    return {
        "name": name,
        "title": spell_set(name),
        "kind": KIND.get(name, ""),
        "about": " ".join(filter(None, [ABOUT.get(name, ""), SCOPE.get(name, "") if is_real else ""])),
        "is_primary": is_primary,
        "rank": -1 if is_primary else READING_ORDER.index(name) if name in READING_ORDER else len(READING_ORDER),
        "macro": f"{macro['auroc']['value']:.3f}" if macro["auroc"] else None,
        "interval": interval(macro["auroc"]) if macro["auroc"] else None,
        "reason": macro.get("reason"),
        "mean_of": f"mean over {len(used)} of {len(findings)} findings" if macro["auroc"] else None,
        "only": "only the findings that the present images allow" if macro.get("available_only") else None,
        "used": ", ".join(map(spell, used)),
        "n_images": f"{part['n_images']:,} images of {part['n_patients']:,} patients",
        "missing": f"{part['n_missing_images']:,} of the set's {n_listed:,} images are missing" if part["n_missing_images"] else None,
        "who": " ".join(who),
        "blocks": list(_blocks(name, part, report, is_real)),
    }


def _blocks(name: str, part: Mapping[str, Any], report: Mapping[str, Any], is_real: bool) -> Iterator[Block]:
    """A set, in the order in which it is read: what matters most lies open."""
    if not part["adjudicated"]:
        yield set_tables.findings(part)
        yield Block("ROC curves", picture=f"{name}_roc", alt=f"ROC curve of every finding on {name}", folded=True)
    else:
        alt = f"The model's ROC curve, the readers and the text-mined labels on {name}, a panel per finding"
        yield Block("The model among the readers", reader_tables.PICTURE, picture=f"{name}_readers", alt=alt)
        yield set_tables.findings(part, set_tables.BASELINE_SCALE if is_real and name == "four_findings_test" else "")
        yield from reader_tables.beside_the_model(name, part)
        usual = "nih_val" if name == "four_findings_validation" else "nih_test"
        yield from reader_tables.labels(name, part, report["reference_sets"].get(usual, {}).get("findings") or {}, usual)
    yield Block("Precision-recall curves", picture=f"{name}_precision_recall", alt=f"Precision-recall curve of every finding on {name}", folded=True)
    yield from set_tables.operating_points(part)
    yield from set_tables.subgroups(part)
    yield from set_tables.calibration(name, part)
    yield from reader_tables.mapping(part)


def _coverage(part: Mapping[str, Any]) -> str:
    return f"{part['n_images']:,} of {part['n_images'] + part['n_missing_images']:,}" if "n_images" in part else NOTHING


# --- markdown ---------------------------------------------------------------------------------------------------------------------------------------


def _markdown(told: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {plain(told['title'])}", "", plain(" · ".join(told["facts"])), "")
    if told["warning"]:
        yield from (f"**{plain(told['warning'])}**", "")
    headline = []
    for part in told["sets"]:
        number = ", ".join(filter(None, [f"{part['macro']} {part['interval']}", part["mean_of"], part["only"]]))
        name = part["title"] + " (primary endpoint)" * part["is_primary"]
        headline.append([name, part["kind"], number if part["macro"] else f"undefined: {part['reason']}", part["n_images"], part["missing"] or "complete"])
    yield from as_table(("Reference set", "What it is", "Macro AUROC [95 % interval]", "Present", "Coverage"), headline)
    yield from (line for words in (told["context"], told["looks"]["words"], told["meaning"]) if words for line in (words, ""))
    yield from (*picture_link("auroc", links), *in_markdown(told["prevalences"], links))
    for part in told["sets"]:
        mean = f"The mean is over {part['used']}." if part["macro"] else ""
        yield from (f"## {plain(part['title'])}", "", plain(f"{part['about']} {part['n_images']}. {part['missing'] or ''} {part['who']} {mean}"), "")
        for block in part["blocks"]:
            if block.tables or block.picture in links:
                yield from in_markdown(block, links)
    if told["unreported"]:
        yield from ("## Sets without numbers", "", *as_table(("Reference set", "Images present", "Why"), told["unreported"]))
    if "training" in links:
        yield from ("## Training", "", *picture_link("training", links))
    yield from ("## Protocol", "", *as_table(("Key", "Value"), told["protocol"]), "## Provenance", "", *as_table(("Key", "Value"), told["provenance"]))
    yield from ("## Attribution", "", *(f"- {plain(line)}" for line in told["attribution"]))


# --- console ----------------------------------------------------------------------------------------------------------------------------------------


def summary(report: Mapping[str, Any]) -> str:
    """The headline of the report in a few aligned lines."""
    lines = [("reference set", "images", "missing", "macro AUROC [95 % interval]")]
    for name, part in report["reference_sets"].items():
        macro = part.get("macro") or part
        told = f"undefined: {macro.get('reason', 'no finding')}"
        if macro.get("auroc"):
            only = ", only those that the present images allow" if macro.get("available_only") else ""
            told = f"{macro['auroc']['value']:.3f} {interval(macro['auroc'])}  over {len(macro['findings'])} finding{'s' * (len(macro['findings']) > 1)}{only}"
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
            told = f"{row['auroc']['value']:.3f} {interval(row['auroc'])}" if row["auroc"] else f"undefined: {row.get('reason', 'no reason was recorded')}"
            told_lines.append(f"{finding:<{width}}  {row['n_pos']:>8,}  {told}")
    compared = sets.get("all_findings_test", {}).get("readers", {}).get("differences")
    if compared:
        tested = [row for of in compared["by_reader"].values() for row in of.values() if row["in_primary_family"]]
        n_apart = sum(row["p_holm"] < LEVEL for row in tested)
        told_lines += ["", f"model and held-out readers differ in {n_apart} of {len(tested)} primary comparisons (Holm, {LEVEL:.0%})"]
    return "\n".join(told_lines)
