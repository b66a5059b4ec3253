"""Which films, from where: the lists of the data set meet the sources."""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cxr.atomic import write_whole
from cxr.cohort import catalogue, experts
from cxr.cohort.dicom_headers import read_dicom_headers
from cxr.cohort.findings import read_text
from cxr.config import Data, DicomHeadersConfig, DownloadConfig
from cxr.report.render import attribution
from cxr.run import RunError
from cxr.sources import bigquery, dicomweb, gcs
from cxr.sources.fetching import Fetcher, Outcome, Patience, Stop, Wanted, fetch_all, size_in_words

log = logging.getLogger(__name__)

DOCUMENT = "docs/data.md"
EXPERT = "expert"
# missing files that a message names
N_NAMED = 10


def download(config: DownloadConfig) -> None:
    """Fetches what is asked for and not there.

    Raises:
        RunError: something is missing in the end, and what.
        SourceError, CatalogueError, ExpertError: it could not begin, or the source failed altogether; InterruptedFetchError: it was stopped.
    """
    if config.source == "expert_labels":
        check_expert_labels(config.data)
        return
    for line in terms(config):
        log.info("%s", line)
    stop = Stop()
    with stop.listening():
        {"gcs": download_from_bucket, "dicomweb": download_from_server, "bigquery": download_labels}[config.source](config, stop)


def terms(config: DownloadConfig) -> list[str]:
    """What whoever fetches from there must know, before he does."""
    if config.source == "dicomweb" and config.url:
        return ["Films of a server of your own: what may be done with them is yours to know. Files are written as they lie there, names of patients and all."]
    return ["Licence: no restriction on the use of NIH's films. Whoever shows results has to say:", *attribution("cxr14", has_experts=False)]


def download_from_bucket(config: DownloadConfig, stop: Stop) -> None:
    bucket = gcs.Bucket(config.bucket, form=config.format, billing_project=config.billing_project)
    image_ids = select_images(config.images, config.data)
    log.info("Looking for %d films in gs://%s", len(image_ids), config.bucket)
    wanted, missing = bucket.look_up(image_ids, films_folder(config), patience(config), stop)
    payer = f", billed to {config.billing_project}" if config.billing_project else ""
    fetch_and_tell(config, wanted, missing, bucket, stop, payer)


def download_from_server(config: DownloadConfig, stop: Stop) -> None:
    url = config.url or dicomweb.NIH
    at_google = url.startswith("https://healthcare.googleapis.com/")
    server = dicomweb.Server(url, google_credentials=at_google if config.google_credentials is None else config.google_credentials)
    chosen: list[str] | int | None = None if config.images == "all" else int(config.images) if config.images.isdecimal() else select(config)
    names = {dicomweb.uid_of(image_id): image_id for image_id in listed_images(config.data, required=False)}
    log.info("Looking for films at %s", url)
    instances = server.look_up(config.query, patience(config), stop)
    known = sum(instance.sop in names for instance in instances)
    log.info("  %d films there, %d of them NIH's by the lists in data.root; any other keeps its UID as its name", len(instances), known)
    missing: dict[str, str] = {}
    if isinstance(chosen, int):
        instances = instances[:chosen]
    elif chosen is not None:
        # an image of NIH's, or a UID
        sops = {name if name not in names.values() else dicomweb.uid_of(name): name for name in chosen}
        missing = {sops[sop]: "the server has no such film" for sop in sops.keys() - {instance.sop for instance in instances}}
        instances = [instance for instance in instances if instance.sop in sops]
    fetch_and_tell(config, server.wanted(instances, names, films_folder(config)), missing, server, stop)


def select(config: DownloadConfig) -> list[str]:
    """The films that are asked for, where a list may hold UIDs too."""
    if Path(config.images).is_file():
        names = list(dict.fromkeys(read_text(Path(config.images)).split()))
        if not names:
            raise RunError(f"images={config.images}: no film is named in it")
        return names
    return select_images(config.images, config.data)


