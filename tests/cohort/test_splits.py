"""Mirrors cohort/splits.py: the guard is tried with every overlap there can be."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from cxr.cohort.catalogue import Catalogue, load_catalogue
from cxr.cohort.experts import ExpertError, load_experts
from cxr.cohort.splits import SplitError, Splits, guard, make_splits


@pytest.fixture(scope="module")
def study(mini: Path) -> tuple[Catalogue, dict[str, pd.DataFrame]]:
    return load_catalogue(mini), load_experts(mini / "expert_labels").labels


def split(study: tuple[Catalogue, dict[str, pd.DataFrame]], **changed: object) -> Splits:
    return make_splits(*study, **{"validation": 0.15, "split_seed": 0, "keep_expert_validation": False} | changed)  # type: ignore[arg-type]


PAIRS = [*combinations(("train", "val", "test", "expert_validation"), 2), *((name, "expert_test") for name in ("train", "val", "expert_validation"))]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_patient_in_two_sets_that_may_share_none_is_refused_by_name(study, one: str, other: str) -> None:
    splits = split(study)
    guard(splits)
    planted = getattr(splits, one).iloc[[0]].assign(image_id="planted.png")
    spoiled = replace(splits, **{other: pd.concat([getattr(splits, other), planted])})
    # a patient planted among the expert test films meets the test set's patients nowhere else
    with pytest.raises(SplitError, match=rf"{one} and {other} share 1 patient \({planted.patient_id.iloc[0]}\)"):
        guard(spoiled)


def test_there_are_nine_pairs_to_guard() -> None:
    assert len(PAIRS) == 9


def test_an_expert_test_image_outside_the_official_test_list_is_refused(study) -> None:
    splits = split(study)
    film = splits.expert_test.image_id.iloc[0]
    with pytest.raises(SplitError, match=f"1 expert test images are not in the official test list, the first is {film}"):
        guard(replace(splits, test_list=splits.test_list.drop(film)))


def test_sets_are_the_official_ones_and_validation_is_by_patient(study) -> None:
    catalogue, experts = study
    splits = split(study)
    images = catalogue.images.set_index("image_id")
    excluded = set(images.patient_id[experts["four_findings_validation"].image_id])
    train_val = images[(images.list == "train_val") & ~images.patient_id.isin(excluded)]
    assert set(splits.train.image_id) | set(splits.val.image_id) == set(train_val.index)
    assert set(splits.test.image_id) == set(images.index[images.list == "test"])
    assert splits.val.patient_id.nunique() == pytest.approx(0.15 * train_val.patient_id.nunique(), rel=0.3)
    assert not excluded & (set(splits.train.patient_id) | set(splits.val.patient_id))


def test_the_policy_and_the_training_seed_move_no_patient_between_train_and_val(study) -> None:
    exclude, keep = split(study), split(study, keep_expert_validation=True)
    assert set(exclude.train.image_id) <= set(keep.train.image_id)
    assert set(exclude.val.image_id) <= set(keep.val.image_id)
    assert len(keep.train) + len(keep.val) == len(exclude.train) + len(exclude.val) + exclude.facts["excluded_images"]
    assert set(split(study, split_seed=1).val.image_id) != set(exclude.val.image_id)


def test_a_validation_list_is_used_as_it_is(study, tmp_path: Path) -> None:
    by_fraction = split(study)
    (tmp_path / "val.txt").write_text("\n".join(by_fraction.val.image_id))
    by_list = split(study, validation=tmp_path / "val.txt")
    assert set(by_list.val.image_id) == set(by_fraction.val.image_id)
    assert set(by_list.train.image_id) == set(by_fraction.train.image_id)


def test_a_validation_list_that_splits_a_patient_is_refused(study, tmp_path: Path) -> None:
    counts = split(study).train.patient_id.value_counts()
    film = split(study).train.query("patient_id == @counts.index[0]").image_id.iloc[0]
    (tmp_path / "val.txt").write_text(film)
    with pytest.raises(SplitError, match=rf"train and val share 1 patient \({counts.index[0]}\)"):
        split(study, validation=tmp_path / "val.txt")


def test_a_validation_list_with_test_images_is_refused(study, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text(split(study).test.image_id.iloc[0])
    with pytest.raises(SplitError, match=r"1 of 1 images in .* are not in the official train_val list"):
        split(study, validation=tmp_path / "val.txt")


def test_an_expert_file_that_gives_a_film_to_another_patient_is_refused(study) -> None:
    catalogue, experts = study
    wrong = experts["all_findings_test"].copy()
    wrong.loc[0, "patient_id"] += 1
    with pytest.raises(ExpertError, match=f"another patient than the catalogue says, the first is {wrong.image_id[0]}"):
        split((catalogue, experts | {"all_findings_test": wrong}))


def test_the_real_exclusion_costs_what_is_known(real: Path) -> None:
    study = load_catalogue(real / "data" / "cxr14_256"), load_experts(real / "data" / "google_expert_labels").labels
    splits = split(study, validation=0.1)
    assert len(splits.train) + len(splits.val) == 79_611
    assert splits.facts["expert_validation_patients"] == 835
    assert splits.facts["excluded_images"] == 6_913
    assert splits.facts["excluded_share_of_positives"]["Edema"] == pytest.approx(0.15, abs=0.01)
    assert (len(splits.expert_test), splits.expert_test.patient_id.nunique()) == (1_962, 860)
    published = split(study, validation=real / "data" / "published_val_split.txt")
    assert published.facts["validation_images"] == 11_212
    assert published.facts["excluded_validation_images"] == 899
