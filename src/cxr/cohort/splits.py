"""Who trains, who validates, who tests: the official lists, validation by patient, and the guard that lets no patient sit on two chairs."""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.cohort.catalogue import Catalogue, read_image_list
from cxr.cohort.experts import TEST_SETS, ExpertError
from cxr.cohort.findings import NIH_FINDINGS

# the sets that may share no patient; expert_test may share patients with test alone, and lies inside it
EXCLUSIVE = ("train", "val", "test", "expert_validation")


class SplitError(ValueError):
    """A patient stands where they may not, or a set is not where it belongs. A number computed on such sets would be wrong."""


@dataclass(frozen=True)
class Splits:
    """The study's sets, as (image_id, patient_id) tables sorted by image_id, whether or not their pixels are present.

    Attributes:
        train, val: from the official train_val list.
        test: the labelled images of the official test list.
        expert_validation: the four-findings validation films; empty without expert labels.
        expert_test: all films of the two expert test sets.
        test_list: the official test list, labelled or not.
        keep_expert_validation: its patients were left in train and val, so nothing may be reported on it.
        facts: what the choices cost, for the log and the report.
    """

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    expert_validation: pd.DataFrame
    expert_test: pd.DataFrame
    test_list: "pd.Index[str]"
    keep_expert_validation: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def make_splits(
    catalogue: Catalogue,
    experts: dict[str, pd.DataFrame] | None,
    *,
    validation: float | Path,
    split_seed: int,
    keep_expert_validation: bool,
) -> Splits:
    """Divides the catalogue and lets the guard look at the result.

    Args:
        catalogue: images with their official lists.
        experts: adjudicated labels by reference set, or None.
        validation: the fraction of train_val patients to hold out, or the path of a list of images.
        split_seed: which patients; apart from the training seed, so that seeds of one config share their validation set. Unused with a list.
        keep_expert_validation: leave the patients of the expert validation set in train and val. By default every film of theirs is dropped.

    Raises:
        SplitError: see `guard`; or the validation list or fraction makes no sense.
        ExpertError: an expert file gives an image to another patient than the catalogue does.
    """
    images = catalogue.images
    train_val = images[images.list == "train_val"]
    reference = _reference_patients(catalogue, experts or {})

    if isinstance(validation, Path):
        listed = read_image_list(validation)
        strangers = listed.difference(catalogue.lists["train_val"])
        if len(strangers):
            raise SplitError(f"{len(strangers)} of {len(listed)} images in {validation} are not in the official train_val list, the first is {strangers[0]}")
        in_val = train_val.image_id.isin(listed)
    else:
        patients = np.unique(train_val.patient_id)
        chosen = np.random.default_rng(split_seed).permutation(patients)[: round(validation * len(patients))]
        in_val = train_val.patient_id.isin(chosen)

    # chosen first, excluded second: the policy changes no patient's side
    held_out = train_val.patient_id.isin(reference["expert_validation"].patient_id)
    use = pd.Series(True, train_val.index) if keep_expert_validation else ~held_out
    keys = ["image_id", "patient_id"]
    splits = Splits(
        train=train_val.loc[use & ~in_val, keys],
        val=train_val.loc[use & in_val, keys],
        test=images.loc[images.list == "test", keys],
        **reference,
        test_list=catalogue.lists["test"],
        keep_expert_validation=keep_expert_validation,
        facts={
            "validation_images": int(in_val.sum()),
            "expert_validation_patients": int(reference["expert_validation"].patient_id.nunique()),
            "excluded_images": int((~use).sum()),
            "excluded_share": float((~use).mean()),
            "excluded_validation_images": int((~use & in_val).sum()),
            "excluded_share_of_positives": {finding: float((train_val[finding] * ~use).sum() / max(train_val[finding].sum(), 1)) for finding in NIH_FINDINGS},
        },
    )
    for name in ("train", "val"):
        if getattr(splits, name).empty:
            raise SplitError(f"no image is left for {name}: data.validation={validation} of {len(train_val)} labelled train_val images")
    guard(splits)
    return splits


def _reference_patients(catalogue: Catalogue, experts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The expert sets as (image_id, patient_id); their files and the catalogue must agree on whose film each is."""
    nobody = pd.DataFrame({"image_id": pd.Series(dtype=str), "patient_id": pd.Series(dtype="int64")})
    keys = ["image_id", "patient_id"]
    tests = [experts[name][keys] for name in TEST_SETS if name in experts]
    sets = {
        "expert_validation": experts["four_findings_validation"][keys] if experts else nobody,
        "expert_test": pd.concat(tests).drop_duplicates().sort_values("image_id", ignore_index=True) if tests else nobody,
    }
    for name, rows in sets.items():
        known = rows.merge(catalogue.images[keys], on="image_id", suffixes=("", "_nih"))
        wrong = known[known.patient_id != known.patient_id_nih]
        if len(wrong):
            first = wrong.iloc[0]
            raise ExpertError(
                f"{len(wrong)} {name} images belong to another patient than the catalogue says, the first is {first.image_id}:"
                f" {first.patient_id} against {first.patient_id_nih}"
            )
    return sets


def guard(splits: Splits) -> None:
    """Refuses splits in which a patient stands in two sets that may share none, or an expert test image is no official test image.

    Raises:
        SplitError: the two sets, how many patients they share, and the first five of them.
    """
    pairs = [*combinations(EXCLUSIVE, 2), *((name, "expert_test") for name in EXCLUSIVE if name != "test")]
    for one, other in pairs:
        if splits.keep_expert_validation and {one, other} in ({"train", "expert_validation"}, {"val", "expert_validation"}):
            continue
        shared = np.intersect1d(getattr(splits, one).patient_id, getattr(splits, other).patient_id)
        if shared.size:
            shown = ", ".join(map(str, shared[:5])) + (", ..." if shared.size > 5 else "")
            raise SplitError(f"{one} and {other} share {shared.size} patient{'s' * (shared.size > 1)} ({shown}): no number from these splits would be right")
    outside = splits.expert_test.image_id[~splits.expert_test.image_id.isin(splits.test_list)]
    if len(outside):
        raise SplitError(f"{len(outside)} expert test images are not in the official test list, the first is {outside.iloc[0]}")
