"""A local page on which a model is tried film by film: findings, operating points, heat map, and what its protocol says against taking it at its word."""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from cxr.config import PageConfig
from cxr.run import RunError
from cxr.run.predicting import Predictor, Told, in_words

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
HEADER = ("Finding", "Score", "Probability", "Threshold", "Call")
WIDTHS = ("28%", "15%", "20%", "22%", "15%")
SIDE = 448  # of the shown film, pixels
NOT_A_DEVICE = "**Not a medical device.** For research: what stands here must not decide about a person."
MAX_FILE = "300mb"  # more than the largest film that is read
# what the browser may load: this page alone
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def serve(config: PageConfig) -> None:
    """Shows the page until Ctrl-C.

    Raises:
        RunError: no trained model is there, the port is taken, or Gradio is not installed.
    """
    # films that were dropped lie here until the page ends, and in no folder that outlives it
    with tempfile.TemporaryDirectory(prefix="cxr-page-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
        try:
            import gradio
        except ImportError as error:
            raise RunError("the page needs Gradio: pip install -e '.[page]', or make install") from error
        logging.getLogger("httpx").setLevel(logging.WARNING)
        predictor = Predictor(config.checkpoint, accelerator=config.accelerator)
        try:
            _, url, _ = make_page(predictor).launch(
                server_name=config.host,
                server_port=config.port,
                app_kwargs={"middleware": [confinement()]},
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # its own would be fetched from another server
                max_file_size=MAX_FILE,
                footer_links=[],
                run_history=False,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise RunError(f"port={config.port}: {error}; name another") from error
        log.info("%s shows the model: %s. Ctrl-C ends it", url, in_words(predictor))
        if not _is_loopback(config.host):
            log.warning("host=%s: whoever reaches this machine can send films to the model and see what it says", config.host)
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # so that the folder is removed
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()


def make_page(predictor: Predictor) -> Any:
    """The page, as Gradio's Blocks."""
    import gradio

    with gradio.Blocks(title="cxr", analytics_enabled=False, delete_cache=(60, 60)) as blocks:
        gradio.Markdown(f"# {predictor.trained.facts['protocol'].get('model', 'A model')}\n\n{NOT_A_DEVICE}")
        with gradio.Row():
            with gradio.Column(scale=2):
                film = gradio.File(label="A frontal chest film: PNG, JPEG or DICOM", file_types=list(SUFFIXES), type="filepath", elem_id="film")
                finding = gradio.Dropdown(predictor.findings, value=predictor.findings[0], label="Heat map of", elem_id="finding")
                seen = gradio.Image(show_label=False, elem_id="seen", interactive=False, buttons=[], height=SIDE)
            with gradio.Column(scale=3):
                said = gradio.Markdown("Drop a film on the left.", elem_id="said")
                table = gradio.Dataframe(
                    headers=list(HEADER), interactive=False, elem_id="findings", max_height=800, column_widths=["28%", "15%", "20%", "22%", "15%"]
                )
        gradio.Markdown(caveats(predictor), elem_id="caveats")

        def look(path: str | None, chosen: str) -> tuple[np.ndarray | None, list[list[str]], str]:
            return told(predictor, path, chosen)

        for event in (film.change, finding.change):
            event(look, [film, finding], [seen, table, said], api_visibility="private")
    return blocks


def told(predictor: Predictor, path: str | None, finding: str) -> tuple[np.ndarray | None, list[list[str]], str]:
    """What the page shows of a film: the film under the heat map of a finding, (SIDE, SIDE, 3) uint8; a row per finding; a sentence.

    Args:
        predictor: the model.
        path: of the film; None where there is none.
        finding: whose heat map it is.
    """
    import cv2

    from cxr.data.png import DecodeError
    from cxr.dicom import MissingPackageError
    from cxr.explain.drawing import overlay

    if path is None:
        return None, [], "Drop a film on the left."
    try:
        findings = predictor.predict(path, heat_maps=[finding])
        film = predictor.centre(predictor.read(Path(path)))
    except (DecodeError, MissingPackageError) as error:
        return None, [], f"This file cannot be read as a film: {error}"
    heat = next(each.heat for each in findings if each.finding == finding)
    assert heat is not None
    called = [each.finding.replace("_", " ") for each in findings if each.call]
    sentence = f"Called: **{', '.join(called)}**." if called else "Called: nothing." if any(each.operating for each in findings) else "Scores only."
    shown = cv2.resize(overlay(film, heat), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return shown, rows(findings), f"{sentence} The film is shown as the network sees it, {predictor.image_size} pixels wide."


def rows(findings: Sequence[Told]) -> list[list[str]]:
    """The table's rows, highest above its threshold first; without thresholds, highest score first."""

    def above(each: Told) -> tuple[bool, float]:
        return (each.operating is not None, each.logit - each.operating["threshold"] if each.operating else each.logit)

    return [
        [
            each.finding.replace("_", " "),
            f"{each.score:.3f}",
            "–" if each.probability is None else f"{each.probability:.3f}",
            "–" if each.operating is None else f"{1 / (1 + np.exp(-each.operating['threshold'])):.3f}",
            "–" if each.call is None else "yes" if each.call else "no",
        ]
        for each in sorted(findings, key=above, reverse=True)
    ]


def caveats(predictor: Predictor) -> str:
    """What the model's protocol says against taking its word, as Markdown."""
    facts = predictor.trained.facts
    protocol, points = facts["protocol"], list(predictor.operating.values())
    lines = [f"This model gives {in_words(predictor)}.", "A score ranks films and is no probability."]
    if points:
        rule, target = points[0]["rule"], points[0].get("target")
        lines.append(
            f"Thresholds were fixed on validation films for a {rule}{'' if target is None else f' of {target:g}'}; on other films they achieve something else."
        )
    if without := [finding.replace("_", " ") for finding in predictor.findings if finding not in predictor.operating]:
        lines.append(f"Without an operating point, for its validation films were too few: {', '.join(without)}.")
    lines.append("It learned from labels that a program read from reports, not from labels of radiologists.")
    lines.append("A heat map shows where the score came from, not why, and a warm spot is no proof of a finding.")
    report = predictor.trained.report
    for name, part in (report or {}).get("reference_sets", {}).items():
        macro = part["macro"]["auroc"]
        if macro and name != "nih_val":
            lines.append(
                f"Mean AUROC on {name}: {macro['value']:.3f} [{macro['lo']:.3f}, {macro['hi']:.3f}], "
                f"findings: {len(part['macro']['findings'])}, films: {part['n_images']:,}."
            )
    lines.append(f"Data {protocol.get('data', 'unknown')}, seed {protocol.get('seed', 'unknown')}, checkpoint {facts['checkpoint_sha256'][:12] or 'unknown'}.")
    return "### Before you believe it\n\n" + "\n".join(f"- {line}" for line in lines)


def confinement() -> Any:
    """Tells the browser to load nothing from elsewhere."""
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
