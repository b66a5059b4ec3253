"""Films from any server that speaks DICOMweb: QIDO-RS says what there is, WADO-RS gives it, as it was stored.

NIH's films lie in a DICOM store of Google's Cloud Healthcare API. Their headers hold no file name. Their UIDs do: Google made them with pydicom's
`generate_uid` from NIH's file name and the word study, series or instance, so the name of a UID is found by making the UIDs of all names. (Held against the
36 UIDs of these films that are in print; tests/sources/test_dicomweb.py.)
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.sources import NO_CREDENTIALS, SourceError
from cxr.sources.fetching import TIMEOUT_S, Absent, Again, Fetcher, Patience, Stop, Wanted, persist

NIH = "https://healthcare.googleapis.com/v1/projects/chc-nih-chest-xray/locations/us-central1/datasets/nih-chest-xray/dicomStores/nih-chest-xray/dicomWeb"
UID_ROOT = "1.3.6.1.4.1.11129.5.5.1"
UID_LENGTH = 64
# of one answer to a search; Google allows 50,000, and others less
PAGE = 5000
# "*": as it lies there. Anything else makes the server decode and encode
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
RETRIED = {408, 425, 429, 500, 502, 503, 504}


def uid_of(image_id: str, level: str = "instance") -> str:
    """The UID that Google gave to a film of NIH's.

    Args:
        image_id: NIH's file name.
        level: study, series or instance.

    >>> uid_of("00000001_000.png")
    '1.3.6.1.4.1.11129.5.5.153751009835107614666834563294684339746480'
    """
    digits = str(int(hashlib.sha512(f"{image_id}{level}".encode()).hexdigest(), 16))
    return UID_ROOT + digits[: UID_LENGTH - len(UID_ROOT)]


@dataclass(frozen=True)
class Instance:
    """Where one film lies.

    Attributes:
        study, series, sop: its UIDs.
        n_bytes: of its pixels, not compressed, if the server told their number.
    """

    study: str
    series: str
    sop: str
    n_bytes: int | None = None


class Server(Fetcher):
    """A DICOMweb server.

    Args:
        url: under which studies/ lies.
        google_credentials: sign in as Google's programs do; otherwise as nobody.
    """

    def __init__(self, url: str, *, google_credentials: bool):
        try:
            from dicomweb_client import DICOMwebClient
            from dicomweb_client.session_utils import create_session
        except ImportError as error:
            raise SourceError("dicomweb-client is not installed: pip install -e '.[download]'") from error
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
            raise SourceError(f"url={url}: the address of a DICOMweb server, such as https://pacs.example.org/dicom-web")
        self.url = url.rstrip("/")
        self.session = _google_session() if google_credentials else create_session()
        self.client = DICOMwebClient(self.url, session=self.session, timeout=TIMEOUT_S)
        self.client.set_http_retry_params(retry=False)  # it would wait for minutes, and not look at Ctrl-C
        self.instances: dict[str, Instance] = {}

    def look_up(self, query: Mapping[str, str], patience: Patience, stop: Stop) -> list[Instance]:
        """Every instance that the server has, page by page.

        Args:
            query: QIDO-RS filters, attribute -> value; empty for all.
            patience: with each page.
            stop: looked at between pages.

        Raises:
            SourceError: no right to look, no such attribute, or no answer.
        """
        found: dict[str, Instance] = {}
        offset = 0
        while True:
            stop.refuse()
            try:
                page = persist(lambda at=offset: self._page(query, at), patience, stop)  # type: ignore[misc]
            except (Again, Absent) as failure:
                raise SourceError(f"{self.url} does not answer a search: {failure}") from failure
            new = {instance.sop: instance for instance in map(_instance, page) if instance.sop not in found}
            # a server that ignores the offset would say the same for ever
            if not new:
                return sorted(found.values(), key=lambda instance: instance.sop)
            found |= new
            offset += len(page)

    def _page(self, query: Mapping[str, str], offset: int) -> list[dict[str, Any]]:
        with _in_our_words(self.url):
            answer: list[dict[str, Any]] = self.client.search_for_instances(
                limit=PAGE, offset=offset, search_filters=dict(query), fields=["Rows", "Columns", "BitsAllocated", "SamplesPerPixel"]
            )
        return answer

    def wanted(self, instances: Iterable[Instance], names: Mapping[str, str], folder: Path) -> list[Wanted]:
        """Files to be had: `<NIH's name>.dcm` for a UID that `names` knows, `<UID>.dcm` for any other."""
        self.instances = {instance.sop: instance for instance in instances}
        stems = {sop: Path(names.get(sop, f"{sop}.dcm")).stem if sop in names else sop for sop in self.instances}
        return [Wanted(sop, folder / f"{stem}.dcm", self.instances[sop].n_bytes) for sop, stem in sorted(stems.items(), key=lambda item: item[1])]

    def is_whole(self, wanted: Wanted) -> bool:
        """A file has its name only since it was whole; that it is this film is looked up in its header."""
        return _uid_in_header(wanted.path) == wanted.name

    def fetch(self, wanted: Wanted, received: Callable[[int], None]) -> None:
        """From the beginning each time: DICOMweb has no way to ask for the rest. Not by the client's `retrieve_instance`, which would write the header anew."""
        instance = self.instances[wanted.name]
        with (
            _in_our_words(self.url),
            self.session.get(
                f"{self.url}/studies/{instance.study}/series/{instance.series}/instances/{instance.sop}",
                headers={"Accept": ACCEPT},
                stream=True,
                timeout=TIMEOUT_S,
            ) as answer,
        ):
            answer.raise_for_status()
            body = bytearray()
            for piece in answer.iter_content(2**17):
                received(len(piece))
                body += piece
            kind = answer.headers.get("Content-Type", "")
        content = single_part(bytes(body), kind)
        check_instance(content, instance.sop)
        wanted.part.write_bytes(content)


