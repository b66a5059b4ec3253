"""What report.json holds of any reference set, as blocks of words and tables: its findings, thresholds, subgroups, clustering, calibration."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr.report.pages import Block, Table
from cxr.report.wording import LARGE_SHARE, NOTHING, difference, number, percent, spell, spell_set
from cxr.stats.bootstrap import FEW_PATIENTS

Part = Mapping[str, Any]

COLUMNS = ("Finding", "Positive films", "Negative films", "Positive patients", "Largest patient share", "Prevalence", "AUROC", "AUPRC", "Note")
EXPERT_COLUMNS = (
    *("Finding", "Positive films", "Positive patients", "Prevalence", "AUROC", "AUPRC"),
    *("AUROC of metadata alone", "Model above metadata", "Note"),
)
BASELINE = (
    "Metadata alone is a guess that never sees the film: view, sex, age and follow-up number, fitted to the text-mined labels of NIH train and val. "
    "A model that is hardly above it may have learned who is filmed how, not what is on the film."
)
BASELINE_SCALE = (
    " On the complete four-findings test set, as published, the view alone scores an AUROC of 0.685 for airspace opacity, and the follow-up number alone 0.726."
)
RULES = {"specificity": "specificity {:g}", "sensitivity": "sensitivity {:g}", "youden": "highest sum of both"}
ACHIEVED = ("Target", "Sensitivity", "Specificity", "PPV", "NPV")
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
SUBGROUP_TITLES = {"view": "By view", "sex": "By sex", "age": "By age in years"}
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


def findings(part: Part, more: str = "") -> Block:
    """The set's AUROC and AUPRC; where radiologists made the labels, with the metadata baseline. `more` is said of that baseline."""
    adjudicated = part["adjudicated"]
    rows = []
    for finding, row in part["findings"].items():
        share, prevalence = percent(row["largest_patient_share"]), percent(row["prevalence"])
        films, negative, patients = (f"{row[key]:,}" for key in ("n_pos", "n_neg", "n_pos_patients"))
        estimates = [number(row["auroc"]), number(row["auprc"])] if row["auroc"] else [f"undefined: {row.get('reason', 'no reason was recorded')}", NOTHING]
        if adjudicated:
            baseline = row.get("metadata_baseline") or {"auroc": None, "difference": None}
            cells = [films, patients, prevalence, *estimates, number(baseline["auroc"]), difference(baseline["difference"])]
        else:
            cells = [films, negative, patients, share, prevalence, *estimates]
        rows.append([spell(finding), *cells, _note(finding, row, part["macro"])])
    words = [*([BASELINE + more] if adjudicated else []), *_notes(part)]
    if adjudicated:
        return Block("Every finding", words, [Table(EXPERT_COLUMNS, rows, counts=(1, 2, 3))])
    return Block("", words, [Table(COLUMNS, rows, counts=(1, 2, 3, 4, 5))])


def _note(finding: str, row: Part, macro: Part) -> str:
    notes = [
        f"one patient owns over {LARGE_SHARE:.0%}" if (row["largest_patient_share"] or 0.0) > LARGE_SHARE else "",
        "not in the mean" if finding in macro["left_out"] else "",
        (row.get("metadata_baseline") or {}).get("reason", ""),
    ]
    return "; ".join(filter(None, notes))


def _notes(part: Part) -> list[str]:
    told = part["findings"]
    notes = [
        ("Not in the mean over findings", {finding: f"({why})" for finding, why in part["macro"]["left_out"].items()}),
        ("Not adjudicated, and left out of that finding", {finding: f"{row['n_unknown']:,}" for finding, row in told.items() if row.get("n_unknown")}),
        ("Draws without both classes, drawn anew", {finding: f"{row['n_redrawn']:,}" for finding, row in told.items() if row.get("n_redrawn")}),
    ]
    return [f"{what}: {', '.join(f'{spell(finding)} {words}' for finding, words in of.items())}." for what, of in notes if of]


# --- thresholds -------------------------------------------------------------------------------------------------------------------------------------


def operating_points(part: Part) -> Iterator[Block]:
    """One block, or none where no threshold is spoken of."""
    told = {finding: row["operating_points"] for finding, row in part["findings"].items() if row.get("operating_points")}
    if not told:
        return
    fixed = {finding: points for finding, points in told.items() if points["source"] is not None}
    tables = [_thresholds(told)]
    if fixed:
        tables += [_other_thresholds(fixed), _by_view(fixed), _elsewhere(fixed)]
    yield Block("Operating points: what a yes or no of the model is worth", OPERATING, tables, folded=True)


def _thresholds(told: Part) -> Table:
    rows = []
    for finding, points in told.items():
        if points["source"] is None:
            rows.append([spell(finding), "no threshold", *[NOTHING] * 5, spell_set(points["reason"])])
        else:
            rows.append([spell(finding), spell_set(points["source"]), *_achieved(points, points["shown"]), _why(points)])
    return Table(("Finding", "Fixed on", *ACHIEVED, "Note"), rows, "At the threshold that is drawn")