def download_labels(config: DownloadConfig, stop: Stop) -> None:
    names = {dicomweb.uid_of(image_id): image_id for image_id in listed_images(config.data)}
    client = bigquery.connect(config.billing_project)
    question = bigquery.prepare(client, config.table)
    log.info("Reading %s: %s, counted towards %s", config.table, size_in_words(question.n_bytes), config.billing_project)
    stop.refuse()
    path = Path(config.data.root).absolute() / bigquery.LABEL_FILE
    unchecked = path.with_name(f"{path.name}.unchecked")
    try:
        n_rows = bigquery.write_labels(client, question, names, unchecked)
        catalogue.load_catalogue(path.parent, unchecked)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    log.info("%s: %d films. Use it with data.labels=%s", path, n_rows, path)


def films_folder(config: DownloadConfig) -> Path:
    return Path(config.folder or Path(config.data.root) / "images").absolute()


def patience(config: DownloadConfig) -> Patience:
    return Patience(config.attempts, config.first_wait_seconds, 60 * config.give_up_minutes)


# --- which films ------------------------------------------------------------------------------------------------------------------------------------


def listed_images(data: Data, required: bool = True) -> list[str]:
    """Every film of the two official lists, sorted; none where a list is not there and none is required."""
    found = []
    for name in catalogue.LIST_FILES.values():
        path = Path(data.root).absolute() / name
        if not path.is_file():
            if not required:
                return []
            raise RunError(
                f"{path} is not there, and without it nobody knows which films there are. Both lists ({', '.join(catalogue.LIST_FILES.values())}) and the label"
                f" file are at {catalogue.SOURCE}: put them into data.root, or name a list of films: images=/path/to/list.txt"
            )
        found += catalogue.read_image_list(path).tolist()
    return sorted(found)


def select_images(images: str, data: Data) -> list[str]:
    """Image ids for what `images` says, sorted.

    Args:
        images: all, a number, a split, an expert set, `expert` for all of these, or the path of a list.
        data: where the lists and the expert labels lie.

    Raises:
        RunError: it means nothing, or the list for it is not there.
        ExpertError, LabelError: a list is not what it should be.
    """
    if images == "all":
        return listed_images(data)
    if images.isdecimal():
        return listed_images(data)[: int(images)]
    if images in catalogue.LIST_FILES:
        listed_images(data)
        return sorted(catalogue.read_image_list(Path(data.root).absolute() / catalogue.LIST_FILES[images]))
    if images == EXPERT or images in experts.FILES:
        if not data.expert_labels:
            raise RunError(
                f"images={images} needs to know which films these are: data.expert_labels=/path/to/labels. To get the labels: {experts.SOURCE};"
                " to see what is there: python scripts/download.py source=expert_labels"
            )
        labels = experts.load_experts(Path(data.expert_labels).absolute()).labels
        return sorted(set().union(*(labels[name].image_id for name in (experts.FILES if images == EXPERT else [images]))))
    if Path(images).is_file():
        return sorted(catalogue.read_image_list(Path(images).absolute()))
    raise RunError(f"images={images}: no such list. Choose {', '.join([EXPERT, *experts.FILES, *catalogue.LIST_FILES])}, all, a number, or the path of a list")


# --- fetching ---------------------------------------------------------------------------------------------------------------------------------------


def fetch_and_tell(config: DownloadConfig, wanted: list[Wanted], missing: Mapping[str, str], source: Fetcher, stop: Stop, payer: str = "") -> None:
    """Says how much it will be, fetches, and says what came of it; RunError if anything is missing."""
    folder = films_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    new = [one for one in wanted if not one.path.exists()]
    known = [one.n_bytes for one in new if one.n_bytes is not None]
    # as many bytes as those whose size is known, where it is not
    n_bytes = sum(known) * len(new) // len(known) if known else 0
    how_much = f", about {size_in_words(n_bytes)}{payer}" if n_bytes else ", nobody knows how much" if new else ""
    log.info("%d films into %s: %d lie there, %d to fetch%s", len(wanted), folder, len(wanted) - len(new), len(new), how_much)
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise RunError(f"{folder}: {size_in_words(free)} are free there, and {size_in_words(n_bytes)} are to come")
    outcome = fetch_all(wanted, source, workers=config.workers, patience=patience(config), stop=stop)
    tell(outcome, dict(missing) | outcome.missing, folder)


