"""Train one recipe with several seeds, and tell how much training itself scatters beside what other patients would change.

python scripts/seeds.py n=5 experiment=densenet_cxr14 data.root=/path/to/cxr14 data.expert_labels=/path/to/labels

Started again with the same keys and hydra.run.dir=<its folder> it goes on: finished seeds stay as they are.
"""

from cxr.config import SeedsConfig, entry


@entry("seeds", SeedsConfig)
def main(config: SeedsConfig) -> None:
    from cxr.run.seeding import train_seeds

    train_seeds(config)


if __name__ == "__main__":
    main()
