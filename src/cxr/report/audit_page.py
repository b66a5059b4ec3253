"""The label audit for people: one self-contained page, the same as markdown, and a table for the console. Rewords audit.json, computes nothing."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr.cohort.experts import FILES, HELD_OUT
from cxr.report import audit_figures
from cxr.report.audit import MIN_COMMON_FILMS
from cxr.report.audit_figures import FEW_PATIENTS, MIN_READS, SETS, SPLIT_NAMES, Numbers
from cxr.report.pages import Block, Table, as_table, flat, html_page, in_markdown, plain
from cxr.report.render import MINIATURE
from cxr.report.wording import LARGE_SHARE, NAMES, NOTHING, number, percent, spell

KIND = {
    "all_findings_test": "14 findings, majority of three radiologists (Nabulsi et al. 2021); PA films of adults",
    "four_findings_test": "consensus of three radiologists (Majkowska et al. 2019), inside the official test list",
    "four_findings_validation": "consensus of three radiologists (Majkowska et al. 2019), inside the official train_val list; 88 % AP films as published",
}
MEANING = (
    "Text-mined labels are what a program read in the radiologists' reports. They are what models of these films learn from, and what most published numbers "
    "are measured against. Here they are held against radiologists who looked at the films.",
    "Sensitivity: of the films that have the finding, how many the label marks. Specificity: of the films without it, how many the label leaves unmarked. "
    "PPV: how many of the marked films have it; NPV: how many of the unmarked ones do not; both at this set's prevalence. Kappa: agreement beyond chance, "
    "1 is perfect and 0 is chance. Brackets are 95 % intervals over patients, not films: how far the number may be off because other patients could "
    "have been in the set.",
)
PARAGRAPHS = {
    "mined": "Airspace opacity is Atelectasis, Consolidation, Edema, Infiltration or Pneumonia in the text-mined labels; Nodule or mass is either; Abnormal is "
    "any of the 14. Fracture and Other are no text-mined findings. A report speaks of a patient and of earlier films too: a label that is right about the "
    "report can be wrong about the film.",
    "all_readers": "Five radiologists read every film. The two held-out readers, {held_out}, had no part in the reference: their numbers are free of "
    "incorporation bias, but they speak of these two, who differ, and not of radiologists at large.",
    "all_bias": "The three other readers are the reference: it is their majority. Their numbers, and those of all reads together, are optimistic.",
    "four_readers": "Usually three radiologists read a film by themselves, then the disagreements were discussed to a consensus. Some reads are uncertain (for "
    f"pneumothorax and for nodule or mass only): they count as no, as yes, or are left out. Readers of fewer than {MIN_READS} films of a set are in "
    "audit.json and are not shown singly.",
    "four_bias": "These readers made the reference: it is the consensus that followed their reads. Every number below is optimistic.",
    "first_round": "How often the consensus ended elsewhere than the majority of the first reads stood. An uncertain read is no vote. This is how far a "
    "reference by simple majority would be from the adjudicated one.",
    "references": "The two sets were read by different radiologists under different rules. On the films that both have they differ this often, so "
    "results against one and against the other must never be pooled. Airspace opacity, and nodule or mass, are unions of the all-findings labels.",
    "agreement": f"Cohen's kappa of every two readers with at least {MIN_COMMON_FILMS} films in common; an uncertain read counts as no. "
    "Every pair is in audit.json.",
    "prevalences": "The official test list holds more disease than the training films, and each expert set is a selection of its own. What a threshold, a PPV "
    "or a calibration is worth on one of them says little of the next. train and val are as this configuration divides them.",
    "releases": "NIH published the text-mined labels twice. Numbers against different releases are different protocols.",
    "facts": f"A finding of which one patient owns over {LARGE_SHARE:.0%} of the positive films is decided by that patient.",
}
ESTIMATES = ("sensitivity", "specificity", "ppv", "npv")
POLICIES = {"no": "count as no", "yes": "count as yes", "drop": "left out"}


def write(folder: Path, audit: Numbers) -> None:
    """audit.json, audit.html, audit.md and figures/, built aside so that a folder with an audit.json holds a whole one.

    Args:
        folder: an earlier audit in it is replaced.
        audit: the content of audit.json.
    """
    building = folder / "audit.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    pictures = audit_figures.draw(building / "figures", audit)
    told = _in_words(audit)
    links = {title: path.relative_to(building).as_posix() for title, path in pictures.items()}
    (building / "audit.html").write_text(html_page("audit.html", told, pictures), encoding="utf-8")
    (building / "audit.md").write_text("\n".join(_markdown(told, links)) + "\n", encoding="utf-8")
    (building / "audit.json").write_text(json.dumps(audit, indent=1, allow_nan=False) + "\n")
    (folder / "audit.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name in ("figures", "audit.html", "audit.md", "audit.json"):
        (building / name).rename(folder / name)
    building.rmdir()


def _in_words(audit: Numbers) -> dict[str, Any]:
    """Everything both pages say, as strings; nothing is escaped yet."""
    protocol = dict(audit["protocol"])
    provenance = protocol.pop("provenance", {})
    return {
        "title": "Label audit of ChestX-ray14",
        "facts": [
            f"labels {protocol.get('labels', {}).get('release', '?')}",
            f"{protocol.get('draws', '?')} draws, seed {protocol.get('seed', '?')}",
            f"commit {str(protocol.get('commit') or 'unknown')[:12]}",
            f"reported {str(provenance.get('reported', '?'))[:10]}",
        ],
        "warning": MINIATURE if protocol.get("data") == "mini" else None,
        "cards": [_card(name, audit["nih_labels"][name]) for name in SETS],
        "meaning": MEANING,
        "sections": list(_sections(audit)),
        "protocol": list(flat(protocol)),
        "provenance": list(flat(provenance)),
        "attribution": audit["attribution"],
    }


def _card(name: str, leaves: Numbers) -> dict[str, Any]:
    believed = {finding: leaf for finding, leaf in leaves.items() if leaf["kappa"] and leaf["n_pos_patients"] >= FEW_PATIENTS and finding != "Abnormal"}
    ranked = sorted(believed, key=lambda finding: believed[finding]["kappa"]["value"])
    # the finding that agrees least, and the one that agrees most, which may be the same
    ends = list(dict.fromkeys([*ranked[:1], *ranked[-1:]]))
    told = " to ".join(f"{believed[finding]['kappa']['value']:.2f}" for finding in ends).replace("-", "−")
    of = " and ".join(map(spell, ends))
    meaning = f"Kappa of the text-mined labels: {of}, the ends among findings that {FEW_PATIENTS} or more patients have" if ends else ""
    n_images = max(leaf["n_images"] for leaf in leaves.values())
    return {"name": NAMES[name], "kind": KIND[name], "number": told, "meaning": meaning, "n_images": f"{n_images:,} films"}


# --- sections ---------------------------------------------------------------------------------------------------------------------------------------


def _sections(audit: Numbers) -> Iterator[tuple[str, list[Block]]]:
    """(heading, what stands under it)."""
    words, readers = PARAGRAPHS, audit["readers"]
    alt = "Sensitivity, specificity, positive predictive value and kappa of the text-mined labels, with intervals, per reference set and finding"
    tables = [_mined_table(name, audit["nih_labels"][name], audit["facts"]["positives"][name]) for name in SETS]
    yield "Text-mined labels against radiologists", [Block("", [words["mined"]], picture="text_mined", alt=alt), *tables]

    alt = "Sensitivity against one minus specificity of five readers and of the text-mined label, a panel per finding"
    told = words["all_readers"].format(held_out=" and ".join(HELD_OUT))
    first = Block("", [told], picture="readers_all_findings", alt=alt, warning=words["all_bias"])
    yield "Readers of all findings against their reference", [first, *_all_readers_tables(readers["all_findings_test"])]

    alt = "Sensitivity against one minus specificity of the readers and of the text-mined label, a panel per finding and set"
    tables = [block for name in SETS if name != "all_findings_test" for block in _four_readers_tables(name, readers[name])]
    first = Block("", [words["four_readers"]], picture="readers_four_findings", alt=alt, warning=words["four_bias"])
    yield "Readers of the four findings against their reference", [first, *tables]

    yield "First reads against the consensus", [Block("", [words["first_round"]], [_first_round_table(audit["first_round_majority"])])]
    yield "The two references against each other", [Block("", [words["references"]], [_references_table(audit["references_against_each_other"])])]
    yield "Readers with each other", [Block("", [words["agreement"]], [_agreement_table(audit["agreement"])])]

    alt = "Share of films with each finding in every split and reference set, by view"
    tables = [_prevalence_table(view, audit["prevalences"]) for view in audit["prevalences"]["train"]]
    yield "How common each finding is, and where", [Block("", [words["prevalences"]], picture="prevalences", alt=alt), *tables]

    if "nih_labels_by_release" in audit:
        yield "The two label releases", [Block("", [words["releases"]], _release_tables(audit))]
    yield "What the files hold", [Block("", [words["facts"]], _facts_tables(audit["facts"])), _positives_table(audit["facts"]["positives"])]


def share(estimate: Mapping[str, float] | None) -> str:
    """
    >>> share({"value": 0.1, "lo": 0.0872, "hi": 0.114})
    '10.0 % [8.7, 11.4]'
    """
    return f"{percent(estimate['value'])} [{100 * estimate['lo']:.1f}, {100 * estimate['hi']:.1f}]" if estimate else NOTHING


def _note(leaf: Numbers) -> str:
    notes = [
        str(leaf.get("reason", "")),
        f"fewer than {FEW_PATIENTS} patients have it" if leaf["n_pos_patients"] < FEW_PATIENTS else "",
        f"{leaf['n_left_out']:,} unknown, left out" if leaf["n_left_out"] else "",
    ]
    return "; ".join(filter(None, notes))


def _mined_table(name: str, leaves: Numbers, positives: Numbers) -> Block:
    columns = ("Finding", "Films with it", "Films marked", *_headings(), "Kappa")
    rows, notes = [], dict[str, list[str]]()
    for finding, leaf in leaves.items():
        marked = f"{leaf['n_called']:,}" if "n_called" in leaf else NOTHING
        rows.append([spell(finding), f"{leaf['n_pos']:,}", marked, *(number(leaf[key]) for key in (*ESTIMATES, "kappa"))])
        dominated = (positives[finding]["largest_patient_share"] or 0.0) > LARGE_SHARE
        for note in filter(None, [_note(leaf), f"one patient owns over {LARGE_SHARE:.0%} of the positive films" if dominated else ""]):
            notes.setdefault(note, []).append(spell(finding))
    return Block(NAMES[name], [f"{', '.join(of)}: {note}." for note, of in notes.items()], [Table(columns, rows, counts=(1, 2))])


def _all_readers_tables(told: Numbers) -> Iterator[Block]:
    by_reader = {reader: of for reader, of in told["by_reader"].items() if max(leaf["n_images"] for leaf in of.values()) >= MIN_READS}
    shown = [reader for reader in HELD_OUT if reader in by_reader]
    columns = ["Finding", "Films with it", *(f"{what}, {reader} (held out)" for reader in shown for what in ("Sensitivity", "Specificity"))]
    rows = [
        [spell(finding), f"{leaf['n_pos']:,}", *(number(by_reader[reader][finding][key]) for reader in shown for key in ESTIMATES[:2])]
        for finding, leaf in next(iter(told["by_reader"].values())).items()
    ]
    yield Block("The two held-out readers", tables=[Table(columns, rows, counts=(1,))])
    rows = [_read_row(spell(finding), leaf) for finding, leaf in told["pooled"].items()]
    yield Block("All reads together", tables=[Table(("Finding", "Reads", *_headings(), "Note"), rows, counts=(1,))], folded=True)
    roles = {reader: f"{reader} ({'held out' if reader in HELD_OUT else 'in the reference'})" for reader in by_reader}
    yield _by_reader("Every reader", roles, by_reader)


def _four_readers_tables(name: str, told: Numbers) -> Iterator[Block]:
    rows = [
        _read_row(spell(finding), told[policy]["pooled"][finding], words)
        for finding in told["no"]["pooled"]
        for policy, words in POLICIES.items()
        # without an uncertain read the three are one
        if policy == "no" or told[policy]["pooled"][finding] != told["no"]["pooled"][finding]
    ]
    table = Table(("Finding", "Uncertain reads", "Reads", *_headings(), "Note"), rows, counts=(2,))
    yield Block(f"{NAMES[name]}: all reads together", tables=[table])
    by_reader = {reader: of for reader, of in told["no"]["by_reader"].items() if max(leaf["n_images"] for leaf in of.values()) >= MIN_READS}
    yield _by_reader(f"{NAMES[name]}: every reader, uncertain reads as no", {reader: reader for reader in by_reader}, by_reader)


def _headings() -> list[str]:
    return ["PPV" if key == "ppv" else "NPV" if key == "npv" else key.capitalize() for key in ESTIMATES]


def _read_row(name: str, leaf: Numbers, *more: str) -> list[str]:
    return [name, *more, f"{leaf.get('n_reads', leaf['n_images']):,}", *(number(leaf[key]) for key in ESTIMATES), _note(leaf)]


def _by_reader(title: str, roles: Mapping[str, str], by_reader: Numbers) -> Block:
    rows = [_read_row(roles[reader], leaf, spell(finding)) for reader, of in by_reader.items() for finding, leaf in of.items()]
    return Block(title, tables=[Table(("Reader", "Finding", "Reads", *_headings(), "Note"), rows, counts=(2,))], folded=True)


def _first_round_table(told: Numbers) -> Table:
    columns = ("Finding", "Set", "Films", "Consensus differs", "Share", "To present", "To absent", "Ties, left out", "No vote, left out")
    rows = [
        [
            *(spell(finding), NAMES[name], f"{leaf['n']:,}", f"{leaf['n_differs']:,}", share(leaf["share"])),
            *(f"{leaf[key]:,}" for key in ("n_to_present", "n_to_absent", "n_ties", "n_without_votes")),
        ]
        for name in SETS
        for finding, leaf in told.get(name, {}).items()
    ]
    return Table(columns, rows, counts=(2, 3, 5, 6, 7, 8))


def _references_table(told: Numbers) -> Table:
    columns = ("Finding", "Films", "They differ", "Only four findings", "Only all findings", "Kappa", "Prevalence, four findings", "Prevalence, all findings")
    rows = [
        [
            spell(finding),
            *(f"{leaf[key]:,}" for key in ("n_images", "n_disagree", "n_only_four_findings", "n_only_all_findings")),
            number(leaf["kappa"]),
            *(share(leaf[key]) for key in ("prevalence_four_findings", "prevalence_all_findings")),
        ]
        for finding, leaf in told.items()
    ]
    return Table(columns, rows, counts=(1, 2, 3, 4))


def _agreement_table(told: Numbers) -> Table:
    rows = []
    for name in SETS:
        for finding, pairs in told[name].items():
            ranked = sorted((pair for pair in pairs if pair["kappa"]), key=lambda pair: pair["kappa"]["value"])
            ends = [number(pair["kappa"]) for pair in (ranked[0], ranked[-1])] if ranked else [NOTHING, NOTHING]
            held_out = next((number(pair["kappa"]) for pair in pairs if set(pair["readers"]) == set(HELD_OUT)), "")
            rows.append([spell(finding), NAMES[name], f"{len(pairs):,}", *ends, held_out])
    return Table(
        ("Finding", "Set", "Pairs", "Kappa of the pair that agrees least", "of the pair that agrees most", "of the two held-out readers"), rows, counts=(2,)
    )


def _prevalence_table(view: str, told: Numbers) -> Block:
    columns = ["Finding", *(SPLIT_NAMES[name] for name in told), *(f"{NAMES[name]}, by radiologists" for name in FILES)]
    rows = [
        [spell(finding), *(share(told[name][view][finding].get("text_mined")) for name in told)]
        + [share(told[name][view][finding].get("reference")) for name in FILES]
        for finding in told["train"][view]
    ]
    sizes = ["Films", *(f"{next(iter(told[name][view].values()))['n']:,}" for name in (*told, *FILES))]
    title = {"all": "All films", "PA": "PA films", "AP": "AP films"}[view]
    return Block(f"{title}, text-mined labels and radiologists'", tables=[Table(columns, [sizes, *rows])], folded=True)


def _release_tables(audit: Numbers) -> list[Table]:
    sizes = [[SPLIT_NAMES[name], f"{leaf['n_images']:,}", f"{leaf['n_differ']:,}"] for name, leaf in audit["releases_differ"].items()]
    of = audit["nih_labels_by_release"]
    measures = {"sensitivity": "Sensitivity", "kappa": "Kappa"}
    columns = ("Finding", "Set", *(f"{words}, {release}" for words in measures.values() for release in of))
    rows = [
        [spell(finding), NAMES[name], *(number(told[name][finding][key]) for key in measures for told in of.values())]
        for name in SETS
        for finding in audit["nih_labels"][name]
        if any(told[name][finding] != audit["nih_labels"][name][finding] for told in of.values())
    ]
    return [Table(("Set", "Images in both", "Labelled differently"), sizes, counts=(1, 2)), Table(columns, rows, "Where it changes a number")]


def _facts_tables(facts: Numbers) -> list[Table]:
    repeats = []
    for name, told in facts["repeats"].items():
        conflicts = ", ".join(f"{spell(finding)} {count}" for finding, count in told["conflicts"].items())
        repeats.append([NAMES[name], f"{told['pairs']:,}", conflicts or "none"])
    return [
        Table(("File", "Rows"), [[file, f"{count:,}"] for file, count in facts["n_rows"].items()], counts=(1,)),
        Table(("Set", "Films read twice by one reader", "Contradicting reads, unknown for that finding"), repeats, counts=(1,)),
    ]


def _positives_table(positives: Numbers) -> Block:
    rows = [
        [spell(finding), NAMES[name], *(f"{leaf[key]:,}" for key in ("n_images", "n_pos", "n_pos_patients")), percent(leaf["largest_patient_share"])]
        for name in SETS
        for finding, leaf in positives[name].items()
    ]
    columns = ("Finding", "Set", "Films", "Films with it", "Patients with it", "Largest patient's share")
    return Block("Positives of every set", tables=[Table(columns, rows, counts=(2, 3, 4, 5))], folded=True)


# --- markdown and console ---------------------------------------------------------------------------------------------------------------------------


def _markdown(told: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {plain(told['title'])}", "", plain(" · ".join(told["facts"])), "")
    if told["warning"]:
        yield from (f"**{plain(told['warning'])}**", "")
    rows = [[card["name"], card["kind"], card["number"] or "undefined", card["meaning"], card["n_images"]] for card in told["cards"]]
    yield from as_table(("Reference set", "What it is", "Kappa of the text-mined labels", "Range", "Films"), rows)
    yield from (line for paragraph in told["meaning"] for line in (plain(paragraph), ""))
    for title, blocks in told["sections"]:
        yield from (f"## {plain(title)}", "", *(line for block in blocks for line in in_markdown(block, links)))
    yield from ("## Protocol", "", *as_table(("Key", "Value"), told["protocol"]), "## Provenance", "", *as_table(("Key", "Value"), told["provenance"]))
    yield from ("## Attribution", "", *(f"- {plain(line)}" for line in told["attribution"]))


def summary(audit: Numbers) -> str:
    """Text-mined labels against every reference, in a few aligned lines."""
    lines = []
    for name in SETS:
        leaves = audit["nih_labels"][name]
        lines.append(f"{name:<26}positive  sensitivity            specificity            kappa")
        for finding, leaf in leaves.items():
            told = "  ".join(f"{number(leaf[key]):<21}" for key in ("sensitivity", "specificity", "kappa"))
            lines.append(f"  {spell(finding):<24}{leaf['n_pos']:>8,}  {told}".rstrip())
    return "\n".join(lines)
