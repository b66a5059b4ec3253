"""Mirrors model/weights.py: quick answers when the weights are not to be had."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cxr.model.backbone import locate_weights
from cxr.model.weights import HUB_SECONDS, WeightsError, require_weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Points the hub at a port of this machine, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return lambda port: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("check", [require_weights, locate_weights])
@pytest.mark.parametrize("silent", [False, True], ids=["refusing hub", "silent hub"])
def test_a_hub_that_cannot_be_reached_is_said_in_one_line_and_not_waited_for(hub, monkeypatch: pytest.MonkeyPatch, check, silent: bool) -> None:
    assert HUB_SECONDS <= 3
    monkeypatch.setattr("cxr.model.weights.HUB_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()  # it accepts, and never answers
        hub(listener.getsockname()[1])
        with pytest.raises(WeightsError, match=r"^model\.weights=pretrained: .* densenet121 .* cannot be reached .*; use model\.weights=/path"):
            check("densenet121", "pretrained")


def test_a_hub_that_answers_is_enough_whatever_it_answers(hub) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.handle_request, daemon=True).start()
    hub(server.server_port)
    require_weights("densenet121", "pretrained")
    server.server_close()


def test_a_cached_model_needs_no_hub(hub, tmp_path: Path) -> None:
    hub(9)
    (tmp_path / "models--timm--densenet121.ra_in1k").mkdir()
    require_weights("densenet121", "pretrained")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        require_weights("densenet121", str(tmp_path / "absent.safetensors"))
    require_weights("densenet121", "none")
