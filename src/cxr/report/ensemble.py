"""Several models as one: the mean of their probabilities."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from cxr.report.predictions import Predictions, PredictionsError

KEYS = ["image_id", "patient_id", "split"]
# a float32 logit beyond this is a probability of 1 in double precision, which has no logit
LARGEST = 36.0


def average(members: Mapping[str, Predictions]) -> Predictions:
    """The mean probability of every film and finding, as a logit.

    Args:
        members: name -> predictions, of the same films and findings, joined by image_id.

    Raises:
        PredictionsError: they are of different films, patients, splits or findings.
    """
    (first, one), *others = members.items()
    index = one.table.set_index("image_id")
    columns = [f"logit_{finding}" for finding in one.findings]
    probabilities = [expit(np.clip(index[columns].to_numpy(np.float64), -LARGEST, LARGEST))]
    for name, other in others:
        if set(other.findings) != set(one.findings):
            raise PredictionsError(f"{first} and {name} predict different findings")
        table = other.table.set_index("image_id").reindex(index.index)
        if len(other.table) != len(one.table) or not (table[KEYS[1:]] == index[KEYS[1:]]).all(axis=None):
            raise PredictionsError(f"{first} and {name} predicted different films, or the same in other splits; predict both on the same films first")
        probabilities.append(expit(np.clip(table[columns].to_numpy(np.float64), -LARGEST, LARGEST)))
    mean = logit(np.mean(probabilities, axis=0)).astype(np.float32)
    return Predictions(one.table[KEYS].join(pd.DataFrame(mean, one.table.index, columns)), one.findings, dict(one.metadata))
