"""The floors of the house, read from the imports themselves: what may know of what, and what the training path may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.config import PROJECT

SOURCE = PROJECT / "src" / "cxr"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = ("cohort", "stats", "data", "model", "report")

# room or file -> the rooms and files of ours that it may import
MAY_IMPORT = {
    "atomic": set(),
    "failures": set(),
    "job": set(),
    "process": set(),
    "dicom": set(),
    "cohort": {"dicom"},
    "stats": set(),
    "data": {"atomic", "dicom"},
    "sources": {"atomic"},
    "resume": {"atomic"},
    "config": {"resume", "failures", "job", "process"},
    "tracking": {"atomic"},
    "mini": {"cohort"},
    "mini_external": {"cohort", "dicom", "mini"},
    "model": {"stats", "atomic"},
    "explain": {"model", "data"},
    "report": {"cohort", "stats", "atomic"},
    "run": {*ROOMS, "dicom", "explain", "sources", "mini", "config", "tracking", "atomic", "failures", "job", "process", "resume", "trials"},
    "trials": {"config", "dicom", "data", "cohort", "mini", "mini_external", "model", "report", "resume", "tracking"},
    "benchmark": {"process", "dicom", "data", "model", "stats", "report", "run"},
}
# library -> the rooms and files that alone may import it
ONLY_IN = {
    "wandb": {"tracking"},
    "hydra": {"run", "config"},
    "omegaconf": {"run", "config"},
    "torchmetrics": {"model", "benchmark"},
    "albumentations": {"data", "benchmark"},
    "timm": {"model", "benchmark"},
    "matplotlib": {"report", "benchmark"},
    "pyarrow": {"report"},
    "sklearn": {"report", "benchmark"},
    "numba": {"data"},
    "isal": {"data", "benchmark"},
    "pydicom": {"dicom", "sources"},
    "optuna": {"run"},
    "gradio": {"run"},
    "pytorch_grad_cam": {"explain"},
    "onnxruntime": {"model"},
    "google": {"sources"},
    "dicomweb_client": {"sources"},
}
# the training path runs on a bare GPU node
HOT_PATH = ("cxr.data.datamodule", "cxr.model.classifier", "cxr.model.pace", "cxr.stats.ranking", "cxr.benchmark.loader", "cxr.benchmark.step")
NOT_ON_HOT_PATH = ("pandas", "pyarrow", "sklearn", "hydra", "omegaconf", "wandb", "numba", "isal", "pydicom")


def imports(path: Path) -> set[str]:
    """Every module that the file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def place(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_floor_allows(path: Path) -> None:
    here = place(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("cxr.") and name.split(".")[1] in MAY_IMPORT}
    if here != "__init__":
        assert ours <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(path)}
    for library, places in ONLY_IN.items():
        assert library not in libraries or place(path) in places
    if place(path) in ("cohort", "stats", "report"):
        assert not libraries & {"torch", "pytorch_lightning", "torchvision"}


def test_there_is_no_utils_drawer() -> None:
    assert not [path for path in FILES if any(word in path.stem for word in ("util", "helper", "common", "misc"))]


def loaded_by(code: str) -> set[str]:
    told = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in told.stdout.split()}


@pytest.mark.parametrize("module", ["cxr.report.evaluate, cxr.report.figures, cxr.report.render", "cxr.run.study, cxr.run.reporting, cxr.run.training"])
def test_a_report_never_loads_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"import {module}")


def test_the_training_path_needs_no_tables_no_configuration_and_no_tracking() -> None:
    blocked = "".join(f"sys.modules['{name}'] = None\n" for name in NOT_ON_HOT_PATH)
    loaded_by(f"import sys\n{blocked}import {', '.join(HOT_PATH)}")


def test_the_fast_decoder_is_loaded_by_a_film_and_not_by_an_import() -> None:
    # the rooms of data and not the whole path: Lightning's fsspec loads isal wherever it finds it
    assert not loaded_by("import cxr.data.store, cxr.data.decode, cxr.data.png") & {"numba", "llvmlite", "isal", "pydicom"}


def test_entry_points_are_thin() -> None:
    for path in [PROJECT / "train.py", *(PROJECT / "scripts").glob("*.py")]:
        assert len(path.read_text().splitlines()) < 40, path
        assert {name.split(".")[0] for name in imports(path)} <= {"cxr", "sys"}, path


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", [*FILES, PROJECT / "train.py"], ids=lambda path: path.name)
def test_nothing_runs_what_a_file_or_a_user_says(path: Path) -> None:
    """Files are data: no pickle, no YAML with objects, no shell, no text taken for code."""
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "dill", "joblib", "marshal", "shelve"}
    for call in calls(path):
        name, given = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert name not in ("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "yaml.load", "yaml.unsafe_load", "pd.read_pickle", "Markup"), path
        assert given.get("shell") != "True"
        if name == "torch.load":
            assert given["weights_only"] == "True"
        if name == "np.load":
            assert given["allow_pickle"] == "False"
        if name.endswith(("trainer.fit", "trainer.validate", "trainer.test")) and "ckpt_path" in given:
            assert given["weights_only"] == "True"
    for template in SOURCE.rglob("*.html"):
        assert not any(word in template.read_text() for word in ("|safe", "| safe", "autoescape false"))
