"""Mirrors sources/archives.py, and the image store that archives stream into: the same as from the films unpacked, whatever happens on the way."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cxr.config import Data, MissingImages
from cxr.data import store as store_module
from cxr.data.decode import Reading, decode
from cxr.data.store import Store, StoreError, build_store
from cxr.run.study import load_catalogue_of, prepare_store
from cxr.sources.archives import Archive, ArchiveError, find_archives

TABLES = ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) if path.name.endswith("gz") else tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def films(mini: Path) -> dict[str, Path]:
    """Sixty of the miniature's films, by name."""
    return {path.name: path for path in sorted((mini / "images").iterdir())[:60]}


@pytest.fixture(scope="module")
def unpacked(films: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of these films as files."""
    folder = tmp_path_factory.mktemp("unpacked") / "store"
    build(folder, films)
    return folder


def build(folder: Path, paths: dict[str, Path], archives: list[Archive] | None = None, wanted: list[str] | None = None) -> Store:
    return build_store(folder, paths, size=32, source="test", package_version="0", n_threads=2, archives=archives or [], wanted=wanted or [])


def members_of(films: dict[str, Path], folder: str = "images/") -> list[tuple[str, bytes]]:
    return [(folder + name, path.read_bytes()) for name, path in films.items()]


def same_store(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in ("images.npy", "image_ids.npy", "quarantine.csv"))


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar", "zip"])
def test_a_store_from_archives_in_any_order_is_that_of_the_unpacked_films(ending: str, films: dict[str, Path], unpacked: Path, tmp_path: Path) -> None:
    write: Callable[[Path, list[tuple[str, bytes]]], Path] = write_zip if ending == "zip" else write_tar
    members = members_of(films)
    # neither the archives nor what is in them is sorted, a third lies unpacked, and some of that is in an archive too
    write(tmp_path / f"images_001.{ending}", [("images/README.txt", b"no film"), *members[50:20:-1]])
    write(tmp_path / f"images_002.{ending}", members[51:])
    build(tmp_path / "store", dict(list(films.items())[:25]), find_archives(tmp_path), list(films))
    assert same_store(tmp_path / "store", unpacked)
    # and is taken for theirs when all of them have been unpacked
    assert len(build(tmp_path / "store", films).images) == 60


def test_a_store_from_archives_is_opened_again_without_reading_them(films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "images_001.tar.gz", members_of(films))
    build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    monkeypatch.setattr(Archive, "films", lambda self: pytest.fail("it was read again"))
    assert len(build(tmp_path / "store", {}, find_archives(tmp_path), list(films)).images) == 60
    monkeypatch.undo()

    write_tar(tmp_path / "images_002.tar.gz", [])
    with pytest.raises(StoreError, match=r"images_002\.tar\.gz changed or new since.*lists 60 images"):
        build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    (tmp_path / "images_002.tar.gz").unlink()
    with pytest.raises(StoreError, match="the list of images that are wanted"):
        build(tmp_path / "store", {}, find_archives(tmp_path), list(films)[1:])


@pytest.mark.parametrize("ending", ["tar.gz", "tar", "zip"])
def test_an_archive_that_is_cut_short_is_named_and_costs_no_film(
    ending: str, films: dict[str, Path], unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_zip if ending == "zip" else write_tar
    first = write(tmp_path / f"images_001.{ending}", members_of(films)[:20])
    second = write(tmp_path / f"images_002.{ending}", members_of(films)[20:])
    whole = second.read_bytes()
    os.truncate(second, len(whole) // 2)
    with pytest.raises(ArchiveError, match=rf"(?s)images_002\.{ending} is cut short or damaged, after \d+ files.*fetch this archive again.*start again"):
        build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    assert not (tmp_path / "store").exists()

    second.write_bytes(whole)
    read: list[str] = []
    monkeypatch.setattr(store_module, "decode", lambda source, size, reading: (read.append(source.name), decode(source, size, reading))[1])
    monkeypatch.setattr(Archive, "films", lambda self, films=Archive.films: pytest.fail("read to its end before") if self.path == first else films(self))
    build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    assert same_store(tmp_path / "store", unpacked)
    # a zip is all or nothing: its list of members stands at its end
    assert len(read) == 40 if ending == "zip" else len(read) < 30


def test_a_prepare_that_is_killed_within_an_archive_goes_on_from_its_last_record(
    films: dict[str, Path], unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "images_001.tar.gz", members_of(films)[::-1])
    monkeypatch.setattr(store_module, "RECORD_EVERY", 4)
    read: list[str] = []

    def decode_or_die(source: Path, size: int, reading: Reading) -> np.ndarray:
        read.append(source.name)
        if len(read) == 40:
            raise KeyboardInterrupt
        return decode(source, size, reading)

    with monkeypatch.context() as during:
        during.setattr(store_module, "decode", decode_or_die)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    read.clear()
    monkeypatch.setattr(store_module, "decode", lambda source, size, reading: (read.append(source.name), decode(source, size, reading))[1])
    build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    assert len(read) <= 60 - 28
    assert same_store(tmp_path / "store", unpacked)


def test_a_tar_that_ends_between_two_films_is_cut_short_too(films: dict[str, Path], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "images_001.tar", members_of(films)[:3])
    with tarfile.open(path) as archive:
        os.truncate(path, archive.getmembers()[2].offset)
    with pytest.raises(ArchiveError, match="after 2 files"):
        list(Archive(path).films())


def test_a_gzip_whose_checksum_is_wrong_is_damaged(films: dict[str, Path], tmp_path: Path) -> None:
    path = write_tar(tmp_path / "images_001.tar.gz", members_of(films)[:3])
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"after 3 files \(CRC"):
        list(Archive(path).films())


@pytest.mark.parametrize("name", ["../00000001_000.png", "/etc/00000001_000.png", "images/../../x.png", "..\\x.png"])
def test_a_name_that_leads_out_of_an_archive_is_refused(name: str, tmp_path: Path) -> None:
    for path in (write_tar(tmp_path / "a.tar.gz", [(name, b"")]), write_zip(tmp_path / "a.zip", [(name, b"")])):
        with pytest.raises(ArchiveError, match="a name that leads out of it"):
            list(Archive(path).films())


def test_links_and_folders_in_an_archive_are_no_films(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind, name in ((tarfile.DIRTYPE, "images"), (tarfile.SYMTYPE, "00000001_000.png"), (tarfile.FIFOTYPE, "00000002_000.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert list(Archive(tmp_path / "a.tar").films()) == []


def test_a_film_that_lies_in_two_archives_is_refused(films: dict[str, Path], tmp_path: Path) -> None:
    members = members_of(films)
    write_tar(tmp_path / "images_001.tar", members[:3])
    write_tar(tmp_path / "images_002.tar", members[2:5])
    with pytest.raises(StoreError, match=r"00000\d+_\d+\.png lies in images_001\.tar and in images_002\.tar: nobody could say which"):
        build(tmp_path / "store", {}, find_archives(tmp_path), list(films))
    write_tar(tmp_path / "images_002.tar", [members[7], members[8], members[7]])
    with pytest.raises(StoreError, match=r"lies twice in images_002\.tar"):
        build(tmp_path / "store", {}, find_archives(tmp_path), list(films))


def test_an_unreadable_film_of_an_archive_is_quarantined(films: dict[str, Path], tmp_path: Path) -> None:
    names = list(films)
    members = members_of(films)[:5]
    members[3] = (members[3][0], members[3][1][:100])
    write_tar(tmp_path / "images_001.tar.gz", members[::-1])
    store = build(tmp_path / "store", {}, find_archives(tmp_path), names)
    assert store.image_ids.tolist() == [names[k] for k in (0, 1, 2, 4)]
    assert list(store.quarantine) == [names[3]]
    assert all(np.array_equal(row, decode(films[name], 32)) for row, name in zip(store.images, store.image_ids, strict=True))


def test_archives_without_a_film_that_is_wanted_say_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "images_backup.tar.gz", [("notes.txt", b"")])
    with pytest.raises(StoreError, match=r"no image that the labels know was found in images_backup\.tar\.gz"):
        build(tmp_path / "store", {}, find_archives(tmp_path), ["00000001_000.png"])


def test_nihs_archives_of_the_real_films_make_the_store_of_the_folder(real: Path, tmp_path: Path) -> None:
    """148 original films of 1024 pixels, RGBA ones among them, through the function that every training calls."""
    source = real / "data/cxr14_1024"
    films = sorted((source / "images").iterdir())
    tables = tmp_path / "cxr14"
    tables.mkdir()
    for name in TABLES:
        (tables / name).symlink_to(source / name)
    for k, part in enumerate((films[:70], films[70:]), start=1):
        write_tar(tables / f"images_{k:03d}.tar.gz", [(f"images/{path.name}", path.read_bytes()) for path in part])

    settings = {"name": "cxr14", "image_size": 64, "missing_images": MissingImages.allow}
    for root in (source, tables):
        data = Data(root=str(root), store_dir=str(tmp_path / f"stores_{root.name}"), **settings)
        assert len(prepare_store(data, load_catalogue_of(data)).images) == 148
    assert same_store(tmp_path / "stores_cxr14/cxr14_73", tmp_path / "stores_cxr14_1024/cxr14_73")
