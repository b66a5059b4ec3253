"""Mirrors report/features.py: what was written is what is read, or nothing is."""

from pathlib import Path

import numpy as np
import pytest

from cxr.report.features import FILE, FeaturesError, read_features, write_features

IDS = np.array([f"{i:08d}_000.png" for i in range(5)], dtype=object)
VALUES = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def test_features_come_back_by_name_and_only_to_the_network_that_made_them(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert read_features(path, "ab") is None
    write_features(path, IDS, VALUES, checkpoint_sha256="ab")
    told = read_features(path, "ab")
    assert told is not None
    assert told.index.tolist() == IDS.tolist()
    assert told.to_numpy().dtype == np.float32
    np.testing.assert_array_equal(told.to_numpy(), VALUES)
    assert read_features(path, "cd") is None


@pytest.mark.parametrize(("ids", "values"), [(IDS[[0, 1, 2, 3, 0]], VALUES), (IDS, np.where(np.arange(7) == 3, np.nan, VALUES))])
def test_a_film_twice_or_a_feature_that_is_no_number_is_refused(tmp_path: Path, ids: np.ndarray, values: np.ndarray) -> None:
    write_features(tmp_path / FILE, ids, values, checkpoint_sha256="ab")
    with pytest.raises(FeaturesError, match="stands twice, or a feature is no finite number"):
        read_features(tmp_path / FILE, "ab")


def test_no_damage_changes_a_feature_unseen(tmp_path: Path) -> None:
    path = tmp_path / FILE
    write_features(path, IDS, VALUES, checkpoint_sha256="ab")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    for at in [*rng.integers(len(whole), size=300), *range(0, len(whole), len(whole) // 10)]:
        spoiled = bytearray(whole)
        spoiled[at] ^= int(rng.integers(1, 256))
        path.write_bytes(spoiled if at % 2 else whole[:at])
        try:
            told = read_features(path, "ab")
        except FeaturesError as error:
            refused += str(path) in str(error)
            continue
        assert told is None or (told.index.tolist() == IDS.tolist() and np.array_equal(told.to_numpy(), VALUES))
    assert refused > 200
