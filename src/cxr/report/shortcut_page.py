"""The shortcut audit as blocks of a page: what gives a film away, what metadata alone predicts, and how the model does in one group of films and in another."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxr.report.baseline import COLUMNS
from cxr.report.pages import Block, Row, Table, per_finding
from cxr.report.shortcut_figures import QUESTIONS
from cxr.report.wording import NOTHING, difference, spell, spell_set, value_of

PROBES = (
    "A network learns who was filmed, and how, whether or not it uses that: bedside (AP) films are of sicker patients, and a model may score the bed instead "
    "of the lung. The probe is a logistic regression; it is fitted on films of some patients and tested on films of others. Labels: what the 14 text-mined "
    "findings of a film themselves give away. Outputs: the model's 14 logits. Features: what the network's last layer is given. Outputs that tell more than "
    "labels do carry something beside the findings. That a thing can be read off does not prove that it is used (Glocker et al. 2023).",
)
NO_FEATURES = (
    "The network's features were not kept. Where films and torch are: python scripts/evaluate.py run=<the run's folder> report.shortcuts=true makes them, once."
)
METADATA = (
    "AUROC of a guess that never sees a film, fitted to the text-mined labels of NIH train and val: by one thing known of the film, and by all. A dash: "
    "it is the same for every film of the set.",
)
NAMES = {"view": "View", "sex": "Sex", "age": "Age", "follow_up": "Follow-up number"}
KINDS = {"view": "By view", "sex": "By sex", "age": "By age in years", "n_films": "By how many films the patient has"}
GROUPS = (
    "AUROC, sensitivity and specificity of a group, less those of the group named after it; the interval draws patients, and who is in both groups is drawn "
    "into both. Sensitivity and specificity are at the fixed threshold. Groups differ in how sick they are and how common a finding is, and a threshold that "
    "fits one need not fit the other: a difference is a reason to look, not yet a shortcut or an injustice."
)
BY_CHANCE = "Intervals that leave 0 out: {n_apart} of {n} differences in AUROC. By chance alone it would be one in twenty."


def blocks(report: Mapping[str, Any], names: Sequence[str]) -> Iterator[Block]:
    """The section; nothing where nothing was audited.

    Args:
        report: the content of report.json.
        names: the sets that have numbers, in reading order.
    """
    if told := report.get("shortcuts"):
        alt = "How well view, sex and age are read off labels, outputs and features"
        words = [*PROBES, *([] if told["n_features"] else [NO_FEATURES])]
        yield Block("What gives a film away", words, [_probes(told)], "shortcuts", alt)
    sets = {name: report["reference_sets"][name] for name in names}
    # a checkpoint is chosen on validation films of text-mined labels, which are no test
    sets = {name: part for name, part in sets.items() if part["adjudicated"] or not name.endswith("_val")}
    tables = [_metadata(part, spell(name)) for name, part in sets.items()]
    if any(table.rows for table in tables):
        yield Block("What metadata alone predicts, beside the model", METADATA, tables, folded=True)
    explained = [GROUPS]  # once
    for name, part in sets.items():
        rows = {finding: row for finding, row in part["findings"].items() if row["auroc"]}
        told_of = [of["auroc"] for row in rows.values() for kind in KINDS for of in row["subgroup_differences"][kind]["groups"].values() if of["auroc"]]
        if not told_of:
            continue
        n_apart = sum(of["lo"] > 0 or of["hi"] < 0 for of in told_of)
        words, explained = [*explained, BY_CHANCE.format(n=len(told_of), n_apart=n_apart)], []
        yield Block(f"Groups of films: {spell(name)}", words, picture=f"{name}_groups", alt=f"AUROC in groups of films and the differences on {name}")
        yield Block(f"Groups of films: {spell(name)}, every difference", tables=[_differences(rows, kind) for kind in KINDS], folded=True)


def _probes(told: Mapping[str, Any]) -> Table:
    heads = {"labels": "From labels", "logits": "From outputs", "features": "From features"}

    def cells(kind: str) -> Row:
        of = told[kind]
        counts: Row = {"Fitted on films": of["n_fitted"], "Tested on films": of["n_images"], "of them yes": of["n_pos"]}
        return counts | {head: of[name]["auroc"] or f"undefined: {spell_set(of[name]['reason'])}" for name, head in heads.items()}

    return Table([{"AUROC for": words} | cells(kind) for kind, words in QUESTIONS.items()])


def _metadata(part: Mapping[str, Any], title: str) -> Table:
    told = {finding: row for finding, row in part["findings"].items() if (row.get("metadata_baseline") or {}).get("auroc")}

    def cells(row: Mapping[str, Any]) -> Row:
        of = row["metadata_baseline"]
        alone: Row = {NAMES[name]: of["alone"][name] for name in COLUMNS}
        return alone | {"All of it": of["auroc"], "Model": value_of(row["auroc"]), "Model above": difference(of["difference"])}

    return per_finding(told, cells, title)


def _differences(rows: Mapping[str, Any], kind: str) -> Table:
    heads = {"auroc": "AUROC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
    told: list[Row] = []
    for finding, row in rows.items():
        of = row["subgroup_differences"][kind]
        for group, apart in of["groups"].items():
            numbers: Row = {head: difference(apart[key]) for key, head in heads.items()}
            which = {"Finding": spell(finding), "Group": f"{group} less {of['base']}"}
            told.append({**which, **numbers, "Patients in both": apart["n_patients_in_both"]})
    return Table([row for row in told if row["AUROC"] != NOTHING], KINDS[kind])
