"""One recipe, several seeds: a run folder each, and how much training scatters beside what other patients would change."""

import logging
import time
from pathlib import Path

from cxr import resume
from cxr.atomic import claim
from cxr.config import CompareConfig, SeedsConfig
from cxr.model.interruption import INTERRUPTED, Interrupted, StopRequest
from cxr.resume import RUN, config_sha256, is_finished, settings
from cxr.run import RunError
from cxr.run.children import start_training
from cxr.run.provenance import plain_config

log = logging.getLogger(__name__)

POLL_S = 0.2


class SeedError(RunError):
    """The training of a seed ended before its report."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def train_seeds(config: SeedsConfig) -> None:
    """Trains what is not yet finished, seed by seed, and summarises, into the folder that Hydra has made or been given."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    parent = Path(hydra.runtime.output_dir)
    typed = [override for override in hydra.overrides.task if override.partition("=")[0] not in ("n", "first")]
    names = {override.partition("=")[0].lstrip("+~") for override in typed}
    for name, way_out in (("seed", "choose them with n= and first="), ("resume", "start the same command again, with hydra.run.dir=<its folder>")):
        if name in names:
            raise RunError(f"{name}: {way_out}")
    if not config.look_at_test:
        raise RunError("look_at_test=false: the seeds are summarised by their reports on the test sets")
    plain = plain_config(config)
    plain = {key: value for key, value in plain.items() if key not in ("n", "first")}
    seeds = range(config.first, config.first + config.n)
    experiment = str(hydra.runtime.choices.get("experiment") or "train")
    group = "logger.group" not in names
    with claim(parent, "trains these seeds"), StopRequest() as stop:
        stop.patient = True
        folders = {seed: parent / f"seed_{seed}" for seed in seeds}
        for seed, folder in folders.items():
            _require_same(folder, {**plain, "seed": seed})
        for seed, folder in folders.items():
            if is_finished(folder):
                log.info("Seed %d is finished: %s", seed, folder)
                continue
            log.info("Seed %d, %d of %d: %s", seed, 1 + seed - config.first, config.n, folder)
            arguments = [*typed, f"seed={seed}", *([f"logger.group={experiment}_seeds_{parent.name}"] if group else [])]
            if (folder / RUN).is_file():
                arguments.append(f"resume={resume.quoted(folder)}")
            else:
                arguments += [f"hydra.run.dir={resume.quoted(folder)}", "hydra.output_subdir=null"]
            _train(seed, arguments, parent, stop)
    _summarise(config, experiment, parent, list(folders.values()))


def _require_same(folder: Path, plain: resume.Plain) -> None:
    """Raises RunError if the folder holds a run of another recipe; names what differs."""
    if not (folder / RUN).is_file():
        return
    saved = resume.read(folder)[0]
    if config_sha256(saved) == config_sha256(plain):
        return
    was, is_now = settings(saved), settings(plain)
    told = "; ".join(f"{name}: {was.get(name)}, now {is_now.get(name)}" for name in dict.fromkeys([*was, *is_now]) if was.get(name) != is_now.get(name))
    raise RunError(f"{folder} was trained by another recipe ({told or 'a file has changed'}). Start this one in another folder: hydra.run.dir=...")


def _train(seed: int, arguments: list[str], parent: Path, stop: StopRequest) -> None:
    go_on = f"Finished seeds are kept; go on with the same command and hydra.run.dir={parent}"
    asked = False
    process = start_training(arguments)
    try:
        while process.poll() is None:
            if stop.name and not asked:
                process.terminate()
                asked = True
            time.sleep(POLL_S)
    finally:
        process.kill()
    if stop.name:
        raise Interrupted(f"stopped by {stop.name} in seed {seed}. {go_on}")
    if process.returncode == INTERRUPTED:
        raise SeedError(f"seed {seed} was stopped, as told above. {go_on}", INTERRUPTED)
    if process.returncode < 0:
        raise SeedError(f"error: seed {seed} was killed by signal {-process.returncode}. {go_on}", 1)
    if process.returncode:
        raise SeedError(f"error: seed {seed} failed, as told above. {go_on}", process.returncode)


def _summarise(config: SeedsConfig, experiment: str, parent: Path, folders: list[Path]) -> None:
    from cxr.report import seeds_page
    from cxr.run.comparing import make_comparison

    asked = CompareConfig(runs=[str(folder) for folder in folders], root=config.data.root, expert_labels=config.data.expert_labels, report=config.report)
    summary = make_comparison(asked, recipe=experiment)
    seeds_page.write(parent, summary)
    log.info(seeds_page.summary(summary))
    log.info("Seeds: %s", parent / "seeds.html")
