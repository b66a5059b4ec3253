"""Hold runs beside each other: per finding and reference set, both AUROCs, the paired difference with its interval, and p-values. No GPU, image or torch.

python scripts/compare.py runs=[outputs/densenet_cxr14/2026-01-31_12-00-00.000000,outputs/convnext_cxr14_512/2026-02-01_09-00-00.000000]
"""

from cxr.config import CompareConfig, entry


@entry("compare", CompareConfig)
def main(config: CompareConfig) -> None:
    from cxr.run.comparing import compare

    compare(config)


if __name__ == "__main__":
    main()
