"""Google's copy of ChestX-ray14 in Cloud Storage: `png/NAME.png` as NIH made them, `dicom/NAME.dcm` as Google wrote them. Whoever fetches pays.

https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest
"""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.sources import NO_CREDENTIALS, SourceError
from cxr.sources.fetching import TIMEOUT_S, Absent, Again, Fetcher, Patience, Stop, Wanted, persist

BUCKET = "gcs-public-data--healthcare-nih-chest-xray"
FOLDERS = {"png": "png", "dicom": "dicom"}
ENDINGS = {"png": ".png", "dicom": ".dcm"}
PAYING = (
    "who fetches pays (a few cents per GB). Name a Google Cloud project of yours that has billing: billing_project=my-project, after"
    " `gcloud auth application-default login`"
)
READ_BYTES = 2**20


@dataclass(frozen=True)
class Stored:
    """An object of the bucket.

    Attributes:
        n_bytes: its size.
        crc32c: its checksum, base64 of four bytes, as Google tells it.
    """

    n_bytes: int
    crc32c: str


class Bucket(Fetcher):
    """A bucket that is laid out as Google's is.

    Args:
        name: of the bucket.
        form: png or dicom.
        billing_project: who pays; None where nobody has to.
    """

    def __init__(self, name: str, *, form: str, billing_project: str | None):
        if name == BUCKET and not billing_project:
            raise SourceError(f"gs://{name} is a requester-pays bucket: {PAYING}")
        # else each client asks in the background what kind of bucket it is, for traces that nobody reads
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        storage = _client_library()
        with _in_our_words(name):
            self.client = storage.Client(project=billing_project) if billing_project else storage.Client()
        self.bucket = self.client.bucket(name, user_project=billing_project)
        self.form = form
        self.objects: dict[str, Stored] = {}

    def object_name(self, image_id: str) -> str:
        return f"{FOLDERS[self.form]}/{Path(image_id).stem}{ENDINGS[self.form]}"

    def look_up(self, image_ids: Sequence[str], folder: Path, patience: Patience, stop: Stop) -> tuple[list[Wanted], dict[str, str]]:
        """(files to be had, with their sizes; image_id -> why it is not) for image ids.

        Raises:
            SourceError: no right to look, or the bucket did not answer.
        """
        names = {self.object_name(image_id): image_id for image_id in image_ids}

        def ask() -> dict[str, Stored]:
            with _in_our_words(self.bucket.name):
                found = self.bucket.list_blobs(
                    prefix=f"{FOLDERS[self.form]}/",
                    start_offset=min(names),
                    end_offset=max(names) + "\0",
                    fields="items(name,size,crc32c),nextPageToken",
                    timeout=TIMEOUT_S,
                    retry=None,
                )
                there = {}
                for blob in found:
                    stop.refuse()
                    there[blob.name] = Stored(int(blob.size), blob.crc32c)
                return there

        try:
            self.objects = persist(ask, patience, stop)
        except (Again, Absent) as failure:
            raise SourceError(f"gs://{self.bucket.name} does not answer: {failure}") from failure
        there = sorted((image_id, name) for name, image_id in names.items() if name in self.objects)
        wanted = [Wanted(name, folder / Path(name).name, self.objects[name].n_bytes) for _, name in there]
        return wanted, {names[name]: f"gs://{self.bucket.name} has no {name}" for name in names.keys() - self.objects.keys()}

    def is_whole(self, wanted: Wanted) -> bool:
        return wanted.path.stat().st_size == wanted.n_bytes and self._crc32c(wanted.path) == self.objects[wanted.name].crc32c

    def fetch(self, wanted: Wanted, received: Callable[[int], None]) -> None:
        """Goes on with a part that lies there; the whole file is checked afterwards, for an answer to a part of it carries no checksum."""
        part, expected = wanted.part, self.objects[wanted.name]
        if part.is_file() and part.stat().st_size > expected.n_bytes:
            part.unlink()
        with part.open("ab", buffering=0) as file:
            start = file.tell()
            if start < expected.n_bytes:
                with _in_our_words(self.bucket.name):
                    self.client.download_blob_to_file(
                        self.bucket.blob(wanted.name),
                        _Counted(file, received),
                        start=start or None,
                        raw_download=True,
                        checksum=None,
                        timeout=TIMEOUT_S,
                        retry=None,
                    )
        n_bytes = part.stat().st_size
        if n_bytes < expected.n_bytes:
            raise Again(f"cut off after {n_bytes:,} of {expected.n_bytes:,} bytes")
        if n_bytes > expected.n_bytes or self._crc32c(part) != expected.crc32c:
            part.unlink()
            raise Again("what came has another checksum (crc32c) than the bucket says, and was not kept")

    @staticmethod
    def _crc32c(path: Path) -> str:
        import google_crc32c

        checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                checksum.update(block)
        return base64.b64encode(checksum.digest()).decode()


class _Counted:
    """A file that tells how much is written to it, and refuses when it is time to stop."""

    def __init__(self, file: Any, received: Callable[[int], None]):
        self.file, self.received = file, received

    def write(self, data: bytes) -> int:
        self.received(len(data))
        n_bytes: int = self.file.write(data)
        return n_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _client_library() -> Any:
    try:
        from google.cloud import storage
    except ImportError as error:
        raise SourceError("google-cloud-storage is not installed: pip install -e '.[download]'") from error
    return storage


@contextmanager
def _in_our_words(bucket: str) -> Iterator[None]:
    """Tells what may go better the next time from what will not."""
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

    def first_line(error: Exception) -> str:
        return str(getattr(error, "message", "") or error).splitlines()[0][:300]

    try:
        yield
    except DefaultCredentialsError as error:
        raise SourceError(NO_CREDENTIALS) from error
    except TransportError as error:
        raise Again(f"no connection to Google ({first_line(error)})") from error
    except GoogleAuthError as error:
        raise SourceError(f"Google refuses these credentials ({first_line(error)}): run `gcloud auth application-default login`") from error
    except exceptions.NotFound as error:
        raise Absent("it is not there") from error
    except (exceptions.TooManyRequests, exceptions.ServerError) as error:
        raise Again(f"Google answers {error.code}: {first_line(error)}") from error
    except exceptions.GoogleAPICallError as error:
        if "requester pays" in str(error).lower() or "userproject" in str(error).lower():
            raise SourceError(f"gs://{bucket} is a requester-pays bucket: {PAYING}") from error
        raise SourceError(f"gs://{bucket} refuses, {error.code}: {first_line(error)}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise Again(f"the connection broke ({type(error).__name__})") from error
