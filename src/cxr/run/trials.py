"""Trials on purpose, each with a verdict."""

import dataclasses
import json
import logging
from pathlib import Path

from cxr.atomic import write_whole
from cxr.config import FuzzConfig, TortureConfig
from cxr.run import RunError

log = logging.getLogger(__name__)


def torture(config: TortureConfig) -> None:
    """Kills trainings and prepares, into the run folder that Hydra has made; RunError unless all ended with the same bytes."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.trials import torture as trial

    folder = Path(HydraConfig.get().runtime.output_dir)
    kills = trial.torture(folder, n_train=config.train_kills, n_prepare=config.prepare_kills, seed=config.seed)
    write_whole(folder / "torture.json", (json.dumps([dataclasses.asdict(kill) for kill in kills], indent=1) + "\n").encode())
    log.info(trial.summary(kills))
    if differing := sum(not kill.same for kill in kills):
        raise RunError(f"{differing} of {len(kills)} killed runs ended with other bytes; they are in {folder}")


def fuzz(config: FuzzConfig) -> None:
    """Reads spoiled files, into the run folder that Hydra has made; RunError if one of them was not refused and not read rightly."""
    from hydra.core.hydra_config import HydraConfig

    from cxr.run.fuzz_readers import readers
    from cxr.trials import fuzz as trial

    folder = Path(HydraConfig.get().runtime.output_dir)
    real = Path(config.real).absolute() if config.real else None
    outcomes = trial.fuzz(folder, n_inputs=config.inputs, seed=config.seed, n_processes=config.processes, real=real, more=readers)
    write_whole(folder / "fuzz.json", (json.dumps({name: vars(outcome) for name, outcome in outcomes.items()}, indent=1) + "\n").encode())
    log.info(trial.summary(outcomes))
    if failed := sum(len(outcome.failures) for outcome in outcomes.values()):
        raise RunError(f"{failed} inputs made a reader fail; they are in {folder / 'failures'}, and what happened in {folder / 'fuzz.json'}")
