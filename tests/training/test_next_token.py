"""Predicting the next token: targets, losses, networks that it works with, and a run that starts from its result."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
import tiny_presets

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.commands import evaluate, pretrain
from tl_app.commands import train as train_lib
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.training import pretraining
from tl_app.training.pretraining import next_token

TEXTS = np.array(["the film is good", "word1 is bad and long"], dtype=object)


def features(backbone):
  return backbone.network(backbone.preprocess(tf.constant(TEXTS)), training=False)["features"].numpy()


def load(path):
  return backbones.load(backbones.resolve(str(path)), Assets(offline=True))


def test_targets_are_the_tokens_after_each_position():
  ids, mask = tf.constant([[2, 7, 8, 3], [2, 9, 3, 0]]), tf.constant([[1, 1, 1, 1], [1, 1, 1, 0]])
  np.testing.assert_array_equal(next_token.next_tokens(ids, mask), [[7, 8, 3, -1], [9, 3, -1, -1]])


def test_losses_are_those_of_the_whole_vocabulary_and_a_sample_is_used_in_training_only():
  rng = np.random.default_rng(0)
  table = keras.Variable(rng.normal(size=(50, 4)).astype("float32"))
  states, targets = rng.normal(size=(2, 3, 4)).astype("float32"), np.array([[3, 7, -1], [49, 0, 1]], "int32")
  sampled, whole = (next_token.NextTokenLosses(table, count) for count in (10, 13))
  outputs = sampled(states, targets).numpy()
  logits = states @ np.array(table).T
  wanted = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
  np.testing.assert_allclose(outputs[..., 0], wanted, rtol=1e-4)
  np.testing.assert_array_equal(outputs[..., 1], logits.argmax(-1) == np.maximum(targets, 0))
  loss = next_token.NextTokenLoss()(targets, outputs)
  np.testing.assert_allclose(loss, wanted[targets >= 0].mean(), rtol=1e-4)
  assert np.abs(sampled(states, targets, training=True).numpy() - outputs).max() > 1e-3
  # A sampled token stands for several others, so the sum of all exponentials is right on average.
  calm = 0.3 * states
  draws = np.mean([np.exp(sampled(calm, targets, training=True)[..., 0]) for _ in range(100)], axis=0)
  np.testing.assert_allclose(draws[targets >= 0], np.exp(sampled(calm, targets)[..., 0])[targets >= 0], rtol=0.1)
  # 13 is more than a quarter of 50.
  np.testing.assert_allclose(whole(states, targets, training=True), outputs, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 20, 50, 80])
def test_the_sample_stands_for_all_tokens_also_if_the_batch_has_more_than_it(count):
  rng = np.random.default_rng(0)
  table = keras.Variable(0.3 * rng.normal(size=(80, 4)).astype("float32"))
  states, targets = 0.3 * rng.normal(size=(1, 80, 4)).astype("float32"), np.arange(80, dtype="int32")[None] % count
  sampled = next_token.NextTokenLosses(table, 19)
  whole = np.exp(sampled(states, targets).numpy()[..., 0])
  draw = tf.function(lambda: tf.exp(sampled(states, targets, training=True)[..., 0]))
  draws = np.mean([draw() for _ in range(100)], axis=0)
  np.testing.assert_allclose((draws / whole).mean(), 1, atol=0.03)


def test_networks_that_see_the_next_token_are_refused(tmp_path):
  config = Config(objective="next_token")
  objective = pretraining.chosen(config)
  bert = load(tiny_presets.bert(tmp_path / "bert"))
  assert not next_token.is_causal(bert) and "reads a text in both directions" in objective.problem(bert, config)
  image = dataclasses.replace(bert, spec=dataclasses.replace(bert.spec, modality="image"))
  assert "reads images, which have no tokens" in objective.problem(image, config)
  strings = load(tiny_modules.strings(tmp_path / "strings"))
  assert objective.problem(strings, config).startswith("--objective=next_token: ")


@pytest.mark.slow
def test_a_pretrained_lstm_starts_a_run_that_is_evaluated_again(tmp_path):
  lines = [f"the film is {word} {word} word{i % 9}" for i in range(60) for word in ("good", "bad")]
  (tmp_path / "texts.txt").write_text("\n".join(f"{line} no {i}" for i, line in enumerate(lines)))
  rows = [f"{line},{'positive' if 'good' in line else 'negative'}" for line in sorted(set(lines))]
  (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
  flags = {"cache_dir": str(tmp_path / "cache"), "batch_size": 16, "strategy": "single"}
  metrics = pretrain.pretrain(
    Config(
      backbone="lstm.scratch",
      network_width=8,
      objective="next_token",
      dataset=f"texts:{tmp_path}/texts.txt",
      epochs=2,
      **flags,
    ),
    tmp_path / "lm",
  )
  assert metrics["improved"] and metrics["after"]["perplexity"] < metrics["before"]["perplexity"]
  backbone = load(tmp_path / "lm" / "backbone")
  assert backbone.pretrained and backbone.spec.width == 8 and "film" in backbone.spec.vocabulary
  with pytest.raises(UserError, match="--network_width=4 does nothing"):
    config = Config(backbone=str(tmp_path / "lm"), dataset=f"table:{tmp_path}/reviews.csv", network_width=4, **flags)
    train_lib.train_and_evaluate(config, tmp_path / "wrong")
  config = dataclasses.replace(config, network_width=0, epochs=1, head_epochs=2, export=False)
  test = train_lib.train_and_evaluate(config, tmp_path / "run")["test"]
  assert evaluate.evaluate(tmp_path / "run", {}, "")["test"]["loss"] == pytest.approx(test["loss"], abs=1e-5)
  np.testing.assert_array_equal(features(load(tmp_path / "run" / "checkpoints" / "probe")), features(backbone))
  weights = tmp_path / "lm" / "backbone" / "model.weights.h5"
  weights.write_bytes(weights.read_bytes()[:100])
  with pytest.raises(UserError, match="model.weights.h5 was changed or damaged .*: put back a copy of the backbone"):
    load(tmp_path / "lm" / "backbone")
