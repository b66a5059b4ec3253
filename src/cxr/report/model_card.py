"""The model card (Mitchell et al. 2019) of an exported model: what it is, how good it was, where it ends. Rewords report.json, computes nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cxr.report import reader_tables, set_tables
from cxr.report.figures import leading_set, with_numbers
from cxr.report.pages import MINIATURE, Block, Row, Table, as_table, flat, in_markdown, per_finding, plain
from cxr.report.render import CONTEXT, KIND, MEANING, READING_ORDER, SEEN, attribution
from cxr.report.wording import NOTHING, number, spell, spell_set

Facts = Mapping[str, Any]

# the checkpoint was chosen on the one, thresholds and mapping may have been on the other
CHOSE = ("nih_val", "four_findings_validation")

NOT_A_DEVICE = (
    "Not a medical device. For research: nobody may be diagnosed, treated or left untreated on what it says. No authority has reviewed it, and it has not been "
    "tested as part of any care."
)
USE = """```
python scripts/predict.py checkpoint=<this folder> images=/path/to/films output=predictions.csv
```

or the graph alone, without torch: `model.onnx` takes `film`, any number B of them as (B, 1, {store_size}, {store_size}) uint8, and gives `score` (B, {n}), the
sigmoid of `logit` (B, {n}); the columns are `findings` of `config.json`. It cuts the centre of {image_size} pixels out and normalises by itself.

```python
import onnxruntime
score, logit = onnxruntime.InferenceSession("model.onnx").run(["score", "logit"], {{"film": films}})
```

A film becomes such a square by this rule: {rule}.

A calibrated probability is the sigmoid of slope × logit + intercept, and a call is logit ≥ threshold; both stand in `config.json`, where there are any.
"""
INTENDED = (
    "To rank frontal chest films by each finding, in research: to compare models, to choose films for reading, to study labels.",
    "Not for: a diagnosis; lateral films; films of children, of whom few took part in the training; anything but chest radiographs, which it scores without a "
    "word.",
)
LIMITS = (
    "It knows its {n} findings and no others; a film on which it finds nothing may show anything else.",
    "It was trained on labels that a program read from reports. Against radiologists such labels miss about half of the positive films (sensitivity 0.50 for "
    "pneumothorax, 0.51 for airspace opacity, 0.45 for nodule or mass, on ChestX-ray14's four-findings test films).",
    "A score is no probability. A probability is one of the label that it was fitted on, and holds where films and prevalence are as they were there.",
    "An operating point keeps what it aimed at only where films are as on the validation films; what it achieved elsewhere stands above.",
    "Scanner, hospital, view, patients and prevalence move every number; the intervals speak of other patients of the same kind and of nothing else.",
    "Devices, tubes and the view may be what it has learned in the place of a finding: compare with the metadata baseline in the run's report.",
)
NO_REPORT = "The run had no report when it was exported: nothing is known of how good this model is, and it has no operating points and no calibration."


def model_card(facts: Facts, report: Facts | None, *, n_weights: int, speed: Mapping[str, float]) -> str:
    """The card, as markdown.

    Args:
        facts: config.json of the exported model.
        report: the content of report.json; None if the run has none.
        n_weights: of the network.
        speed: films per second of "onnx" and "torch", with "n_threads" and "batch_size".
    """
    return "\n".join(_card(facts, report, n_weights, speed)) + "\n"


def _card(facts: Facts, report: Facts | None, n_weights: int, speed: Mapping[str, float]) -> Iterator[str]:
    protocol, n = facts["protocol"], len(facts["findings"])
    yield from (f"# {plain(protocol['model'])} on chest X-rays", "", f"**{NOT_A_DEVICE}**", "")
    if protocol["data"] == "mini":
        yield from (f"**{plain(MINIATURE)}**", "")
    yield from ("## What it is", "")
    about = {
        "Network": f"{protocol['model']}, {n_weights / 1e6:.1f} million weights, {facts['image_size']} pixels",
        "Input": f"one grey film, {facts['store_size']} pixels, 8 bits",
        "Output": f"{n} findings: {', '.join(map(spell, facts['findings']))}",
        "Made with": f"cxr {facts['package_version']}, commit {str(protocol.get('commit') or 'unknown')[:12]}",
        "Checkpoint": f"sha256 {facts['checkpoint_sha256']}",
    }
    yield from as_table(("", ""), list(about.items()))
    yield from ("## How to use it", "", USE.format(**facts, n=n))
    yield from _bullets("What it is for", INTENDED)
    yield from ("## Training data and protocol", "", *as_table(("Key", "Value"), list(flat(protocol))))
    yield from _results(report) if report else ("## Results", "", NO_REPORT, "")
    yield from _carried(facts)
    yield from _bullets("Limits", [limit.format(n=n) for limit in LIMITS])
    graph, threads = facts["onnx"], f"{speed['n_threads']:.0f} thread{'s' * (speed['n_threads'] > 1)}"
    yield from (
        *("## The graph", ""),
        f"Its scores differ from torch's by {graph['max_difference']:.1e} at most (allowed: {graph['tolerance']:g}). On the processor it was exported on, "
        f"{threads}, batches of {speed['batch_size']:.0f}: {speed['onnx']:.0f} films/s by onnxruntime, {speed['torch']:.0f} by torch.",
        "",
    )
    yield from _bullets("Attribution", [plain(line) for line in (report["attribution"] if report else attribution(protocol["data"], False))])


def _bullets(title: str, lines: Any) -> Iterator[str]:
    yield from (f"## {title}", "", *(f"- {line}" for line in lines), "")


def _results(report: Facts) -> Iterator[str]:
    """Every set's mean; the findings of the sets that chose nothing; of the one that is read first, what thresholds and calibration gave; the readers."""
    protocol, sets = report["protocol"], with_numbers(report)
    seen = (protocol.get("pretraining") or {}).get("saw_nih_test")
    yield from ("## Results", "")
    yield from (f"**{plain(SEEN.format(**seen))}**", "") if seen else ()
    yield from () if protocol["data"] == "mini" else (plain(CONTEXT), "")
    yield from (plain(MEANING), "")
    names = sorted(sets, key=lambda name: [name != other for other in READING_ORDER])
    yield from in_markdown(Block(tables=[Table([_headline(name, sets[name]) for name in names])]), {})
    tests = [name for name in names if name not in CHOSE]
    for name in tests:
        yield from in_markdown(Block(spell(name), tables=[_findings(sets[name])]), {})
    leading = leading_set(sets)
    achieved = [*set_tables.operating_points(sets[leading]), *set_tables.calibration(leading, sets[leading])]
    readers = [next(reader_tables.beside_the_model(name, sets[name]), None) for name in tests]
    for name, block in [*((leading, block) for block in achieved), *zip(tests, readers, strict=True)]:
        if block and block.tables[0].rows:
            rows = [row for row in block.tables[0].rows if row.get("Probability") in (None, set_tables.STAGES["platt"])]
            yield from in_markdown(Block(f"{spell(name)}. {block.title}", block.paragraphs, [Table(rows)] if rows else [], warning=block.warning), {})


