"""Train on ChestX-ray14, predict, and report how good the model really is.

python train.py                                                        the miniature, on any machine
python train.py experiment=densenet_cxr14 data.root=/path/to/cxr14     the real thing
python train.py experiment=densenet_cxr14 optim.lr=1e-4 seed=1         anything changed from the shell
"""

from cxr.config import Config, entry


@entry("train", Config)
def main(config: Config) -> None:
    from cxr.run.training import train

    train(config)


if __name__ == "__main__":
    main()
