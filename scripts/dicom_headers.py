"""A table of five facts from a folder of DICOM films: image, patient, view, sex, age. No pixel is read, and nothing else of a header.

python scripts/dicom_headers.py folder=/path/to/films output=films.csv
python scripts/dicom_headers.py folder=/path/to/films output=films.csv salt=a-secret-of-yours
"""

from cxr.config import DicomHeadersConfig, entry


@entry("dicom_headers", DicomHeadersConfig)
def main(config: DicomHeadersConfig) -> None:
    from cxr.run.downloading import write_dicom_headers

    write_dicom_headers(config)


if __name__ == "__main__":
    main()
