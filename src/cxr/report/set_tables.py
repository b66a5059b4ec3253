"""What report.json holds of any reference set, as blocks of words and tables: its findings, thresholds, subgroups, clustering, calibration."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr.report.pages import Block, Cell, Row, Table, per_finding
from cxr.report.wording import LARGE_SHARE, NOTHING, difference, number, percent, spell, spell_set
from cxr.stats.bootstrap import FEW_PATIENTS

Part = Mapping[str, Any]

BASELINE = (
    "Metadata alone is a guess that never sees the film: view, sex, age and follow-up number, fitted to the text-mined labels of NIH train and val. "
    "A model that is hardly above it may have learned who is filmed how, not what is on the film."
)
BASELINE_SCALE = (
    " On the complete four-findings test set, as published, the view alone scores an AUROC of 0.685 for airspace opacity, and the follow-up number alone 0.726."
)
RULES = {"specificity": "specificity {:g}", "sensitivity": "sensitivity {:g}", "youden": "highest sum of both"}
RATES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}
OPERATING = (
    "A score becomes a yes or no at a threshold. Each was fixed on validation films before any test prediction was read, and is applied here unchanged. The "
    "target is what it gave there; what it achieves here may differ. Sensitivity: of the films that have the finding, how many are found. Specificity: of "
    "those that do not, how many are left alone. PPV: of those called, how many have it; NPV: of those not called, how many do not.",
    "Text-mined target: the threshold was fixed on films whose labels a program read from reports, so its target speaks of those labels and not of "
    "radiologists'.",
    "PPV and NPV depend on how common the finding is. At other prevalences they follow from the sensitivity and specificity achieved here.",
)
SUBGROUPS = (
    "Each cell: AUROC with its interval, and how many of the group's films are positive. "
    f"Too small: fewer than {FEW_PATIENTS} patients with the finding, or without it."
)
SUBGROUP_TITLES = {"view": "By view", "sex": "By sex", "age": "By age in years", "n_films": "By how many films the patient has"}
CLUSTERING = (
    "Films of one patient resemble each other, so the patients count, not the films. One film per patient: the mean over random draws of a single film of "
    "each. Within view: AP films are compared with AP films and PA films with PA films only, so that telling bedside films from others earns nothing."
)
CALIBRATION = (
    "Does 30 % mean 30 %? Intercept: 0 is right, above 0 the model says too little. Slope: 1 is right, below 1 it is too sure of itself. Brier: mean squared "
    "error of the probability, lower is better. ECE: how far probabilities are from what is observed, on average, after what chance explains is taken off.",
    "Platt scaling and the correction for prevalence were fitted on the validation films named, and on none of these. A score ranks films and is no "
    "probability until Platt scaling has made it one.",
)
STAGES = {"before": "as it is", "platt": "after Platt scaling", "prior_shift": "corrected for prevalence"}


def rates(leaf: Part, *keys: str) -> Row:
    """Heading -> estimate."""
    return {RATES[key]: leaf[key] for key in keys or RATES}


def auroc(row: Part) -> Cell:
    return row["auroc"] or f"undefined: {row.get('reason', 'no reason was recorded')}"


def findings(part: Part, more: str = "") -> Block:
    """The set's AUROC and AUPRC; where radiologists made the labels, with the metadata baseline. `more` is said of that baseline."""
    adjudicated = part["adjudicated"]
    rows: list[Row] = []
    for finding, row in part["findings"].items():
        share, baseline = row["largest_patient_share"], row.get("metadata_baseline") or {"auroc": None, "difference": None}
        negative = {} if adjudicated else {"Negative films": row["n_neg"]}
        owned = {} if adjudicated else {"Largest patient share": percent(share)}
        beside = {"AUROC of metadata alone": baseline["auroc"], "Model above metadata": difference(baseline["difference"])} if adjudicated else {}
        dominated = f"one patient owns over {LARGE_SHARE:.0%}" if (share or 0.0) > LARGE_SHARE else ""
        left_out = "not in the mean" if finding in part["macro"]["left_out"] else ""
        rows.append(
            {"Finding": spell(finding), "Positive films": row["n_pos"], **negative, "Positive patients": row["n_pos_patients"], **owned}
            | {"Prevalence": percent(row["prevalence"]), "AUROC": auroc(row), "AUPRC": row["auprc"], **beside}
            | {"Note": "; ".join(filter(None, [dominated, left_out, baseline.get("reason", "")]))}
        )
    words = [*([BASELINE + more] if adjudicated else []), *_notes(part)]
    return Block("Every finding" if adjudicated else "", words, [Table(rows)])


def _notes(part: Part) -> list[str]:
    told = part["findings"]
    notes = [
        ("Not in the mean over findings", {finding: f"({why})" for finding, why in part["macro"]["left_out"].items()}),
        ("Not adjudicated, and left out of that finding", {finding: f"{row['n_unknown']:,}" for finding, row in told.items() if row.get("n_unknown")}),
        ("Draws without both classes, drawn anew", {finding: f"{row['n_redrawn']:,}" for finding, row in told.items() if row.get("n_redrawn")}),
    ]
    return [f"{what}: {', '.join(f'{spell(finding)} {words}' for finding, words in of.items())}." for what, of in notes if of]


