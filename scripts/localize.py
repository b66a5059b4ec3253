"""Does a run look where the radiologist does? Its heat maps against the boxes of BBox_List_2017.csv, beside a random point and the centre of the film.

python scripts/localize.py run=outputs/densenet_cxr14/2026-01-31_12-00-00.000000

Writes localization/ into the run's folder. The pages there show films (docs/localization.md).
"""

from cxr.config import LocalizeConfig, entry


@entry("localize", LocalizeConfig)
def main(config: LocalizeConfig) -> None:
    from cxr.run.localizing import localize

    localize(config)


if __name__ == "__main__":
    main()
