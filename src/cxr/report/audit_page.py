"""The label audit for people: one self-contained page, the same as markdown, and a table for the console. Rewords audit.json, computes nothing."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cxr.cohort.experts import FILES, HELD_OUT
from cxr.report import audit_figures, pages
from cxr.report.audit import MIN_COMMON_FILMS
from cxr.report.audit_figures import FEW_PATIENTS, SETS, SPLIT_NAMES, readers_of
from cxr.report.beside_readers import MIN_READS
from cxr.report.drawing import Part
from cxr.report.pages import Block, Card, Page, Row, Table, per_finding
from cxr.report.reader_tables import JURORS, MADE_THE_REFERENCE, ends, reads
from cxr.report.set_tables import RATES, rates
from cxr.report.wording import LARGE_SHARE, MINUS, percent, share, spell

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
    "incorporation bias. Those of the three others, and of all reads together, are not.",
    "four_readers": "Usually three radiologists read a film by themselves, then the disagreements were discussed to a consensus. Some reads are uncertain (for "
    f"pneumothorax and for nodule or mass only): they count as no, as yes, or are left out. Readers of fewer than {MIN_READS} films of a set are in "
    "audit.json and are not shown singly.",
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


def write(folder: Path, audit: Part) -> None:
    """audit.json, audit.html, audit.md and figures/, built aside so that a folder with an audit.json holds a whole one.

    Args:
        folder: an earlier audit in it is replaced.
        audit: the content of audit.json.
    """
    building = folder / "audit.partial"
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    protocol = audit["protocol"]
    page = Page(
        title="Label audit of ChestX-ray14",
        facts=[f"labels {protocol.get('labels', {}).get('release', '?')}", f"{protocol.get('draws', '?')} draws, seed {protocol.get('seed', '?')}"],
        measure="Kappa of the text-mined labels",
        cards=[_card(name, audit["nih_labels"][name]) for name in SETS],
        sections=[("", [Block(paragraphs=MEANING)]), *_sections(audit)],
        protocol=protocol,
        attribution=audit["attribution"],
    )
    pages.write(building, "audit", page, audit_figures.draw(building / "figures", audit))
    (building / "audit.json").write_text(json.dumps(audit, indent=1, allow_nan=False) + "\n")
    (folder / "audit.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name in ("figures", "audit.html", "audit.md", "audit.json"):
        (building / name).rename(folder / name)
    building.rmdir()


def _card(name: str, leaves: Part) -> Card:
    believed = {finding: leaf for finding, leaf in leaves.items() if leaf["kappa"] and leaf["n_pos_patients"] >= FEW_PATIENTS and finding != "Abnormal"}
    ranked = sorted(believed, key=lambda finding: believed[finding]["kappa"]["value"])
    # the finding that agrees least, and the one that agrees most, which may be the same
    least_and_most = list(dict.fromkeys([*ranked[:1], *ranked[-1:]]))
    told = " to ".join(f"{believed[finding]['kappa']['value']:.2f}" for finding in least_and_most).replace("-", MINUS)
    of = " and ".join(map(spell, least_and_most))
    lines = [f"{of}, the ends among findings that {FEW_PATIENTS} or more patients have"] if of else []
    return Card(spell(name), KIND[name], told, "", [*lines, f"{max(leaf['n_images'] for leaf in leaves.values()):,} films"])


# --- sections ---------------------------------------------------------------------------------------------------------------------------------------


def _sections(audit: Part) -> Iterator[tuple[str, list[Block]]]:
    words, facts = PARAGRAPHS, audit["facts"]
    alt = "Sensitivity, specificity, positive predictive value and kappa of the text-mined labels, with intervals, per reference set and finding"
    blocks = [_mined(name, audit["nih_labels"][name], facts["positives"][name]) for name in SETS]
    yield ("Text-mined labels against radiologists", [Block("", [words["mined"]], picture="text_mined", alt=alt), *blocks])

    alt = "Sensitivity against one minus specificity of the readers and of the text-mined label, a panel per finding and set"
    told = [words["all_readers"].format(held_out=" and ".join(HELD_OUT))]
    first = Block("", told, picture="readers_all_findings", alt=alt, warning=JURORS)
    yield ("Readers of all findings against their reference", [first, *_readers("all_findings_test", audit)])
    first = Block("", [words["four_readers"]], picture="readers_four_findings", alt=alt, warning=MADE_THE_REFERENCE)
    blocks = [block for name in SETS if name != "all_findings_test" for block in _readers(name, audit)]
    yield ("Readers of the four findings against their reference", [first, *blocks])

    yield ("First reads against the consensus", [Block("", [words["first_round"]], [_per_set(audit["first_round_majority"], _first_round)])])
    yield ("The two references against each other", [Block("", [words["references"]], [per_finding(audit["references_against_each_other"], _references)])])
    yield ("Readers with each other", [Block("", [words["agreement"]], [_per_set(audit["agreement"], _agreement)])])

    alt = "Share of films with each finding in every split and reference set, by view"
    blocks = [_prevalences(view, audit["prevalences"]) for view in audit["prevalences"]["train"]]
    yield ("How common each finding is, and where", [Block("", [words["prevalences"]], picture="prevalences", alt=alt), *blocks])
    if "nih_labels_by_release" in audit:
        yield ("The two label releases", [Block("", [words["releases"]], _releases(audit))])
    positives = Block("Positives of every set", tables=[_per_set(facts["positives"], _positives)], folded=True)
    yield ("What the files hold", [Block("", [words["facts"]], _files(facts)), positives])


def _per_set(told: Part, cells: Callable[[str, Any], Row]) -> Table:
    """A row per finding of every set."""
    return Table([{"Finding": spell(finding)} | cells(name, leaf) for name in SETS for finding, leaf in told.get(name, {}).items()])


def _mined(name: str, leaves: Part, positives: Part) -> Block:
    rows, notes = list[Row](), dict[str, list[str]]()
    for finding, leaf in leaves.items():
        rows.append({"Finding": spell(finding), "Films with it": leaf["n_pos"], "Films marked": leaf.get("n_called"), **rates(leaf), "Kappa": leaf["kappa"]})
        dominated = (positives[finding]["largest_patient_share"] or 0.0) > LARGE_SHARE
        for note in filter(None, [_note(leaf), f"one patient owns over {LARGE_SHARE:.0%} of the positive films" if dominated else ""]):
            notes.setdefault(note, []).append(spell(finding))
    return Block(spell(name), [f"{', '.join(of)}: {note}." for note, of in notes.items()], [Table(rows)])


def _note(leaf: Part) -> str:
    few = f"fewer than {FEW_PATIENTS} patients have it" if leaf["n_pos_patients"] < FEW_PATIENTS else ""
    unknown = f"{leaf['n_left_out']:,} unknown, left out" if leaf["n_left_out"] else ""
    return "; ".join(filter(None, [str(leaf.get("reason", "")), few, unknown]))


def _readers(name: str, audit: Part) -> Iterator[Block]:
    told = readers_of(audit, name)
    performance, by_reader = told["performance"], told["performance"]["no"]["by_reader"]
    findings, held_out = performance["no"]["pooled"], [reader for reader in told["held_out"] if reader in told["shown"]]
    beside: list[Row] = []
    for finding in findings:
        beside.append({"Finding": spell(finding), "Films with it": next(iter(by_reader.values()))[finding]["n_pos"]})
        for reader in held_out:
            beside[-1] |= {f"{RATES[key]}, {reader} (held out)": by_reader[reader][finding][key] for key in ("sensitivity", "specificity")}
    if held_out:
        yield Block("The two held-out readers", tables=[Table(beside)])
    rows = [row for finding in findings for row in reads({"Finding": finding}, {policy: of["pooled"][finding] for policy, of in performance.items()}, _note)]
    yield Block(f"{spell(name)}: all reads together", tables=[Table(rows)], folded=bool(held_out))
    roles = {reader: f"{reader} ({'held out' if reader in held_out else 'in the reference'})" if held_out else reader for reader in told["shown"]}
    rows = [
        row
        for reader, role in roles.items()
        for finding in findings
        for row in reads({"Reader": role, "Finding": finding}, {"no": by_reader[reader][finding]}, _note)
    ]
    title = f"{spell(name)}: every reader{', uncertain reads as no' if len(performance) > 1 else ''}"
    yield Block(title, tables=[Table(rows)], folded=True)


FIRST_ROUND = {"To present": "n_to_present", "To absent": "n_to_absent", "Ties, left out": "n_ties", "No vote, left out": "n_without_votes"}
REFERENCES = {"Films": "n_images", "They differ": "n_disagree", "Only four findings": "n_only_four_findings", "Only all findings": "n_only_all_findings"}


def _first_round(name: str, leaf: Part) -> Row:
    differs = {"Set": spell(name), "Films": leaf["n"], "Consensus differs": leaf["n_differs"], "Share": share(leaf["share"])}
    return differs | {heading: leaf[key] for heading, key in FIRST_ROUND.items()}


def _references(leaf: Part) -> Row:
    prevalences = {f"Prevalence, {of} findings": share(leaf[f"prevalence_{of}_findings"]) for of in ("four", "all")}
    return {heading: leaf[key] for heading, key in REFERENCES.items()} | {"Kappa": leaf["kappa"], **prevalences}


def _agreement(name: str, pairs: Sequence[Part]) -> Row:
    least, most = ends([pair["kappa"] for pair in pairs])
    held_out = next((pair["kappa"] for pair in pairs if set(pair["readers"]) == set(HELD_OUT)), "")
    kappas = {"Kappa of the pair that agrees least": least, "of the pair that agrees most": most, "of the two held-out readers": held_out}
    return {"Set": spell(name), "Pairs": len(pairs), **kappas}


def _positives(name: str, leaf: Part) -> Row:
    counts = {"Films": leaf["n_images"], "Films with it": leaf["n_pos"], "Patients with it": leaf["n_pos_patients"]}
    return {"Set": spell(name), **counts, "Largest patient's share": percent(leaf["largest_patient_share"])}


def _prevalences(view: str, told: Part) -> Block:
    columns = [(SPLIT_NAMES[name], name, "text_mined") for name in told] + [(f"{spell(name)}, by radiologists", name, "reference") for name in FILES]
    rows = [{"Finding": "Films"} | {heading: f"{told[name][view]['Mass']['n']:,}" for heading, name, _ in columns}]
    for finding in told["train"][view]:
        rows.append({"Finding": spell(finding)} | {heading: share(told[name][view][finding].get(kind)) for heading, name, kind in columns})
    title = {"all": "All films", "PA": "PA films", "AP": "AP films"}[view]
    return Block(f"{title}, text-mined labels and radiologists'", tables=[Table(rows)], folded=True)


def _releases(audit: Part) -> list[Table]:
    sizes = [
        {"Set": SPLIT_NAMES[name], "Images in both": of["n_images"], "Labelled differently": of["n_differ"]} for name, of in audit["releases_differ"].items()
    ]
    of = audit["nih_labels_by_release"]
    rows = [
        {"Finding": spell(finding), "Set": spell(name)}
        | {f"{key.capitalize()}, {release}": told[name][finding][key] for key in ("sensitivity", "kappa") for release, told in of.items()}
        for name in SETS
        for finding, leaf in audit["nih_labels"][name].items()
        if any(told[name][finding] != leaf for told in of.values())
    ]
    return [Table(sizes), Table(rows, "Where it changes a number")]


def _files(facts: Part) -> list[Table]:
    repeats: list[Row] = []
    for name, told in facts["repeats"].items():
        conflicts = ", ".join(f"{spell(finding)} {count}" for finding, count in told["conflicts"].items()) or "none"
        repeats.append({"Set": spell(name), "Films read twice by one reader": told["pairs"], "Contradicting reads, unknown for that finding": conflicts})
    return [Table([{"File": file, "Rows": count} for file, count in facts["n_rows"].items()]), Table(repeats)]


# --- console ----------------------------------------------------------------------------------------------------------------------------------------


def summary(audit: Part) -> str:
    """Text-mined labels against every reference, in a few aligned lines."""
    measures = ("sensitivity", "specificity", "kappa")
    told = {
        name: [{name: spell(finding), "positive": leaf["n_pos"], **{key: leaf[key] for key in measures}} for finding, leaf in audit["nih_labels"][name].items()]
        for name in SETS
    }
    return "\n".join(line for rows in told.values() for line in Table(rows).aligned())
