"""Mirrors cohort/others.py: no patient on two sides, whatever name a film has."""

import numpy as np
import pandas as pd
import pytest

from cxr.cohort.others import make_source, refuse_seen
from cxr.cohort.spaces import OtherSet, OtherSetError
from cxr.cohort.splits import SplitError, Splits


def films(prefix: str, patients: list[str], part: str) -> pd.DataFrame:
    table = pd.DataFrame({"image_id": [f"{prefix}:{i:04d}" for i in range(len(patients))], "patient_id": patients, "part": part})
    return table.assign(view="PA", sex="F", age=50.0, follow_up=0.0, path="x", Pneumonia=1.0)


def nih(**patients: range) -> Splits:
    tables = {name: pd.DataFrame({"image_id": [f"{p:08d}_000.png" for p in of], "patient_id": np.array(of, "int64")}) for name, of in patients.items()}
    nobody = pd.DataFrame({"image_id": pd.Series(dtype=str), "patient_id": pd.Series(dtype="int64")})
    named = {name: tables.get(name, nobody) for name in ("train", "val", "test", "expert_validation", "expert_test")}
    return Splits(**named, test_list=pd.Index([]))


def rsna(patients: range) -> OtherSet:
    return OtherSet("rsna", films("rsna", [str(p) for p in patients], "rsna"), {"rsna": True}, "rsna", {})


SPLITS = nih(train=range(60), val=range(60, 80), test=range(80, 100), expert_validation=range(100, 110))


def test_films_of_patients_whom_the_run_has_seen_are_refused_with_counts() -> None:
    with pytest.raises(SplitError) as told:
        refuse_seen(rsna(range(50, 120)), SPLITS, {}, exclude=False)
    assert str(told.value) == (
        "rsna: 30 of 70 films are of patients that stand elsewhere (10 films of 10 patients in train, 20 films of 20 patients in val), so no number on them"
        " would be right. data.overlap=exclude leaves every film of these patients out; 40 of 40 patients remain"
    )


def test_excluding_leaves_out_every_film_of_theirs_and_says_how_many() -> None:
    kept = refuse_seen(rsna(range(50, 120)), SPLITS, {}, exclude=True)
    assert set(kept.films.patient_id.astype(int)) == set(range(80, 120))
    assert kept.left_out["of patients seen in training"] == 30


def test_nothing_but_seen_patients_is_refused_either_way() -> None:
    for exclude in (False, True):
        with pytest.raises(SplitError, match="all 60 films are of patients that stand elsewhere"):
            refuse_seen(rsna(range(60)), SPLITS, {}, exclude=exclude)


def test_the_patients_of_a_further_source_are_seen_too() -> None:
    other = OtherSet("chexpert", films("chexpert", [f"chexpert:patient{i}" for i in range(20)], "chexpert_train"), {}, "chexpert_train", {})
    source = make_source(other, SPLITS, validation=0.25, split_seed=0, exclude=False)
    tested = OtherSet("chexpert", films("chexpert", ["chexpert:patient3", "chexpert:patient99"], "chexpert_valid"), {"chexpert_valid": True}, None, {})
    with pytest.raises(SplitError, match="1 of 2 films"):
        refuse_seen(tested, SPLITS, {"chexpert": source}, exclude=False)


def test_training_on_rsna_films_of_nihs_test_patients_is_refused_and_the_others_stay_on_their_side() -> None:
    with pytest.raises(
        SplitError, match=r"20 films of 20 patients in test, 10 films of 10 patients in expert_validation.*data\.sources\.rsna\.overlap=exclude"
    ):
        make_source(rsna(range(200)), SPLITS, validation=0.1, split_seed=0, exclude=False)
    source = make_source(rsna(range(200)), SPLITS, validation=0.1, split_seed=0, exclude=True)
    train, val = (set(table.patient_id.astype(int)) for table in (source.train, source.val))
    assert set(range(60)) <= train
    assert set(range(60, 80)) <= val
    assert not train & val
    assert (train | val) == set(range(80)) | set(range(110, 200))
    assert source.n_excluded == 30
    assert source.test.empty


def test_validation_is_by_patient_and_another_seed_holds_out_others() -> None:
    patients = [f"chexpert:patient{i % 40}" for i in range(200)]
    other = OtherSet("chexpert", films("chexpert", patients, "chexpert_train"), {}, "chexpert_train", {})
    held_out = []
    for seed in (0, 0, 1):
        source = make_source(other, SPLITS, validation=0.25, split_seed=seed, exclude=False)
        assert source.val.patient_id.nunique() == 10
        assert len(source.val) == 50
        assert set(source.train.patient_id).isdisjoint(source.val.patient_id)
        held_out.append(set(source.val.patient_id))
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_set_that_labels_no_finding_of_the_14_is_nothing_to_learn_from() -> None:
    portal = OtherSet("tbportals", films("tbportals", ["tbportals:a"], "tbportal"), {"tbportal": True}, None, {})
    with pytest.raises(OtherSetError, match="tbportals labels no finding of the 14"):
        make_source(portal, SPLITS, validation=0.1, split_seed=0, exclude=False)
