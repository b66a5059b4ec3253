"""Scores, calls and calibrated probabilities of any films by a trained model. Killed, the same command goes on where it was.

python scripts/predict.py checkpoint=outputs/densenet_cxr14/2026-01-31_12-00-00.000000 images=/path/to/films output=predictions.csv
python scripts/predict.py checkpoint=exported images='films/*.dcm' output=predictions.parquet heat_maps=true
python scripts/predict.py check=true                                   does this installation predict what it should?
"""

from cxr.config import PredictConfig, entry


@entry("predict", PredictConfig)
def main(config: PredictConfig) -> None:
    from cxr.run.predicting import predict

    predict(config)


if __name__ == "__main__":
    main()
