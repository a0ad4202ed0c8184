"""What a run leaves: candidates, a run without its export, a moved run; and runs and exports as backbones."""

import json
import shutil

import numpy as np
import pytest
import rest_server
import tiny_data
import tiny_modules

from tl_app import backbones, files
from tl_app.assets import Assets
from tl_app.commands import evaluate, export, finished_run
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.recipes.phase import Phase
from tl_app.serving import handover, parity
from tl_app.training import disk_space

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """A directory with data, a backbone and a run that selected its fine-tuned weights, started there."""
  root = tmp_path_factory.mktemp("project")
  tiny_data.reviews(root / "reviews.csv")
  tiny_modules.bert(root / "bert")
  flags = {"recipe": "full", "epochs": 2, "head_epochs": 3, "learning_rate": 3e-3, "select": "fine_tuned"}
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    config = Config(backbone="./bert", dataset="table:reviews.csv", cache_dir="cache", **flags)
    train_lib.train_and_evaluate(config, "runs/first")
  return root


def first_kernel(backbone):
  return np.asarray(next(v for stage in backbone.stages.values() for v in stage if len(v.shape) == 2))


def load(path):
  return backbones.load(backbones.resolve(str(path)), Assets(offline=True))


def test_runs_candidates_and_exports_start_from_the_fine_tuned_weights(project):
  run, pretrained = project / "runs" / "first", load(project / "bert")
  tuned = [load(path) for path in (run, run / "checkpoints" / "fine_tuned", run / "export")]
  for backbone in tuned:
    assert backbone.feature_size == pretrained.feature_size
    np.testing.assert_array_equal(first_kernel(backbone), first_kernel(tuned[0]))
  assert np.abs(first_kernel(tuned[0]) - first_kernel(pretrained)).max() > 0
  np.testing.assert_array_equal(first_kernel(load(run / "checkpoints" / "probe")), first_kernel(pretrained))


def test_the_disk_space_of_a_run_is_estimated(project):
  run = project / "runs" / "first"
  paths, config, assets = finished_run.opened(run)
  phases = [Phase.from_json(values) for values in files.read_json(paths.plan)["phases"]]
  needed = disk_space.of_training(finished_run.restore(paths, config, assets), phases, config, 100)
  sizes = {"weights": paths.weights, "export": paths.export / "variables"}
  written = {name: sum(file.stat().st_size for file in (path, *path.rglob("*"))) for name, path in sizes.items()}
  written["candidates"] = sum(path.stat().st_size for path in paths.weights.parent.glob("*/weights.npz"))
  # File formats add a few KB to the numbers of this tiny network.
  assert all(needed[name] <= size <= needed[name] + 150_000 for name, size in written.items()), (needed, written)


def test_a_run_that_started_from_another_does_not_need_it(project, tmp_path):
  shutil.copytree(project / "runs" / "first", tmp_path / "first")
  config = Config(
    backbone=str(tmp_path / "first"),
    dataset=f"table:{project}/reviews.csv",
    recipe="probe",
    head_epochs=3,
    export=False,
  )
  metrics = train_lib.train_and_evaluate(config, tmp_path / "second")
  shutil.rmtree(tmp_path / "first")
  assert evaluate.evaluate(tmp_path / "second", {}, "")["test"]["loss"] == pytest.approx(
    metrics["test"]["loss"], abs=1e-5
  )


def test_a_candidate_is_exported_beside_the_selected_model(project, tmp_path):
  run = project / "runs" / "first"
  with pytest.raises(UserError, match="--candidate=probe: .* is for the selected model, fine_tuned; give a directory"):
    export.export(run, "", candidate="probe")
  with pytest.raises(UserError, match="no such candidate; it has averaged, fine_tuned, probe"):
    export.export(run, str(tmp_path / "none"), candidate="none")
  directory, proof, _ = export.export(run, str(tmp_path / "1"), candidate="probe")
  assert proof["label_flips"] == 0 and "candidate\n`probe`" in (directory / handover.CARD).read_text()


def test_a_run_is_found_from_elsewhere_and_after_a_move(project, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  wanted = files.read_json(project / "runs" / "first" / "metrics.json")["test"]["accuracy"]
  assert evaluate.evaluate(project / "runs" / "first", {}, "")["test"]["accuracy"] == wanted
  shutil.copytree(project, tmp_path / "moved")
  run = tmp_path / "moved" / "runs" / "first"
  plan = files.read_json(run / "plan.json")
  files.write_json(run / "plan.json", json.loads(json.dumps(plan).replace(str(project), "/gone/project")))
  with pytest.raises(UserError, match=r"plan\.json was changed or damaged"):
    evaluate.evaluate(run, {}, "")
  (run / "checksums.json").unlink()
  assert evaluate.evaluate(run, {}, "")["test"]["accuracy"] == wanted
  (tmp_path / "moved" / "reviews.csv").unlink()
  with pytest.raises(UserError, match="--dataset=table:reviews.csv, of .*config.json, leads nowhere: .*/gone/project"):
    evaluate.evaluate(run, {}, "")


def test_a_failed_export_leaves_a_measured_run_that_export_finishes(project, tmp_path, monkeypatch):
  config = Config(backbone=str(project / "bert"), dataset=f"table:{project}/reviews.csv", recipe="probe", head_epochs=3)

  def fails(*args, **flags):
    raise OSError(28, "No space left on device", "/full/disk")

  with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
    patch.setattr(parity, "export_and_prove", fails)
    train_lib.train_and_evaluate(config, tmp_path / "run")
  metrics = files.read_json(tmp_path / "run" / "metrics.json")
  assert "parity" not in metrics and (tmp_path / "run" / "predictions_test.csv").is_file()
  assert (tmp_path / "run" / "report.html").is_file() and not (tmp_path / "run" / "export").exists()
  export.export(tmp_path / "run", "")
  assert files.read_json(tmp_path / "run" / "metrics.json")["parity"]["label_flips"] == 0

  # A finished run survives a repetition whose export fails.
  def differs(*args, **flags):
    raise RunFailed("export check")

  with monkeypatch.context() as patch, pytest.raises(RunFailed):
    patch.setattr(parity, "export_and_prove", differs)
    train_lib.train_and_evaluate(config, tmp_path / "run")
  assert (tmp_path / "run" / "export" / "saved_model.pb").is_file()


def test_the_example_request_has_the_example_answer(project):
  directory = project / "runs" / "first" / "export"
  answer = rest_server.check_example(directory)
  assert answer["label"] in ("negative", "positive") and len(answer["probabilities"]) == 2
  readme = (directory / handover.README).read_text()
  assert all(part in readme for part in ("`negative`", "b64", "curl", handover.CARD))
  card = (directory / handover.CARD).read_text()
  metrics = files.read_json(directory.parent / "metrics.json")
  accuracy = metrics["test"]["accuracy"]
  assert all(part in card for part in ("95 % interval", f"{accuracy:.3f}", "table:reviews.csv", "Where does it fail?"))
  assert all("==" in line for line in (directory / handover.REQUIREMENTS).read_text().splitlines())
