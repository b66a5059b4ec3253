"""Rebuild a run's report from its predictions and the label files. Needs no GPU, no image and no torch.

python scripts/evaluate.py run=outputs/densenet_cxr14/2026-01-31_12-00-00.000000
"""

from cxr.config import EvaluateConfig, entry


@entry("evaluate", EvaluateConfig)
def main(config: EvaluateConfig) -> None:
    from cxr.run.reporting import evaluate

    evaluate(config)


if __name__ == "__main__":
    main()
