"""Does any input make a reader crash, hang, or believe something wrong? Files of every kind are spoiled and read.

python scripts/fuzz.py inputs=20000
python scripts/fuzz.py inputs=20000 real=/path/to/real/files
"""

from cxr.config import FuzzConfig, entry


@entry("fuzz", FuzzConfig)
def main(config: FuzzConfig) -> None:
    from cxr.run.trials import fuzz

    fuzz(config)


if __name__ == "__main__":
    main()
