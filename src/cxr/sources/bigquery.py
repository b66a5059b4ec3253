"""The labels of ChestX-ray14 out of BigQuery: the table that Google made of its DICOM headers, written as NIH writes its label file.

Google's headers hold what NIH's first release says: patient, findings (StudyDescription), age, sex, view (PatientPosition); not the size of the detector.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.atomic import write_whole
from cxr.sources import NO_CREDENTIALS, SourceError

TABLE = "chc-nih-chest-xray.nih_chest_xray.nih_chest_xray"
LABEL_FILE = "Data_Entry_BigQuery.csv"
# column of NIH's -> columns of Google's, the first that is there
COLUMNS = {
    "Finding Labels": ("StudyDescription",),
    "Patient ID": ("PatientID",),
    "Patient Age": ("PatientAge",),
    "Patient Gender": ("PatientSex",),
    "View Position": ("ViewPosition", "PatientPosition"),
}
UID = "SOPInstanceUID"
HEADER = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position", UID)
# the table has some 20 MB; a question that would read much more is not asked
MAX_BYTES = 2 * 10**9
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Question:
    """What will be asked, and how much Google will count.

    Attributes:
        sql: the query.
        n_bytes: that it reads.
    """

    sql: str
    n_bytes: int


def connect(billing_project: str | None) -> Any:
    """A client of BigQuery's. SourceError without a project, without credentials, or where the client is not installed."""
    if not billing_project:
        raise SourceError("BigQuery counts what is read towards a project: name one of yours, billing_project=my-project (this table is within the free tier)")
    try:
        from google.cloud import bigquery
    except ImportError as error:
        raise SourceError("google-cloud-bigquery is not installed: pip install -e '.[download]'") from error
    with _in_our_words():
        return bigquery.Client(project=billing_project)


def prepare(client: Any, table: str) -> Question:
    """Looks at the table's columns, and asks for the price of reading those that are needed.

    Raises:
        SourceError: a column is not there, it would read too much, or Google refuses.
    """
    from google.cloud import bigquery

    with _in_our_words():
        there = {item.name for item in client.get_table(table, timeout=TIMEOUT_S).schema}
        chosen = {ours: next((name for name in names if name in there), None) for ours, names in COLUMNS.items()}
        lacking = [" or ".join(COLUMNS[ours]) for ours, name in chosen.items() if name is None] + [UID] * (UID not in there)
        if lacking:
            raise SourceError(f"{table} has no column {', '.join(lacking)}; it has {', '.join(sorted(there))}")
        columns = ", ".join(f"CAST({name} AS STRING) AS c{k}" for k, name in enumerate([UID, *chosen.values()]))
        sql = f"SELECT {columns} FROM `{table}`"
        tried = client.query(sql, job_config=bigquery.QueryJobConfig(dry_run=True, use_query_cache=False), timeout=TIMEOUT_S)
        n_bytes = int(tried.total_bytes_processed)
    if n_bytes > MAX_BYTES:
        raise SourceError(f"{table}: reading it would count as {n_bytes / 1e9:.1f} GB, and is not done")
    return Question(sql, n_bytes)


def write_labels(client: Any, question: Question, names: Mapping[str, str], path: Path) -> int:
    """Asks, and writes the label file, sorted by image, whole or not at all.

    Args:
        client: from `connect`.
        question: from `prepare`.
        names: SOPInstanceUID -> NIH's file name, of every film that is known.
        path: of the file.

    Returns:
        Its number of rows.

    Raises:
        SourceError: Google refuses; a film is not known; known films are missing.
    """
    from google.cloud import bigquery

    with _in_our_words():
        job = client.query(question.sql, job_config=bigquery.QueryJobConfig(maximum_bytes_billed=MAX_BYTES), timeout=TIMEOUT_S)
        rows = [list(row.values()) for row in job.result(timeout=TIMEOUT_S)]
    strange = [row[0] for row in rows if row[0] not in names]
    if strange:
        raise SourceError(f"{len(strange):,} of {len(rows):,} rows have a UID that none of the {len(names):,} listed films has, the first is {strange[0]}")
    lacking = names.keys() - {row[0] for row in rows}
    if lacking:
        raise SourceError(f"the table lacks {len(lacking):,} of the {len(names):,} listed films, the first is {min(names[uid] for uid in lacking)}")
    table = []
    for uid, findings, patient, age, sex, view in rows:
        image_id = names[uid]
        follow_up = int(image_id.removesuffix(".png").split("_")[1])
        table.append([image_id, findings, follow_up, patient, age, sex, view, uid])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([HEADER, *sorted(table)])
    write_whole(path, text.getvalue().encode())
    return len(table)


@contextmanager
def _in_our_words() -> Iterator[None]:
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

    try:
        yield
    except DefaultCredentialsError as error:
        raise SourceError(NO_CREDENTIALS) from error
    except exceptions.GoogleAPIError as error:
        raise SourceError(f"BigQuery refuses: {str(getattr(error, 'message', '') or error).splitlines()[0][:300]}") from error
    except (GoogleAuthError, requests.RequestException) as error:
        raise SourceError(f"BigQuery cannot be reached ({type(error).__name__}): look at the network and start again") from error
