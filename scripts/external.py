"""Test a finished run on another hospital's films: its checkpoint predicts them, and the report judges with thresholds fixed on the run's own validation films.

python scripts/external.py run=outputs/densenet_cxr14/2026-01-31_12-00-00.000000 data=chexpert data.root=/path/to/CheXpert-v1.0
python scripts/external.py run=... data=rsna data.root=/path/to/rsna data.overlap=exclude      the films that the run has not seen
"""

from cxr.config import ExternalConfig, entry


@entry("external", ExternalConfig)
def main(config: ExternalConfig) -> None:
    from cxr.run.external import external

    external(config)


if __name__ == "__main__":
    main()
