"""Mirrors run/downloading.py: which films a word means, and what is said of the radiologists' labels."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import call

from cxr.cohort.experts import FILES, ExpertError
from cxr.cohort.findings import LabelError
from cxr.config import Data, DownloadConfig
from cxr.run import RunError
from cxr.run.downloading import check_expert_labels, select, select_images


def data(root: Path, labels: bool = True) -> Data:
    return Data(name="cxr14", root=str(root), expert_labels=str(root / "expert_labels") if labels else None)


def column(path: Path, name: str) -> set[str]:
    return set(pd.read_csv(path, dtype=str, index_col=False)[name])


def test_a_word_means_the_films_of_its_list(mini: Path, tmp_path: Path) -> None:
    lists = {name: (mini / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")}
    experts = {name: column(mini / "expert_labels" / file, image) for name, (file, image, _, _) in FILES.items()}
    (tmp_path / "mine.txt").write_text("\n".join(lists["test"][:3]))
    expected = {
        "all": sorted([*lists["train_val"], *lists["test"]]),
        "17": sorted([*lists["train_val"], *lists["test"]])[:17],
        "train_val": sorted(lists["train_val"]),
        "test": sorted(lists["test"]),
        "expert": sorted(set().union(*experts.values())),
        **{name: sorted(images) for name, images in experts.items()},
        str(tmp_path / "mine.txt"): sorted(lists["test"][:3]),
    }
    assert {word: select_images(word, data(mini)) for word in expected} == expected


@pytest.mark.parametrize(("content", "said"), [(b"1.2.840.1\n\xbc", "not a text file"), (b"\n \n", "no film is named in it")])
def test_a_list_for_a_server_that_is_no_list_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    """Found by scripts/fuzz.py: what Python says of bytes that are no text."""
    (tmp_path / "films.txt").write_bytes(content)
    with pytest.raises((LabelError, RunError), match=rf"films\.txt: {said}"):
        select(DownloadConfig(source="dicomweb", images=str(tmp_path / "films.txt")))


def test_the_real_expert_sets_are_4376_films(real: Path) -> None:
    labels = Data(name="cxr14", root=str(real / "data/cxr14_1024"), expert_labels=str(real / "data/google_expert_labels"))
    assert len(select_images("expert", labels)) == 4376
    assert len(select_images("all", labels)) == 112_120


def test_a_word_whose_list_is_not_there_says_where_to_get_it(mini: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"train_val_list\.txt is not there, .*nihcc\.app\.box\.com.*images=/path/to/list\.txt"):
        select_images("all", data(tmp_path))
    with pytest.raises(RunError, match=r"data\.expert_labels=/path/to/labels\. To get the labels: https://.*source=expert_labels"):
        select_images("expert", data(mini, labels=False))
    with pytest.raises(ExpertError, match="expert labels were not found"):
        select_images("expert", data(tmp_path))
    with pytest.raises(RunError, match=r"images=tset: no such list\. Choose expert, .*train_val, test, all, a number"):
        select_images("tset", data(mini))


def test_expert_labels_are_looked_at_file_by_file(mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shutil.copytree(mini / "expert_labels", tmp_path / "expert_labels")
    check_expert_labels(data(tmp_path))
    assert caplog.text.count("another than was published") == 5
    assert "They hold together" in caplog.text
    assert "not comparable" in caplog.text

    caplog.clear()
    (tmp_path / "expert_labels/all_findings_expert_labels/test_labels.csv").unlink()
    with pytest.raises(RunError, match=r"^1 of 5 files are missing in .*#additional_labels"):
        check_expert_labels(data(tmp_path))
    assert "missing; it has 810 rows" in caplog.text


def test_the_real_expert_labels_are_as_published(real: Path) -> None:
    done = call("scripts/download.py", "source=expert_labels", f"data.expert_labels={real / 'data/google_expert_labels'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as published") == 5
    assert "4376 films in all" in done.stdout
