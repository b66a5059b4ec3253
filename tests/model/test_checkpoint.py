"""Mirrors model/checkpoint.py: checkpoints are data, appear whole, and a damaged one is noticed."""

import io
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cxr.model.checkpoint import BEST, PREVIOUS, RESUME, CheckpointError, CheckpointFiles, find_checkpoint, read_checkpoint


def content(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {"state_dict": {"net.weight": torch.randn(30, 7, generator=generator), "other": torch.ones(2)}, "global_step": step, "epoch": 0}


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(tmp_path / "model.safetensors", {"model": "test", "findings": ["A", "B"]})


def flip(path: Path, at: int) -> None:
    spoiled = bytearray(path.read_bytes())
    spoiled[at] ^= 1
    path.write_bytes(spoiled)


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path, files: CheckpointFiles) -> None:
    assert find_checkpoint(tmp_path / "nothing") is None
    for step in (1, 2, 3):
        files.save_checkpoint(content(step), tmp_path / RESUME)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RESUME, PREVIOUS]
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found["global_step"] == 3
    assert torch.equal(found["state_dict"]["net.weight"], content(3)["state_dict"]["net.weight"])
    assert read_checkpoint(tmp_path / PREVIOUS)["global_step"] == 2


def test_every_bit_of_the_weights_is_watched(tmp_path: Path, files: CheckpointFiles) -> None:
    files.save_checkpoint(content(1), tmp_path / RESUME)
    whole = (tmp_path / RESUME).read_bytes()
    at = whole.index(content(1)["state_dict"]["net.weight"].numpy().tobytes())
    for offset in (0, 100, 30 * 7 * 4 - 1):
        (tmp_path / RESUME).write_bytes(whole)
        flip(tmp_path / RESUME, at + offset)
        with pytest.raises(CheckpointError, match=r"wrong checksum|not a whole checkpoint"):
            read_checkpoint(tmp_path / RESUME)


def test_a_damaged_newest_falls_back_to_the_one_before_with_a_warning(tmp_path: Path, files: CheckpointFiles, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        files.save_checkpoint(content(step), tmp_path / RESUME)
    (tmp_path / RESUME).write_bytes((tmp_path / RESUME).read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        found = find_checkpoint(tmp_path)
    assert found is not None
    assert found["global_step"] == 1
    assert "Going on from the one before" in caplog.text
    # the damaged one is never taken for the one before
    files.save_checkpoint(content(5), tmp_path / RESUME)
    assert read_checkpoint(tmp_path / PREVIOUS)["global_step"] == 1


def test_when_all_are_damaged_nothing_is_guessed(tmp_path: Path, files: CheckpointFiles) -> None:
    files.save_checkpoint(content(1), tmp_path / RESUME)
    (tmp_path / RESUME).write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="there is no other"):
        find_checkpoint(tmp_path)
    files.save_checkpoint(content(2), tmp_path / RESUME)
    (tmp_path / RESUME).write_bytes(b"")
    with pytest.raises(CheckpointError, match="both checkpoints are damaged"):
        find_checkpoint(tmp_path)


class Innocent:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"state_dict": {}, "extra": Innocent(ran)}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="could run code"):
        read_checkpoint(tmp_path / "evil.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"state_dict": Innocent(ran)}))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_checkpoint(tmp_path / "bare.ckpt")
    assert not ran.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)  # the trap works
    assert ran.exists()


def test_a_packed_archive_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="not a checkpoint of torch"):
        read_checkpoint(tmp_path / "bomb.ckpt")


def test_beside_the_best_lie_its_weights_alone_the_same_bytes_every_time(tmp_path: Path, files: CheckpointFiles) -> None:
    files.save_checkpoint(content(1), tmp_path / BEST)
    first = (tmp_path / "model.safetensors").read_bytes()
    files.save_checkpoint(content(1), tmp_path / BEST)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert list(opened.keys()) == ["weight"]
        assert json.loads(opened.metadata()["cxr"]) == {"model": "test", "findings": ["A", "B"]}
        assert torch.equal(opened.get_tensor("weight"), content(1)["state_dict"]["net.weight"])


def test_something_else_that_torch_saved_is_no_checkpoint(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save([1, 2, 3], buffer)
    (tmp_path / "list.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
        read_checkpoint(tmp_path / "list.ckpt")
