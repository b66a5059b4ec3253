"""Search for a better recipe on validation films; no test film is opened. Start it as often as there are GPUs: all workers share one study.

python scripts/sweep.py sweep=lr_loss                                          the miniature, on any machine
python scripts/sweep.py sweep=densenet_cxr14 data.root=/path/to/cxr14          the real thing; any key of train.py holds for every trial
"""

from cxr.config import SweepConfig, entry


@entry("sweep", SweepConfig)
def main(config: SweepConfig) -> None:
    from cxr.run.sweeping import sweep

    sweep(config)


if __name__ == "__main__":
    main()
