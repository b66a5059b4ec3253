"""Many epochs of the tiny network by the real command: memory, open files and disk do not grow.

`CXR_EPOCHS=200 pytest tests/test_endurance.py -s` prints them for 200 epochs; without it there are 20.
"""

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from cxr.config import PROJECT
from cxr.trials.processes import descendants, look_at

EPOCHS = int(os.environ.get("CXR_EPOCHS", "20"))
SETTINGS = (
    *(f"trainer.max_epochs={EPOCHS}", "data.batch_size=160", "data.image_size=32", "data.num_workers=1", "trainer.checkpoint_every_minutes=0.02"),
    *("data.expert_labels=null", "report.draws=100", "report.reader_draws=100"),
)


def used_by(pid: int) -> tuple[float, int]:
    """(memory in MB, open files) of a process and all below it; memory that they share is counted once.

    Without mapped files: of those, libraries above all, a process is charged less or more as other processes of the machine come and go.
    """
    memory, files = 0.0, 0
    for number in [pid, *(child.pid for child in descendants(pid))]:
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
            memory += sum(int(line.split()[1]) for line in rollup if line.startswith(("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))) / 1024
            files += len(os.listdir(f"/proc/{number}/fd"))
        except OSError:
            continue  # it has just ended
    return memory, files


def on_disk(folder: Path) -> dict[str, float]:
    """Megabytes of every file, a file being written counted by the name that it will have.

    But for the curves: metrics.csv and what W&B records grow with what is logged, a row or two an epoch.
    """
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file() and path.name != "metrics.csv" and "wandb" not in path.parts:
                name = str(path.relative_to(folder)).removesuffix(".tmp")
                sizes[name] = max(sizes.get(name, 0), path.stat().st_size / 2**20)
        except OSError:
            continue  # renamed at this moment
    return sizes


def test_epochs_grow_nothing(mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "train.py", f"data.root={mini}", f"data.store_dir={mini.parent / 'stores'}", f"hydra.run.dir={folder}", *SETTINGS]
    samples: list[tuple[int, float, int]] = []
    disk: list[tuple[int, dict[str, float]]] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        while look_at(process.pid) and not (folder / "predictions.parquet").exists():
            epoch = (folder / "metrics.csv").read_text().count("\n") // 2 if (folder / "metrics.csv").exists() else 0
            if epoch:
                samples.append((epoch, *used_by(process.pid)))
                disk.append((epoch, on_disk(folder)))
            time.sleep(0.5)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 0, told
    assert samples[-1][0] >= 0.9 * EPOCHS
    ends = np.linspace(0.1, 0.98, 5) * EPOCHS  # the beginning is warming up, the end is predicting
    parts, kept = [], []
    print()
    for start, end in pairwise(ends):
        part = np.array([numbers for epoch, *numbers in samples if start <= epoch < end])
        # the floor: what is there without a second set of data processes just starting
        parts.append([*np.quantile(part, 0.1, axis=0), *part.max(axis=0)])
        # each file at its largest, for one of them may be between two names at the moment of looking
        largest: dict[str, float] = {}
        for name, size in (item for epoch, sizes in disk if start <= epoch < end for item in sizes.items()):
            largest[name] = max(size, largest.get(name, 0))
        kept.append(largest)
        print(f"epochs {start:.0f} to {end:.0f}: memory {{0:.0f}} to {{2:.0f}} MB, open files {{1:.0f}} to {{3:.0f}},".format(*parts[-1]), end=" ")
        print(f"{len(kept[-1])} files of {sum(kept[-1].values()):.1f} MB")
    (memory, files, *_), late = parts[0], parts[-1]
    assert late[0] < memory * 1.05 + 10
    assert late[1] <= files + 5
    assert set(kept[-1]) <= set(kept[0])
    assert sum(kept[-1].values()) < sum(kept[0].values()) + 0.1
