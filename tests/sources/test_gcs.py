"""Mirrors sources/gcs.py and sources/fetching.py: the real command and Google's own client, against a bucket on the loopback."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call
from gcs_emulator import PROJECT_THAT_PAYS, Emulator, honestly, wait_until

from cxr.config import PROJECT, Data, DownloadConfig
from cxr.run import RunError
from cxr.run.downloading import download, listed_images
from cxr.sources import SourceError
from cxr.sources.fetching import PARTS
from cxr.sources.gcs import BUCKET

N = 40
SETTINGS = ["source=gcs", f"images={N}", f"billing_project={PROJECT_THAT_PAYS}", "workers=4", "first_wait_seconds=0.01"]


@pytest.fixture(scope="module")
def films(mini: Path) -> dict[str, bytes]:
    """Names of the first films of the miniature; what is in them is nobody's business here, but they have more than one piece of the client's 8 kB."""
    rng = np.random.default_rng(0)
    return {name: rng.bytes(50_000 + k) for k, name in enumerate(listed_images(Data(name="cxr14", root=str(mini)))[:N])}


@pytest.fixture(scope="module")
def filled(films: dict[str, bytes]) -> Iterator[Emulator]:
    with Emulator(BUCKET) as emulator:
        emulator.fill({f"png/{name}": content for name, content in films.items()} | {"dicom/00000001_000.dcm": b"DICM"})
        yield emulator


@pytest.fixture
def bucket(filled: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    filled.serve, filled.ranges, filled.refused = honestly, {}, 0
    for name, value in filled.environment.items():
        monkeypatch.setenv(name, value)
    return filled


@pytest.fixture
def root(mini: Path, tmp_path: Path) -> Path:
    """A folder with the lists alone."""
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).write_bytes((mini / name).read_bytes())
    return tmp_path


def config(root: Path, **changed: Any) -> DownloadConfig:
    settings = {"source": "gcs", "images": str(N), "billing_project": PROJECT_THAT_PAYS, "workers": 4, "attempts": 2, "first_wait_seconds": 0.01}
    return DownloadConfig(**settings | changed, data=Data(name="cxr14", root=str(root)))


def start(root: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROJECT / "scripts/download.py"), *SETTINGS, f"data.root={root}", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def whole(root: Path, films: dict[str, bytes]) -> set[str]:
    """The films that are there; every one of them, and nothing else, under a final name."""
    there = {path.name: path.read_bytes() for path in (root / "images").iterdir() if path.name != PARTS}
    assert there == {name: films[name] for name in there}
    return set(there)


def test_without_anybody_who_pays_nothing_is_asked_of_the_bucket(bucket: Emulator, root: Path) -> None:
    done = call("scripts/download.py", "source=gcs", f"images={N}", f"data.root={root}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: gs://{BUCKET} is a requester-pays bucket: who fetches pays")
    assert "billing_project=my-project" in done.stderr
    assert "Traceback" not in done.stderr
    assert "NIH Clinical Center is the data provider" in done.stdout
    assert (bucket.refused, bucket.ranges) == (0, {})
    assert not (root / "images").exists()


def test_a_bucket_that_wants_to_be_paid_by_another_says_so(bucket: Emulator, root: Path) -> None:
    with pytest.raises(SourceError, match=r"is a requester-pays bucket: .*billing_project="):
        download(config(root, billing_project="somebody-else"))
    assert bucket.refused == 1
    assert bucket.ranges == {}


def test_three_interruptions_and_then_every_film_is_there(bucket: Emulator, root: Path, films: dict[str, bytes]) -> None:
    # 1. a network that breaks off all answers but ten, half-way
    let_through = set(list(films)[:10])

    def cut(name: str, content: bytes, send: Callable[[bytes], Any]) -> None:
        send(content if Path(name).name in let_through else content[: len(content) // 2])

    bucket.serve = cut
    broken = call("scripts/download.py", *SETTINGS, "attempts=2", f"data.root={root}", **bucket.environment)
    assert broken.returncode == 1
    assert f"error: {N - 10} films are missing:\n  png/" in broken.stderr
    assert "the connection broke" in broken.stderr
    assert "Start the same command again" in broken.stderr
    assert whole(root, films) == let_through
    parts = {path.name: path.stat().st_size for path in (root / "images" / PARTS).iterdir() if path.name != "lock"}
    # the second attempt went on where the first was cut off
    assert set(parts) == set(films) - let_through
    assert all(size > len(films[name]) // 2 for name, size in parts.items())
    asked = [ranges for name, ranges in bucket.ranges.items() if Path(name).name in parts]
    assert all(first == "" and second.startswith("bytes=2") for first, second in asked)

    # 2. Ctrl-C while the bucket is in the middle of some answers
    held, ended = threading.Event(), threading.Event()

    def hold(name: str, content: bytes, send: Callable[[bytes], Any]) -> None:
        if len(bucket.ranges) <= 15:
            send(content)
            return
        send(content[:1])
        held.set()
        ended.wait(60)

    bucket.serve, bucket.ranges = hold, {}
    process = start(root)
    assert held.wait(60)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    ended.set()
    assert process.returncode == 75, told
    assert "stopped by SIGINT: " in told
    assert "all of them whole" in told
    n_after_second = len(whole(root, films))
    assert 10 < n_after_second < N
    assert not (root / "images" / PARTS).exists()

    # 3. killed in the middle of some answers
    held.clear()
    ended.clear()
    bucket.ranges = {}
    bucket.serve = lambda name, content, send: (send(content[: len(content) // 2]), held.set(), ended.wait(60))
    process = start(root)
    assert held.wait(60)
    wait_until(lambda: any(path.stat().st_size for path in (root / "images" / PARTS).iterdir()))
    process.kill()
    process.communicate(timeout=60)
    ended.set()
    assert len(whole(root, films)) == n_after_second

    bucket.serve, bucket.ranges = honestly, {}
    finished = call("scripts/download.py", *SETTINGS, f"data.root={root}", **bucket.environment)
    assert finished.returncode == 0, finished.stderr
    assert f"{N} films are whole in {root / 'images'}: {N - n_after_second} fetched, {n_after_second} were there" in finished.stdout
    assert f"billed to {PROJECT_THAT_PAYS}" in finished.stdout
    assert whole(root, films) == set(films)
    assert not (root / "images" / PARTS).exists()
    # what was whole was not asked for, and what was not, not from its beginning
    assert len(bucket.ranges) == N - n_after_second
    assert any(asked and asked[0].startswith("bytes=") for asked in bucket.ranges.values())


def test_a_film_with_a_wrong_checksum_is_refused_and_not_kept(bucket: Emulator, root: Path, films: dict[str, bytes]) -> None:
    victim = list(films)[3]

    def spoil(name: str, content: bytes, send: Callable[[bytes], Any]) -> None:
        send(content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(victim) else content)

    bucket.serve = spoil
    with pytest.raises(RunError, match=rf"1 films are missing:\n  png/{victim}: what came has another checksum \(crc32c\)"):
        download(config(root))
    assert whole(root, films) == set(films) - {victim}
    assert not (root / "images" / PARTS / victim).exists()
    assert len(bucket.ranges[f"png/{victim}"]) == 2

    # and one that was damaged on the disk afterwards, its size the same, is noticed
    other = list(films)[7]
    (root / "images" / other).write_bytes(bytes(len(films[other])))
    bucket.serve, bucket.ranges = honestly, {}
    download(config(root))
    assert whole(root, films) == set(films)
    assert set(bucket.ranges) == {f"png/{victim}", f"png/{other}"}


def test_a_film_that_the_bucket_does_not_have_is_named_and_the_others_come(bucket: Emulator, root: Path, films: dict[str, bytes]) -> None:
    (root / "mine.txt").write_text("\n".join([*list(films)[:3], "99999999_000.png"]))
    with pytest.raises(RunError, match=rf"(?s)1 films are missing:\n  99999999_000\.png: gs://{BUCKET} has no png/99999999_000\.png"):
        download(config(root, images=str(root / "mine.txt")))
    assert whole(root, films) == set(list(films)[:3])


def test_dicom_is_another_folder_of_the_bucket(bucket: Emulator, root: Path) -> None:
    (root / "mine.txt").write_text("00000001_000.png")
    download(config(root, images=str(root / "mine.txt"), format="dicom"))
    assert (root / "images/00000001_000.dcm").read_bytes() == b"DICM"


def test_a_bucket_that_falls_silent_is_given_up(bucket: Emulator, root: Path, films: dict[str, bytes]) -> None:
    ended = threading.Event()
    bucket.serve = lambda name, content, send: ended.wait(60)
    try:
        with pytest.raises(SourceError, match=r"nothing came for 1 s: 0 of 40 files are done"):
            download(config(root, give_up_minutes=1 / 60))
    finally:
        ended.set()
    assert whole(root, films) == set()


def test_two_downloads_into_one_folder_are_refused(bucket: Emulator, root: Path) -> None:
    held, ended = threading.Event(), threading.Event()
    bucket.serve = lambda name, content, send: (held.set(), ended.wait(60), send(content))
    process = start(root)
    try:
        assert held.wait(60)
        with pytest.raises(ValueError, match="another process downloads into it"):
            download(config(root))
    finally:
        ended.set()
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert os.listdir(root / "images")
