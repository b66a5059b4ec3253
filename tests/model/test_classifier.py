"""Mirrors model/classifier.py: the losses, metrics and checkpoints of the real module under the real Trainer."""

import functools
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from cxr.model.classifier import Classifier, NotFiniteError
from cxr.stats.ranking import auroc

FINDINGS = ["A", "B", "C", "D"]
N = 60


def films(seed: int = 0, unknown: float = 0.2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (N, 1, 32, 32), dtype=torch.uint8, generator=generator)
    targets = (torch.rand(N, 4, generator=generator) < 0.4).float()
    targets[torch.rand(N, 4, generator=generator) < unknown] = torch.nan
    return {"image": images, "target": targets, "index": torch.arange(N)}


def loader(data: dict[str, torch.Tensor], batch_size: int = 20) -> DataLoader:
    rows = [{key: value[i] for key, value in data.items()} for i in range(N)]
    return DataLoader(rows, batch_size=batch_size)


def classifier(monitored: list[str] | None = None, **changed) -> Classifier:
    torch.manual_seed(0)
    model = {"name": "test_resnet", "drop_rate": 0.0, "drop_path_rate": 0.0, "freeze_epochs": 0, "channels_last": True, "compile": False}
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "layer_decay": 1.0, "warmup_steps": 2, "final_fraction": 0.1, "betas": [0.9, 0.999]}
    return Classifier(
        findings=FINDINGS,
        monitored=monitored or FINDINGS,
        prevalence=[0.4] * 4,
        model=model | changed.pop("model", {}),
        loss={"name": "bce"},
        optim=optim | changed.pop("optim", {}),
        image_size=32,
        seed=0,
        **changed,
    )


def trainer(tmp_path: Path, **changed) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | {"max_epochs": 2} | changed))


def test_validation_auroc_equals_sklearn_and_our_statistics_finding_by_finding(tmp_path: Path) -> None:
    data, module = films(), classifier(monitored=["A", "C", "D"])
    (logged,) = trainer(tmp_path).validate(module, loader(data), verbose=False)
    with torch.no_grad():
        logits = torch.cat([module.eval()(data["image"][i : i + 20]) for i in range(0, N, 20)]).double().numpy()
    areas = []
    for column, finding in enumerate(FINDINGS):
        known = ~torch.isnan(data["target"][:, column]).numpy()
        positive = data["target"][known, column].numpy() == 1
        oracle = roc_auc_score(positive, logits[known, column])
        assert auroc(logits[known, column], positive)[0] == pytest.approx(oracle, abs=1e-12)
        if finding == "B":
            assert "val/auroc/B" not in logged  # not monitored
        else:
            assert logged[f"val/auroc/{finding}"] == pytest.approx(oracle, abs=1e-6)
            areas.append(oracle)
    assert logged["val/auroc_macro"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_the_logged_validation_loss_is_the_mean_over_known_targets(tmp_path: Path) -> None:
    data, module = films(), classifier()
    (logged,) = trainer(tmp_path).validate(module, loader(data, batch_size=7), verbose=False)
    with torch.no_grad():
        logits = module.eval()(data["image"])
    known = ~torch.isnan(data["target"])
    oracle = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], data["target"][known])
    assert logged["val/loss"] == pytest.approx(oracle.item(), rel=1e-5)


def test_pixels_are_normalised_from_uint8_on_the_device_with_the_backbones_own_numbers() -> None:
    module, seen = classifier().eval(), []
    module.net.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = films()["image"][:3]
    module(image)
    torch.testing.assert_close(seen[0], (image.float() / 255 - module.mean) / module.std)


def test_a_checkpoint_rebuilds_itself_without_the_weights_it_started_from(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), start)
    data = films()
    module = classifier(weights=str(start))
    fitted = trainer(tmp_path)
    fitted.fit(module, loader(data), loader(data))
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    start.unlink()
    again = Classifier.load_from_checkpoint(tmp_path / "model.ckpt", map_location="cpu", weights_only=True)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(data["image"]), module.eval()(data["image"]), rtol=0, atol=0)


def test_a_network_that_diverges_is_stopped_and_not_scored(tmp_path: Path) -> None:
    module = classifier()
    module.net.get_classifier().weight.data.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r"240 validation logits are not finite .* Lower optim\.lr"):
        trainer(tmp_path).validate(module, loader(films()), verbose=False)


def test_training_does_not_depend_on_the_random_numbers_drawn_before_it(tmp_path: Path) -> None:
    """Dropout is keyed by the step, so that a resumed run needs no saved random state."""

    def weights(disturbance: int) -> torch.Tensor:
        module = classifier(model={"drop_rate": 0.5})
        torch.manual_seed(disturbance)
        trainer(tmp_path).fit(module, loader(films()))
        return torch.cat([parameter.flatten() for parameter in module.parameters()])

    assert torch.equal(weights(1), weights(2))


def test_a_frozen_backbone_keeps_every_weight_and_statistic_for_its_epochs(tmp_path: Path) -> None:
    module = classifier(model={"freeze_epochs": 1}, optim={"warmup_steps": 0})
    head = {f"fc.{name}" for name, _ in module.net.get_classifier().named_parameters()}
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    trainer(tmp_path, max_epochs=1).fit(module, loader(films()))
    changed = {name for name, value in module.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == head
    module = classifier(model={"freeze_epochs": 1}, optim={"warmup_steps": 0})
    trainer(tmp_path, max_epochs=2).fit(module, loader(films()))
    changed = {name for name, value in module.net.state_dict().items() if not torch.equal(value, before[name])}
    assert {"conv1.0.weight", "bn1.running_mean", *head} <= changed


def test_the_moving_average_is_warmed_up_and_is_what_is_validated(tmp_path: Path) -> None:
    from cxr.model.optim import WarmedUpEMA

    history: list[torch.Tensor] = []

    class Follow(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            history.append(module.net.conv1[0].weight.detach().clone())

    validated: list[torch.Tensor] = []

    class Validated(pl.Callback):
        def on_validation_batch_start(self, trainer, module, *_):
            validated.append(module.net.conv1[0].weight.detach().clone())

    trainer(tmp_path, max_epochs=1, callbacks=[WarmedUpEMA(0.9), Follow(), Validated()]).fit(classifier(), loader(films()), loader(films()))
    average = history[0].clone()
    for step, current in enumerate(history[1:], start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * current
    torch.testing.assert_close(validated[0], average)
    assert not torch.equal(validated[0], history[-1])


def test_compiling_renames_no_weight_and_changes_no_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # all of it but the C++ compiler, which takes minutes
    plain, compiled = classifier(), classifier(model={"compile": True})
    assert list(compiled.state_dict()) == list(plain.state_dict())
    images = films()["image"]
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(images), plain.eval()(images))
    assert compiled.net._compiled_call_impl is not None


def test_the_centre_of_a_film_larger_than_the_input_is_what_is_seen() -> None:
    module = classifier().eval()
    larger = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(module(larger), module(larger[..., 4:36, 4:36].contiguous()))
