"""What report.json holds of radiologists beside the model, and of what their labels and the choice of a mapping make of its numbers; in words and tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cxr.report.beside_readers import MIN_READS
from cxr.report.pages import Block, Cell, Row, Table, per_finding
from cxr.report.set_tables import rates
from cxr.report.wording import difference, number, percent, spell
from cxr.stats.bootstrap import FEW_PATIENTS

Part = Mapping[str, Any]

PICTURE = (
    "A panel is a finding. Up: of the films that have it, how many are found (sensitivity). To the right: of the films that do not, how many are called all "
    "the same (1 − specificity). The line is the model as its threshold moves; the band holds 95 % of such lines when other patients are drawn, and is left "
    f"out where fewer than {FEW_PATIENTS} patients have the finding. A mark is someone who says yes or no: above the line, more is found at the same rate of "
    "false alarms. The square is the model at its fixed threshold.",
)
MADE_THE_REFERENCE = (
    "These readers made the reference: it is the consensus that followed their reads. They look better against it than they are, and a model that looks worse "
    "than they do may not be."
)
JURORS = (
    "Three of the five readers are the reference: it is their majority, so their own numbers are optimistic. The two held-out readers had no part in it. The "
    "comparison with them is fair, but it is with these two, who differ from each other, and not with radiologists at large."
)
DIFFERENCES = (
    "The model is put at the specificity of a held-out reader, and its sensitivity there is held against that reader's: below 0 the reader finds more, above "
    "0 the model does. The primary comparisons were fixed before any test prediction was read; {n_comparisons} are possible on the present films. p is "
    "two-sided, over {n_draws:,} draws of patients, and Holm's p takes into account how many they are. What is not among them is descriptive and has no "
    "p.{not_tested}"
)
NOT_TESTED = " Fixed but not possible on the films that are present: {}."
DESCRIPTIVE = (
    "Findings that are not among the primary comparisons; and everything the other way round: the model's specificity at the reader's sensitivity, less the "
    "reader's. Of a handful of positive films neither says much."
)
POOLED = (
    "All reads together: a film counts as often as it was read. PPV: of the films a reader called, how many have the finding by the reference. Readers of "
    f"fewer than {MIN_READS} films are part of this and are not shown alone."
)
POLICIES = {"no": "count as no", "yes": "count as yes", "drop": "left out"}
HEDGED = " Where a reader was uncertain, the read counts as no, as yes, or is left out; a row of its own wherever that changes a number."
EASY_CASES = (
    "Easy cases. A reader and the model are both scored against the other readers of the same film, where at least two others agree and were certain. No read "
    "counts for itself, but the films on which radiologists disagree are gone: the share that is excluded says how many. The difference is the model's "
    "sensitivity at the reader's specificity, less the reader's."
)
KAPPA = (
    f"Cohen's kappa is agreement beyond chance: 1 is perfect, 0 is chance. Of pairs with at least {MIN_READS} films in common; an uncertain read counts as no; "
    "the model says yes at its fixed threshold. The pair that agrees least and the pair that agrees most."
)
PARTIAL = (
    "Readers give few false alarms, so most of the ROC curve is not where anybody works. This is the area within the readers' own range of false-positive "
    "rates, standardised so that 0.5 is chance and 1 is perfect; a model that finds nothing there falls below 0.5."
)
SHIFT = (
    "Two things change between the usual number and this one: the films and the labels. From the first column to the second the films change and the labels "
    "stay: case mix. From the second to the third the labels change and the films stay: label noise. The difference is the last step, paired."
)
PANELS = (
    "Any three of the five radiologists could have been the panel whose majority is the reference. There are ten such panels; the published one and the two "
    "at the ends of the range. How far they are apart is what the choice of three readers alone can do."
)
DISPUTED = (
    "Films of which all first reads said the same, and films on which they differed or a reader was uncertain. A model can look better on the first because "
    "they are easier, and worse on the second because even radiologists cannot tell."
)
GROUPS = ("unanimous", "disputed")
MAPPING = (
    "The model was trained on 14 text-mined findings and must be translated into what these radiologists labelled. The translation was fixed beforehand; how "
    "much the AUROC depends on it is shown here. Whoever chooses by such a table must choose by the validation set's.",
)
METHODS = {
    "max": "largest logit less its training log-odds",
    "max_raw": "largest logit",
    "noisy_or": "noisy-or",
    "max, with Effusion": "largest logit less its training log-odds, with Effusion",
    "own logit": "the model's own logit",
    "probe": "probe: regression on all logits, fitted on the radiologists' validation films",
}


def beside_the_model(name: str, part: Part) -> Iterator[Block]:
    """Readers: the block that is open, and those that explain it."""
    told = part.get("readers")
    if not told:
        return
    if "differences" in told:
        yield from _differences(name, told["differences"], told["held_out"])
    yield from _against_the_reference(told)
    if "leave_one_out" in told:
        yield _easy_cases(told["leave_one_out"])
    yield Block("Who agrees with whom", (KAPPA,), [per_finding(told["kappa"], _kappas)], folded=True)
    yield Block("Partial AUROC, where the readers work", (PARTIAL,), [per_finding(told["partial_auroc"], _partial)], folded=True)


def _kappas(of: Part) -> Row:
    pairs = {"Readers with each other": of["between_readers"], "Model with a reader": list((of["with_model"] or {}).values())}
    ranges = {who: ends([pair["kappa"] for pair in told]) for who, told in pairs.items()}
    return {"Pairs": len(of["between_readers"])} | {f"{who}: {end}": ranges[who][i] for who in pairs for i, end in enumerate(("least", "most"))}


def _partial(row: Part) -> Row:
    rates = "{:.3f} to {:.3f}".format(*row["false_positive_rates"]) if row["partial_auroc"] else None
    return {"Readers' false-positive rates": rates, "Partial AUROC of the model": row["partial_auroc"], "Note": row.get("reason", "")}


def ends(kappas: Sequence[Part | None]) -> list[Cell]:
    """The least and the most of those that are defined."""
    ranked = sorted((kappa for kappa in kappas if kappa), key=lambda kappa: float(kappa["value"]))
    return [ranked[0], ranked[-1]] if ranked else [None, None]


COMPARED = ("Positive films", "Reader's sensitivity", "Reader's specificity", "Model's sensitivity there")


def _differences(name: str, told: Part, held_out: list[str]) -> Iterator[Block]:
    by_reader = told["by_reader"]
    findings = list(dict.fromkeys(finding for of in by_reader.values() for finding in of))
    compared: dict[bool, list[Row]] = {True: [], False: []}
    for finding in findings:
        for reader in by_reader:
            if row := by_reader[reader].get(finding):
                is_primary = row["in_primary_family"]
                measured = [row[key] for key in ("n_pos", "reader_sensitivity", "reader_specificity", "model_sensitivity")]
                cells = {"Finding": spell(finding), "Held-out reader": reader} | dict(zip(COMPARED, measured, strict=True))
                cells["Difference"] = difference(row["difference"])
                compared[is_primary].append(cells | ({"p": f"{row['p']:.4f}", "Holm's p": f"{row['p_holm']:.4f}"} if is_primary else {}))
    not_tested = NOT_TESTED.format(", ".join(map(spell, told["not_tested"]))) if told["not_tested"] else ""
    words = DIFFERENCES.format(n_comparisons=told["n_comparisons"], n_draws=told["n_draws"], not_tested=not_tested)
    alt = "Difference in sensitivity between the model and each held-out reader, with intervals, a row per finding"
    title = f"Readers beside the model: {' and '.join(held_out)}"
    yield Block(title, (words,), [Table(compared[True])], f"{name}_differences", alt, warning=JURORS)

    reverse = [
        {"Finding": spell(finding)} | {f"Against reader {reader}": difference(of.get(finding, {}).get("reverse")) for reader, of in by_reader.items()}
        for finding in findings
    ]
    tables = [Table(compared[False], "Sensitivity at the reader's specificity"), Table(reverse, "Specificity at the reader's sensitivity")]
    yield Block("Readers beside the model: descriptive differences, and the difference in specificity", (DESCRIPTIVE,), tables, folded=True)


def _against_the_reference(told: Part) -> Iterator[Block]:
    performance, is_open = told["performance"], "leave_one_out" in told
    findings = list(performance["no"]["pooled"])
    rows = [row for finding in findings for row in reads({"Finding": finding}, {policy: of["pooled"][finding] for policy, of in performance.items()})]
    title = "Readers beside the model" if is_open else "All reads together"
    words = POOLED + (HEDGED if len(performance) > 1 else "")
    yield Block(title, (words,), [Table(rows)], warning=MADE_THE_REFERENCE if is_open else "", folded=not is_open)

    rows = []
    for finding in findings:
        for reader in told["shown"]:
            names = {"Finding": finding, "Reader": f"{reader}, held out" if reader in told["held_out"] else reader}
            rows += reads(names, {policy: of["by_reader"][reader][finding] for policy, of in performance.items()})
    n_others = len(told["n_reads"]) - len(told["shown"])
    others = (f"{n_others} readers of fewer than {MIN_READS} of these films are not shown alone.",) if n_others else ()
    yield Block("Every reader against the reference", others, [Table(rows)], folded=True)


def reads(names: Mapping[str, str], leaves: Mapping[str, Part], note: Callable[[Part], str] | None = None) -> Iterator[Row]:
    """A row per way of counting uncertain reads; one alone where all ways give the same.

    Args:
        names: heading -> what the row is called.
        leaves: way of counting -> numbers.
        note: on the numbers; given one, the row also has the NPV.
    """
    differ = any(leaf != leaves["no"] for leaf in leaves.values())
    for policy, leaf in leaves.items():
        if differ or policy == "no":
            hedged = {"Uncertain reads": POLICIES[policy] if differ else "none"} if len(leaves) > 1 else {}
            counts = {"Reads": leaf.get("n_reads", leaf["n_images"]), "of films with it": leaf["n_pos"]}
            more = {"NPV": leaf["npv"], "Note": note(leaf)} if note else {}
            named = {heading: spell(name) for heading, name in names.items()}
            yield {**named, **hedged, **counts, **rates(leaf, "sensitivity", "specificity", "ppv"), **more}


def _easy_cases(told: Part) -> Block:
    readers: list[Row] = []
    models: list[Row] = []
    for finding, of in told.items():
        for reader, row in of.items():
            counts = {"Reads": row["n_reads"], "Excluded": percent(row["share_excluded"]), "Positive": row["reader"]["n_pos"]}
            readers.append({"Finding": spell(finding), "Reader": reader, **counts, **rates(row["reader"], "sensitivity", "specificity", "ppv")})
            if row["model"]:
                measured = {"AUROC": row["model"]["auroc"], "Sensitivity at the reader's specificity": row["model"]["sensitivity_at_readers_specificity"]}
                models.append({"Finding": spell(finding), "Beside reader": reader, **measured, "Difference": difference(row["difference"])})
    tables = [Table(readers, "The readers"), Table(models, "The model")]
    return Block("Easy cases: readers and model against the other readers", (EASY_CASES,) if readers else (), tables, folded=True)


SHIFTED = {"text-mined": "auroc_text_mined", "radiologists'": "auroc_reference"}


def labels(part: Part, usual: Mapping[str, Any], usual_name: str) -> Iterator[Block]:
    """Label noise or case mix, beside the `usual` numbers: against text-mined labels on all films; and what other radiologists would have made of it."""
    told = {finding: row for finding, row in part["findings"].items() if row["auroc"]}
    rows: list[Row] = []
    for finding, row in told.items():
        shift = row["label_shift"]
        counts = f"{shift['n_pos_text_mined']:,} / {shift['n_pos']:,}" if "n_pos" in shift else None
        everywhere = {f"AUROC, text-mined labels, {spell(usual_name)}": usual.get(finding, {}).get("auroc")}
        here = {f"AUROC, {whose} labels, these films": shift.get(key) for whose, key in SHIFTED.items()}
        shifted = {"Difference": difference(shift["difference"]), "Note": shift.get("reason", "")}
        rows.append({"Finding": spell(finding), "Positive by text mining / radiologists": counts, **everywhere, **here, **shifted})
    if rows:
        yield Block("Label noise or case mix?", (SHIFT,), [Table(rows)], folded=True)
    doubts = {finding: row["reference_uncertainty"] for finding, row in told.items() if "reference_uncertainty" in row}
    if doubts and all("panels" in doubt for doubt in doubts.values()):
        yield Block("Had other radiologists been the panel", (PANELS,), [per_finding(doubts, _panels)], folded=True)
    elif doubts:
        yield Block("Where the radiologists agreed and where they did not", (DISPUTED,), [per_finding(doubts, _disputed)], folded=True)


def _panels(doubt: Part) -> Row:
    published = next(panel for panel in doubt["panels"] if panel["is_reference"])
    ranked = sorted((panel for panel in doubt["panels"] if panel["auroc"]), key=lambda panel: float(panel["auroc"]["value"]))
    least, most = [f"{number(panel['auroc'])}{' (published)' * panel['is_reference']}" for panel in (ranked[0], ranked[-1])] if ranked else [None, None]
    counts = {"Panels with a number": f"{len(ranked)} of {len(doubt['panels'])}"}
    return counts | {"Published panel": published["auroc"], "Lowest": least, "Highest": most, "Note": published.get("reason", "")}


def _disputed(doubt: Part) -> Row:
    row: Row = {}
    for group in GROUPS:
        of = doubt[group]
        row |= {f"{group.capitalize()} films": of["n_images"], f"{group}, with it": of["n_pos"], f"AUROC, {group} films": of["auroc"]}
    return row | {"Note": "; ".join(f"{group}: {doubt[group]['reason']}" for group in GROUPS if "reason" in doubt[group])}


def mapping(part: Part) -> Block:
    """For the sets whose findings are not the model's; of other sets it says nothing."""
    rows = [
        {"Finding": spell(finding), "Score": METHODS.get(method, method), "Chosen": "yes" if row["chosen"] else "", "AUROC": row["auroc"]}
        | {"Note": "; ".join([*row.get("warnings", []), *([row["reason"]] if "reason" in row else [])])}
        for finding, of in part.get("mapping_sensitivity", {}).items()
        for method, row in of.items()
    ]
    return Block("What if the findings had been translated otherwise", MAPPING if rows else (), [Table(rows)], folded=True)
