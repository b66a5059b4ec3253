"""The report for people: one self-contained page, the same as markdown, and a table for the console. Rewords report.json, computes nothing."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr.cohort import catalogue, experts
from cxr.report import gallery, other_sets, reader_tables, set_tables, shortcut_page
from cxr.report.figures import leading_set, with_numbers
from cxr.report.pages import Block, Card, Page, Row, Table, write
from cxr.report.set_tables import auroc
from cxr.report.wording import NOTHING, interval, number, percent, spell, value_of

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
KIND |= other_sets.KIND
ABOUT |= other_sets.ABOUT
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
SEEN = (
    "These weights have seen NIH test films: training began with {what}, which was trained on {films} ({source}). Results on NIH test and on the radiologists' "
    "sets inside it are no test on unseen films."
)
UNCHANGED = " Mapping, thresholds and comparisons were fixed before the first look."
PREVALENCES = (
    "Share of films with each finding, of the films that are evaluated (NIH train and val: of all). By text mining everywhere, by the radiologists where "
    "they labelled. Thresholds, PPV and calibration carry over between sets only as far as these columns resemble each other."
)
GALLERY = "The most confident errors by the radiologists' labels, {n_films} films with heat maps and votes (on the machine that made this page alone)"
LEVEL = 0.05  # of the primary comparisons, on the console


def attribution(data_name: str, has_experts: bool, others: Iterable[str] = ()) -> list[str]:
    """What whoever shows these numbers has to say with them.

    Args:
        data_name: cxr14 or mini.
        has_experts: the radiologists' labels of its films were used.
        others: further data sets that were used.
    """
    further = [line for name in dict.fromkeys(others) for line in other_sets.ATTRIBUTION[name]]
    if data_name == "mini":
        return ["The miniature's films, patients, readers and labels are made up by a program: nobody is to be credited.", *further]
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
    return [*nih, *(labels if has_experts else []), *further]


# --- page -------------------------------------------------------------------------------------------------------------------------------------------


def write_pages(folder: Path, report: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """report.html, which needs no other file, and report.md, which links to the figures: title -> PNG somewhere below `folder`."""
    protocol, sets = report["protocol"], with_numbers(report)
    names = sorted(sets, key=lambda name: (not _is_primary(name, report), *(name != other for other in READING_ORDER)))
    alt = "AUROC of every finding with its 95 % interval, a panel per reference set"
    unreported = [
        {"Reference set": spell(name), "Images present": _coverage(part), "Why": part.get("reason", "no finding")}
        for name, part in report["reference_sets"].items()
        if not part["findings"]
    ]
    page = Page(
        title=f"{protocol.get('model', 'model')} on chest X-rays",
        facts=[
            *(f"experiment {protocol.get('experiment', '?')}", f"{protocol.get('image_size', '?')} pixels"),
            *(f"labels {protocol.get('labels', {}).get('release', '?')}", f"split {protocol.get('splits', '?')}", f"seed {protocol.get('seed', '?')}"),
        ],
        measure="Macro AUROC",
        cards=[_card(name, report) for name in names],
        sections=[
            ("", [_introduction(protocol)]),
            ("AUROC of every finding", [Block(picture="auroc", alt=alt)]),
            ("How common each finding is", [Block("", (PREVALENCES,), [_prevalences(report["prevalences"])])]),
            *((spell(name), list(_blocks(name, report))) for name in names),
            ("Shortcuts", list(shortcut_page.blocks(report, names))),
            ("Sets without numbers", [Block(tables=[Table(unreported)])]),
            ("Training", [Block(picture="training", alt="Losses and validation AUROC over the epochs")]),
        ],
        protocol=_without_numbers(protocol),
        attribution=report["attribution"],
        links=[(GALLERY.format(**report["gallery"]), gallery.FILE)] if report.get("gallery") else [],
    )
    write(folder, "report", page, pictures)


def _is_primary(name: str, report: Mapping[str, Any]) -> bool:
    return name in report["protocol"]["evaluation"]["primary_endpoint"].split()


def _coverage(part: Mapping[str, Any]) -> str:
    return f"{part['n_images']:,} of {part['n_images'] + part['n_missing_images']:,}" if "n_images" in part else NOTHING


def _introduction(protocol: Mapping[str, Any]) -> Block:
    n, n_protocols = (protocol["provenance"]["looks"][key] for key in ("n", "n_protocols"))
    times = {1: "once", 2: "twice"}.get(n, f"{n:,} times")
    looked = LOOKED.format(times=times, protocols="one evaluation protocol" if n_protocols == 1 else f"{n_protocols:,} different evaluation protocols")
    external, seen = protocol.get("external"), (protocol.get("pretraining") or {}).get("saw_nih_test")
    context = other_sets.CARRIED_OVER.format(**external) if external else "" if protocol.get("data") == "mini" else CONTEXT
    warnings = [SEEN.format(**seen)] if seen else []
    if n_protocols > 1:
        return Block("", [*filter(None, [context]), MEANING], warning=" ".join([*warnings, looked + CHANGED]))
    return Block("", [*filter(None, [context]), looked + UNCHANGED, MEANING], warning=" ".join(warnings))


def _prevalences(told: Mapping[str, Any]) -> Table:
    words = {"text_mined": "text mining", "reference": "radiologists"}
    columns = [(name, kind) for name, of in told.items() for kind in words if of[kind]]
    findings = list(dict.fromkeys(finding for name, kind in columns for finding in told[name][kind]))
    rows = [
        {"Finding": spell(finding)} | {f"{spell(name)}: {words[kind]}": percent(told[name][kind].get(finding)) for name, kind in columns}
        for finding in findings
    ]
    return Table(rows)


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


def _card(name: str, report: Mapping[str, Any]) -> Card:
    part = report["reference_sets"][name]
    macro, (present, missing) = part["macro"], _films(part)
    only = "only the findings that the present images allow" if macro.get("available_only") else ""
    mean, value, within = macro.get("reason", ""), "", ""
    if macro["auroc"]:
        mean = f"mean over {len(macro['findings'])} of {len(part['findings'])} findings"
        value, within = value_of(macro["auroc"]), interval(macro["auroc"])
    lines = list(filter(None, [mean, only, present, missing]))
    return Card(spell(name), KIND.get(name, ""), value, within, lines, warnings=[only, missing], is_primary=_is_primary(name, report))


def _films(part: Mapping[str, Any]) -> tuple[str, str]:
    """What is present, and what is missing, if anything."""
    n_missing = part["n_missing_images"]
    missing = f"{n_missing:,} of the set's {part['n_images'] + n_missing:,} images are missing" if n_missing else ""
    return f"{part['n_images']:,} images of {part['n_patients']:,} patients", missing


def _about(name: str, part: Mapping[str, Any], is_real: bool) -> Block:
    counted = {"Views": part["views"], "Sexes": part["sexes"]}
    who = [f"{what}: {', '.join(f'{count:,} {value}' for value, count in of.items())}." for what, of in counted.items() if of]
    ages = "Age in years: median {median:.0f}, {min:.0f} to {max:.0f}.".format(**part["ages"]) if part["ages"]["median"] is not None else ""
    mean = f"The mean is over {', '.join(map(spell, part['macro']['findings']))}." if part["macro"]["auroc"] else ""
    paragraphs = (
        [f"{name}: {KIND.get(name, 'another set')}.", ABOUT.get(name, ""), SCOPE.get(name, "") if is_real else ""],
        [f"{'; '.join(filter(None, _films(part)))}.", *who, ages, mean],
    )
    return Block("", [" ".join(filter(None, words)) for words in paragraphs])


def _blocks(name: str, report: Mapping[str, Any]) -> Iterator[Block]:
    """A set, in the order in which it is read: what matters most lies open."""
    part, is_real = report["reference_sets"][name], report["protocol"].get("data") == "cxr14"
    yield _about(name, part, is_real)
    if "readers" not in part:
        yield set_tables.findings(part)
        yield Block("ROC curves", picture=f"{name}_roc", alt=f"ROC curve of every finding on {name}", folded=True)
    else:
        alt = f"The model's ROC curve, the readers and the text-mined labels on {name}, a panel per finding"
        yield Block("The model among the readers", reader_tables.PICTURE, picture=f"{name}_readers", alt=alt)
        yield set_tables.findings(part, set_tables.BASELINE_SCALE if is_real and name == "four_findings_test" else "")
        yield from reader_tables.beside_the_model(name, part)
        usual = "nih_val" if name == "four_findings_validation" else "nih_test"
        yield from reader_tables.labels(part, report["reference_sets"].get(usual, {}).get("findings") or {}, usual)
    yield Block("Precision-recall curves", picture=f"{name}_precision_recall", alt=f"Precision-recall curve of every finding on {name}", folded=True)
    yield from set_tables.operating_points(part)
    yield from set_tables.subgroups(part)
    yield from set_tables.calibration(name, part)
    yield reader_tables.mapping(part)


# --- console ----------------------------------------------------------------------------------------------------------------------------------------


def summary(report: Mapping[str, Any]) -> str:
    """The headline of the report in a few aligned lines."""
    headline: list[Row] = []
    for name, part in report["reference_sets"].items():
        macro = part.get("macro") or part
        told = f"undefined: {macro.get('reason', 'no finding')}"
        if macro.get("auroc"):
            only = ", only those that the present images allow" if macro.get("available_only") else ""
            told = f"{number(macro['auroc'])}  over {len(macro['findings'])} finding{'s' * (len(macro['findings']) > 1)}{only}"
        counts = {"images": part.get("n_images"), "missing": part.get("n_missing_images")}
        headline.append({"reference set": name, **counts, "macro AUROC [95 % interval]": told})
    lines, sets = Table(headline).aligned(), with_numbers(report)
    if sets:
        leading = leading_set(sets)
        rows = [{leading: finding, "positive": row["n_pos"], "AUROC [95 % interval]": auroc(row)} for finding, row in sets[leading]["findings"].items()]
        lines += ["", *Table(rows).aligned()]
    compared = sets.get("all_findings_test", {}).get("readers", {}).get("differences")
    if compared:
        tested = [row for of in compared["by_reader"].values() for row in of.values() if row["in_primary_family"]]
        n_apart = sum(row["p_holm"] < LEVEL for row in tested)
        lines += ["", f"model and held-out readers differ in {n_apart} of {len(tested)} primary comparisons (Holm, {LEVEL:.0%})"]
    return "\n".join(lines)