def single_part(body: bytes, kind: str) -> bytes:
    """The one part of a multipart answer, byte for byte; a bare DICOM file is what it is.

    Raises:
        Again: the answer is cut short, or something else.
    """
    if kind.lower().startswith("application/dicom") and "json" not in kind:
        return body
    boundary = re.search(r'boundary="?([^";]+)"?', kind)
    if not boundary:
        raise Again(f"the server sent {kind or 'something without a type'} and no film")
    mark = b"--" + boundary[1].encode()
    _, _, rest = body.partition(mark)
    _, _, rest = rest.partition(b"\r\n\r\n")
    content, closing, _ = rest.rpartition(b"\r\n" + mark + b"--")
    if not closing:
        raise Again("the answer was cut short")
    if b"\r\n" + mark in content:
        raise Again("the server sent more than one film")
    return content


def check_instance(content: bytes, sop: str) -> None:
    """What can be known of a film without a checksum: it is DICOM, the one that was asked for, and its pixels are all there.

    Raises:
        Again: it is not.
    """
    import pydicom

    try:
        data = pydicom.dcmread(io.BytesIO(content))
        told = str(data.SOPInstanceUID)
        missing = 0
        if "PixelData" in data and not data.file_meta.TransferSyntaxUID.is_compressed:
            n_bits = int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) * int(data.get("SamplesPerPixel", 1)) * int(data.get("NumberOfFrames") or 1)
            missing = n_bits // 8 - len(data.PixelData)
    except Exception as error:  # of whatever a parser may stumble over
        raise Again(f"what came is no DICOM file ({type(error).__name__})") from error
    if told != sop:
        raise Again(f"another film came, {told}")
    if missing > 0:
        raise Again(f"{missing:,} bytes of its pixels are missing")


def _uid_in_header(path: Path) -> str | None:
    import pydicom

    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except Exception:  # no DICOM file, whatever the parser says of it
        return None


def _instance(answer: Mapping[str, Any]) -> Instance:
    def value(tag: str) -> Any:
        values = answer.get(tag, {}).get("Value") or [None]
        return values[0]

    uids = [str(value(tag)) for tag in ("0020000D", "0020000E", "00080018")]
    if not all(re.fullmatch(r"[0-9.]{1,64}", uid) for uid in uids):
        raise SourceError(f"the server names a film by {uids}, which are no UIDs")
    sides = [value(tag) for tag in ("00280010", "00280011", "00280100")]
    n_bytes = int(sides[0]) * int(sides[1]) * int(sides[2]) * int(value("00280002") or 1) // 8 if all(sides) else None
    study, series, sop = uids
    return Instance(study, series, sop, n_bytes)


def _google_session() -> Any:
    from dicomweb_client.session_utils import create_session_from_gcp_credentials
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return create_session_from_gcp_credentials()
    except DefaultCredentialsError as error:
        raise SourceError(f"{NO_CREDENTIALS}; for a server that wants none: google_credentials=false") from error


@contextmanager
def _in_our_words(url: str) -> Iterator[None]:
    """Tells what may go better the next time from what will not."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status, reason = (error.response.status_code, error.response.reason) if error.response is not None else (0, str(error))
        if status in RETRIED:
            raise Again(f"the server answers {status}") from error
        if status in (404, 410):
            raise Absent("the server has it no more") from error
        hint = ". NIH's store is opened by a form: docs/data.md" if url == NIH and status in (401, 403) else ""
        raise SourceError(f"{url} refuses, {status} {reason}{hint}") from error
    except requests.RequestException as error:
        raise Again(f"the connection broke ({type(error).__name__})") from error
    except ValueError as error:  # an answer that is no JSON
        if isinstance(error, SourceError):
            raise
        raise Again(f"the server sent no answer to a search ({type(error).__name__})") from error
