"""Mirrors run/page.py: the page in a real browser, by the real command."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from commands import absent, call, free_port

from cxr.config import PROJECT
from cxr.run.page import caveats, rows, told
from cxr.run.predicting import Predictor

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def film(finished_run: Path, mini: Path) -> Path:
    predictions = pd.read_parquet(finished_run / "predictions.parquet")
    return mini / "images" / predictions[predictions.split == "test"].image_id.iloc[0]


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its address, and the folder for temporary files of the process; afterwards it must have ended well and left nothing there."""
    temporary, port = tmp_path_factory.mktemp("temporary"), free_port()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/page.py"), f"checkpoint={finished_run}", f"port={port}", "accelerator=cpu"],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = list[str]()
    for line in process.stdout:
        lines.append(line)
        if "shows the model" in line:
            break
    assert process.poll() is None, "".join(lines)
    yield f"http://127.0.0.1:{port}/", temporary
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert not list(temporary.glob("cxr-page-*")), "films that were dropped outlive the page"


def test_a_film_is_dropped_and_the_browser_shows_what_the_model_says_and_asks_nobody_else(page: tuple[str, Path], finished_run: Path, film: Path) -> None:
    if CHROMIUM is None:
        absent("BROWSER ABSENT: install Debian's chromium to see the local page in it")
    from playwright.sync_api import sync_playwright

    url, temporary = page
    asked = list[str]()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page()
        view.on("request", lambda request: asked.append(request.url))
        view.goto(url, timeout=120_000)
        view.set_input_files("#film input[type=file]", film, timeout=120_000)
        view.wait_for_selector("#seen img", timeout=120_000)
        view.wait_for_function("document.querySelector('#said').innerText.includes('Call')", timeout=60_000)
        shown, said, warned = (view.inner_text(f"#{part}") for part in ("findings", "said", "caveats"))
        assert list(temporary.rglob(film.name)), "the film was not where this test looks whether it is removed"
        browser.close()
    for each in Predictor(finished_run, accelerator="cpu").predict(film):
        assert each.finding.replace("_", " ") in shown
        assert f"{each.score:.3f}" in shown
        assert (each.finding.replace("_", " ") in said) == bool(each.call)
    assert "text-mined" in warned
    assert "Mean AUROC on all_findings_test" in warned
    assert len(asked) > 10
    assert all(address.startswith((url, "data:", "blob:")) for address in asked), asked


def test_what_the_page_tells(finished_run: Path, film: Path, tmp_path: Path) -> None:
    predictor = Predictor(finished_run, accelerator="cpu")
    picture, table, sentence = told(predictor, str(film), "Effusion")
    assert picture.shape == (448, 448, 3)
    assert len(table) == 14
    direct = predictor.predict(film)
    assert rows(direct) == table
    margins = [each.logit - each.operating["threshold"] for each in direct if each.operating]
    assert [row[4] for row in table[: len(margins)]] == ["yes"] * sum(margin >= 0 for margin in margins) + ["no"] * sum(margin < 0 for margin in margins)
    (tmp_path / "words.png").write_text("no film")
    picture, table, sentence = told(predictor, str(tmp_path / "words.png"), "Effusion")
    assert (picture, table) == (None, [])
    assert "cannot be read as a film" in sentence
    assert "specificity of 0.9" in caveats(predictor)


def test_a_page_without_a_model_or_a_port_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    nothing = call("scripts/page.py", f"checkpoint={tmp_path}")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: ")
    wrong = call("scripts/page.py", f"checkpoint={finished_run}", "port=0")
    assert wrong.returncode == 1
    assert "port=0: it must lie between 1 and 65535" in wrong.stderr