def operating_points(part: Part) -> Iterator[Block]:
    """One block, or none where no threshold is spoken of."""
    told = {finding: row["operating_points"] for finding, row in part["findings"].items() if row.get("operating_points")}
    fixed = {finding: points for finding, points in told.items() if points["source"] is not None}
    drawn = {finding: points["rules"][points["shown"]] for finding, points in fixed.items()}
    others = [
        {"Finding": spell(finding), **_achieved(points, rule)} for finding, points in fixed.items() for rule in points["rules"] if rule != points["shown"]
    ]

    def by_view(of: Part) -> Row:
        return {f"{RATES[key]}, {view}": of["by_view"][view][key] for view in ("PA", "AP") for key in ("sensitivity", "specificity")}

    def elsewhere(of: Part) -> Row:
        return {f"{RATES[key]} at {percent(float(share))}": there[key] for share, there in of["at_prevalence"].items() for key in ("ppv", "npv")}

    tables = [
        per_finding(told, _threshold, "At the threshold that is drawn"),
        Table(others, "At other thresholds, fixed on the same films"),
        per_finding(drawn, by_view, "By view, at the threshold that is drawn"),
        per_finding(drawn, elsewhere, "Were the finding as common as this"),
    ]
    if told:
        yield Block("Operating points: what a yes or no of the model is worth", OPERATING, tables, folded=True)


def _threshold(points: Part) -> Row:
    if points["source"] is None:
        return {"Fixed on": "no threshold", **dict.fromkeys(("Target", *RATES.values())), "Note": spell_set(points["reason"])}
    mined = ["text-mined target"] if points["text_mined_target"] else []
    note = "; ".join([*mined, *(f"not from {spell_set(name)}: {why}" for name, why in points["not_from"].items())])
    return {"Fixed on": spell_set(points["source"]), **_achieved(points, points["shown"]), "Note": note}


def _achieved(points: Part, rule: str) -> Row:
    return {"Target": RULES[rule].format(points["rules"][rule]["target"])} | rates(points["rules"][rule])


def subgroups(part: Part) -> Iterator[Block]:
    """AUROC by view, sex, age and films of the patient; and how much films of one patient, or the view, make of it."""
    told = {finding: row for finding, row in part["findings"].items() if row["auroc"]}
    if not told:
        return
    tables = [
        Table([{"Finding": spell(finding)} | {group: _group(of) for group, of in row["subgroups"][kind].items()} for finding, row in told.items()], title)
        for kind, title in SUBGROUP_TITLES.items()
    ]
    yield Block("Subgroups: view, sex, age and films of the patient", (SUBGROUPS,), tables, folded=True)
    yield Block("Patients and views behind the numbers", (CLUSTERING,), [per_finding(told, _clustering)], folded=True)


def _group(told: Part) -> str:
    return f"{number(told['auroc']) if told['auroc'] else 'too small'}, {told['n_pos']:,} of {told['n_images']:,}"


def _clustering(row: Part) -> Row:
    counts = {"Positive films": row["n_pos"], "Positive patients": row["n_pos_patients"], "Largest patient's share": percent(row["largest_patient_share"])}
    return counts | {"AUROC": row["auroc"], "One film per patient": row["one_film_per_patient"], "Within view": row["auroc_within_view"]}


def calibration(name: str, part: Part) -> Iterator[Block]:
    """One block, or none where calibration is not spoken of."""
    told = {finding: row["calibration"] for finding, row in part["findings"].items() if row.get("calibration")}
    rows = [
        {"Finding": spell(finding), "Probability": state, "Fitted on": NOTHING if stage == "before" else _fitted_on(numbers)}
        | {"Intercept": difference(numbers[stage]["intercept"])}
        | {heading: numbers[stage][heading.lower()] for heading in ("Slope", "Brier", "ECE")}
        for finding, numbers in told.items()
        for stage, state in STAGES.items()
        if numbers[stage]
    ]
    notes = [
        ("Scores, no probabilities as they are", [spell(finding) for finding, numbers in told.items() if not numbers["is_probability"]]),
        ("Platt scaling not fitted", [f"{spell(finding)} ({spell_set(numbers['not_fitted'])})" for finding, numbers in told.items() if not numbers["platt"]]),
    ]
    words = [*CALIBRATION, *(f"{what}: {', '.join(findings)}." for what, findings in notes if findings)]
    alt = "Observed share against predicted probability, a panel per finding"
    if told:
        yield Block("Calibration: whether the probabilities hold", words, [Table(rows)], f"{name}_calibration", alt, folded=True)


def _fitted_on(numbers: Part) -> str:
    return f"{spell_set(numbers['fitted_on'])}{', text-mined' * numbers['text_mined_target']}"
