"""docs/python.md: every example of the page and of the docstrings runs."""

import inspect
import pathlib
import re
import shutil
import textwrap

import nbformat
import pytest
import tiny_modules

import tl_app
from tl_app import files
from tl_app.api import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
FUNCTIONS = [getattr(tl_app, name) for name in ("fit", "load", "pretrain_backbone", "find_faults", "stages")] + [
  tl_app.backbones.__call__
]
FUNCTIONS += [method for name, method in inspect.getmembers(Run, inspect.isfunction) if not name.startswith("_")]


def examples(function):
  """Returns the code below "Example:" in a docstring."""
  return [
    textwrap.dedent(code).strip()
    for code in re.findall(r"Example:\n((?:  .*\n?|\n)+)", inspect.getdoc(function) + "\n")
  ]


def test_public_functions_have_docstrings_and_stand_on_the_page():
  for function in FUNCTIONS:
    name = "backbones" if function.__name__ == "__call__" else function.__name__
    assert inspect.getdoc(function) and f"{name}(" in PAGE or f"`{name}`" in PAGE, name
  assert sum(map(len, map(examples, FUNCTIONS))) >= 8


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  cells = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4).cells
  table = next(cell.source for cell in cells if cell.id == "table").partition("\n")[2]
  for name in ("messages", "more", "new"):
    (tmp_path / f"{name}.csv").write_text(table + "\n")
  (tmp_path / "mails.txt").write_text("\n".join(table.splitlines()[1:]) + "\n")
  tiny_modules.strings(tmp_path / "strings")
  blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
  others = [code for function in FUNCTIONS for code in examples(function) if code not in PAGE]
  space = {}
  for code in [*blocks, *others]:
    # One export is enough: that of run.export().
    runs = code.replace("minilm_l6.pypi", "strings").replace('recipe="probe")', 'recipe="probe", export=False)')
    runs = runs.replace("epochs=1", "epochs=1, network_width=8").replace("epochs=2", "epochs=2, export=False")
    exec(compile(runs, code.partition("\n")[0], "exec"), space)
  assert "held-out" in str(space["pretrained"]) and "<th" in space["pretrained"]._repr_html_()
  assert space["tuned"].workdir == pathlib.Path("runs/pretrained") and space["tuned"].metrics["test"]["num_examples"]
  run = space["run"]
  assert run.workdir == pathlib.Path("runs/messages") and not pathlib.Path("runs/message").exists()
  assert pathlib.Path("training.png").stat().st_size > 10_000 < pathlib.Path("confusions.png").stat().st_size
  assert run.metrics["parity"]["label_flips"] == 0
  answers = run.predict(["I lost my card", "Where is my money?"])
  assert list(answers) == ["input", "label", "score", "next_label", "next_score", "prediction_set", "error"]
  assert list(answers.input) == ["I lost my card", "Where is my money?"] and (answers.score > answers.next_score).all()
  with pytest.raises(tl_app.UserError, match="no file or directory 'I lost my card': give a list of inputs, or a path"):
    run.predict("I lost my card")
  assert len(run.predict("new.csv")) == len(table.splitlines()) - 1
  test = files.read_json(run.workdir / "metrics.json")["test"]
  assert run.evaluate()["test"]["confusion_matrix"] == test["confusion_matrix"]
  assert run.changes().identical.tolist() == run.changes().variables.tolist()
  assert space["faults"].attrs["num_examples"] == len(table.splitlines()) - 1
  shutil.rmtree("runs/messages/export")
  with pytest.raises(tl_app.UserError, match="runs/messages has no export"):
    tl_app.load("runs/messages").predict(["one"])
