"""What a model is held against: a set of films with labels, what else is known of the films, and who read them."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class ReferenceSet:
    """One reference set, complete: with the films that the model did not see for want of pixels.

    Attributes:
        name: as in report.json.
        split: of the predictions that belong to it: val, test or expert_validation.
        adjudicated: labels are radiologists', not text-mined.
        findings: the labels' columns.
        films: one row per film: image_id, patient_id, view, sex, age (years), follow_up, n_films (of its patient), and a column per finding (1, 0,
            NaN where unknown).
        text_mined: rows as in `films`, a column (1, 0) for every finding of any set that text mining knows.
        n_listed: films the set has by its official list, labelled or not.
        reads: one row per film and reader: image_id, patient_id, reader_id, and per finding 1, 0, 0.5 (uncertain) or NaN; None where nobody's are known.
        held_out: readers who had no part in the reference.
    """

    name: str
    split: str
    adjudicated: bool
    findings: tuple[str, ...]
    films: pd.DataFrame
    text_mined: pd.DataFrame
    n_listed: int
    reads: pd.DataFrame | None = None
    held_out: tuple[str, ...] = ()

    def votes(self, finding: str, image_ids: "pd.Index[str] | pd.Series[str]") -> pd.DataFrame:
        """(N, R) what each reader said of a finding: rows in the order of the images, a column per reader; NaN where not read or unknown."""
        if self.reads is None:
            return pd.DataFrame(index=pd.Index(image_ids))
        return self.reads.pivot(index="image_id", columns="reader_id", values=finding).reindex(image_ids)  # noqa: PD010 (pivot_table drops unknown reads)
