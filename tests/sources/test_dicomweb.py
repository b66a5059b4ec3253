"""Mirrors sources/dicomweb.py: the real command against a real Orthanc; and the names that Google gave to NIH's films, against those in print."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_store
import numpy as np
import pytest
from commands import absent, call
from orthanc import Orthanc, missing_programs
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxr.cohort.catalogue import LIST_FILES, read_image_list
from cxr.config import PROJECT, Data, DownloadConfig
from cxr.run import RunError
from cxr.run.downloading import download, listed_images
from cxr.sources import SourceError, dicomweb
from cxr.sources.dicomweb import check_instance, single_part, uid_of
from cxr.sources.fetching import PARTS, Again

N = 30
# RG1: a real chest, as it is and in JPEG 2000
REAL_FILMS = [Path(data_store.__path__[0]) / "data" / name for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm")]
SETTINGS = ["source=dicomweb", "images=all", "workers=2", "first_wait_seconds=0.01"]

# Of films of NIH's, as they stand in the tests and tutorials of others: level -> UIDs without Google's root. Which film has which is in print for two of them.
IN_PRINT = {
    "00000001_000.png": {
        "study": "111396399361969898205364400549799252857604",
        "series": "195628213694300498946760767481291263511724",
        "instance": "153751009835107614666834563294684339746480",
    },
    "00000002_000.png": {
        "study": "112507010803284478207522016832191866964708",
        "series": "112630850362182468372440828755218293352329",
        "instance": "110503645592756492463169821050252582267888",
    },
}
OTHERS_IN_PRINT = {
    "study": """152282914531363032949713603336202516605481 184301693334578016850836775758484230512396 164250117850161943194161905688563403884135
        140385430840977525703440794320485211181362 167706292467338973012608016343615400174590 163417649223033709931105279768318099333246
        198762697972258983626924507783975291419048 179387610138005701821131995952817087438990 171239031143542988682131441419389147590039
        147597744515408142786448222471485994263174""",
    "series": """189954393471739102829266165312094856233636 143558942555202490607264725181630351940542 176710413805170297742754213182615158224592
        173636723534566295092170234024171745083941 117069920031875109817919872105931584298369 197548155589040844108767552896301599265032
        129746959800038691773791850432598606633014 112816532724284921242285811820367699999976 124760182693964961804727823562642962497744
        164199707373855088457902663345054608406163""",
    "instance": """166102574194965874627091290058724004650583 174595247921557872296549148592856328357393 161604609646646508448240207505375450718327
        110781759534414118628869516274778470110585 131674849861941389292183794407648121636881 166584992838825321228887195374285748055797
        149201334290302566289032704513923100758696 127088735465040101685300160676229389796677 188630119197320110714891789392510733491306
        111308039523360824950858441125001747832163""",
}


@pytest.mark.parametrize(("image_id", "level", "digits"), [(name, *pair) for name, uids in IN_PRINT.items() for pair in uids.items()])
def test_uids_of_nihs_films_are_those_in_print(image_id: str, level: str, digits: str) -> None:
    assert uid_of(image_id, level) == f"1.3.6.1.4.1.11129.5.5.{digits}"


def test_every_uid_in_print_belongs_to_a_film_of_nihs_lists(real: Path) -> None:
    image_ids = [name for file in LIST_FILES.values() for name in read_image_list(real / "data/cxr14_1024" / file)]
    assert len(image_ids) == 112_120
    for level, digits in OTHERS_IN_PRINT.items():
        made = {uid_of(image_id, level) for image_id in image_ids}
        assert len(made) == 112_120
        assert {f"1.3.6.1.4.1.11129.5.5.{one}" for one in digits.split()} <= made


def write_film(path: Path, image_id: str, rng: np.random.Generator) -> Path:
    """As Google made them of NIH's: secondary capture, eight bits, few attributes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = SecondaryCaptureImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid_of(image_id)
    film = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = SecondaryCaptureImageStorage, uid_of(image_id)
    film.StudyInstanceUID, film.SeriesInstanceUID = uid_of(image_id, "study"), uid_of(image_id, "series")
    film.Modality, film.StudyDescription, film.BodyPartExamined = "DX", "No Finding", "CHEST"
    film.PatientID, film.PatientSex, film.PatientAge, film.PatientPosition = str(int(image_id[:8])), "M", "058Y", "PA"
    film.SamplesPerPixel, film.PhotometricInterpretation, film.Rows, film.Columns = 1, "MONOCHROME2", 256, 256
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit, film.PixelRepresentation = 7, 0
    film.PixelData = rng.integers(0, 256, (256, 256), dtype=np.uint8).tobytes()
    film.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def image_ids(mini: Path) -> list[str]:
    return listed_images(Data(name="cxr14", root=str(mini)))[:N]


