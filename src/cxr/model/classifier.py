"""The one LightningModule: uint8 films in, one logit per finding out."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torchmetrics.classification import MultilabelAUROC

from cxr.model.backbone import create_backbone, grey_mean_std, set_prevalence
from cxr.model.checkpoint import read_checkpoint
from cxr.model.losses import make_loss, masked_sum
from cxr.model.optim import make_optimizer, make_schedule, parameter_groups

log = logging.getLogger(__name__)


class NotFiniteError(ValueError):
    """The network gave a value that is no number; ranking it would be a silent wrong AUROC.

    Attributes:
        films: of the first batch whose loss was none, as indices into the training films; empty where that is not known.
    """

    def __init__(self, message: str, films: list[int] | None = None):
        super().__init__(message)
        self.films = films or []


class Classifier(pl.LightningModule):
    """Trains a backbone on text-mined findings and watches its validation AUROC.

    Everything it takes is strings and numbers, so that a checkpoint rebuilds it by itself.

    Args:
        findings: the F findings, in the order of the targets' columns.
        monitored: those of them with both classes in the validation set; their mean AUROC chooses the checkpoint.
        prevalence: (F,) of the training films.
        model: name, drop_rate, drop_path_rate, freeze_epochs, channels_last, compile.
        loss: name and its parameters.
        optim: name, lr, weight_decay, layer_decay, warmup_steps, final_fraction, and the optimiser's own.
        image_size: side of the input in pixels.
        seed: of dropout and stochastic depth.
        total_steps: of the optimiser in the whole training, for the schedule. None asks the Trainer; but that makes it set up its loaders before
            it reads a checkpoint, and a training that goes on then begins its epoch again.
        max_nonfinite_steps: so many steps in a row may have a loss that is no finite number; then the training stops.
        weights: see `create_backbone`; not kept, for a checkpoint brings its own.
    """

    def __init__(
        self,
        *,
        findings: list[str],
        monitored: list[str],
        prevalence: list[float],
        model: dict[str, Any],
        loss: dict[str, Any],
        optim: dict[str, Any],
        image_size: int,
        seed: int,
        total_steps: int | None = None,
        max_nonfinite_steps: int = 3,
        weights: str = "none",
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["weights"])
        # of fewer films than processes some have none to predict; for validation the loader refuses it
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.net = create_backbone(
            model["name"],
            n_findings=len(findings),
            image_size=image_size,
            drop_rate=model["drop_rate"],
            drop_path_rate=model["drop_path_rate"],
            weights=weights,
        )
        set_prevalence(self.net, torch.tensor(prevalence))
        if model["channels_last"]:
            self.net.to(memory_format=torch.channels_last)
        if model["compile"]:
            self.net.compile()  # in place, so that checkpoint keys keep their names
        self.mean, self.std = grey_mean_std(self.net)
        self.loss = make_loss(loss["name"], torch.tensor(prevalence), **{key: value for key, value in loss.items() if key != "name"})
        self.n_bad: torch.Tensor | None = None
        self.columns = [findings.index(finding) for finding in monitored]
        # exact (thresholds=None): binned AUROC is off by 4e-4 and slower
        self.auroc = MultilabelAUROC(num_labels=max(2, len(monitored)), average=None, thresholds=None, ignore_index=-1, validate_args=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) uint8 to (B, F) float32 logits; the centre of larger films is cut out, and the float picture exists on the device only."""
        return self.net(self._pixels(images)).float()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) uint8 to (B, D) float32: what the last layer is given."""
        return self.net.forward_head(self.net.forward_features(self._pixels(images)), pre_logits=True).flatten(1).float()

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        side = self.hparams.image_size
        at = (images.shape[-1] - side) // 2
        return (images[..., at : at + side, at : at + side].to(torch.float32) / 255 - self.mean) / self.std

    # training

    def on_train_start(self) -> None:
        self._freeze_or_not()  # a training that goes on within an epoch does not start one

    def on_train_epoch_start(self) -> None:
        self._freeze_or_not()

    def _freeze_or_not(self) -> None:
        if self.current_epoch < self.hparams.model["freeze_epochs"]:
            # a learning rate of zero stops the weights, this stops BatchNorm's running statistics
            self.net.eval()
            self.net.get_classifier().train()
        else:
            self.net.train()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # dropout depends on the step, not on what ran before it: a resumed run needs no saved random state
        torch.manual_seed(hash((self.hparams.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        total, n_known = masked_sum(self.loss, self(batch["image"]), batch["target"])
        total_everywhere, n_known_everywhere = self.all_gather(torch.stack([total.detach(), n_known])).reshape(-1, 2).sum(0)
        n_known_everywhere = n_known_everywhere.clamp_min(1)
        # DDP averages the gradients of the processes; this makes that the mean over the known targets of the whole batch
        loss = total * self.trainer.world_size / n_known_everywhere
        self.log("train/loss", total_everywhere / n_known_everywhere, on_step=True, on_epoch=False)  # no prog_bar: see PaceBar
        self._watch_loss(total_everywhere, batch["index"])
        return loss

    def _watch_loss(self, total: torch.Tensor, index: torch.Tensor) -> None:
        """Counts losses in a row that are no finite numbers, and keeps the films of the first; on the device, for to look would be to wait."""
        if self.n_bad is None:
            self.n_bad, self.bad_films = torch.zeros((), dtype=torch.int64, device=self.device), torch.full_like(index, -1)
        self.n_bad = (self.n_bad + 1) * ~torch.isfinite(total)
        self.bad_films = torch.where(self.n_bad == 1, index, self.bad_films)

    def is_sound(self) -> bool:
        """Whether the last loss was a finite number; of a network that gave another, no checkpoint is worth keeping."""
        return self.n_bad is None or int(self.n_bad) == 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer, last = self.trainer, self.trainer.is_last_batch
        logging_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and trainer.global_step % trainer.log_every_n_steps == 0
        if self.n_bad is None or not (last or logging_step):
            return
        n_bad = int(self.n_bad)
        # at the end of an epoch validation would fail, and say less
        if n_bad >= (1 if last else self.hparams.max_nonfinite_steps):
            films = self.all_gather(self.bad_films).flatten().tolist()
            raise NotFiniteError(f"the training loss was no finite number for {n_bad} step{'s' * (n_bad > 1)}, up to step {trainer.global_step}", films)

    def on_train_epoch_end(self) -> None:
        # validation has run by now
        seen = {name: float(value) for name, value in self.trainer.callback_metrics.items() if name in ("train/loss", "val/loss", "val/auroc_macro")}
        if self.trainer.is_global_zero:
            told = "  ".join(f"{name} {value:.4f}" for name, value in seen.items())
            log.info("epoch %d of %d  %s", self.current_epoch + 1, self.trainer.max_epochs, told)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optim = self.hparams.optim
        groups = parameter_groups(self.net, lr=optim["lr"], weight_decay=optim["weight_decay"], layer_decay=optim["layer_decay"])
        optimizer = make_optimizer(
            optim["name"], groups, betas=optim.get("betas"), momentum=optim.get("momentum", 0.0), fused=self.trainer.precision != "16-mixed"
        )
        total = self.hparams.total_steps or int(self.trainer.estimated_stepping_batches)
        frozen = total * self.hparams.model["freeze_epochs"] // max(1, self.trainer.max_epochs or 1)
        schedule = make_schedule(optimizer, total_steps=total, warmup_steps=optim["warmup_steps"], frozen_steps=frozen, final_fraction=optim["final_fraction"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # validation

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(3, device=self.device)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        logits, targets = self(batch["image"]), batch["target"]
        total, n_known = masked_sum(self.loss, logits, targets)
        self.sums += torch.stack([total, n_known, (~torch.isfinite(logits)).sum()])
        # probabilities, float32, unknown as -1: torchmetrics would guess a sigmoid per batch, and score a NaN without a word
        known = torch.where(torch.isnan(targets), -1, targets).long()
        self.auroc.update(torch.sigmoid(logits)[:, self.columns], known[:, self.columns])

    def on_validation_epoch_end(self) -> None:
        total, n_known, n_bad = self.all_gather(self.sums).reshape(-1, 3).sum(0)
        if n_bad:
            raise NotFiniteError(
                f"{int(n_bad)} validation logits are not finite in epoch {self.current_epoch}: the training diverged."
                " Lower optim.lr, or use trainer.precision=bf16-mixed instead of 16-mixed."
            )
        per_finding = self.auroc.compute()
        self.auroc.reset()
        values = {f"val/auroc/{finding}": value for finding, value in zip(self.hparams.monitored, per_finding, strict=True)}
        self.log_dict(values)
        self.log("val/auroc_macro", per_finding.mean())
        self.log("val/loss", total / n_known)

    # prediction

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["index"].cpu(), self(batch["image"]).float().cpu()


def load_classifier(checkpoint: Path, *, may_compile: bool = True) -> Classifier:
    """The classifier of a checkpoint, on the processor.

    Args:
        checkpoint: the file.
        may_compile: where the run did so; a compiled network cannot be looked into.

    Raises:
        CheckpointError: it is none.
    """
    content = read_checkpoint(checkpoint)
    settings = content["hyper_parameters"]
    classifier = Classifier(**{**settings, "model": {**settings["model"], "compile": settings["model"]["compile"] and may_compile}})
    classifier.load_state_dict(content["state_dict"])
    return classifier
