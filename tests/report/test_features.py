"""Mirrors report/features.py: what was written is what is read, or nothing is."""

import zipfile
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


@pytest.mark.parametrize(
    ("ids", "values", "made_by"),
    [
        (np.array([b"a", b"b"]), VALUES[:2], "ab"),
        (np.array([0.5, 1.5]), VALUES[:2], "ab"),
        (IDS[:2].astype(str), VALUES[:2].astype(str), "ab"),
        (IDS[:2].astype(str), VALUES[:2].astype(np.float64), "ab"),
        (IDS[:2].astype(str), VALUES[0, :2], "ab"),
        (IDS[:2].astype(str), VALUES, "ab"),
        (IDS[:2].astype(str), VALUES[:2], ["ab"]),
        (np.array([0x41, 0x110000], np.uint32).view("<U1"), VALUES[:2], "ab"),
    ],
    ids=["names of bytes", "names of numbers", "features of text", "of another precision", "in a row", "of more films", "many networks", "no characters"],
)
def test_what_was_never_written_is_refused_though_its_checksums_are_right(tmp_path: Path, ids: np.ndarray, values: np.ndarray, made_by: object) -> None:
    """Found by scripts/fuzz.py: names that arrow could not show, and text that is no finite number."""
    with (tmp_path / FILE).open("wb") as file:
        np.savez(file, image_id=ids, features=values, checkpoint_sha256=np.array(made_by))
    with pytest.raises(FeaturesError, match=rf"{FILE}: not a"):
        read_features(tmp_path / FILE, "ab")


def test_a_member_that_is_no_array_is_not_another_networks(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: numpy gave back its bytes, which name no network."""
    write_features(tmp_path / FILE, IDS, VALUES, checkpoint_sha256="ab")
    with zipfile.ZipFile(tmp_path / FILE) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"NUMPY", b"]UMPY") if name.startswith("checkpoint") else content)
    with pytest.raises(FeaturesError, match=FILE):
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