def _other_thresholds(fixed: Part) -> Table:
    rows = [[spell(finding), *_achieved(points, rule)] for finding, points in fixed.items() for rule in points["rules"] if rule != points["shown"]]
    return Table(("Finding", *ACHIEVED), rows, "At other thresholds, fixed on the same films")


def _achieved(points: Part, rule: str) -> list[str]:
    numbers = points["rules"][rule]
    return [RULES[rule].format(numbers["target"]), *(number(numbers[key]) for key in ("sensitivity", "specificity", "ppv", "npv"))]


def _why(points: Part) -> str:
    mined = ["text-mined target"] if points["text_mined_target"] else []
    return "; ".join([*mined, *(f"not from {spell_set(name)}: {why}" for name, why in points["not_from"].items())])


def _by_view(fixed: Part) -> Table:
    columns = ["Finding", *(f"{what}, {view}" for view in ("PA", "AP") for what in ("Sensitivity", "Specificity"))]
    rows = []
    for finding, points in fixed.items():
        of = points["rules"][points["shown"]]["by_view"]
        rows.append([spell(finding), *(number(of[view][key]) for view in ("PA", "AP") for key in ("sensitivity", "specificity"))])
    return Table(columns, rows, "By view, at the threshold that is drawn")


def _elsewhere(fixed: Part) -> Table:
    shown = {finding: points["rules"][points["shown"]]["at_prevalence"] for finding, points in fixed.items()}
    stated = list(next(iter(shown.values())))
    columns = ["Finding", *(f"{what} at {percent(float(prevalence))}" for prevalence in stated for what in ("PPV", "NPV"))]
    rows = [[spell(finding), *(number(of[prevalence][key]) for prevalence in stated for key in ("ppv", "npv"))] for finding, of in shown.items()]
    return Table(columns, rows, "Were the finding as common as this")


# --- who is in the set ------------------------------------------------------------------------------------------------------------------------------


def subgroups(part: Part) -> Iterator[Block]:
    """AUROC by view, sex and age; and how much films of one patient, or the view, make of it."""
    told = {finding: row for finding, row in part["findings"].items() if row["auroc"]}
    if not told:
        return
    tables = []
    for kind, title in SUBGROUP_TITLES.items():
        groups = list(next(iter(told.values()))["subgroups"][kind])
        rows = [[spell(finding), *(_group(row["subgroups"][kind][group]) for group in groups)] for finding, row in told.items()]
        tables.append(Table(("Finding", *groups), rows, title))
    yield Block("Subgroups: view, sex and age", (SUBGROUPS,), tables, folded=True)
    columns = ("Finding", "Positive films", "Positive patients", "Largest patient's share", "AUROC", "One film per patient", "Within view")
    rows = [
        [
            *(spell(finding), f"{row['n_pos']:,}", f"{row['n_pos_patients']:,}", percent(row["largest_patient_share"])),
            *(number(row[key]) for key in ("auroc", "one_film_per_patient", "auroc_within_view")),
        ]
        for finding, row in told.items()
    ]
    yield Block("Patients and views behind the numbers", (CLUSTERING,), [Table(columns, rows, counts=(1, 2, 3))], folded=True)


def _group(told: Part) -> str:
    return f"{number(told['auroc']) if told['auroc'] else 'too small'}, {told['n_pos']:,} of {told['n_images']:,}"


# --- calibration ------------------------------------------------------------------------------------------------------------------------------------


def calibration(name: str, part: Part) -> Iterator[Block]:
    """One block, or none where calibration is not spoken of."""
    told = {finding: row["calibration"] for finding, row in part["findings"].items() if row.get("calibration")}
    if not told:
        return
    rows = []
    for finding, numbers in told.items():
        for stage, state in STAGES.items():
            if numbers[stage]:
                fitted = NOTHING if stage == "before" else f"{spell_set(numbers['fitted_on'])}{', text-mined' * numbers['text_mined_target']}"
                shifts = [number(numbers[stage][key]) for key in ("slope", "brier", "ece")]
                rows.append([spell(finding), state, fitted, difference(numbers[stage]["intercept"]), *shifts])
    notes = [
        ("Scores, no probabilities as they are", [spell(finding) for finding, numbers in told.items() if not numbers["is_probability"]]),
        ("Platt scaling not fitted", [f"{spell(finding)} ({spell_set(numbers['not_fitted'])})" for finding, numbers in told.items() if not numbers["platt"]]),
    ]
    words = [*CALIBRATION, *(f"{what}: {', '.join(findings)}." for what, findings in notes if findings)]
    table = Table(("Finding", "Probability", "Fitted on", "Intercept", "Slope", "Brier", "ECE"), rows)
    alt = "Observed share against predicted probability, a panel per finding"
    yield Block("Calibration: whether the probabilities hold", words, [table], f"{name}_calibration", alt, folded=True)
