"""Mirrors sources/bigquery.py. Google's own client asks; what answers is a server on the loopback that speaks as much of BigQuery's protocol as this needs."""

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr.cohort.catalogue import load_catalogue
from cxr.cohort.findings import LabelError
from cxr.config import Data, DownloadConfig
from cxr.run.downloading import download
from cxr.sources import SourceError, bigquery
from cxr.sources.dicomweb import uid_of

COLUMNS = ["SOPInstanceUID", "StudyDescription", "PatientID", "PatientAge", "PatientSex", "PatientPosition", "BodyPartExamined"]
ASKED = COLUMNS[:-1]


class Answers:
    """A table of BigQuery's.

    Attributes:
        rows: it has, of the columns that are asked for.
        columns: it has.
        n_bytes: that it says a question reads.
        asked: bodies of the questions.
    """

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.columns, self.n_bytes, self.asked = COLUMNS, 20_000_000, list[dict[str, Any]]()
        table = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                told = json.dumps(table.tell(self.path, json.loads(body) if body else None)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST = answer

        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def tell(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        fields = [{"name": f"c{k}", "type": "STRING"} for k in range(len(ASKED))]
        job = {"projectId": "my-project", "jobId": "j", "location": "US"}
        if "/tables/nih_chest_xray" in path:
            reference = dict(zip(("projectId", "datasetId", "tableId"), bigquery.TABLE.split("."), strict=True))
            return {"tableReference": reference, "schema": {"fields": [{"name": name, "type": "STRING"} for name in self.columns]}}
        if body is not None:
            self.asked.append(body)
            return body | {"jobReference": job, "status": {"state": "DONE"}, "statistics": {"query": {"totalBytesProcessed": str(self.n_bytes)}}}
        rows = [{"f": [{"v": cell} for cell in row]} for row in self.rows]
        return {"jobReference": job, "jobComplete": True, "schema": {"fields": fields}, "totalRows": str(len(rows)), "rows": rows}


@pytest.fixture
def table(mini: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """Google's table of the miniature: what its label file says, as Google's headers say it."""
    google = pytest.importorskip("google.cloud.bigquery")
    credentials = pytest.importorskip("google.auth.credentials").AnonymousCredentials()
    answers = Answers()
    entries = pd.read_csv(mini / "Data_Entry_2017.csv", dtype=str, index_col=False)
    for row in entries.itertuples():
        age = row[5].lstrip("0").removesuffix("Y")
        answers.rows.append([uid_of(row[1]), row[2], str(int(row[4])), age, row[6], row[7]])
    answers.rows.reverse()
    client = google.Client(project="my-project", credentials=credentials, client_options={"api_endpoint": answers.url})
    monkeypatch.setattr(bigquery, "connect", lambda billing_project: client)
    yield answers
    answers.listener.shutdown()
    answers.listener.server_close()


@pytest.fixture
def root(mini: Path, tmp_path: Path) -> Path:
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).write_bytes((mini / name).read_bytes())
    return tmp_path


def config(root: Path, **changed: Any) -> DownloadConfig:
    return DownloadConfig(source="bigquery", billing_project="my-project", data=Data(name="cxr14", root=str(root)), **changed)


def test_the_table_becomes_a_label_file_that_says_what_nihs_says(table: Answers, root: Path, mini: Path) -> None:
    download(config(root))
    ours = load_catalogue(root, root / "Data_Entry_BigQuery.csv")
    nihs = load_catalogue(mini, mini / "Data_Entry_2017.csv")
    pd.testing.assert_frame_equal(ours.images, nihs.images)
    assert (ours.labels["release"], nihs.labels["release"]) == ("google", "2017")
    with (root / "Data_Entry_BigQuery.csv").open(newline="") as file:
        assert [row["SOPInstanceUID"] for row in csv.DictReader(file)] == [uid_of(image_id) for image_id in sorted(nihs.images.image_id)]


def test_the_price_is_asked_for_before_and_bounded(table: Answers, root: Path) -> None:
    download(config(root))
    tried, asked = table.asked
    assert tried["configuration"]["dryRun"] is True
    assert int(asked["configuration"]["query"]["maximumBytesBilled"]) == bigquery.MAX_BYTES
    table.n_bytes = 10**12
    with pytest.raises(SourceError, match=r"would count as 1000\.0 GB, and is not done"):
        download(config(root))
    assert len(table.asked) == 3


def test_rows_that_are_missing_strange_or_without_meaning_are_refused_and_nothing_is_written(table: Answers, root: Path) -> None:
    first, *others = table.rows
    for rows, error, why in (
        (others, SourceError, r"the table lacks 1 of the 1,200 listed films, the first is \d+_\d+\.png"),
        ([["1.2.3", *first[1:]], *others], SourceError, r"1 of 1,200 rows have a UID that none of the 1,200 listed films has, the first is 1\.2\.3"),
        ([[first[0], "Effusion|Gout", *first[2:]], *others], LabelError, "Gout"),
    ):
        table.rows = rows
        with pytest.raises(error, match=why):
            download(config(root))
        assert sorted(path.name for path in root.iterdir()) == ["test_list.txt", "train_val_list.txt"]


def test_a_column_that_is_not_there_is_named(table: Answers, root: Path) -> None:
    table.columns = [name for name in COLUMNS if name != "PatientPosition"]
    with pytest.raises(SourceError, match="has no column ViewPosition or PatientPosition"):
        download(config(root))


def test_nobody_who_pays_is_one_line(root: Path) -> None:
    with pytest.raises(SourceError, match="billing_project=my-project"):
        bigquery.connect(None)
