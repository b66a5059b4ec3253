"""Training through the real loader and the real Trainer, against the same step on one batch that lies on the device."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from cxr.benchmark.command import BenchmarkError, Settings, missing
from cxr.benchmark.films import film_paths, make_store
from cxr.benchmark.loader import RECIPE
from cxr.benchmark.measure import Case, Contest, hold
from cxr.benchmark.peers import FileDataset
from cxr.data.augment import make_augment
from cxr.data.datamodule import FilmData
from cxr.data.store import Store
from cxr.model.classifier import Classifier
from cxr.model.losses import masked_sum
from cxr.model.optim import make_optimizer, parameter_groups
from cxr.model.pace import Pace

ON_CPU = "densenet121@224,test_resnet@64"
ON_GPU = "densenet121@224,densenet121@320,densenet121@512,resnet50@224,convnext_tiny@224"
FINDINGS = [f"finding {i}" for i in range(14)]
OPTIM = {"name": "adamw", "lr": 1e-4, "weight_decay": 0.01, "layer_decay": 1.0, "warmup_steps": 10, "final_fraction": 0.01, "betas": [0.9, 0.999]}
CLIP = 1.0  # largest norm of the gradient
SKIPPED = 3  # steps of a round that do not count: the loader starts, memory is found


def run_stage(settings: Settings) -> list[dict]:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = torch.device({"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(settings.device, settings.device))
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise BenchmarkError("device=cuda: torch sees no GPU")
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = film_paths(settings, folder, 64)
        for wanted in (settings.models or (ON_GPU if on_gpu else ON_CPU)).split(","):
            name, _, pixels = wanted.strip().partition("@")
            if not pixels.isdigit():
                raise BenchmarkError(f"models={wanted}: give each as name@pixels")
            bench = Bench(name, int(pixels), device, paths, folder, settings.size)
            results.append(hold(bench.contest(), settings.rounds))
            if on_gpu:
                results += bench.where_time_goes()
    return results


class Bench:
    """One network at one size.

    Args:
        name, pixels: the network and the side of its input.
        device: cpu or cuda.
        paths: of PNG films.
        folder: for the store.
        size: fraction of the steps.
    """

    def __init__(self, name: str, pixels: int, device: torch.device, paths: list[Path], folder: Path, size: float):
        self.name, self.pixels, self.device, self.paths = name, pixels, device, paths
        self.on_gpu = device.type == "cuda"
        self.batch_size = 64 if self.on_gpu else 32 if pixels < 128 else 8
        self.n_steps = max(2, round(size * (100 if self.on_gpu else 20 if pixels < 128 else 4)))
        stored = round(pixels * 8 / 7)
        n_films = max(2048 if self.on_gpu else 512, (SKIPPED + self.n_steps + 1) * self.batch_size)
        self.store: Store = make_store(folder / f"{name}_{pixels}", paths, n_films, stored)
        self.targets = np.random.default_rng(0).integers(0, 2, (n_films, len(FINDINGS))).astype(np.float32)
        self.classifiers: dict[bool, Classifier] = {}

    def contest(self) -> Contest:
        cases, compared = [], []
        for compiled in (False, True) if self.on_gpu else (False,):
            suffix = ", compiled" if compiled else ""
            cases += [
                Case(f"cxr, training{suffix}", "ours", lambda compiled=compiled: self.train(compiled)),
                Case(f"the same step, one resident batch{suffix}", "limit", lambda compiled=compiled: self.repeat(compiled)),
            ]
            compared.append((cases[-2].name, cases[-1].name))
        absent = {}
        if self.on_gpu and (self.name, self.pixels) == ("densenet121", 224):
            if reason := missing("PIL"):
                absent["CheXNet style"] = reason
            else:
                cases.append(Case("CheXNet style: float32, PNG of 1024 through PIL", "peer", self.chexnet))
                compared.append((cases[0].name, cases[-1].name))
        precision = "bf16" if self.on_gpu else "float32"
        return Contest(f"Training {self.name} at {self.pixels} pixels, batches of {self.batch_size}, {precision}", "films", cases, compared, absent)

    def classifier(self, compiled: bool) -> Classifier:
        """Made once, so that compiling happens in the round that does not count."""
        if compiled not in self.classifiers:
            torch.manual_seed(0)
            shape = {"name": self.name, "drop_rate": 0.0, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True, "compile": compiled}
            self.classifiers[compiled] = Classifier(
                findings=FINDINGS,
                monitored=FINDINGS,
                prevalence=[0.1] * len(FINDINGS),
                model=shape,
                loss={"name": "bce"},
                optim=OPTIM,
                image_size=self.pixels,
                seed=0,
            )
        return self.classifiers[compiled]

    def train(self, compiled: bool) -> tuple[int, float]:
        rows = np.arange(len(self.store.images))
        data = FilmData(
            self.store,
            train_rows=rows,
            train_targets=self.targets,
            val_rows=rows[:1],
            val_targets=self.targets[:1],
            image_size=self.pixels,
            batch_size=self.batch_size,
            num_workers=None,
            augment=make_augment(image_size=self.pixels, seed=0, **RECIPE),
            seed=0,
        )
        watch = _Watch(SKIPPED, self.n_steps)
        trainer = pl.Trainer(
            accelerator="gpu" if self.on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if self.on_gpu else "32-true",
            max_steps=SKIPPED + self.n_steps,
            gradient_clip_val=CLIP,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[Pace(self.batch_size), watch],
        )
        trainer.fit(self.classifier(compiled), datamodule=data)
        return self.n_steps * self.batch_size, watch.seconds

    def resident_step(self, compiled: bool) -> Callable[[], None]:
        classifier = self.classifier(compiled).to(self.device).train()
        groups = parameter_groups(classifier.net, lr=OPTIM["lr"], weight_decay=OPTIM["weight_decay"], layer_decay=1.0)
        optimizer = make_optimizer("adamw", groups, betas=OPTIM["betas"], fused=True)
        films = np.array(self.store.images[: self.batch_size, : self.pixels, : self.pixels])
        images = torch.from_numpy(films).unsqueeze(1).to(self.device)
        targets = torch.from_numpy(self.targets[: self.batch_size]).to(self.device)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
                total, n_known = masked_sum(classifier.loss, classifier(images), targets)
            (total / n_known).backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), CLIP)
            optimizer.step()

        return step

    def repeat(self, compiled: bool) -> tuple[int, float]:
        step = self.resident_step(compiled)
        for _ in range(SKIPPED):
            step()
        _wait(self.device)
        start = time.perf_counter()
        for _ in range(self.n_steps):
            step()
        _wait(self.device)
        return self.n_steps * self.batch_size, time.perf_counter() - start

    def chexnet(self) -> tuple[int, float]:
        """As in the re-implementations: files read by PIL in workers on every core, float32 RGB, torchvision-like defaults."""
        import timm

        n_steps = max(2, self.n_steps // 20)
        net = timm.create_model(self.name, num_classes=len(FINDINGS)).to(self.device).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
        paths = (self.paths * (1 + (SKIPPED + n_steps) * self.batch_size // len(self.paths)))[: (SKIPPED + n_steps) * self.batch_size]
        loader = DataLoader(FileDataset(paths, resized=True), batch_size=self.batch_size, num_workers=os.cpu_count() or 1, pin_memory=self.on_gpu)
        start = 0.0
        for number, (images, targets) in enumerate(loader):
            if number == SKIPPED:
                _wait(self.device)
                start = time.perf_counter()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(images.to(self.device)), targets.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(self.device)
        return n_steps * self.batch_size, time.perf_counter() - start

    def where_time_goes(self) -> list[dict[str, Any]]:
        """The step against what its memory traffic alone would take, and the kernels that take longest."""
        step = self.resident_step(False)
        for _ in range(SKIPPED):
            step()
        with _Traffic() as traffic:
            step()
        moved = torch.empty(2**30, dtype=torch.uint8, device=self.device)
        into = torch.empty_like(moved)
        seconds = []
        for _ in range(20):
            _wait(self.device)
            start = time.perf_counter()
            into.copy_(moved)
            _wait(self.device)
            seconds.append(time.perf_counter() - start)
        bandwidth = 2 * moved.numel() / min(seconds)
        floor = traffic.n_bytes / bandwidth
        _, taken = self.repeat(False)
        facts = [
            ("bytes that the operations of a step read and write", traffic.n_bytes / 1e9, "GB"),
            ("bandwidth of a copy on the device", bandwidth / 1e9, "GB/s"),
            ("a step, were it memory traffic alone", 1000 * floor, "ms"),
            ("a step as measured, resident batch", 1000 * taken / self.n_steps, "ms"),
            ("share of the floor in it", floor * self.n_steps / taken, ""),
        ]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(5):
                step()
            _wait(self.device)
        kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in kernels)
        facts += [(f"of device time: {event.key[:80]}", 100 * event.self_device_time_total / total, "%") for event in kernels[:10]]
        title = f"Where the time of {self.name} at {self.pixels} goes"
        return [{"title": title, "facts": [{"name": name, "value": value, "unit": unit} for name, value, unit in facts]}]


class _Watch(pl.Callback):
    """Seconds from after `skipped` steps until after `counted` more."""

    def __init__(self, skipped: int, counted: int):
        self.skipped, self.counted, self.seconds = skipped, counted, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.skipped:
            _wait(pl_module.device)
            self.start = time.perf_counter()
        elif trainer.global_step == self.skipped + self.counted:
            _wait(pl_module.device)
            self.seconds = time.perf_counter() - self.start


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every tensor that an operation takes and gives; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
            self.n_bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, torch.Tensor))
        return out


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
