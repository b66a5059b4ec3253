"""Fetch films and labels, as many as are wanted, and go on where it was interrupted. Every route with its cost and licence: docs/data.md.

python scripts/download.py source=expert_labels data.expert_labels=/path/to/labels
python scripts/download.py source=gcs images=expert billing_project=my-project data.root=/path/to/cxr14 data.expert_labels=/path/to/labels
python scripts/download.py source=dicomweb images=100 data.root=/path/to/cxr14
python scripts/download.py source=dicomweb url=https://pacs.example.org/dicom-web images=all folder=/path/to/films
python scripts/download.py source=bigquery billing_project=my-project data.root=/path/to/cxr14
"""

from cxr.config import DownloadConfig, entry


@entry("download", DownloadConfig)
def main(config: DownloadConfig) -> None:
    from cxr.run.downloading import download

    download(config)


if __name__ == "__main__":
    main()
