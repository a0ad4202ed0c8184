"""A pretraining that was interrupted continues, and equals one that was not."""

import io
import json
import pathlib
import zipfile

import h5py
import pytest
import tiny_data

from tl_app import files
from tl_app.backbones import saved_backbone
from tl_app.commands import pretrain
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.training.continuing import Callbacks, SavedFit
from tl_app.training.pretraining.clusters import ClustersObjective

pytestmark = pytest.mark.slow


def content(workdir):
  """Returns (metrics without times, lines of the log without times, weights) of a run."""
  metrics = files.read_json(workdir / "metrics.json")
  for name in ("seconds", "peak_rss_mb", "examples_per_second"):
    del metrics[name]
  lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
  weights = {}

  def add(name, item):
    if isinstance(item, h5py.Dataset):
      weights[name] = item[()].tobytes()

  with zipfile.ZipFile(workdir / "backbone" / saved_backbone.KERAS_FILE) as archive:
    h5py.File(io.BytesIO(archive.read("model.weights.h5"))).visititems(add)
  return metrics, [line | {"seconds": 0} for line in lines], weights


def test_it_continues_in_a_round_with_its_clusters(tmp_path, monkeypatch):
  data = tiny_data.colours(tmp_path / "colours", per_class=8)
  # Two rounds of one epoch of three steps.
  flags = {"backbone": "cnn_small.scratch", "network_width": 4, "image_size": 16}
  flags |= {"objective": "clusters", "clusters": 2, "rounds": 2, "epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
  flags |= {"dataset": f"images:{data}", "validation_fraction": 0.2, "cache_dir": str(tmp_path / "cache")}
  whole, run, batches, prepared = tmp_path / "whole", tmp_path / "run", [], []
  pretrain.pretrain(Config(**flags), whole)
  prepare, end = ClustersObjective.prepare, Callbacks.on_train_batch_end

  def counted(self, batch, logs=None):
    batches.append(batch)
    end(self, batch, logs)
    if len(batches) == 5:
      raise KeyboardInterrupt

  monkeypatch.setattr(ClustersObjective, "prepare", lambda *args: prepared.append(1) or prepare(*args))
  monkeypatch.setattr(Callbacks, "on_train_batch_end", counted)
  monkeypatch.setattr(SavedFit, "is_due", lambda self, minutes: len(batches) == 4)
  with pytest.raises(KeyboardInterrupt):
    pretrain.pretrain(Config(**flags), run)
  saved = files.read_json(sorted((run / "resume").iterdir())[-1] / "state.json")["parts"]["fit"]
  assert (saved["phase"], saved["epoch"], saved["batch"]) == ("clusters_2", 0, 1)
  # As a killed process leaves it.
  (run / ".corpus").mkdir()
  image = pathlib.Path(data) / "red/000.png"
  image.rename(tmp_path / "aside.png")
  with pytest.raises(UserError, match="--dataset=images:.*: its examples have changed since the run began"):
    pretrain.pretrain(Config(**flags), run)
  (tmp_path / "aside.png").rename(image)
  pretrain.pretrain(Config(**flags), run)
  assert len(prepared) == 2 and not (run / "resume").exists()
  (metrics, lines, weights), expected = content(run), content(whole)
  assert metrics["improved"] and (metrics, lines, weights) == expected and len(weights) > 40