@pytest.fixture(scope="module")
def filled(image_ids: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if missing := missing_programs():
        absent(f"ORTHANC ABSENT: no {', '.join(missing)}; apt-get install orthanc orthanc-dicomweb")
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    server = Orthanc()
    try:
        server.start()
    except (AssertionError, OSError) as error:
        absent(f"ORTHANC DOES NOT START: {error}")
    server.store([*(write_film(folder / f"{k}.dcm", image_id, rng) for k, image_id in enumerate(image_ids)), *REAL_FILMS])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stored(filled: Orthanc, image_ids: list[str]) -> dict[str, bytes]:
    """File name -> what must be in it, told by Orthanc itself."""
    names = {uid_of(image_id): Path(image_id).stem for image_id in image_ids}
    return {f"{names.get(uid, uid)}.dcm": content for uid, content in filled.stored().items()}


@pytest.fixture
def root(mini: Path, tmp_path: Path) -> Path:
    """A folder with the lists alone."""
    for name in LIST_FILES.values():
        (tmp_path / name).write_bytes((mini / name).read_bytes())
    return tmp_path


def config(server: str, root: Path, **changed: Any) -> DownloadConfig:
    settings = {"source": "dicomweb", "images": "all", "workers": 2, "attempts": 2, "first_wait_seconds": 0.01, "url": server}
    return DownloadConfig(**settings | changed, data=Data(name="cxr14", root=str(root)))


def whole(root: Path, stored: dict[str, bytes]) -> set[str]:
    """The films that are there; every one byte for byte, and nothing else, under a final name."""
    there = {path.name: path.read_bytes() for path in (root / "images").iterdir() if path.name != PARTS}
    assert there == {name: stored[name] for name in there}
    return set(there)


class Wire:
    """Between a client and a server; lets so many bytes through to the client, and then hangs, or breaks off all there is."""

    def __init__(self, to: int):
        self.to, self.left, self.hangs, self.empty = to, 10**12, False, threading.Event()
        self.counting = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/dicom-web"
        threading.Thread(target=self._accept, daemon=True).start()

    def allow(self, n_bytes: int, hangs: bool) -> None:
        self.left, self.hangs = n_bytes, hangs
        self.empty.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            threading.Thread(target=self._pass, args=(client, server, lambda n: n), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self._take), daemon=True).start()

    def _take(self, n_bytes: int) -> int:
        with self.counting:
            taken = min(n_bytes, self.left)
            self.left -= taken
            if taken < n_bytes:
                self.empty.set()
            return taken

    def _pass(self, source: socket.socket, to: socket.socket, allowed: Callable[[int], int]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(2**14):
                passed = allowed(len(piece))
                to.sendall(piece[:passed])
                if passed < len(piece):
                    if self.hangs:
                        threading.Event().wait(30)
                    break
        for one in (source, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def test_three_interruptions_and_then_every_film_is_there_as_it_was_stored(filled: Orthanc, stored: dict[str, bytes], root: Path, image_ids: list[str]) -> None:
    wire = Wire(filled.port)
    settings = [*SETTINGS, f"url={wire.url}", f"data.root={root}"]
    command = [sys.executable, str(PROJECT / "scripts/download.py"), *settings]

    # 1. the network goes away for good, within some film
    wire.allow(600_000, hangs=False)
    broken = call("scripts/download.py", *settings, "attempts=2")
    assert broken.returncode == 1, broken.stdout
    assert re.search(r"error: \d+ films are missing:\n  [\d.]+: the connection broke", broken.stderr), broken.stderr
    n_first = len(whole(root, stored))
    assert 0 < n_first < N

    # 2. Ctrl-C, and 3. SIGKILL, while it hangs within some film
    counts = [n_first]
    for end, status in ((signal.SIGINT, 75), (signal.SIGKILL, -signal.SIGKILL)):
        wire.allow(600_000, hangs=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert wire.empty.wait(60)
        process.send_signal(end)
        told, _ = process.communicate(timeout=60)
        assert process.returncode == status, told
        counts.append(len(whole(root, stored)))
    assert counts == sorted(counts)
    assert counts[-1] < N

    wire.allow(10**12, hangs=False)
    finished = call("scripts/download.py", *settings)
    assert finished.returncode == 0, finished.stderr
    assert f"{N + 2} films there, {N} of them NIH's" in finished.stdout
    assert f"{N + 2 - counts[-1]} fetched, {counts[-1]} were there" in finished.stdout
    # NIH's by their names, the others by their UIDs, JPEG 2000 as JPEG 2000
    assert whole(root, stored) == {f"{Path(image_id).stem}.dcm" for image_id in image_ids} | {f"{dcmread(path).SOPInstanceUID}.dcm" for path in REAL_FILMS}
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in REAL_FILMS} <= {
        dcmread(path).file_meta.TransferSyntaxUID for path in (root / "images").glob("*.dcm")
    }
    assert not (root / "images" / PARTS).exists()


def test_films_are_chosen_by_name_by_uid_by_number_and_by_filter(filled: Orthanc, stored: dict[str, bytes], root: Path, image_ids: list[str]) -> None:
    uid = dcmread(REAL_FILMS[1]).SOPInstanceUID
    (root / "mine.txt").write_text(f"{image_ids[4]}\n{uid}\n99999999_000.png\n")
    with pytest.raises(RunError, match=r"1 films are missing:\n  99999999_000\.png: the server has no such film"):
        download(config(filled.url, root, images=str(root / "mine.txt")))
    assert whole(root, stored) == {f"{Path(image_ids[4]).stem}.dcm", f"{uid}.dcm"}

    download(config(filled.url, root, query={"Modality": "CR"}, folder=str(root / "real/images")))
    assert len(whole(root / "real", stored)) == len(REAL_FILMS)
    download(config(filled.url, root, images="3", folder=str(root / "three/images")))
    assert len(whole(root / "three", stored)) == 3


def test_pages_add_up_to_the_whole(filled: Orthanc, stored: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 7)
    download(config(filled.url, root))
    assert whole(root, stored) == set(stored)


def test_a_damaged_file_under_a_films_name_is_fetched_again(filled: Orthanc, stored: dict[str, bytes], root: Path) -> None:
    (root / "images").mkdir()
    (root / "images" / next(iter(stored))).write_bytes(b"text")
    download(config(filled.url, root))
    assert whole(root, stored) == set(stored)


def test_a_server_that_is_not_there_is_said_in_one_line(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(SourceError, match=r"does not answer a search: the connection broke \(ConnectionError\)"):
            download(config(f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web", root))


def test_no_credentials_are_said_in_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": "", "NO_GCE_CHECK": "true"}
    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match=r"no Google credentials on this machine: run `gcloud auth application-default login`"):
        download(DownloadConfig(source="dicomweb", images="1", data=Data(name="cxr14", root=str(root))))


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (b"--b\r\nContent-Type: application/dicom\r\n\r\nfilm\r\n", "multipart/related; boundary=b", "cut short"),
        (b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--", "multipart/related; boundary=b", "more than one"),
        (b"<html>", "text/html", "sent text/html and no film"),
    ],
)
def test_an_answer_that_is_no_film_is_not_taken_for_one(body: bytes, kind: str, why: str) -> None:
    with pytest.raises(Again, match=why):
        single_part(body, kind)


def test_a_film_is_taken_out_of_its_answer_byte_for_byte() -> None:
    content = bytes(range(256)) + b"\r\n--"
    assert single_part(b"--x'y\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--x'y--\r\n", 'multipart/related; boundary="x\'y"') == content


def test_pixels_that_are_missing_and_another_film_are_noticed(tmp_path: Path) -> None:
    content = write_film(tmp_path / "film.dcm", "00000001_000.png", np.random.default_rng(0)).read_bytes()
    check_instance(content, uid_of("00000001_000.png"))
    with pytest.raises(Again, match="another film came"):
        check_instance(content, uid_of("00000002_000.png"))
    for n_bytes in (100, len(content) // 2, len(content) - 1):
        with pytest.raises(Again, match=r"missing|no DICOM file|another film"):
            check_instance(content[:n_bytes], uid_of("00000001_000.png"))
