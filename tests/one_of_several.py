"""One process of a job of several, started by tests/test_several_processes.py with Lightning's environment variables; writes down what it saw.

python one_of_several.py <folder> <accumulated batches>
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from cxr.cohort.findings import NIH_FINDINGS
from cxr.cohort.splits import Splits
from cxr.data.augment import make_augment
from cxr.data.datamodule import FilmData
from cxr.data.store import Store
from cxr.model.classifier import Classifier
from cxr.run import training
from cxr.run.study import Study

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
RANK, WORLD_SIZE = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
BATCH, N_TRAIN, N_VAL, SIDE = 12, 132, 31, 36
PIXELS = np.random.default_rng(0).integers(0, 256, (N_TRAIN + N_VAL, SIDE, SIDE), dtype=np.uint8)
STORE = Store(PIXELS, np.array([f"{i:08d}_000.png" for i in range(len(PIXELS))]), {}, {})


def targets(n: int, unknown: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = (rng.random((n, len(NIH_FINDINGS))) < 0.4).astype(np.float32)
    drawn[rng.random(drawn.shape) < unknown] = np.nan
    return drawn


def film_data() -> FilmData:
    augment = make_augment(image_size=32, seed=0, affine_p=0.5, rotate_degrees=7, scale=0.1, translate=0.05, brightness=0.1, contrast=0.1, horizontal_flip_p=0)
    return FilmData(
        STORE,
        train_rows=np.arange(N_TRAIN),
        train_targets=targets(N_TRAIN, 0.6, 1),
        val_rows=np.arange(N_TRAIN, N_TRAIN + N_VAL),
        val_targets=targets(N_VAL, 0.1, 2),
        image_size=32,
        batch_size=BATCH,
        num_workers=0,
        augment=augment,
        seed=0,
    )


class Witness(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.films: list[list[int]] = []
        self.pixels: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])
        self.films.append(batch["index"].tolist())
        self.pixels += batch["image"].flatten(1).long().sum(1).tolist()


def trainer(accumulated: int, *callbacks: pl.Callback, **changed) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=WORLD_SIZE,
        strategy="ddp" if WORLD_SIZE > 1 else "auto",
        accumulate_grad_batches=accumulated,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **changed,
    )


def main(folder: Path, accumulated: int) -> None:
    torch.manual_seed(0)
    # neither BatchNorm, dropout nor stochastic depth: what these do depends on the process's own films or random numbers
    classifier = Classifier(
        findings=list(NIH_FINDINGS),
        monitored=list(NIH_FINDINGS),
        prevalence=[0.4] * len(NIH_FINDINGS),
        model={"name": "test_vit", "drop_rate": 0.0, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True, "compile": False},
        loss={"name": "bce"},
        optim={"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "layer_decay": 1.0, "warmup_steps": 5, "final_fraction": 0.1, "betas": [0.9, 0.999]},
        image_size=32,
        seed=0,
    )
    witness, data = Witness(), film_data()
    fitting = trainer(accumulated, witness, max_epochs=2)
    fitting.fit(classifier, datamodule=data)
    seen = {
        "losses": witness.losses,
        "rates": witness.rates,
        "films": witness.films,
        "pixels": witness.pixels,
        "auroc": float(fitting.callback_metrics["val/auroc_macro"]),
    }

    # prediction, of one network whatever the training did
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    predicted = {}
    for n in range(1, 18):
        table = pd.DataFrame({"image_id": STORE.image_ids[:n], "patient_id": np.arange(n)})
        splits = Splits(table.iloc[:0], table.iloc[: n // 2], table.iloc[n // 2 :], table.iloc[:0], table.iloc[:0], pd.Index([]))
        made = training.predict(fitting, classifier, data, Study(None, None, splits))
        predicted[n] = {"image_id": made.image_id.tolist(), "logits": made.filter(like="logit_").to_numpy().tolist()}
    (folder / f"{WORLD_SIZE}_{RANK}.json").write_text(json.dumps(seen | {"predicted": predicted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
