"""Made-up films, labels, readers and predictions for the tests of report/, small enough for any oracle."""

from typing import Any

import numpy as np
import pandas as pd

from cxr.cohort.findings import FOUR_FINDINGS, NIH_FINDINGS, UNIONS, text_mined
from cxr.report.mapping import FindingMapping, make_mapping
from cxr.report.predictions import Predictions
from cxr.report.protocol import Frozen, freeze
from cxr.report.reference import ReferenceSet

SETTINGS: dict[str, Any] = {"draws": 100, "reader_draws": 200, "seed": 0, "rule": "specificity", "prevalences": [0.05], "macro_available": False}
MEMBERS = {"airspace_opacity": UNIONS["Airspace opacity"], "nodule_or_mass": UNIONS["Nodule or mass"]}


def films(n: int, *, seed: int = 0, n_patients: int = 200, first_patient: int = 0, prevalence: float = 0.25) -> pd.DataFrame:
    """n films with metadata and all text-mined findings."""
    rng = np.random.default_rng([seed, first_patient])
    table = pd.DataFrame({"image_id": [f"{first_patient + i:08d}_000.png" for i in range(n)], "patient_id": first_patient + rng.integers(n_patients, size=n)})
    table["view"], table["sex"] = rng.choice(["PA", "AP"], n), rng.choice(["F", "M"], n)
    table["age"], table["follow_up"] = rng.integers(10, 90, n).astype(float), rng.integers(0, 9, n)
    table["n_films"] = table.patient_id.map(table.patient_id.value_counts())
    for finding in NIH_FINDINGS:
        table[finding] = (rng.random(n) < prevalence).astype(float)
    return table


def mined(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({finding: text_mined(table, finding) for finding in (*NIH_FINDINGS, *UNIONS)})


def train_val(n: int = 500) -> pd.DataFrame:
    """Films to fit the metadata baseline on."""
    table = films(n, seed=3, first_patient=20_000, prevalence=0.12)
    return table.join(mined(table)[list(UNIONS)])


def nih(table: pd.DataFrame, name: str = "nih_test", split: str = "test") -> ReferenceSet:
    return ReferenceSet(name, split, False, NIH_FINDINGS, table, mined(table), len(table))


def adjudicated(
    table: pd.DataFrame,
    name: str,
    findings: tuple[str, ...],
    readers: tuple[str, ...],
    *,
    held_out: tuple[str, ...] = (),
    seed: int = 0,
    hedge: float = 0.0,
) -> ReferenceSet:
    """The films with made-up radiologists' labels near the text-mined ones, read by everybody with errors of their own."""
    rng = np.random.default_rng(seed)
    labels = {}
    for finding in findings:
        told = text_mined(table, finding)
        truth = (rng.random(len(table)) < 0.2).astype(float) if told is None else told.to_numpy()
        labels[finding] = np.where(rng.random(len(table)) < 0.1, 1 - truth, truth)
    rows = table.drop(columns=list(NIH_FINDINGS)).assign(**labels)
    reads = []
    for reader in readers:
        said = {finding: np.where(rng.random(len(table)) < 0.15, 1 - truth, truth) for finding, truth in labels.items()}
        said = {finding: np.where(rng.random(len(table)) < hedge, 0.5, vote) for finding, vote in said.items()}
        reads.append(table[["image_id", "patient_id"]].assign(reader_id=reader, **said))
    split = "expert_validation" if name.endswith("validation") else "test"
    return ReferenceSet(name, split, True, findings, rows, mined(table), len(rows), pd.concat(reads, ignore_index=True), held_out)


def predictions(*tables: pd.DataFrame, seed: int = 1, findings: tuple[str, ...] = NIH_FINDINGS) -> Predictions:
    """Logits that know the text-mined labels a little; the split is told by the position of the table: val, test, expert_validation."""
    rng = np.random.default_rng(seed)
    parts = []
    for table, split in zip(tables, ("val", "test", "expert_validation"), strict=False):
        logits = {f"logit_{f}": np.round(rng.normal(size=len(table)) + table[f].fillna(0).to_numpy(), 2).astype(np.float32) for f in findings}
        parts.append(table[["image_id", "patient_id"]].assign(split=split, **logits))
    return Predictions(pd.concat(parts, ignore_index=True), list(findings), {})


def mapping(predicted: Predictions, validation: ReferenceSet | None = None, method: str = "max") -> FindingMapping:
    prevalence = dict.fromkeys(NIH_FINDINGS, 0.1) | {"Infiltration": 0.3}
    return make_mapping(predicted, validation, method=method, **MEMBERS, prevalence=prevalence, seed=0)


def frozen(predicted: Predictions, references: dict[str, ReferenceSet], method: str = "max", **settings: Any) -> Frozen:
    """Frozen on the validation rows of the predictions alone, as the pipeline does it."""
    validation = Predictions(predicted.table[predicted.table.split != "test"], predicted.findings, {})
    made = mapping(validation, references.get("four_findings_validation"), method)
    targets = {"specificity": 0.9, "sensitivity": 0.9}
    return freeze(validation, references, made, targets=targets, primary_endpoint="macro AUROC on nih_test", settings=SETTINGS | settings)


def study(seed: int = 0) -> tuple[Predictions, dict[str, ReferenceSet]]:
    """All five sets: text-mined val and test, four findings (validation and test), all findings inside test; and predictions of all of them."""
    from cxr.cohort.findings import ALL_FINDINGS

    val, test = films(300, seed=seed, first_patient=1000, prevalence=0.12), films(400, seed=seed, prevalence=0.12)
    expert = films(150, seed=seed, first_patient=5000, prevalence=0.12)
    references = {
        "nih_val": nih(val, "nih_val", "val"),
        "nih_test": nih(test),
        "four_findings_validation": adjudicated(expert, "four_findings_validation", FOUR_FINDINGS, ("a", "b", "c"), seed=seed, hedge=0.05),
        "four_findings_test": adjudicated(test.iloc[:350], "four_findings_test", FOUR_FINDINGS, ("a", "b", "c", "d"), seed=seed + 1, hedge=0.05),
        "all_findings_test": adjudicated(test.iloc[:300], "all_findings_test", ALL_FINDINGS, ("1", "2", "3", "4", "5"), held_out=("4", "5"), seed=seed + 2),
    }
    return predictions(val, test, expert), references
