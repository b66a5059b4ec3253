"""Make one run of several: the mean of their probabilities, in a run folder like any other, with its report. No GPU, image or torch.

python scripts/ensemble.py runs=[outputs/densenet_cxr14/2026-01-31_12-00-00.000000,outputs/densenet_cxr14/2026-01-31_18-00-00.000000]
"""

from cxr.config import EnsembleConfig, entry


@entry("ensemble", EnsembleConfig)
def main(config: EnsembleConfig) -> None:
    from cxr.run.comparing import ensemble

    ensemble(config)


if __name__ == "__main__":
    main()
