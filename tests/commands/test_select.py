"""Backbones are ranked by probes on frozen features, without the test split."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones.table import SPECS
from tl_app.commands import best_backbone, select, train
from tl_app.config import Config
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.data.splitting.splits import Splits
from tl_app.errors import RunFailed, UserError
from tl_app.report import selection_page


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
  """Returns (result, directory) of a ranking of a network that sees colours, one with zeros, and a broken one."""
  root = tmp_path_factory.mktemp("select")
  data = tiny_data.colours(root / "colours", per_class=16)
  tiny_modules.image_constant(root / "sees")
  spec = tf.TensorSpec([None, 16, 16, 3], tf.float32)
  dark = lambda module, images: 0.0 * tf.reduce_mean(images, [1, 2]) @ module.stem @ module.top  # noqa: E731
  tiny_modules.custom(root / "blind", dark, spec)
  (root / "broken").mkdir()
  (root / "broken/saved_model.pb").write_bytes(b"no module")
  config = Config(dataset=f"images:{data}", cache_dir=str(root / "cache"), workdir=str(root / "out"))
  names = ",".join(str(root / name) for name in ("blind", "sees", "broken"))
  return select.select(config, names, 30), root


def test_the_network_that_sees_is_first(ranked):
  result, root = ranked
  rows = result["backbones"]
  assert [row["name"] for row in rows] == [str(root / "sees"), str(root / "blind")]
  assert rows[0]["score"] > 0.9 > rows[1]["score"]
  assert rows[0]["p_value"] == 1.0 and rows[1]["p_value"] < 0.05
  for name in ("neighbours", "logme", "h_score"):
    assert rows[0][name] > rows[1][name]
  assert rows[0]["latency_ms"] > 0 and rows[1]["parameters"] == 3 * 8 + 8 * 8
  assert result["best"] == result["quick"] == str(root / "sees") and result["examples"] == 30
  assert result["commands"][result["best"]].startswith(f"python -m tl_app.train --backbone={root}/sees --cache_dir=")


def test_a_backbone_that_fails_is_named(ranked):
  result, root = ranked
  (failed,) = result["failed"]
  assert failed["name"] == str(root / "broken") and failed["failure"] and "\n" not in failed["failure"]


def test_page_table_and_lines(ranked):
  result, root = ranked
  assert json.loads((root / "out/selection.json").read_text()) == json.loads(json.dumps(result))
  page = (root / "out/selection.html").read_text()
  assert page.count("<picture>") == 1 and "<script" not in page and str(root / "broken") in page
  lines = selection_page.table(result).splitlines()
  assert len(lines) == 3 and lines[1].startswith(str(root / "sees"))
  assert len({line.index("licence") for line in lines[:1]}) == 1
  shown = selection_page.lines(result, str(root / "out"))
  assert result["commands"][result["best"]] in shown and "failed" in shown


def test_the_preset_best_takes_the_best_backbone_in_the_cache(tmp_path, ranked, monkeypatch):
  _, root = ranked
  blind, sees = (str(root / name) for name in ("blind", "sees"))
  monkeypatch.setattr(select, "of_modality", lambda modality: [backbones.resolve(blind), backbones.resolve(sees)])
  flags = {"preset": "best", "recipe": "probe", "export": False, "cache_dir": str(root / "cache")}
  config = Config(dataset=f"images:{root}/colours", workdir=str(tmp_path), **flags)
  metrics = train.train_and_evaluate(config, tmp_path)
  assert metrics["test"]["accuracy"] > 0.9
  scores = json.loads((tmp_path / "plan.json").read_text())["backbone_choice"]["scores"]
  assert scores[sees] > 0.9 > scores[blind]
  # A run that continues, or is repeated, compares nothing again.
  monkeypatch.setattr(select, "ranked", None)
  assert best_backbone.named(config) == (dataclasses.replace(config, backbone=sees), {})
  given = dataclasses.replace(config, backbone="cnn_small.scratch")
  assert best_backbone.named(given) == (given, {})


def test_nothing_to_rank(tmp_path, ranked):
  _, root = ranked
  config = Config(dataset=f"images:{root}/colours", cache_dir=str(tmp_path), offline=True)
  with pytest.raises(UserError, match="no backbone for images is in the cache"):
    select.select(dataclasses.replace(config, offline=True))
  with pytest.raises(UserError, match="did you mean efficientnet_lite0"):
    select.select(config, "efficientnet_lite")
  with pytest.raises(RunFailed, match="no backbone could be measured"):
    select.select(config, str(root / "broken"))


def test_what_is_cached_needs_no_download(tmp_path, ranked, monkeypatch):
  _, root = ranked
  assets = Assets(cache_dir=str(tmp_path))
  assert backbones.is_cached(backbones.resolve(str(root / "sees")), assets)
  monkeypatch.setenv("KERAS_HOME", str(tmp_path))
  for kind in ("applications", "bert_safetensors", "efficientnet_lite_torch", "bert_q4"):
    spec = next(spec for spec in SPECS if spec.kind == kind)
    assert not backbones.is_cached(spec, assets)
  assert not assets.uses


def test_fewer_examples_of_each_class():
  labels = strings(["a"] * 40 + ["b"] * 4 + ["c"] * 6 + ["a"] * 45 + ["b"] * 5)
  examples = Examples(labels, Inputs.of("text", labels), labels, labels, labels, [], "texts")
  split = Splits(examples, np.arange(50), np.arange(50, 100), np.empty(0, np.int64), [], {})
  kept = select._limited(split, 24, 0)
  assert len(kept.train) == len(kept.validation) == 12
  assert {name: sum(labels[kept.train] == name) for name in "abc"} == {"a": 4, "b": 4, "c": 4}
  assert {name: sum(labels[kept.validation] == name) for name in "ab"} == {"a": 7, "b": 5}
  assert list(kept.train) == sorted(kept.train) and max(kept.train) < 50 <= min(kept.validation)
  assert select._limited(split, 0, 0) is split and select._limited(split, 100, 0) is split


@pytest.mark.parametrize("run", [True, False])
def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, run):
  there = tmp_path / "there"
  if run:
    there.mkdir()
    (there / "config.json").write_text("{}")
  else:
    there.write_text("")
  config = Config(dataset="images:nowhere", workdir=str(there if run else there / "inside"))
  with pytest.raises(UserError, match="holds a run" if run else "there is a file; choose another directory"):
    select.select(config)