def tell(outcome: Outcome, missing: Mapping[str, str], folder: Path) -> None:
    log.info(
        "%d films are whole in %s: %d fetched, %d were there; %s in %.0f s",
        *(outcome.n_fetched + outcome.n_present, folder, outcome.n_fetched, outcome.n_present, size_in_words(outcome.n_bytes), outcome.seconds),
    )
    if missing:
        named = "\n".join(f"  {name}: {why}" for name, why in sorted(missing.items())[:N_NAMED])
        more = f"\n  and {len(missing) - N_NAMED} more" if len(missing) > N_NAMED else ""
        raise RunError(f"{len(missing)} films are missing:\n{named}{more}\n  Start the same command again: what is whole is not fetched again")


# --- the radiologists' labels -----------------------------------------------------------------------------------------------------------------------


def check_expert_labels(data: Data) -> None:
    """Says of each of the five files whether it is there, and is what was published; RunError if one is missing."""
    folder = Path(data.expert_labels or Path(data.root) / "expert_labels").absolute()
    log.info("The radiologists' labels come through a form of Google's, filled in by you: %s", experts.SOURCE)
    log.info("For research and education. Keep both folders as they come, under %s:", folder)
    missing, other = [], []
    for name, (n_rows, sha256) in experts.PUBLISHED.items():
        path = folder / name
        if not path.is_file():
            missing.append(name)
            log.info("  %-56s missing; it has %d rows", name, n_rows)
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        other += [name] * (found != sha256)
        told = "as published" if found == sha256 else f"another than was published (sha256 {found[:12]}, not {sha256[:12]})"
        log.info("  %-56s %s, %d bytes", name, told, path.stat().st_size)
    if missing:
        raise RunError(
            f"{len(missing)} of {len(experts.PUBLISHED)} files are missing in {folder}. To get them, fill in the form at {experts.SOURCE}; steps: {DOCUMENT}"
        )
    loaded = experts.load_experts(folder)
    log.info("They hold together: %s", ", ".join(f"{name} {len(table):,} films" for name, table in loaded.labels.items()))
    log.info("%d films in all: python scripts/download.py source=gcs images=expert data.expert_labels=%s ...", n_films(loaded.labels), folder)
    if other:
        log.warning("%d files are not the published ones: numbers made with them are not comparable with numbers made with those", len(other))
    for line in attribution("cxr14", has_experts=True)[2:]:
        log.info("%s", line)


def n_films(labels: Mapping[str, pd.DataFrame]) -> int:
    return len(set().union(*(table.image_id for table in labels.values())))


def write_dicom_headers(config: DicomHeadersConfig) -> None:
    """Writes the table of a folder's DICOM films, and says which could not be read.

    Raises:
        RunError: the output is there already, has another suffix, or no folder.
        CatalogueError: no DICOM film is there, or two are of one image.
    """
    output = Path(config.output)
    if output.suffix != ".csv" or not output.parent.is_dir():
        raise RunError(f"output={output}: a .csv in a folder that is there")
    if output.exists():
        raise RunError(f"output={output} is there already: name another, or move it away")
    table, refused = read_dicom_headers(Path(config.folder), image_id=config.image_id, salt=config.salt)
    for name, reason in list(refused.items())[:N_NAMED]:
        log.warning("%s: %s", name, reason)
    if table.empty:
        raise RunError(f"none of the {len(refused):,} DICOM films in {config.folder} could be read")
    write_whole(output, table.to_csv(index=False).encode())
    log.info("%d films of %d patients in %s; %d could not be read", len(table), table.patient_id.nunique(), output, len(refused))
