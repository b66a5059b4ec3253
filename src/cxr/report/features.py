"""features.npz: what a network makes of every film before its last layer, for probes; rows are joined by image_id."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.atomic import write_whole

FILE = "features.npz"


class FeaturesError(ValueError):
    """The file is no file of features of this project, or not a whole one."""


def write_features(path: Path, image_ids: np.ndarray, features: np.ndarray, *, checkpoint_sha256: str) -> None:
    """Writes the file whole or not at all.

    Args:
        path: features.npz.
        image_ids: (N,) text.
        features: (N, D) float32.
        checkpoint_sha256: of the network.
    """
    buffer = io.BytesIO()
    np.savez(buffer, image_id=image_ids.astype(np.str_), features=features, checkpoint_sha256=np.array(checkpoint_sha256))
    write_whole(path, buffer.getbuffer())


def read_features(path: Path, checkpoint_sha256: str) -> pd.DataFrame | None:
    """(N, D) float32, indexed by image_id; None where there is no file, or one of another network.

    Raises:
        FeaturesError: it is damaged, names a film twice, or holds what is no finite number.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # written as it is; anything packed could unfold to any size
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise FeaturesError(f"{path}: not a features file")
        with np.load(path, allow_pickle=False) as told:  # which holds all that it reads against the zip's checksums
            made_by, image_ids, features = told["checkpoint_sha256"], told["image_id"], told["features"]
        # numpy gives back bytes where a member is no array, and hands on characters that there are none of
        kinds = [(values.dtype.kind, values.ndim) for values in (made_by, image_ids, features)]
        if kinds != [("U", 0), ("U", 1), ("f", 2)] or features.dtype != np.float32 or len(features) != len(image_ids):
            raise FeaturesError(f"{path}: not a features file")
        image_ids.astype("U").view(np.uint32).astype("<u4").tobytes().decode("utf-32-le")
    except FeaturesError:
        raise
    except Exception as error:  # whatever numpy or zipfile say of a damaged file
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FeaturesError(f"{path}: not a whole features file ({first}); delete it, and report.shortcuts=true makes it again") from error
    if str(made_by) != checkpoint_sha256:
        return None
    table = pd.DataFrame(features, index=pd.Index(image_ids.astype(object), name="image_id"))
    if table.index.has_duplicates or not np.isfinite(table.to_numpy()).all():
        raise FeaturesError(f"{path}: a film stands twice, or a feature is no finite number; delete it, and report.shortcuts=true makes it again")
    return table
