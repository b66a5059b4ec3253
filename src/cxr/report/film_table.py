"""A table of films that grows part by part on disk, so that whoever is killed goes on where they were, and that appears whole or not at all.

The parts lie in `<output>.partial/`. Finished, there are the output itself, `<output>.quarantine.csv` (films that could not be read, with the reason) and
`<output>.json` (what made it). The same films and the same model give the same bytes, killed or not.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr.atomic import claim, sync, write_whole

SUFFIXES = (".csv", ".parquet")
# a part is the sha256 of a parquet file, and the file: parquet's own checksums cover neither its header nor its names
N_DIGEST = hashlib.sha256().digest_size


class FilmTableError(ValueError):
    """Something else lies where the table is to be, or a part of it is damaged."""


def beside(output: Path, what: str) -> Path:
    """The file or folder that belongs to an output: its whole name and what it is."""
    return output.with_name(f"{output.name}.{what}")


def require_output(output: Path) -> None:
    """Raises FilmTableError unless a table can be written there, by its name and its folder."""
    if output.suffix not in SUFFIXES:
        raise FilmTableError(f"output={output}: name a file that ends in {' or '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise FilmTableError(f"output={output}: there is no folder {output.parent}")


class FilmTable:
    """One table in the making; a context, for nobody else may write there meanwhile.

    Args:
        output: .csv or .parquet.
        identity: plain values: what the table is made of, and must be when it goes on.

    Raises:
        FilmTableError: an output of something else is there, or parts of one; or a part is damaged.
        BusyError: another process writes there.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]):
        require_output(output)
        self.output, self.identity, self.folder = output, json.loads(json.dumps(identity)), beside(output, "partial")
        self.is_finished, self.lock = output.exists(), None
        if self.is_finished:
            self._require_same(beside(output, "json"), f"{output} is there already", "name another output, or delete it")
            return
        self.folder.mkdir(exist_ok=True)
        self.lock = claim(self.folder, "predicts into it")
        made_of = self.folder / "made_of.json"
        if made_of.is_file():
            self._require_same(made_of, f"{self.folder} holds a part of another prediction", "end that one with its own command, or delete the folder")
        else:
            write_whole(made_of, _json(self.identity))
        self.n_parts = 0
        while self._part(self.n_parts).is_file():
            self._read_part(self.n_parts)  # now, and not after hours of predicting the others
            self.n_parts += 1

    def __enter__(self) -> "FilmTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_finished:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock:
            self.lock.close()

    def add(self, films: pd.DataFrame) -> None:
        """Keeps one more part.

        Args:
            films: image_id, path, reason ("" for a film that was read, else the rest of the row counts for nothing), and whatever else; the same columns in
                every part.
        """
        content = films.to_parquet(index=False)
        write_whole(self._part(self.n_parts), hashlib.sha256(content).digest() + content)
        self.n_parts += 1

    def finish(self) -> dict[str, int]:
        """Joins the parts.

        Returns:
            n_films, that were read, and n_quarantined.

        Raises:
            FilmTableError: no film was read; then there is no output, but the quarantine.
        """
        whole, refused = self.folder / f"whole{self.output.suffix}", list[pd.DataFrame]()
        n_films = self._write_csv(whole, refused) if self.output.suffix == ".csv" else self._write_parquet(whole, refused)
        quarantine = pd.concat(refused)
        counts = {"n_films": n_films, "n_quarantined": len(quarantine)}
        write_whole(beside(self.output, "quarantine.csv"), quarantine.to_csv(index=False).encode())
        if not n_films:
            self.is_finished = True
            raise FilmTableError(f"none of the {len(quarantine)} films could be read; why is in {beside(self.output, 'quarantine.csv')}")
        with whole.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        sync(whole)
        write_whole(beside(self.output, "json"), _json(self.identity | counts | {"sha256": sha256}))
        whole.replace(self.output)  # the last, so that an output is never without what tells of it
        sync(self.output.parent)
        self.is_finished = True
        return counts

    def _write_csv(self, path: Path, refused: list[pd.DataFrame]) -> int:
        n_films = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, films in enumerate(self._parts(refused)):
                films.to_csv(file, index=False, header=number == 0)
                n_films += len(films)
        return n_films

    def _write_parquet(self, path: Path, refused: list[pd.DataFrame]) -> int:
        n_films, writer = 0, None
        for films in self._parts(refused):
            part = pa.Table.from_pandas(films, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, part.schema)
            writer.write_table(part)
            n_films += len(films)
        if writer:
            writer.close()
        return n_films

    def _parts(self, refused: list[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """The films that were read, part by part; those that were not are appended to `refused`."""
        for number in range(self.n_parts):
            films = pd.read_parquet(io.BytesIO(self._read_part(number)))
            unread = films.reason != ""
            refused.append(films.loc[unread, ["image_id", "path", "reason"]])
            yield films[~unread].drop(columns="reason").reset_index(drop=True)

    def _read_part(self, number: int) -> bytes:
        content = self._part(number).read_bytes()
        if hashlib.sha256(content[N_DIGEST:]).digest() != content[:N_DIGEST]:
            raise FilmTableError(f"{self._part(number)} is damaged; delete it, and its films and those after them are predicted again")
        return content[N_DIGEST:]

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def _require_same(self, path: Path, told: str, way_out: str) -> None:
        try:
            kept = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise FilmTableError(f"{told}, and {path.name} does not say what made it; {way_out}") from error
        differing = [key for key, value in self.identity.items() if not isinstance(kept, dict) or kept.get(key) != value]
        if differing:
            raise FilmTableError(f"{told}, made with other values of {', '.join(differing)}; {way_out}")


def _json(plain: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode()
