"""The radiologists' adjudicated labels of ChestX-ray14 films: two reference standards, never pooled (they disagree with each other).

four_findings  Majkowska et al., Radiology 2019: fracture, pneumothorax, airspace opacity, nodule or mass; three radiologists to consensus.
all_findings   Nabulsi et al., Sci Rep 2021: the 14 findings, Abnormal and Other; majority of three readers.
"""

from pathlib import Path

import pandas as pd

from cxr.cohort.findings import ALL_FINDINGS, FOUR_FINDINGS, SPELLINGS, parse_yes_no, read_table, refuse_rows, require_columns

# reference set -> file, its image column, its findings, the value of its set column (None where it has none)
FILES: dict[str, tuple[str, str, tuple[str, ...], str | None]] = {
    "four_findings_validation": ("four_findings_expert_labels/validation_labels.csv", "Image Index", FOUR_FINDINGS, "val"),
    "four_findings_test": ("four_findings_expert_labels/test_labels.csv", "Image Index", FOUR_FINDINGS, "test"),
    "all_findings_test": ("all_findings_expert_labels/test_labels.csv", "Image ID", ALL_FINDINGS, None),
}
TEST_SETS = ("four_findings_test", "all_findings_test")

SOURCE = "https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest#additional_labels"


class ExpertError(ValueError):
    """The expert labels are not where they were said to be, or contradict the catalogue."""


def load_expert_labels(folder: Path) -> dict[str, pd.DataFrame]:
    """The adjudicated labels of every reference set.

    Args:
        folder: holds `four_findings_expert_labels/` and `all_findings_expert_labels/` as published.

    Returns:
        reference set -> one row per image, sorted: image_id, patient_id, and per finding 1 (present), 0 (absent) or NaN (not adjudicated for it).

    Raises:
        ExpertError: a file is missing.
        LabelError: an unknown column or value, or a repeated image, with file and row.
    """
    missing = [str(folder / file) for file, *_ in FILES.values() if not (folder / file).is_file()]
    if missing:
        raise ExpertError(
            f"expert labels were not found: looked for {', '.join(missing)}.\n"
            f"  To get them: {SOURCE}; keep both folders as they come and name the folder above them: data.expert_labels=/path\n"
            "  To go on without them: data.expert_labels=null"
        )
    return {name: _load(folder / file, column, findings, value) for name, (file, column, findings, value) in FILES.items()}


def _load(path: Path, image_column: str, findings: tuple[str, ...], set_value: str | None) -> pd.DataFrame:
    table = read_table(path).rename(columns=SPELLINGS)
    require_columns(table, [image_column, "Patient ID", *findings, *(["Set Id"] if set_value else [])], path)
    if set_value:
        refuse_rows(table["Set Id"] != set_value, table["Set Id"], path, f"'{set_value}' (column 'Set Id')")
    image, patient = table[image_column].str.strip(), table["Patient ID"].str.strip()
    refuse_rows(~image.str.fullmatch(r"[\w.-]+\.png"), image, path, "a file name ending in .png")
    refuse_rows(image.duplicated(), image, path, "an image that was not named before")
    refuse_rows(~patient.str.fullmatch(r"\d{1,9}"), patient, path, "a patient number")
    labels = pd.DataFrame({"image_id": image, "patient_id": patient.astype("int64")} | {f: parse_yes_no(table[f], path) for f in findings})
    return labels.sort_values("image_id", ignore_index=True)
