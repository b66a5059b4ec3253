"""Where films and labels come from: archives, a Google Cloud bucket, a DICOMweb server, BigQuery. What arrives are files, whole or not at all.

Nothing of this is needed to train; the clients of Google and of DICOMweb are the extra `download`.
"""

NO_CREDENTIALS = "no Google credentials on this machine: run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"


class SourceError(ValueError):
    """A source cannot be used as it was asked for, or is not what it should be."""
