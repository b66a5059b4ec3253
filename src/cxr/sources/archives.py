"""Films straight out of tar and zip archives, one pass over each, nothing unpacked to disk.

A member's name is a name, never a path: nothing is ever written under it.
"""

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cxr.sources import SourceError

ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")
# no film is larger, and what a member's header claims beyond is not worth the memory of finding out
MAX_MEMBER_BYTES = 2**28
END_OF_TAR = bytes(tarfile.BLOCKSIZE)
EDGE_BYTES = 2**16


class ArchiveError(SourceError):
    """An archive is cut short, damaged, or holds a name that no archive of films has."""


@dataclass(frozen=True)
class Archive:
    """A tar (gzipped or not) or zip file.

    Attributes:
        path: of the file.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def fingerprint(self) -> str:
        """Tells two archives apart without reading them: sha256 of the size, the first and the last 64 KB (gzip and zip keep checksums at their end)."""
        with self.path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(n_bytes).encode())
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, n_bytes - EDGE_BYTES))
            digest.update(file.read())
        return digest.hexdigest()

    def films(self) -> Iterator[tuple[str, bytes]]:
        """(file name without folders, content) of every plain file, in the archive's order.

        Raises:
            ArchiveError: at the place where the archive turns out to be cut short or damaged, after everything before it; or at a member whose name leads
                out of the archive.
        """
        members = self._zip_members() if self.name.endswith(".zip") else self._tar_members()
        n_read = 0
        try:
            for name, content in members:
                yield name, content
                n_read += 1
        except ArchiveError:
            raise
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise ArchiveError(
                f"{self.path} is cut short or damaged, after {n_read:,} files ({str(error) or type(error).__name__}). Films that were prepared are kept: fetch"
                " this archive again, put it into its place, and start again; or take it away to do without it"
            ) from error

    def _tar_members(self) -> Iterator[tuple[str, bytes]]:
        with self.path.open("rb") if self.name.endswith(".tar") else gzip.open(self.path, "rb") as opened:
            watched = _Watched(opened)
            archive = tarfile.TarFile(fileobj=watched)
            for member in archive:
                if member.isreg():
                    name = self._plain_name(member.name, member.size)
                    yield name, archive.extractfile(member).read()  # type: ignore[union-attr]
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers them all
            # tarfile takes a spoiled or missing header for the end
            if watched.last != END_OF_TAR:
                raise tarfile.ReadError("its end is missing")
            while opened.read(2**20):  # to the checksum of gzip
                pass

    def _zip_members(self) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
                if not member.is_dir():
                    yield self._plain_name(member.filename, member.file_size), archive.read(member)  # against its checksum

    def _plain_name(self, member: str, n_bytes: int) -> str:
        path = PurePosixPath(member.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ArchiveError(f"{self.path} holds {member!r}, a name that leads out of it. No archive of NIH's does: take this one away")
        if n_bytes > MAX_MEMBER_BYTES:
            raise ArchiveError(f"{self.path} holds {member!r} of {n_bytes:,} bytes, which is no film. Take this archive away, or unpack its films into images/")
        return path.name


class _Watched:
    """A file whose last piece can be looked at; tarfile does not say what it ended with."""

    def __init__(self, file: Any):
        self.file, self.last = file, b""

    def read(self, n_bytes: int) -> bytes:
        self.last = self.file.read(n_bytes)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def find_archives(root: Path) -> list[Archive]:
    """The archives in a folder whose names begin with "images", as NIH's do; any other may hold anything."""
    return [Archive(path) for path in sorted(root.glob("images*")) if path.name.endswith(ENDINGS) and path.is_file()]
