"""Other data sets in a study: which films may be used when ChestX-ray14's patients are in them too, and who of them trains and who validates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.cohort.chexpert import load_chexpert, load_mimic
from cxr.cohort.rsna import load_rsna
from cxr.cohort.spaces import TRAINABLE, OtherSet, OtherSetError
from cxr.cohort.splits import SplitError, Splits
from cxr.cohort.tbportals import load_tbportals

KEYS = ["image_id", "patient_id"]


@dataclass(frozen=True)
class Source:
    """A further data set to train on.

    Attributes:
        other: its films and labels.
        train, val, test: (image_id, patient_id), sorted by image_id, whether or not their pixels are present; no patient in two of them.
        n_excluded: films left out because their patients are in ChestX-ray14's test sets.
    """

    other: OtherSet
    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    n_excluded: int = 0


def load_other(name: str, root: Path, *, uncertain: str, unmentioned: str, country: str | None = None, training: bool = False) -> OtherSet:
    """Reads a data set's labels; see the loader of each for the arguments and the errors."""
    match name:
        case "chexpert":
            return load_chexpert(root, uncertain=uncertain, unmentioned=unmentioned, training=training)
        case "mimic":
            return load_mimic(root, uncertain=uncertain, unmentioned=unmentioned, training=training)
        case "rsna":
            return load_rsna(root)
        case "tbportals":
            return load_tbportals(root, country=country)
    raise OtherSetError(f"{name} is no data set that is known")


def refuse_or_exclude(films: pd.DataFrame, name: str, forbidden: Mapping[str, "pd.Series[int] | pd.Series[str]"], *, exclude: bool, key: str) -> pd.DataFrame:
    """The films without those whose patients stand elsewhere.

    Args:
        films: of the data set.
        name: of it.
        forbidden: the sets that may share no patient with it -> their patients.
        exclude: leave such films out; else they are an error.
        key: the configuration's, that says so.

    Raises:
        SplitError: there are some, with counts; or nothing would be left.
    """
    told, shared = [], pd.Series(False, films.index)
    for other, patients in forbidden.items():
        here = films.patient_id.isin(patients.astype(str))
        if here.any():
            told.append(f"{int(here.sum()):,} films of {films.patient_id[here].nunique():,} patients in {other}")
        shared |= here
    if not shared.any():
        return films
    kept = films[~shared].reset_index(drop=True)
    if kept.empty:
        raise SplitError(f"{name}: all {len(films):,} films are of patients that stand elsewhere ({', '.join(told)}): nothing of it can be used")
    if not exclude:
        raise SplitError(
            f"{name}: {int(shared.sum()):,} of {len(films):,} films are of patients that stand elsewhere ({', '.join(told)}), so no number on them would be"
            f" right. {key}=exclude leaves every film of these patients out; {len(kept):,} of {kept.patient_id.nunique():,} patients remain"
        )
    return kept


def refuse_seen(other: OtherSet, splits: Splits, sources: Mapping[str, Source], *, exclude: bool) -> OtherSet:
    """The set for a test of a model that was trained on these splits: without films of patients whom it trained on or was chosen by.

    Raises:
        SplitError: there are some and they may not be left out, or nothing is left.
    """
    used: dict[str, pd.Series[str]] = {}
    for name in ("train", "val"):
        parts = [getattr(splits, name).patient_id.astype(str), *(getattr(source, name).patient_id for source in sources.values())]
        used[name] = pd.concat(parts)
    films = refuse_or_exclude(other.films, other.name, used, exclude=exclude, key="data.overlap")
    left_out = other.left_out | {"of patients seen in training": len(other.films) - len(films)} if len(films) < len(other.films) else other.left_out
    return OtherSet(other.name, films, other.adjudicated, other.training, other.labels, left_out)


def make_source(other: OtherSet, splits: Splits, *, validation: float, split_seed: int, exclude: bool) -> Source:
    """Who of a further data set trains and who validates: by patient; a patient of ChestX-ray14 stays on the side where its splits have them.

    Args:
        other: read with its training part.
        splits: of ChestX-ray14.
        validation: fraction of the patients of the training part to hold out.
        split_seed: which of them.
        exclude: leave out films of patients whom ChestX-ray14 has for testing; else they are an error.

    Raises:
        OtherSetError: no finding of the 14 is labelled in it.
        SplitError: patients for testing are in it, or nothing is left to train on.
    """
    if other.name not in TRAINABLE or other.training is None:
        raise OtherSetError(f"data.sources: {other.name} labels no finding of the 14, so nothing can be learned from it; choose from {', '.join(TRAINABLE)}")
    tests = {name: getattr(splits, name).patient_id for name in ("test", "expert_validation", "expert_test")}
    films = refuse_or_exclude(other.films, other.name, tests, exclude=exclude, key=f"data.sources.{other.name}.overlap")
    pool = films[films.part == other.training]
    in_train, in_val = (pool.patient_id.isin(getattr(splits, name).patient_id.astype(str)) for name in ("train", "val"))
    free = np.unique(pool.patient_id[~in_train & ~in_val])
    chosen = np.random.default_rng(split_seed).permutation(free)[: round(validation * len(free))]
    held_out = in_val | pool.patient_id.isin(chosen)
    train, val = (pool.loc[rows, KEYS].reset_index(drop=True) for rows in (~held_out, held_out))
    if train.empty:
        raise SplitError(f"data.sources: no film of {other.name} is left to train on")
    test = films.loc[films.part != other.training, KEYS].reset_index(drop=True)
    for one, two, names in ((train, test, "train and test"), (val, test, "val and test")):
        shared = np.intersect1d(one.patient_id, two.patient_id)
        if shared.size:
            raise SplitError(f"{other.name}: {names} share {shared.size} patient{'s' * (shared.size > 1)}, the first is {shared[0]}")
    return Source(other, train, val, test, len(other.films) - len(films))
