"""--pooling=auto and --pair_encoding=auto take what probes on frozen features show to be better, and say so."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_modules

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import saved_model
from tl_app.backbones.spec import BackboneSpec
from tl_app.commands import feature_choices, finished_run, loading, train
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.workdir import Record, Workdir

DEVICES = devices_lib.make("single", 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Returns a directory with a BERT whose pooler is blind to words, and texts that one word decides."""
  root = tmp_path_factory.mktemp("choices")
  module = tiny_modules._Bert(tiny_modules._vocabulary(root / "bert"), 2, False, True)
  module.pooler.assign(tf.zeros_like(module.pooler))
  ids = [tf.TensorSpec([None, None], tf.int32, name=name) for name in tiny_modules.INPUTS]
  for training in (True, False):
    module.__call__.get_concrete_function(dict(zip(tiny_modules.INPUTS, ids)), training)
  tiny_modules._save(module, root / "bert")
  tiny_data.reviews(root / "reviews.csv", 120)
  return root


def decided(world, tmp_path, spec=None, **flags):
  """Returns (config, record) after the choices."""
  config = Config(
    **{"backbone": str(world / "bert"), "dataset": f"table:{world}/reviews.csv", "cache_dir": str(tmp_path)} | flags
  )
  assets = Assets.of(config)
  split, task, _ = loading.examples(config, assets)
  record = Record(Workdir(tmp_path))
  spec = spec or backbones.resolve(config.backbone)
  found = feature_choices.decided(config, spec, split, task, DEVICES, record)
  record.write_plan({})
  return found, finished_run.workdir_lib.read_plan(record.paths)


def test_a_blind_pooler_is_not_taken(world, tmp_path, caplog):
  with caplog.at_level("INFO"):
    config, plan = decided(world, tmp_path)
  assert config.pooling.removesuffix("_l2") in ("mean", "cls", "last4")
  scores = plan["feature_choices"]["scores"]
  assert set(scores) == {name + end for name in ("mean", "cls", "pooler", "last4") for end in ("", "_l2")}
  assert scores[config.pooling] == max(scores.values()) > scores["pooler"] + 0.2
  assert f"--pooling=auto takes {config.pooling}: accuracy of a cross-validated probe" in caplog.text
  assert feature_choices.recorded(Config(), plan).pooling == config.pooling


def test_what_is_known_is_not_compared(world, tmp_path):
  spec = dataclasses.replace(backbones.resolve(str(world / "bert")), modality="text")
  assert decided(world, tmp_path, spec)[0].pooling == "auto"
  for flags in ({"pooling": "cls"}, {"long_text": "head_tail"}):
    config, plan = decided(world, tmp_path, **flags)
    assert config.pooling == flags.get("pooling", "auto") and "feature_choices" not in plan


def test_a_default_stays_unless_another_is_significantly_better(world, tmp_path):
  few = decided(world, tmp_path, max_examples=6)[1]["feature_choices"]
  assert few["flags"] == {"pooling": "pooler"} and "is not significantly better (p =" in few["reason"]


def test_features_of_length_one(world):
  spec = BackboneSpec(name="bert", kind="saved_model", handle=str(world / "bert"))
  plain, unit = (saved_model.load(world / "bert", spec, pooling=pooling) for pooling in ("mean", "mean_l2"))
  texts = tf.constant(["good film", "bad"])
  expected = plain.network(plain.preprocess(texts))["features"]
  found = unit.network(unit.preprocess(texts))["features"]
  np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
  assert (unit.spec.pooling, unit.spec.l2_normalized) == ("mean", True)
  assert plain.identity != unit.identity


@pytest.mark.slow
def test_pairs_are_read_in_the_better_way(world, tmp_path, caplog):
  draw = np.random.default_rng(0)
  words = [word for word in tiny_modules.VOCABULARY if word.isalpha() and word.islower()]
  rows = ["a,b,label"]
  for _ in range(160):
    first, other = draw.choice(words, 2, replace=False)
    equal = draw.random() < 0.5
    rows.append(f"{first} {first},{first if equal else other} {first if equal else other},{'same' if equal else 'no'}")
  (world / "pairs.csv").write_text("\n".join(rows) + "\n")
  flags = {"dataset": f"table:{world}/pairs.csv", "text_column": "a", "text_pair_column": "b", "pooling": "mean"}
  with caplog.at_level("INFO"):
    config, plan = decided(world, tmp_path, pair_encoding="auto", **flags)
  scores = plan["feature_choices"]["scores"]
  assert set(scores) == {"bi_encoder", "cross_encoder"} and config.pair_encoding in scores
  assert f"--pair_encoding=auto takes {config.pair_encoding}" in caplog.text
  assert config.pair_encoding == "bi_encoder" or scores["cross_encoder"] > scores["bi_encoder"]


@pytest.mark.slow
def test_a_run_is_opened_with_what_it_has_chosen(world, tmp_path):
  config = Config(
    backbone=str(world / "bert"),
    dataset=f"table:{world}/reviews.csv",
    recipe="probe",
    export=False,
    cache_dir=str(tmp_path / "cache"),
  )
  train.train_and_evaluate(config, tmp_path / "run")
  paths, config, assets = finished_run.opened(tmp_path / "run")
  chosen = finished_run.workdir_lib.read_plan(paths)["feature_choices"]["flags"]["pooling"]
  for model in (finished_run.restore(paths, config, assets), finished_run.rebuild(paths, config, assets)):
    spec = model.backbone.spec
    assert spec.pooling + ("_l2" if spec.l2_normalized else "") == chosen != "pooler"
