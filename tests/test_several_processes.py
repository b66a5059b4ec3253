"""N devices give the answer of one: processes that train, validate and predict together, on CPU, against one process alone."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from commands import call, free_port

SCRIPT = Path(__file__).with_name("one_of_several.py")
Seen = list[dict]


def work_together(folder: Path, n_processes: int, accumulated: int = 1) -> Seen:
    """What each of the processes saw, by rank."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(n_processes), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(n_processes):
        environment = os.environ | place | {"LOCAL_RANK": str(rank)}
        if n_processes == 1:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, str(SCRIPT), str(folder), str(accumulated)]
        processes.append(subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        told = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(told)
    return [json.loads((folder / f"{n_processes}_{rank}.json").read_text()) for rank in range(n_processes)]


@pytest.fixture(scope="module")
def by_world_size(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Seen]:
    folder = tmp_path_factory.mktemp("several")
    return {n: work_together(folder, n) for n in (1, 2, 3)}


def global_batches(seen: Seen, key: str) -> list:
    return [list(chain.from_iterable(process[key][step] for process in seen)) for step in range(len(seen[0][key]))]


@pytest.mark.parametrize("n_processes", [2, 3])
def test_order_pixels_and_learning_rates_are_those_of_one_process(by_world_size: dict[int, Seen], n_processes: int) -> None:
    (alone,), together = by_world_size[1], by_world_size[n_processes]
    assert len(alone["films"]) == 22
    assert global_batches(together, "films") == alone["films"]
    pixels = np.concatenate([np.reshape(process["pixels"], (22, -1)) for process in together], axis=1)
    np.testing.assert_array_equal(pixels, np.reshape(alone["pixels"], (22, -1)))
    for process in together:
        assert process["rates"] == alone["rates"]


@pytest.mark.parametrize("n_processes", [2, 3])
def test_the_loss_of_every_step_is_that_of_one_process(by_world_size: dict[int, Seen], n_processes: int) -> None:
    """60 % of the targets are unknown, so that the mean over the known ones differs from the mean of the processes' means."""
    (alone,), together = by_world_size[1], by_world_size[n_processes]
    assert max(alone["losses"]) - min(alone["losses"]) > 0.01
    for process in together:
        np.testing.assert_allclose(process["losses"], alone["losses"], rtol=0, atol=1e-5)


def test_accumulated_gradients_give_the_losses_of_one_process(tmp_path: Path) -> None:
    (alone,), together = work_together(tmp_path, 1, accumulated=2), work_together(tmp_path, 2, accumulated=2)
    for process in together:
        np.testing.assert_allclose(process["losses"], alone["losses"], rtol=0, atol=1e-5)
        assert process["rates"] == alone["rates"]


@pytest.mark.parametrize("n_processes", [2, 3])
def test_validation_auroc_is_that_of_one_process(by_world_size: dict[int, Seen], n_processes: int) -> None:
    (alone,) = by_world_size[1]
    for process in by_world_size[n_processes]:
        assert process["auroc"] == pytest.approx(alone["auroc"], abs=1e-9)


@pytest.mark.parametrize("n_processes", [2, 3])
def test_every_film_is_predicted_once_and_as_by_one_process(by_world_size: dict[int, Seen], n_processes: int) -> None:
    (alone,) = by_world_size[1]
    for process in by_world_size[n_processes]:
        for n in map(str, range(1, 18)):
            assert len(set(process["predicted"][n]["image_id"])) == int(n)
            assert process["predicted"][n]["image_id"] == alone["predicted"][n]["image_id"]
            np.testing.assert_allclose(process["predicted"][n]["logits"], alone["predicted"][n]["logits"], rtol=0, atol=1e-5)


# runs at the start of every Python process that finds it; spoils the training of the second process alone
SPOIL_RANK_1 = """
import os, sys, threading, time
def spoil():
    while not hasattr(sys.modules.get("cxr.model.classifier"), "Classifier"):
        time.sleep(0.01)
    def fail(self):
        raise ValueError("the second process has had enough")
    sys.modules["cxr.model.classifier"].Classifier.on_train_epoch_start = fail
if os.environ.get("LOCAL_RANK") == "1":
    threading.Thread(target=spoil, daemon=True).start()
"""


def test_an_exception_in_one_process_ends_the_job_with_its_message(mini: Path, tmp_path: Path) -> None:
    (tmp_path / "spoil").mkdir()
    (tmp_path / "spoil/sitecustomize.py").write_text(SPOIL_RANK_1)
    settings = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=500", f"hydra.run.dir={tmp_path / 'run'}")
    done = call("train.py", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", *settings, seconds=120, PYTHONPATH=str(tmp_path / "spoil"))
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr
    assert not (tmp_path / "run/predictions.parquet").exists()
