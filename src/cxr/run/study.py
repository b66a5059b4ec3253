"""Who is in the study, and on which films: the tables, the splits, the image store."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import cxr
from cxr.cohort.catalogue import Catalogue, count_missing, find_images, load_catalogue
from cxr.cohort.experts import Experts, load_experts
from cxr.cohort.findings import NIH_FINDINGS
from cxr.cohort.splits import Splits, make_splits
from cxr.config import Data, ExpertPatients, MissingImages, store_size
from cxr.run import RunError
from cxr.sources.archives import find_archives

if TYPE_CHECKING:
    from cxr.data.store import Store

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Study:
    """Who is in the study, before any pixel is read."""

    catalogue: Catalogue
    experts: Experts | None
    splits: Splits


def prepare(data: Data) -> None:
    """Makes the image store, or finds it made."""
    catalogue = load_catalogue_of(data)
    there_before = (store_folder(data) / "meta.json").is_file()
    store = prepare_store(data, catalogue)
    if there_before:
        from cxr.data.store import verify_store

        verify_store(store, store_folder(data))
    log.info("%d images in %s", len(store.images), store_folder(data))
    check_coverage(data, catalogue, store)


def load_catalogue_of(data: Data) -> Catalogue:
    root = Path(data.root).absolute()
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
    return Study(catalogue, experts, splits)


def log_study(study: Study) -> None:
    """Says who trains and what that costs, in a few lines."""
    splits, facts = study.splits, study.splits.facts
    log.info("Labels: %s (release %s)", study.catalogue.labels["file"], study.catalogue.labels["release"])
    for name in ("train", "val", "test", "expert_validation"):
        rows = getattr(splits, name)
        log.info("  %-18s%7d images %7d patients", name, len(rows), rows.patient_id.nunique())
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
    return Path(data.store_dir).absolute() / f"{data.name}_{store_size(data)}"


def prepare_store(data: Data, catalogue: Catalogue) -> "Store":
    """The image store of every film that is there, as a file or in an archive; made on first use. Where only the store was copied to, and no film, it is taken
    as it is."""
    from cxr.data.decode import Reading, is_dicom
    from cxr.data.store import StoreError, build_store, open_store

    folder, root, wanted = store_folder(data), Path(data.root).absolute(), catalogue.images.image_id
    paths = find_images(root, wanted)
    # what has been unpacked completely needs no archive
    archives = find_archives(root) if len(paths) < len(wanted) else []
    if not paths and not archives:
        try:
            return open_store(folder)
        except StoreError as error:
            raise RunError(f"no image was found in {root} (images/, images_001/images/ ..., dicom/, or images_001.tar.gz ...), and {error}") from error
    log.info("Image store: %s", folder)
    if archives and not (folder / "meta.json").is_file():
        log.info("  from %d files and %d archives: %s", len(paths), len(archives), ", ".join(archive.name for archive in archives))
    if n_dicom := sum(map(is_dicom, paths.values())):
        log.info("  %d of %d files are DICOM", n_dicom, len(paths))
    return build_store(
        folder,
        paths,
        size=store_size(data),
        source=data.name,
        package_version=cxr.__version__,
        reading=Reading(fit=data.fit.value, dicom_window=data.dicom_window.value),
        archives=archives,
        wanted=wanted if archives else (),
    )


def check_coverage(data: Data, catalogue: Catalogue, store: "Store") -> None:
    """Reports unreadable files, and refuses missing images unless they are allowed."""
    for image_id, reason in list(store.quarantine.items())[:20]:
        log.warning("unreadable: %s: %s", image_id, reason)
    missing = count_missing(catalogue, pd.Index(store.image_ids))
    if not any(missing.values()):
        return
    told = ", ".join(f"{count:,} of {len(catalogue.lists[name]):,} {name}" for name, count in missing.items())
    unreadable = f" ({len(store.quarantine)} of them unreadable, see {store_folder(data) / 'quarantine.csv'})" if store.quarantine else ""
    if data.missing_images is MissingImages.error:
        raise RunError(f"images are missing: {told}{unreadable}. data.missing_images=allow goes on with those present and reports the coverage.")
    log.warning("Images are missing, as allowed: %s%s", told, unreadable)


def rows_in_store(store: "Store", table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The part of the table whose films are in the store, and their rows there."""
    rows = pd.Index(store.image_ids).get_indexer(table.image_id)
    return table[rows >= 0].reset_index(drop=True), rows[rows >= 0]


def targets_of(catalogue: Catalogue, table: pd.DataFrame) -> np.ndarray:
    """(n, 14) float32 text-mined targets, joined by image_id."""
    targets: np.ndarray = catalogue.images.set_index("image_id").loc[table.image_id, list(NIH_FINDINGS)].to_numpy(np.float32)
    return targets
