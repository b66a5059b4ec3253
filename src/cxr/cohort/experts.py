"""The radiologists' labels of ChestX-ray14 films, and what each radiologist said: two reference standards, never pooled (they disagree with each other).

four_findings  Majkowska et al., Radiology 2019: fracture, pneumothorax, airspace opacity, nodule or mass; three radiologists to consensus.
all_findings   Nabulsi et al., Sci Rep 2021: the 14 findings, Abnormal and Other; majority of three readers, two more held out.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr.cohort.findings import (
    ALL_FINDINGS,
    FOUR_FINDINGS,
    NIH_FINDINGS,
    SPELLINGS,
    parse_reads,
    parse_yes_no,
    read_table,
    refuse_rows,
    require_columns,
)

# reference set -> file, its image column, its findings, the value of its set column (None where it has none)
FILES: dict[str, tuple[str, str, tuple[str, ...], str | None]] = {
    "four_findings_validation": ("four_findings_expert_labels/validation_labels.csv", "Image Index", FOUR_FINDINGS, "val"),
    "four_findings_test": ("four_findings_expert_labels/test_labels.csv", "Image Index", FOUR_FINDINGS, "test"),
    "all_findings_test": ("all_findings_expert_labels/test_labels.csv", "Image ID", ALL_FINDINGS, None),
}
FOUR_READERS_FILE = "four_findings_expert_labels/individual_readers.csv"
ALL_READERS_FILE = "all_findings_expert_labels/test_individual_readers.csv"
TEST_SETS = ("four_findings_test", "all_findings_test")

# whose majority is the all-findings reference, and who had no part in it
JURY = ("4343882785", "4343883593", "4343883996")
HELD_OUT = ("4343882583", "4343880271")
# reference set -> the readers of its films, those who read most first
READERS = {
    "four_findings_validation": (
        *("4295342357", "4295349121", "4295354117", "4295246212", "4326615889", "4323195249", "4322936986"),
        *("4295359843", "4295344101", "4295354708", "4295349028", "4295367682", "4295369079"),
    ),
    "four_findings_test": (
        *("4323195249", "4295194124", "4295232296", "4295206903", "4295367682", "4326829894", "4325221191"),
        *("4295354140", "4325222456", "4295376896", "4295393403"),
    ),
    "all_findings_test": (*HELD_OUT, *JURY),
}

SOURCE = "https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest#additional_labels"


# file -> rows under its header, sha256, as published
PUBLISHED = {
    "four_findings_expert_labels/validation_labels.csv": (2414, "aa4c1d092818ae9150ae72dad77e32fca070a975b9a3273a06e47f3bf7b0590d"),
    "four_findings_expert_labels/test_labels.csv": (1962, "24911a463c0c5e40e1bcd39a5b0aa38079b89859946932fca4d5f62081a0ed9f"),
    "four_findings_expert_labels/individual_readers.csv": (13081, "cff9a96993c25c1b05e3da28bfbbf0fbe445f0c250d605bf1f783aa73aaae0fd"),
    "all_findings_expert_labels/test_labels.csv": (810, "2602080132c8a2366ff428adfef98b79c809f5be8cfcde9cc237c62561c7ae40"),
    "all_findings_expert_labels/test_individual_readers.csv": (4050, "e6193ea748d66857ea2db11765c961eb1f8b21829df73dc9dfc11e9c63caa16c"),
}


class ExpertError(ValueError):
    """The expert labels are not where they were said to be, or contradict the catalogue, their readers or each other."""


@dataclass(frozen=True)
class Experts:
    """Both reference standards with their readers.

    Attributes:
        labels: reference set -> one row per image, sorted: image_id, patient_id, and per finding 1 (present), 0 (absent) or NaN (not adjudicated for it).
        reads: reference set -> one row per image and reader, sorted: image_id, patient_id, reader_id, and per finding 1 (yes), 0 (no), HEDGE (uncertain)
            or NaN (unknown: the reader read the film twice and contradicted himself).
        n_rows: file -> its rows.
        repeats: reference set -> {"pairs": read twice by one reader, "conflicts": {finding: of these, contradicting}}.
    """

    labels: dict[str, pd.DataFrame]
    reads: dict[str, pd.DataFrame]
    n_rows: dict[str, int]
    repeats: dict[str, dict[str, object]]


def load_experts(folder: Path) -> Experts:
    """Reads all five files and holds them against each other.

    Args:
        folder: holds `four_findings_expert_labels/` and `all_findings_expert_labels/` as published.

    Raises:
        ExpertError: a file is missing; a set lies outside the one that contains it; the all-findings labels are not what their readers' votes make them.
        LabelError: an unknown column, value, reader or image, or a repeated image, with file and row.
    """
    names = [*(file for file, *_ in FILES.values()), FOUR_READERS_FILE, ALL_READERS_FILE]
    missing = [str(folder / name) for name in names if not (folder / name).is_file()]
    if missing:
        raise ExpertError(
            f"expert labels were not found: looked for {', '.join(missing)}.\n"
            f"  To get them: {SOURCE}; keep both folders as they come and name the folder above them: data.expert_labels=/path\n"
            "  To go on without them: data.expert_labels=null"
        )
    labels = {name: _load_labels(folder / file, column, findings, value) for name, (file, column, findings, value) in FILES.items()}
    four, everything = labels["four_findings_test"], labels["all_findings_test"]
    outside = everything.image_id[~everything.image_id.isin(four.image_id)]
    if len(outside):
        raise ExpertError(f"{len(outside)} all-findings images are not in the four-findings test set, the first is {outside.iloc[0]}")

    n_rows = {file: len(labels[name]) for name, (file, *_) in FILES.items()}
    reads, repeats = dict[str, pd.DataFrame](), dict[str, dict[str, object]]()
    for file, findings in ((FOUR_READERS_FILE, FOUR_FINDINGS), (ALL_READERS_FILE, ALL_FINDINGS)):
        table, sets = _read_reads(folder / file, findings)
        n_rows[file] = len(table)
        for name in sets.unique():
            reads[name], repeats[name] = _once_each(_check_reads(table[sets == name], labels[name], name, folder / file), findings)
    _check_majority(everything, reads["all_findings_test"], folder / ALL_READERS_FILE)
    return Experts(labels, reads, n_rows, repeats)


def _load_labels(path: Path, image_column: str, findings: tuple[str, ...], set_value: str | None) -> pd.DataFrame:
    table = read_table(path).rename(columns=SPELLINGS)
    require_columns(table, [image_column, "Patient ID", *findings, *(["Set Id"] if set_value else [])], path)
    if set_value:
        refuse_rows(table["Set Id"] != set_value, table["Set Id"], path, f"'{set_value}' (column 'Set Id')")
    keys = _parse_keys(table[image_column], table["Patient ID"], path)
    refuse_rows(keys.image_id.duplicated(), keys.image_id, path, "an image that was not named before")
    labels = keys.assign(**{finding: parse_yes_no(table[finding], path) for finding in findings})
    return labels.sort_values("image_id", ignore_index=True)


def _parse_keys(images: "pd.Series[str]", patients: "pd.Series[str]", path: Path) -> pd.DataFrame:
    image, patient = images.str.strip(), patients.str.strip()
    refuse_rows(~image.str.fullmatch(r"[\w.-]+\.png"), image, path, "a file name ending in .png")
    refuse_rows(~patient.str.fullmatch(r"\d{1,9}"), patient, path, "a patient number")
    return pd.DataFrame({"image_id": image, "patient_id": patient.astype("int64")})


def _read_reads(path: Path, findings: tuple[str, ...]) -> tuple[pd.DataFrame, "pd.Series[str]"]:
    """(reads with the file's row numbers, the reference set of each)."""
    table = read_table(path).rename(columns=SPELLINGS)
    of_four = findings == FOUR_FINDINGS
    require_columns(table, ["Image ID", "Patient ID", "Reader ID", *findings, *(["Set ID"] if of_four else [])], path)
    sets = pd.Series("all_findings_test", table.index)
    if of_four:
        known = {value: name for name, (*_, value) in FILES.items() if value}
        refuse_rows(~table["Set ID"].isin(known), table["Set ID"], path, f"{' or '.join(map(repr, known))} (column 'Set ID')")
        sets = table["Set ID"].map(known)
    reads = _parse_keys(table["Image ID"], table["Patient ID"], path).assign(reader_id=table["Reader ID"].str.strip())
    return reads.assign(**{finding: parse_reads(table[finding], path, may_hedge=of_four) for finding in findings}), sets


def _check_reads(reads: pd.DataFrame, labels: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    """Every reader is one of the set's, and every film is in it under the same patient."""
    refuse_rows(~reads.reader_id.isin(READERS[name]), reads.reader_id, path, f"one of the {len(READERS[name])} readers of {name}")
    refuse_rows(~reads.image_id.isin(labels.image_id), reads.image_id, path, f"an image of {name}")
    owner = reads.image_id.map(labels.set_index("image_id").patient_id)
    refuse_rows(reads.patient_id != owner, reads.patient_id.astype(str), path, f"the patient that {name} gives the image to")
    return reads


def _once_each(reads: pd.DataFrame, findings: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, object]]:
    """One row per image and reader: identical repeats count once, contradictions are unknown. And how many of each there were."""
    keys = ["image_id", "patient_id", "reader_id"]
    again = reads[reads.duplicated(keys, keep=False)]
    differ = again.groupby(keys)[list(findings)].nunique(dropna=False).gt(1)
    once = reads.drop_duplicates(keys).set_index(keys).sort_index()
    for finding in findings:
        once.loc[differ.index[differ[finding]], finding] = float("nan")
    return once.reset_index(), {"pairs": len(differ), "conflicts": {finding: int(count) for finding, count in differ.sum().items() if count}}


def _check_majority(labels: pd.DataFrame, reads: pd.DataFrame, path: Path) -> None:
    """Refuses all-findings labels that are not the majority of the three readers, or whose `Other` does not follow its rule."""
    votes = reads[reads.reader_id.isin(JURY)].set_index("image_id")[list(ALL_FINDINGS)]
    n_votes = votes.groupby(level=0).count().reindex(labels.image_id).fillna(0)
    short = n_votes.index[(n_votes < len(JURY)).any(axis=1)]
    if len(short):
        raise ExpertError(f"{path}: {len(short)} images lack a vote of readers {', '.join(JURY)}, whose majority is the reference; the first is {short[0]}")
    rebuilt = votes.groupby(level=0).sum().loc[labels.image_id] >= 2
    # Other: most say so, or most say abnormal and agree on no finding
    rebuilt["Other"] |= rebuilt["Abnormal"] & ~rebuilt[list(NIH_FINDINGS)].any(axis=1)
    published = labels.set_index("image_id")[list(ALL_FINDINGS)]
    wrong = (published == 1).ne(rebuilt) & published.notna()
    if wrong.any(axis=None):
        image_id = wrong.index[wrong.any(axis=1)][0]
        finding = wrong.columns[wrong.loc[image_id]][0]
        raise ExpertError(
            f"{int(wrong.any(axis=1).sum())} of {len(labels)} all-findings labels are not the majority of their readers' votes in {path}: "
            f"the first is {image_id}, {finding}: {'YES' if published.loc[image_id, finding] else 'NO'} is published and the votes say otherwise"
        )
