"""Mirrors data/store.py: whole or not there, resumable, and never a mixture."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr.data import store as module
from cxr.data.decode import Reading, decode
from cxr.data.store import StoreError, build_store, open_store


@pytest.fixture
def films(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(40):
        cv2.imwrite(str(folder / f"{i:08d}_000.png"), rng.integers(0, 256, (48, 48), dtype=np.uint8))
    return {path.name: path for path in sorted(folder.iterdir())}


def build(folder: Path, films: dict[str, Path], size: int = 32) -> module.Store:
    return build_store(folder, films, size=size, source="test", package_version="0", n_threads=2)


def test_every_row_is_the_film_of_its_id(tmp_path: Path, films: dict[str, Path]) -> None:
    store = build(tmp_path / "store", films)
    assert store.image_ids.tolist() == list(films)
    assert all(np.array_equal(row, decode(films[image_id], 32)) for row, image_id in zip(store.images, store.image_ids, strict=True))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["image_ids.npy", "images.npy", "meta.json", "quarantine.csv"]
    assert not (tmp_path / "store.partial").exists()


def test_unreadable_films_are_quarantined_with_their_reason_and_leave_no_gap(tmp_path: Path, films: dict[str, Path]) -> None:
    names = list(films)
    films[names[0]].write_bytes(films[names[0]].read_bytes()[:100])
    films[names[7]].write_bytes(b"")
    films[names[39]].write_bytes(b"text")
    store = build(tmp_path / "store", films)
    assert len(store.images) == len(store.image_ids) == 37
    assert all(np.array_equal(row, decode(films[image_id], 32)) for row, image_id in zip(store.images, store.image_ids, strict=True))
    with (tmp_path / "store" / "quarantine.csv").open(newline="") as file:
        rows = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    assert list(rows) == [names[0], names[7], names[39]]
    assert "truncated" in rows[names[0]]
    assert "empty" in rows[names[7]]
    assert "not a PNG" in rows[names[39]]
    assert store.quarantine == rows


def test_a_second_call_reads_no_film_again(tmp_path: Path, films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "store", films)
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("a film was read again"))
    assert len(build(tmp_path / "store", films).images) == 40


def test_another_list_or_size_is_noticed_and_the_store_left_as_it_is(tmp_path: Path, films: dict[str, Path]) -> None:
    build(tmp_path / "store", films)
    before = (tmp_path / "store" / "images.npy").read_bytes()
    with pytest.raises(StoreError, match=r"(?s)list_sha256.*lists 40 images, now 39.*data.store_dir"):
        build(tmp_path / "store", dict(list(films.items())[1:]))
    with pytest.raises(StoreError, match=r"size: store 32, now 16"):
        build(tmp_path / "store", films, size=16)
    assert (tmp_path / "store" / "images.npy").read_bytes() == before


def test_another_rule_is_noticed(tmp_path: Path, films: dict[str, Path]) -> None:
    build(tmp_path / "store", films)
    with pytest.raises(StoreError, match=r"rule: store '.*padded.*', now '.*cut to the square"):
        build_store(tmp_path / "store", films, size=32, source="test", package_version="0", reading=Reading(fit="crop"))


def test_a_damaged_store_says_so(tmp_path: Path, films: dict[str, Path]) -> None:
    build(tmp_path / "store", films)
    with (tmp_path / "store" / "images.npy").open("r+b") as file:
        file.truncate(5_000)
    with pytest.raises(StoreError, match=r"is damaged.*delete the folder"):
        open_store(tmp_path / "store")


BUILD = """
import sys, time
from pathlib import Path
from cxr.data import store
store.RECORD_EVERY = 4
decode = store.decode
def slow(path, size, reading):
    time.sleep(0.02)
    return decode(path, size, reading)
store.decode = slow
films = {path.name: path for path in sorted(Path(sys.argv[2]).iterdir())}
store.build_store(Path(sys.argv[1]), films, size=32, source="test", package_version="0", n_threads=2)
"""


def test_a_prepare_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    films[list(films)[3]].write_bytes(b"text")
    undisturbed = build(tmp_path / "undisturbed", films)
    folder, partial = tmp_path / "store", tmp_path / "store.partial"

    process = subprocess.Popen([sys.executable, "-c", BUILD, str(folder), str(films[next(iter(films))].parent)], env=os.environ)
    while not (partial / "progress.json").exists() or json.loads((partial / "progress.json").read_text())["n_done"] < 12:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()

    read: list[str] = []
    monkeypatch.setattr(module, "decode", lambda path, size, reading: (read.append(path.name), decode(path, size, reading))[1])
    resumed = build(folder, films)
    assert len(read) <= 40 - 12
    assert resumed.image_ids.tolist() == undisturbed.image_ids.tolist()
    for name in ("images.npy", "image_ids.npy", "quarantine.csv", "meta.json"):
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_two_processes_that_want_the_same_store_make_it_once(tmp_path: Path, films: dict[str, Path]) -> None:
    folder = tmp_path / "store"
    command = [sys.executable, "-c", BUILD, str(folder), str(films[next(iter(films))].parent)]
    processes = [subprocess.Popen(command, env=os.environ) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(open_store(folder).images) == 40
    assert not (tmp_path / "store.partial").exists()


def test_a_folder_of_films_that_vanishes_stops_preparing_and_costs_no_film(tmp_path: Path, films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk does that is unmounted: they are no unreadable films, and none of them goes into the quarantine."""
    monkeypatch.setattr(module, "RECORD_EVERY", 5)
    undisturbed = build(tmp_path / "undisturbed", films)
    place = films[next(iter(films))].parent

    def decode_until_gone(path: Path, size: int, reading: Reading) -> np.ndarray:
        if path.name == list(films)[20]:
            place.rename(tmp_path / "unmounted")
        return decode(path, size, reading)

    with monkeypatch.context() as during:
        during.setattr(module, "decode", decode_until_gone)
        with pytest.raises(StoreError, match=r"was there and is gone: is the disk still mounted\?"):
            build(tmp_path / "store", films)
    assert not (tmp_path / "store").exists()
    (tmp_path / "unmounted").rename(place)
    read: list[str] = []
    monkeypatch.setattr(module, "decode", lambda path, size, reading: (read.append(path.name), decode(path, size, reading))[1])
    resumed = build(tmp_path / "store", films)
    assert len(read) < 40
    assert np.array_equal(resumed.images, undisturbed.images)
    assert resumed.quarantine == {}


def test_a_store_that_is_overwritten_or_cut_after_it_was_opened_is_noticed(tmp_path: Path, films: dict[str, Path]) -> None:
    images = tmp_path / "store/images.npy"
    for change in (lambda: images.write_bytes(images.read_bytes()[:-1] + b"\0"), lambda: os.truncate(images, 5000)):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        build(tmp_path / "store", films)
        os.utime(images, ns=(0, 0))  # so that the change has another time, however coarse the clock of the disk
        store = open_store(tmp_path / "store")
        store.require_unchanged()
        change()
        with pytest.raises(StoreError, match=r"images\.npy was changed while it was read"):
            store.require_unchanged()
