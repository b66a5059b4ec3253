"""Decode and resize every film once, into the image store that training reads. Training does this by itself on first use.

python scripts/prepare.py data=cxr14 data.root=/path/to/cxr14
python scripts/prepare.py data=cxr14 data.root=/path/to/cxr14 data.image_size=512 data.store_dir=/fast/disk
"""

from cxr.config import PrepareConfig, entry


@entry("prepare", PrepareConfig)
def main(config: PrepareConfig) -> None:
    from cxr.run.study import prepare

    prepare(config.data)


if __name__ == "__main__":
    main()
