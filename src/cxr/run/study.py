"""Who is in the study, and on which films: the tables, the splits, the image store."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import cxr
from cxr.cohort.catalogue import Catalogue, count_missing, find_images, load_catalogue
from cxr.cohort.experts import Experts, load_experts
from cxr.cohort.findings import NIH_FINDINGS
from cxr.cohort.others import Source, load_other, make_source
from cxr.cohort.spaces import SPACES, TRAINABLE, OtherSet, find_films
from cxr.cohort.splits import Splits, make_splits
from cxr.config import Data, ExpertPatients, MissingImages, Overlap, store_size
from cxr.config import Source as SourceConfig
from cxr.run import RunError
from cxr.sources.archives import find_archives

if TYPE_CHECKING:
    from cxr.data.store import Archive, Store

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Study:
    """Who is in the study, before any pixel is read; `sources` are the further data sets that it trains on."""

    catalogue: Catalogue
    experts: Experts | None
    splits: Splits
    sources: dict[str, Source] = dataclasses.field(default_factory=dict)

    def films(self, split: str) -> pd.DataFrame:
        """(image_id, patient_id) of train, val, test or expert_validation over all data sets; patients are text where there are several."""
        ours: pd.DataFrame = getattr(self.splits, split)
        if not self.sources:
            return ours
        theirs = [getattr(source, split) for source in self.sources.values() if split != "expert_validation"]
        films: pd.DataFrame = pd.concat([ours.assign(patient_id=ours.patient_id.astype(str)), *theirs], ignore_index=True)
        return films


def prepare(data: Data) -> None:
    """Makes the image store, or finds it made."""
    if data.name in SPACES:
        other = load_other_of(data)
        log.info("%d images in %s", len(prepare_other(data, other, other.films).images), store_folder(data))
        return
    catalogue = load_catalogue_of(data)
    there_before = (store_folder(data) / "meta.json").is_file()
    sources = load_sources(data)
    store = prepare_store(data, catalogue, sources)
    if there_before:
        from cxr.data.store import verify_store

        verify_store(store, store_folder(data))
    log.info("%d images in %s", len(store.images), store_folder(data))
    check_coverage(data, catalogue, store, sources)


def load_catalogue_of(data: Data) -> Catalogue:
    root = Path(data.root).absolute()
    if data.name in SPACES:
        trained = f"; to train on it beside ChestX-ray14: data.sources.{data.name}.root={data.root}" if data.name in TRAINABLE else ""
        raise RunError(f"data={data.name} is to test a finished run on (scripts/external.py){trained}")
    if data.name == "mini":
        from cxr.mini import write_miniature

        write_miniature(root)
    return load_catalogue(root, Path(data.labels).absolute() if data.labels else None)


def load_study(data: Data) -> Study:
    """The tables and the splits, guarded."""
    catalogue = load_catalogue_of(data)
    experts = load_experts(Path(data.expert_labels).absolute()) if data.expert_labels else None
    splits = make_splits(
        catalogue,
        experts.labels if experts else None,
        validation=Path(data.validation).absolute() if isinstance(data.validation, str) else data.validation,
        split_seed=data.split_seed,
        keep_expert_validation=data.expert_validation_patients is ExpertPatients.keep,
    )
    sources = {
        name: make_source(
            other,
            splits,
            validation=data.validation if isinstance(data.validation, float) else 0.1,
            split_seed=data.split_seed,
            exclude=sources_of(data)[name].overlap is Overlap.exclude,
        )
        for name, other in load_sources(data).items()
    }
    return Study(catalogue, experts, splits, sources)


def sources_of(data: Data) -> dict[str, SourceConfig]:
    """The further data sets to train on, by name."""
    sources = {name: getattr(data.sources, name) for name in TRAINABLE}
    return {name: source for name, source in sources.items() if source.root}


def load_sources(data: Data) -> dict[str, OtherSet]:
    """Their labels."""
    return {name: _load(name, source, training=True) for name, source in sources_of(data).items()}


def load_other_of(data: Data, *, training: bool = False) -> OtherSet:
    """The labels of a data set that is to be tested on."""
    return _load(data.name, data, country=data.country, training=training)


def _load(name: str, where: Data | SourceConfig, *, country: str | None = None, training: bool) -> OtherSet:
    log.info("Labels of %s: %s", name, where.root)
    policies = {"uncertain": where.uncertain.value, "unmentioned": where.unmentioned.value}
    return load_other(name, Path(str(where.root)).absolute(), **policies, country=country, training=training)


def log_study(study: Study) -> None:
    """Says who trains and what that costs, in a few lines."""
    splits, facts = study.splits, study.splits.facts
    log.info("Labels: %s (release %s)", study.catalogue.labels["file"], study.catalogue.labels["release"])
    for name in ("train", "val", "test", "expert_validation"):
        rows = getattr(splits, name)
        log.info("  %-18s%7d images %7d patients", name, len(rows), rows.patient_id.nunique())
    for name, source in study.sources.items():
        told = [f"{len(rows):,} {part}" for part in ("train", "val", "test") if len(rows := getattr(source, part))]
        left_out = [f"{n:,} {what}" for what, n in (source.other.left_out | {"of patients in a test set": source.n_excluded}).items() if n]
        log.info("  and %s: %s films%s", name, ", ".join(told), f"; left out: {', '.join(left_out)}" if left_out else "")
    if study.experts is None:
        log.warning("No expert labels (data.expert_labels): nothing will be evaluated against radiologists, and their patients cannot be excluded.")
    elif splits.keep_expert_validation:
        log.warning("The %d expert-validation patients stay in train and val: nothing will be reported on their set.", facts["expert_validation_patients"])
    else:
        worst = max(facts["excluded_share_of_positives"], key=lambda finding: facts["excluded_share_of_positives"][finding])
        log.info(
            "Excluding the %d expert-validation patients costs %d train_val images (%.1f %%), %d of them in the validation list, and %.1f %% of the"
            " positives of %s.",
            facts["expert_validation_patients"],
            facts["excluded_images"],
            100 * facts["excluded_share"],
            facts["excluded_validation_images"],
            100 * facts["excluded_share_of_positives"][worst],
            worst,
        )


def store_folder(data: Data) -> Path:
    return Path(data.store_dir).absolute() / f"{store_name(data)}_{store_size(data)}"


def store_name(data: Data) -> str:
    """Of one data set, or of all that are trained on."""
    return "+".join([data.name, *sources_of(data)])


def prepare_store(data: Data, catalogue: Catalogue, sources: Mapping[str, OtherSet] | None = None) -> "Store":
    """The image store of every film that is there, as a file or in an archive; made on first use. Where only the store was copied to, and no film, it is taken
    as it is."""
    root, wanted = Path(data.root).absolute(), catalogue.images.image_id
    paths = find_images(root, wanted)
    # what has been unpacked completely needs no archive
    archives = find_archives(root) if len(paths) < len(wanted) else []
    for name, other in (sources or {}).items():
        paths |= find_films(Path(str(sources_of(data)[name].root)).absolute(), other.films)
    return _make_store(data, dict(sorted(paths.items())), " (images/, images_001/images/ ..., dicom/, or images_001.tar.gz ...)", archives, wanted)


def prepare_other(data: Data, other: OtherSet, wanted: pd.DataFrame) -> "Store":
    """The same of a data set to test on, all of it; those of the wanted films that are not there are refused unless they are allowed."""
    store = _make_store(data, find_films(Path(data.root).absolute(), other.films))
    _check_present(data, store, wanted)
    return store


def _make_store(data: Data, paths: Mapping[str, Path], layouts: str = "", archives: "Sequence[Archive]" = (), wanted: Collection[str] = ()) -> "Store":
    from cxr.data.decode import Reading, is_dicom
    from cxr.data.store import StoreError, build_store, open_store

    folder = store_folder(data)
    if not paths and not archives:
        try:
            return open_store(folder)
        except StoreError as error:
            raise RunError(f"no image was found in {Path(data.root).absolute()}{layouts}, and {error}") from error
    log.info("Image store: %s", folder)
    if archives and not (folder / "meta.json").is_file():
        log.info("  from %d files and %d archives: %s", len(paths), len(archives), ", ".join(archive.name for archive in archives))
    if n_dicom := sum(map(is_dicom, paths.values())):
        log.info("  %d of %d files are DICOM", n_dicom, len(paths))
    return build_store(
        folder,
        paths,
        size=store_size(data),
        source=store_name(data),
        package_version=cxr.__version__,
        reading=Reading(fit=data.fit.value, dicom_window=data.dicom_window.value),
        archives=archives,
        wanted=wanted if archives else (),
    )


def check_coverage(data: Data, catalogue: Catalogue, store: "Store", sources: Mapping[str, OtherSet] | None = None) -> None:
    """Reports unreadable files, and refuses missing images unless they are allowed."""
    listed = {name: len(images) for name, images in catalogue.lists.items()}
    _report_missing(data, store, count_missing(catalogue, pd.Index(store.image_ids)), listed)
    for other in (sources or {}).values():
        _check_present(data, store, other.films)


def _check_present(data: Data, store: "Store", films: pd.DataFrame) -> None:
    is_missing = ~films.image_id.isin(pd.Index(store.image_ids))
    listed = {str(part): int(n) for part, n in films.part.value_counts().items()}
    _report_missing(data, store, {part: int((is_missing & (films.part == part)).sum()) for part in listed}, listed)


def _report_missing(data: Data, store: "Store", missing: Mapping[str, int], listed: Mapping[str, int]) -> None:
    for image_id, reason in list(store.quarantine.items())[:20]:
        log.warning("unreadable: %s: %s", image_id, reason)
    if not any(missing.values()):
        return
    told = ", ".join(f"{count:,} of {listed[name]:,} {name}" for name, count in missing.items())
    unreadable = f" ({len(store.quarantine)} of them unreadable, see {store_folder(data) / 'quarantine.csv'})" if store.quarantine else ""
    if data.missing_images is MissingImages.error:
        raise RunError(f"images are missing: {told}{unreadable}. data.missing_images=allow goes on with those present and reports the coverage.")
    log.warning("Images are missing, as allowed: %s%s", told, unreadable)


def rows_in_store(store: "Store", table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The part of the table whose films are in the store, and their rows there."""
    rows = pd.Index(store.image_ids).get_indexer(table.image_id)
    return table[rows >= 0].reset_index(drop=True), rows[rows >= 0]


def targets_of(study: Study, table: pd.DataFrame) -> np.ndarray:
    """(n, 14) float32 targets, joined by image_id; NaN where the film's data set has no label of a finding."""
    known = [study.catalogue.images, *(source.other.films for source in study.sources.values())]
    labels = pd.concat([films.reindex(columns=["image_id", *NIH_FINDINGS]) for films in known]).set_index("image_id")
    targets: np.ndarray = labels.loc[table.image_id].to_numpy(np.float32)
    return targets
