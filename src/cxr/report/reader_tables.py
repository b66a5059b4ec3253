"""What report.json holds of radiologists beside the model, and of what their labels and the choice of a mapping make of its numbers; in words and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr.report.beside_readers import MIN_READS
from cxr.report.pages import Block, Table
from cxr.report.wording import NOTHING, difference, number, percent, spell, spell_set
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
        yield _differences(name, told["differences"], told["held_out"])
        yield _descriptive(told["differences"])
    yield _pooled(told)
    yield _by_reader(told)
    if "leave_one_out" in told:
        yield from _easy_cases(told["leave_one_out"])
    yield _kappa(told["kappa"])
    yield _partial(told["partial_auroc"])


def _differences(name: str, told: Part, held_out: list[str]) -> Block:
    words = DIFFERENCES.format(
        n_comparisons=told["n_comparisons"],
        n_draws=told["n_draws"],
        not_tested=NOT_TESTED.format(", ".join(map(spell, told["not_tested"]))) if told["not_tested"] else "",
    )
    alt = "Difference in sensitivity between the model and each held-out reader, with intervals, a row per finding"
    title = f"Readers beside the model: {' and '.join(held_out)}"
    return Block(title, (words,), _difference_tables(told, primary=True), f"{name}_differences", alt, warning=JURORS)


def _descriptive(told: Part) -> Block:
    readers = list(told["by_reader"])
    findings = dict.fromkeys(finding for of in told["by_reader"].values() for finding in of)
    rows = [[spell(finding), *(difference(told["by_reader"][reader].get(finding, {}).get("reverse")) for reader in readers)] for finding in findings]
    reverse = Table(("Finding", *(f"Against reader {reader}" for reader in readers)), rows, "Specificity at the reader's sensitivity")
    title = "Readers beside the model: descriptive differences, and the difference in specificity"
    return Block(title, (DESCRIPTIVE,), [*_difference_tables(told, primary=False), reverse], folded=True)


def _difference_tables(told: Part, *, primary: bool) -> list[Table]:
    """One, or none without a comparison of that kind."""
    columns = [
        *("Finding", "Held-out reader", "Positive films", "Reader's sensitivity", "Reader's specificity", "Model's sensitivity there"),
        *("Difference", *(["p", "Holm's p"] if primary else [])),
    ]
    rows = []
    for finding in dict.fromkeys(finding for of in told["by_reader"].values() for finding in of):
        for reader, of in told["by_reader"].items():
            if finding in of and of[finding]["in_primary_family"] == primary:
                row = of[finding]
                measured = [_rate(row[key]) for key in ("reader_sensitivity", "reader_specificity", "model_sensitivity")]
                p = [f"{row[key]:.4f}" for key in ("p", "p_holm")] if primary else []
                rows.append([spell(finding), reader, f"{row['n_pos']:,}", *measured, difference(row["difference"]), *p])
    return [Table(columns, rows, "" if primary else "Sensitivity at the reader's specificity", counts=(2, 3, 4, 5))] if rows else []


def _rate(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


READ_COLUMNS = ("Reads", "of films with it", "Sensitivity", "Specificity", "PPV")


def _pooled(told: Part) -> Block:
    rows = [cells for finding in told["performance"]["no"]["pooled"] for cells in _read_rows(told["performance"], spell(finding), ("pooled", finding))]
    is_open, is_hedged = "leave_one_out" in told, len(told["performance"]) > 1
    words = POOLED + (HEDGED if is_hedged else "")
    title = "Readers beside the model" if is_open else "All reads together"
    table = _reads_table(("Finding",), rows, is_hedged)
    return Block(title, (words,), [table], warning=MADE_THE_REFERENCE if is_open else "", folded=not is_open)


def _by_reader(told: Part) -> Block:
    rows = []
    for finding in told["performance"]["no"]["pooled"]:
        for reader in told["shown"]:
            role = f"{reader}, held out" if reader in told["held_out"] else reader
            rows += [[spell(finding), *cells] for cells in _read_rows(told["performance"], role, ("by_reader", reader, finding))]
    n_others = len(told["n_reads"]) - len(told["shown"])
    words = (f"{n_others} readers of fewer than {MIN_READS} of these films are not shown alone.",) if n_others else ()
    table = _reads_table(("Finding", "Reader"), rows, len(told["performance"]) > 1)
    return Block("Every reader against the reference", words, [table], folded=True)


def _reads_table(names: tuple[str, ...], rows: list[list[str]], is_hedged: bool) -> Table:
    columns = (*names, *(["Uncertain reads"] if is_hedged else []), *READ_COLUMNS)
    first = columns.index("Reads")
    return Table(columns, rows, counts=(first, first + 1))


def _read_rows(performance: Part, name: str, path: tuple[str, ...]) -> Iterator[list[str]]:
    """A row per way of counting uncertain reads; one alone where all ways give the same."""
    leaves: dict[str, Part] = {}
    for policy, leaf in performance.items():
        for key in path:
            leaf = leaf[key]
        leaves[policy] = leaf
    differ = any(leaf != leaves["no"] for leaf in leaves.values())
    for policy, leaf in leaves.items():
        if differ or policy == "no":
            counts = [f"{leaf.get('n_reads', leaf['n_images']):,}", f"{leaf['n_pos']:,}"]
            hedged = [POLICIES[policy] if differ else "none"] if len(leaves) > 1 else []
            yield [name, *hedged, *counts, *(number(leaf[key]) for key in ("sensitivity", "specificity", "ppv"))]


def _easy_cases(told: Part) -> Iterator[Block]:
    readers, models = [], []
    for finding, of in told.items():
        for reader, row in of.items():
            counts = [f"{row['n_reads']:,}", percent(row["share_excluded"]), f"{row['reader']['n_pos']:,}"]
            readers.append([spell(finding), reader, *counts, *(number(row["reader"][key]) for key in ("sensitivity", "specificity", "ppv"))])
            if row["model"]:
                there = _rate(row["model"]["sensitivity_at_readers_specificity"])
                models.append([spell(finding), reader, number(row["model"]["auroc"]), there, difference(row["difference"])])
    tables = [
        Table(("Finding", "Reader", "Reads", "Excluded", "Positive", "Sensitivity", "Specificity", "PPV"), readers, "The readers", counts=(2, 3, 4)),
        Table(("Finding", "Beside reader", "AUROC", "Sensitivity at the reader's specificity", "Difference"), models, "The model"),
    ]
    if readers:
        yield Block("Easy cases: readers and model against the other readers", (EASY_CASES,), [table for table in tables if table.rows], folded=True)


def _kappa(told: Part) -> Block:
    columns = ("Finding", "Pairs", "Readers with each other, least", "most", "Model with a reader, least", "most")
    rows = []
    for finding, of in told.items():
        between = [pair["kappa"] for pair in of["between_readers"]]
        with_model = [pair["kappa"] for pair in (of["with_model"] or {}).values()]
        rows.append([spell(finding), f"{len(between):,}", *_ends(between), *_ends(with_model)])
    return Block("Who agrees with whom", (KAPPA,), [Table(columns, rows, counts=(1,))], folded=True)


def _ends(kappas: list[Part | None]) -> list[str]:
    ranked = sorted((kappa for kappa in kappas if kappa), key=lambda kappa: float(kappa["value"]))
    return [number(ranked[0]), number(ranked[-1])] if ranked else [NOTHING, NOTHING]


def _partial(told: Part) -> Block:
    rows = []
    for finding, row in told.items():
        lo, hi = row.get("false_positive_rates", (None, None))
        rows.append([spell(finding), f"{_rate(lo)} to {_rate(hi)}" if row["partial_auroc"] else NOTHING, number(row["partial_auroc"]), row.get("reason", "")])
    table = Table(("Finding", "Readers' false-positive rates", "Partial AUROC of the model", "Note"), rows)
    return Block("Partial AUROC, where the readers work", (PARTIAL,), [table], folded=True)


# --- labels and mapping -----------------------------------------------------------------------------------------------------------------------------


def labels(name: str, part: Part, usual: Mapping[str, Any], usual_name: str) -> Iterator[Block]:
    """Label noise or case mix; and what other radiologists would have made of the number.

    Args:
        name: of the set.
        part: its part of report.json.
        usual: finding -> numbers against text-mined labels on all films.
        usual_name: of those films.
    """
    told = {finding: row for finding, row in part["findings"].items() if row["auroc"]}
    if not told:
        return
    rows = []
    for finding, row in told.items():
        shift, everywhere = row["label_shift"], usual.get(finding, {}).get("auroc")
        counts = f"{shift['n_pos_text_mined']:,} / {shift['n_pos']:,}" if "n_pos" in shift else NOTHING
        steps = [number(everywhere), *(number(shift.get(key)) for key in ("auroc_text_mined", "auroc_reference"))]
        rows.append([spell(finding), counts, *steps, difference(shift["difference"]), shift.get("reason", "")])
    columns = (
        *("Finding", "Positive by text mining / radiologists", f"AUROC, text-mined labels, {spell_set(usual_name)}"),
        *("AUROC, text-mined labels, these films", "AUROC, radiologists' labels, these films", "Difference", "Note"),
    )
    yield Block("Label noise or case mix?", (SHIFT,), [Table(columns, rows, counts=(1,))], folded=True)
    doubts = {finding: row["reference_uncertainty"] for finding, row in told.items() if "reference_uncertainty" in row}
    if doubts and all("panels" in doubt for doubt in doubts.values()):
        yield Block("Had other radiologists been the panel", (PANELS,), [_panels(doubts)], folded=True)
    elif doubts:
        yield Block("Where the radiologists agreed and where they did not", (DISPUTED,), [_disputed(doubts)], folded=True)


def _panels(doubts: Part) -> Table:
    columns = ("Finding", "Panels with a number", "Published panel", "Lowest", "Highest", "Note")
    rows = []
    for finding, doubt in doubts.items():
        published = next(panel for panel in doubt["panels"] if panel["is_reference"])
        ranked = sorted((panel for panel in doubt["panels"] if panel["auroc"]), key=lambda panel: float(panel["auroc"]["value"]))
        ends = [f"{number(panel['auroc'])}{' (published)' * panel['is_reference']}" for panel in (ranked[0], ranked[-1])] if ranked else [NOTHING] * 2
        rows.append([spell(finding), f"{len(ranked)} of {len(doubt['panels'])}", number(published["auroc"]), *ends, str(published.get("reason", ""))])
    return Table(columns, rows, counts=(1,))


def _disputed(doubts: Part) -> Table:
    columns = ("Finding", "Unanimous films", "with it", "AUROC there", "Disputed films", "with it", "AUROC there", "Note")
    rows = []
    for finding, doubt in doubts.items():
        cells: list[str] = []
        notes: list[str] = []
        for group in ("unanimous", "disputed"):
            cells += [f"{doubt[group]['n_images']:,}", f"{doubt[group]['n_pos']:,}", number(doubt[group]["auroc"])]
            notes += [f"{group}: {doubt[group]['reason']}"] if "reason" in doubt[group] else []
        rows.append([spell(finding), *cells, "; ".join(notes)])
    return Table(columns, rows, counts=(1, 2, 4, 5))


def mapping(part: Part) -> Iterator[Block]:
    """One block, for the sets whose findings are not the model's."""
    rows = []
    for finding, of in part.get("mapping_sensitivity", {}).items():
        for method, row in of.items():
            notes = [*row.get("warnings", []), *([row["reason"]] if "reason" in row else [])]
            rows.append([spell(finding), METHODS.get(method, method), "yes" if row["chosen"] else "", number(row["auroc"]), "; ".join(notes)])
    if rows:
        yield Block("What if the findings had been translated otherwise", MAPPING, [Table(("Finding", "Score", "Chosen", "AUROC", "Note"), rows)], folded=True)
