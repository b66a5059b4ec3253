"""Does a killed run end with the same bytes? Trainings and prepares are killed with SIGKILL at seeded moments, gone on with, and compared.

python scripts/torture.py train_kills=30 prepare_kills=20      half an hour on two cores
"""

from cxr.config import TortureConfig, entry


@entry("torture", TortureConfig)
def main(config: TortureConfig) -> None:
    from cxr.run.trials import torture

    torture(config)


if __name__ == "__main__":
    main()
