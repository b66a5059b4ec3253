"""Do the intervals and tests hold what they promise? Cohorts of known truth, drawn and evaluated again and again; prints the tables of docs/statistics.md.

python scripts/simulate.py cohorts=1000 draws=500
"""

from cxr.config import SimulateConfig, entry


@entry("simulate", SimulateConfig)
def main(config: SimulateConfig) -> None:
    from cxr.stats.simulation import tables

    print(tables(n_cohorts=config.cohorts, n_draws=config.draws, seed=config.seed, n_processes=config.processes))


if __name__ == "__main__":
    main()
