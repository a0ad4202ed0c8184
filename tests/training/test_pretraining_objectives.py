"""Objectives of pretraining: the loss of views, what reconstruction hides, the rounds of clusters, and refusals."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
from tiny_features import Rows

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import pretraining
from tl_app.training.pretraining import clusters, reconstruct, views


def test_the_loss_of_views_compares_each_view_with_those_of_other_examples():
  rng = np.random.default_rng(0)
  projections = rng.normal(size=(6, 4)).astype("f")
  outputs = np.concatenate([projections, 100 * rng.normal(size=(6, 4))], axis=1).astype("f")
  loss = float(views.ViewsLoss()(tf.constant([7, 7, 8, 8, 9, 9]), tf.constant(outputs)))
  similarity = projections @ projections.T
  np.fill_diagonal(similarity, -np.inf)
  logs = similarity - np.log(np.exp(similarity).sum(axis=1, keepdims=True))
  assert loss == pytest.approx(-np.mean([logs[i, i ^ 1] for i in range(6)]), rel=1e-5)
  # The first two examples are the same one: they are not told apart.
  same = float(views.ViewsLoss()(tf.constant([7, 7, 7, 7, 9, 9]), tf.constant(outputs)))
  for row, column in ((0, 2), (0, 3), (1, 2), (1, 3)):
    similarity[row, column] = similarity[column, row] = -np.inf
  logs = similarity - np.log(np.exp(similarity).sum(axis=1, keepdims=True))
  assert same == pytest.approx(-np.mean([logs[i, i ^ 1] for i in range(6)]), rel=1e-5)


def test_uniformity_is_that_of_all_pairs():
  assert views.uniformity(np.ones((5, 1), "f")) == 0
  assert views.uniformity(np.eye(5, dtype="f")) == pytest.approx(-4)


def test_reconstruction_hides_patches_and_keeps_the_whole_image_as_the_target():
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(40, 32, 32, 3)).astype("f")
  noisy, targets = reconstruct.hide_patches(tf.constant(images), 0.4, tf.constant([0, 1], tf.int64))
  hidden = np.abs(noisy - images).max(axis=-1) > 1e-6
  # Patches of 4 pixels are hidden whole, and all of them show the mean colour of their image.
  patches = hidden.reshape(40, 8, 4, 8, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)
  assert set(patches.sum(axis=1)) == {0, 16} and np.mean(hidden) == pytest.approx(0.4, abs=0.03)
  np.testing.assert_allclose(
    noisy.numpy()[3][hidden[3]], np.tile(images[3].mean(axis=(0, 1)), (hidden[3].sum(), 1)), 1e-5
  )
  np.testing.assert_allclose(targets, images, atol=1e-6)


def test_reconstruction_hides_tokens_from_attention_and_never_the_special_ones():
  ids = tf.constant([[2, *range(5, 25), 3, 0, 0], [2, 5, 6, 3, *[0] * 20]])
  inputs = {"input_word_ids": ids, "input_mask": tf.cast(ids > 0, tf.int32), "input_type_ids": tf.zeros_like(ids)}
  shown = []
  for number in range(100):
    noisy, targets = reconstruct.hide_tokens(inputs, 0.6, tf.constant([0, number], tf.int64))
    mask = noisy["input_mask"].numpy()
    assert mask[:, 0].all() and mask[0, 21] == mask[1, 3] == 1 and not mask[0, 22:].any() and not mask[1, 4:].any()
    shown.append(mask[0, 1:21])
    np.testing.assert_array_equal(noisy["input_word_ids"], ids)
  assert np.mean(shown) == pytest.approx(0.4, abs=0.04)
  assert targets.numpy()[1].tolist() == [-1, 5, 6, -1] + [-1] * 20 and targets.numpy()[0, 1:21].tolist() == [
    *range(5, 25)
  ]
  logits = tf.one_hot([[6] * 1, [5] * 1], 30)[:, 0] * 3.0
  logs = tf.nn.log_softmax(logits).numpy()
  expected = -np.mean([*logs[0, 5:25], logs[1, 5], logs[1, 6]])
  assert float(reconstruct.ReconstructionLoss()(targets, logits)) == pytest.approx(expected, rel=1e-5)


def test_no_network_reads_the_hidden_tokens():
  texts = [f"the film is good word{i}" for i in range(20)]
  spec = dataclasses.replace(backbones.resolve("lstm.scratch"), width=8)
  backbone = backbones.load(backbones.with_vocabulary(spec, texts, 100), Assets(offline=True))
  objective, settings = pretraining.chosen(Config(objective="reconstruct")), types.SimpleNamespace(noise_share=0.99)
  phase, model = types.SimpleNamespace(objective=settings), types.SimpleNamespace(backbone=backbone)
  example = objective.example(model, phase, 0)
  read = [example(tf.constant([text]), [0], tf.constant(0, tf.int64))[0] for text in ("good film", "is the")]
  assert read[0]["input_mask"].numpy().tolist() == [[1, 0, 0, 1]]
  np.testing.assert_array_equal(*(backbone.network(inputs, training=False)["features"] for inputs in read))


def test_clusters_of_few_examples_with_many_features_tell_new_ones_apart():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(60, 200)).astype("float32")
  objective = clusters.ClustersObjective()
  backbone = types.SimpleNamespace(feature_size=200, preprocess=lambda raw: tf.io.decode_raw(raw, tf.float32))
  backbone.network = lambda inputs, training: {"features": inputs}
  settings = objective.settings(Config(clusters=4))
  model = types.SimpleNamespace(backbone=backbone, head=objective.head(backbone, settings))
  parts = (Rows([row.tobytes() for row in rows]) for rows in (features[:30], features[30:]))
  corpus = types.SimpleNamespace(**dict(zip(("train", "held_out"), parts)))
  labels = objective.prepare(model, types.SimpleNamespace(objective=settings), corpus)
  assert set(labels["train"]) == set(labels["held_out"]) == {0, 1, 2, 3}


def test_rounds_share_the_epochs_and_start_a_new_head_for_new_clusters():
  flags = Config(objective="clusters", rounds=3, clusters=2, epochs=7, batch_size=8)
  objective = pretraining.chosen(flags)
  facts = Facts(64, 0, 1e-3, {"stem": ("stem/kernel",)}, "loss")
  phases = objective.phases(recipes.pretrain(flags, facts, objective.settings(flags)))
  assert [(phase.name, phase.schedule.epochs) for phase in phases] == [
    ("clusters_1", 3),
    ("clusters_2", 2),
    ("clusters_3", 2),
  ]
  assert len({phase.schedule.warmup_steps for phase in phases}) == 2
  assert (
    len(objective.phases(recipes.pretrain(Config(epochs=2, objective="clusters"), facts, objective.settings(flags))))
    == 2
  )


def test_clusters_label_both_parts_by_the_same_centres():
  class Network:
    modality, feature_size = "image", 2

    def preprocess(self, raw):
      return tf.strings.to_number(tf.strings.split(raw, " ").to_tensor())

    def network(self, inputs, training):
      return {"features": inputs}

  rows = types.SimpleNamespace
  texts = np.array([b"1 0", b"0 1", b"2 0.1", b"0.1 3"] * 80, object)
  objective, backbone = clusters.ClustersObjective(), Network()
  settings = objective.settings(Config(clusters=2))
  head = objective.head(backbone, settings)
  head.get_layer("clusters").set_weights([np.ones((2, 2)), np.ones(2)])

  corpus = rows(train=Rows(texts), held_out=Rows(texts[:4]))
  labels = objective.prepare(rows(backbone=backbone, head=head), rows(objective=settings), corpus)
  train, held_out = labels["train"], labels["held_out"]
  assert train.tolist() == [*held_out] * 80 and held_out[0] == held_out[2] != held_out[1]
  assert not any(weight.any() for weight in head.get_weights())
  with pytest.raises(UserError, match="--clusters=2: the training part has 1 example: lower it"):
    objective.prepare(rows(backbone=backbone, head=head), rows(objective=settings), rows(train=Rows(texts[:1])))


def test_networks_that_an_objective_cannot_pretrain_are_told_in_one_line(tmp_path):
  strings = backbones.load(backbones.resolve(tiny_modules.strings(tmp_path / "strings")), Assets(offline=True))
  lines = {}
  for name in ("views", "reconstruct", "clusters"):
    config = Config(objective=name)
    lines[name] = pretraining.chosen(config).problem(strings, config)
  assert "has no dropout, so that two passes over a text are equal: choose another" in lines["views"]
  assert "takes strings and hides their tokens: choose another backbone or objective" in lines["reconstruct"]
  assert lines["clusters"] == "" and not any("\n" in line for line in lines.values())