def _findings(part: Facts) -> Table:
    def cells(row: Facts) -> Row:
        metadata = {"AUROC of metadata alone": (row.get("metadata_baseline") or {}).get("auroc")} if part["adjudicated"] else {}
        return {"Positive films": row["n_pos"], "Positive patients": row["n_pos_patients"], "AUROC": set_tables.auroc(row), "AUPRC": row["auprc"], **metadata}

    return per_finding(part["findings"], cells)


def _headline(name: str, part: Facts) -> Row:
    macro = part["macro"]
    mean = f"{number(macro['auroc'])}, mean over {len(macro['findings'])}" if macro["auroc"] else f"undefined: {macro.get('reason', '')}"
    return {"Reference set": spell(name), "What it is": KIND.get(name, ""), "Films": part["n_images"], "Patients": part["n_patients"]} | {
        "Missing films": part["n_missing_images"],
        "Macro AUROC [95 % interval]": mean,
    }


def _carried(facts: Facts) -> Iterator[str]:
    """Thresholds and calibration."""
    rows: list[Row] = []
    for finding in facts["findings"]:
        point, refit = facts["operating"]["points"][finding], facts["calibration"][finding]
        row: Row = {"Finding": spell(finding), "Threshold of the logit": NOTHING, "Fixed on": NOTHING, "Slope": NOTHING, "Intercept": NOTHING}
        if "threshold" in point:
            target = set_tables.RULES[point["rule"]].format(point["target"])
            mined = ", text-mined labels" * point["text_mined_target"]
            row |= {"Threshold of the logit": f"{point['threshold']:.3f}", "Fixed on": f"{spell_set(point['source'])}{mined}, {target}"}
        else:
            row |= {"Fixed on": spell_set(str(point["reason"]))}
        if "slope" in refit:
            row |= {"Slope": f"{refit['slope']:.3f}", "Intercept": f"{refit['intercept']:.3f}"}
        rows.append(row)
    yield from ("## Thresholds and calibration that it carries", "", *in_markdown(Block(tables=[Table(rows)]), {}))
