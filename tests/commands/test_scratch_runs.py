"""Runs that start from nothing: the vocabulary and the weights are those of the run, wherever it is read."""

import shutil

import numpy as np
import pytest
import tiny_data

from tl_app import backbones, files
from tl_app.assets import Assets
from tl_app.commands import evaluate, inspect_run
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.errors import UserError

pytestmark = pytest.mark.slow
TEXTS = np.array(["the film is good good", "word1 the film is bad"], dtype=object)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run of a small LSTM."""
  root = tmp_path_factory.mktemp("scratch")
  config = Config(
    backbone="lstm.scratch",
    network_width=8,
    dataset="table:" + tiny_data.reviews(root / "reviews.csv", n=48),
    cache_dir=str(root / "cache"),
    epochs=3,
    head_epochs=2,
    learning_rate=1e-2,
    select="fine_tuned",
    frozen_engine="tensorflow",
  )
  train_lib.train_and_evaluate(config, root / "run")
  return root / "run"


def features(path):
  backbone = backbones.load(backbones.resolve(str(path)), Assets(offline=True))
  assert backbone.pretrained and backbone.spec.vocabulary
  return np.array(backbone.network(backbone.preprocess(TEXTS))["features"])


def test_all_stages_train_and_the_export_agrees(run):
  assert files.read_json(run / "metrics.json")["parity"]["label_flips"] == 0
  changes = inspect_run.compare(run)
  assert all(stage.identical == 0 for stage in changes.stages)
  inspect_run.require_agreement(changes)
  assert "good" in (run / "checkpoints" / "vocab.txt").read_text().splitlines()


def test_run_candidate_and_export_are_backbones_with_their_vocabulary(run):
  wanted = features(run)
  for path in (run / "checkpoints" / "fine_tuned", run / "export"):
    np.testing.assert_array_equal(features(path), wanted)
  assert np.abs(features(run / "checkpoints" / "probe") - wanted).max() > 0


def test_a_moved_run_is_evaluated_and_starts_another(run, tmp_path):
  wanted = files.read_json(run / "metrics.json")["test"]["accuracy"]
  shutil.copytree(run, tmp_path / "moved")
  assert evaluate.evaluate(tmp_path / "moved", {}, "")["test"]["accuracy"] == wanted
  config = Config(
    backbone=str(tmp_path / "moved"), dataset=f"table:{run.parent}/reviews.csv", recipe="probe", head_epochs=2
  )
  with pytest.raises(UserError, match="--network_width=16 does nothing for --backbone=.*moved, which has its own"):
    train_lib.train_and_evaluate(Config(**{**vars(config), "network_width": 16}), tmp_path / "other")
  config = Config(**{**vars(config), "export": False})
  train_lib.train_and_evaluate(config, tmp_path / "second")
  np.testing.assert_array_equal(features(tmp_path / "second"), features(run))
