"""Pretraining: the objectives, whole runs on tiny networks, and what they write."""

import dataclasses
import json
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_modules
import tiny_presets
from tiny_features import Rows

from tl_app import backbones, config
from tl_app.assets import Assets
from tl_app.backbones import bert as bert_lib
from tl_app.backbones import hugging_face, saved_backbone
from tl_app.commands import export, pretrain, train
from tl_app.config import Config
from tl_app.errors import RunFailed, UserError
from tl_app.model import model as model_lib
from tl_app.model import stages
from tl_app.recipes import phase as phases
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import pretraining
from tl_app.training.compiling import PretrainingSteps
from tl_app.training.pretraining import masked_tokens

TEXTS = [f"the film is good word{i}, bad word{i % 7}!" for i in range(24)]


def load(directory):
  return backbones.load(backbones.resolve(str(directory)), Assets(offline=True))


def features(backbone):
  return backbone.network(backbone.preprocess(tf.constant(TEXTS)), training=False)["features"].numpy()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
  """Returns the directory of a BERT preset of KerasHub."""
  return tiny_presets.bert(tmp_path_factory.mktemp("preset") / "bert", list(tiny_modules.VOCABULARY), layers=2)


def squares():
  """Returns 24 encoded images, noise of one colour each."""
  rng = np.random.default_rng(0)
  pixels = rng.normal(rng.integers(30, 220, size=[24, 1, 1, 3]), 20, size=[24, 16, 16, 3])
  return [tf.io.encode_png(image).numpy() for image in np.clip(pixels, 0, 255).astype("uint8")]


@pytest.fixture(scope="module")
def networks(bert, tmp_path_factory):
  """Returns {kind: function that loads a backbone}."""
  saved_model = tiny_modules.bert(tmp_path_factory.mktemp("module") / "bert")
  small = dataclasses.replace(backbones.resolve("cnn_small.scratch"), width=8, image_size=16)
  lstm = dataclasses.replace(backbones.resolve("lstm.scratch"), width=16)
  return {
    "bert": lambda: load(bert),
    "lstm": lambda: backbones.load(backbones.with_vocabulary(lstm, TEXTS, 100), Assets(offline=True)),
    "images": lambda: backbones.load(small, Assets(offline=True)),
    "saved_model": lambda: load(saved_model),
  }


# {objective: flags}.
OBJECTIVES = {
  "masked_tokens": {},
  "masked_tokens_of_whole_words": {"whole_words": True},
  "next_token_of_lstm": {"sampled_tokens": 5},
  "views": {},
  "views_of_images": {},
  "reconstruct": {},
  "reconstruct_of_images": {},
  "reconstruct_of_saved_model": {},
  "clusters_of_images": {"clusters": 4, "color_jitter": 0.0},
  "clusters_of_saved_model": {"clusters": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name, networks):
  keras.utils.set_random_seed(0)
  kind, _, what = name.partition("_of_")
  flags = Config(objective=kind, batch_size=24, epochs=9, learning_rate=3e-3, **OBJECTIVES[name])
  objective, backbone = pretraining.chosen(flags), networks[what if what in networks else "bert"]()
  raw = squares() if what == "images" else TEXTS
  assert objective.problem(backbone, flags) == ""
  settings = objective.settings(flags)
  model = model_lib.pretraining(backbone, objective.head(backbone, settings))
  assert not {id(v) for v in model.head.variables} & {id(v) for v in backbone.network.variables}
  paths = {stage: tuple(variable.path for variable in members) for stage, members in backbone.stages.items()}
  planned = objective.phases(recipes.pretrain(flags, Facts(24, 0, 1e-3, paths, "loss"), settings))
  for phase in planned:
    assert phases.Phase.from_json(json.loads(json.dumps(phase.to_json()))) == phase
  phase = planned[-1].replace(warmup_steps=0)
  stages.set_trainable(model, phase)
  network = objective.network(model, phase)
  prepared = objective.prepare(model, phase, types.SimpleNamespace(train=Rows(raw), held_out=Rows(raw[:8])))
  example = tf.function(objective.example(model, phase, 1, prepared))
  batch, again = (example(tf.constant(raw), tf.range(24, dtype=tf.int64), tf.constant(0, tf.int64)) for _ in range(2))
  tf.nest.map_structure(np.testing.assert_array_equal, batch, again)
  measure = objective.measure(network, phase)
  before = measure([batch])
  assert set(before) == set(objective.metrics)
  PretrainingSteps(network, phase, model, lambda: objective.loss(phase)).compile()
  for _ in range(5):
    network.train_on_batch(*batch)
  assert measure([batch])["loss"] < before["loss"]


def test_every_objective_has_a_test():
  kinds = {kind.name for kind in phases.PRETRAINING_OBJECTIVES}
  assert set(pretraining.OBJECTIVES) == set(phases.PRETRAINING_OBJECTIVES)
  assert kinds == set(config.FIELDS["objective"].metadata["choices"]) <= {n.partition("_of_")[0] for n in OBJECTIVES}


def test_masks():
  ids = tf.constant([[2, *range(5, 25), 3], [2, 5, 6, 3, *[0] * 18]])
  inputs = {"input_word_ids": ids, "input_mask": tf.cast(ids > 0, tf.int32), "input_type_ids": tf.zeros_like(ids)}
  starts = tf.constant(np.arange(30) % 2 == 1)
  chosen, replaced = [], []
  for number in range(300):
    masked, labels = masked_tokens.mask(inputs, 0.2, (4, 30), tf.constant([0, number], tf.int64))
    places, new = masked[masked_tokens.POSITIONS].numpy(), masked["input_word_ids"].numpy()
    given = labels.numpy() >= 0
    assert list(given.sum(axis=1)) == [4, 1]
    for row in range(2):
      at = places[row][given[row]]
      np.testing.assert_array_equal(labels.numpy()[row][given[row]], ids.numpy()[row][at])
      same = np.delete(np.arange(22), at)
      np.testing.assert_array_equal(new[row][same], ids.numpy()[row][same])
      chosen.append(at)
      replaced += list(np.where(new[row][at] == 4, 0, np.where(new[row][at] == ids.numpy()[row][at], 2, 1)))
  assert set(np.concatenate(chosen[::2])) == set(range(1, 21)) and set(np.concatenate(chosen[1::2])) == {1, 2}
  np.testing.assert_allclose(np.bincount(replaced) / len(replaced), [0.8, 0.1, 0.1], atol=0.03)
  for number in range(20):
    seeds = tf.constant([0, number], tf.int64)
    masked, labels = masked_tokens.mask(inputs, 0.2, (4, 30), seeds, word_starts=starts)
    at = masked[masked_tokens.POSITIONS].numpy()[0][labels.numpy()[0] >= 0]
    # An odd id begins a word, the even one after it goes on: both are masked.
    assert {(place - 1) // 2 for place in at} == {(p - 1) // 2 for p in at} and len(at) == 4


def hugging_face_directory(path, kind):
  """Writes a tiny BERT or MPNet of random weights in the files of Hugging Face; returns the directory as str."""
  words = ["<s>", "<pad>", "</s>", *tiny_modules.VOCABULARY] if kind == "mpnet" else tiny_modules.VOCABULARY
  names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
  settings = {"model_type": kind, "vocab_size": len(words), "type_vocab_size": 2, **dict(zip(names, (8, 2, 2, 16, 34)))}
  network = bert_lib.build(settings)
  table = np.random.default_rng(0).normal(size=(32, 2))
  for variable in network.weights:
    variable.assign(table if variable.path.endswith("relative_bias") else variable + 0.1)
  path.mkdir()
  (path / "config.json").write_text(json.dumps(settings))
  (path / "vocab.txt").write_text("\n".join(words))
  hugging_face.write_safetensors(path / "model.safetensors", hugging_face.weights(network, settings))
  return str(path)


CARD = saved_backbone.Card("the start", "a test", "no data", {}, "no licence")
# {kind: function, directory -> (what --backbone names, files that its result has)}.
SAVED = {
  "bert": lambda path: (hugging_face_directory(path, "bert"), "model.safetensors"),
  "mpnet": lambda path: (hugging_face_directory(path, "mpnet"), "model.safetensors"),
  "kerashub_text": lambda path: (tiny_presets.bert(path, list(tiny_modules.VOCABULARY), layers=2), "tokenizer.json"),
  "kerashub_image": lambda path: (tiny_presets.resnet(path, size=32), "image_converter.json"),
  "text_module": lambda path: (tiny_modules.bert(path), "saved_model.pb"),
  "image_module": lambda path: (tiny_modules.image(path, size=16), "saved_model.pb"),
  "strings_module": lambda path: (tiny_modules.strings(path), "saved_model.pb"),
  "scratch_images": lambda path: ("cnn_small.scratch", saved_backbone.KERAS_FILE),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAVED)
def test_a_saved_backbone_gives_the_same_features(kind, tmp_path):
  name, file = SAVED[kind](tmp_path / "start")
  backbone = load(name)
  tied = {id(variable) for variable in backbone.tied}
  for variable in backbone.network.trainable_variables[:20]:
    variable.assign(variable if id(variable) in tied else variable + 0.05)
  saved_backbone.write(backbone, tmp_path / "saved", CARD)
  assert (tmp_path / "saved" / file).is_file()
  again, raw = load(tmp_path / "saved"), tf.constant(TEXTS)
  if backbone.modality == "image":
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    raw = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])
  expected, found = (each.network(each.preprocess(raw), training=False)["features"] for each in (backbone, again))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert list(again.stages) == list(backbone.stages) and again.spec.pooling == backbone.spec.pooling
  if file == "saved_model.pb":
    module = tf.saved_model.load(str(tmp_path / "saved"))
    assert len(module.variables) >= len(module.trainable_variables) > 0
    assert isinstance(list(module.regularization_losses), list) and callable(module)


def run(tmp_path, backbone, name="run", **flags):
  texts = tmp_path / "texts.txt"
  texts.write_text("".join(f"the film is good word{i % 20} , bad word{i % 7} ! word{i % 3}\n" for i in range(420)))
  defaults = {"epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "cache_dir": str(tmp_path / "cache")}
  flags = {"backbone": str(backbone), "dataset": f"texts:{texts}", "validation_fraction": 0.2} | defaults | flags
  return pretrain.pretrain(Config(**flags), tmp_path / name), tmp_path / name


@pytest.mark.slow
def test_a_run_improves_the_held_out_loss_and_its_backbone_loads_again(tmp_path, bert, monkeypatch):
  monkeypatch.setattr(masked_tokens.MaskedTokensObjective, "warm_up_steps", 10)
  kept = {}
  write = pretrain.saved_backbone.write

  def spy(backbone, *rest):
    kept["features"] = features(backbone)
    write(backbone, *rest)

  monkeypatch.setattr(pretrain.saved_backbone, "write", spy)
  metrics, workdir = run(tmp_path, bert)
  assert metrics["improved"] and metrics["after"]["perplexity"] < metrics["before"]["perplexity"]
  again = load(workdir / "backbone")
  np.testing.assert_allclose(features(again), kept["features"], atol=1e-5)
  assert np.abs(features(load(bert)) - kept["features"]).max() > 1e-3
  assert load(workdir).spec.pooling == again.spec.pooling and not (workdir / ".corpus").exists()
  assert "held-out perplexity" in (workdir / "backbone" / "model_card.md").read_text()
  assert "Before and after" in (workdir / "report.html").read_text()
  with pytest.raises(UserError, match="is a pretraining"):
    from tl_app import workdir as workdir_lib

    workdir_lib.open_run(workdir)


@pytest.mark.slow
def test_nothing_better_leaves_the_start(tmp_path, bert, monkeypatch):
  monkeypatch.setattr(masked_tokens.MaskedTokensObjective, "warm_up_steps", 10)
  metrics, workdir = run(tmp_path, bert, learning_rate=30.0, epochs=1)
  assert not metrics["improved"] and metrics["selected"] == "start" and metrics["after"] == metrics["before"]
  np.testing.assert_allclose(features(load(workdir / "backbone")), features(load(bert)), atol=1e-6)


def test_the_time_before_training_counts_once(tmp_path, bert, monkeypatch):
  load_corpus, deadlines = pretrain.corpora.load, []

  def slowly(*args):
    time.sleep(2)
    return load_corpus(*args)

  def stop(phases, pretraining):
    deadlines.append(pretraining.deadline)
    raise RunFailed("stop")

  monkeypatch.setattr(pretrain.corpora, "load", slowly)
  monkeypatch.setattr(pretrain.fit, "run", stop)
  start = time.monotonic()
  with pytest.raises(RunFailed, match="stop"):
    run(tmp_path, bert, max_minutes=5.0)
  assert deadlines[0] - start == pytest.approx(300 - pretrain.CLOSING_SECONDS, abs=1)


@pytest.mark.slow
def test_what_cannot_work_is_one_line(tmp_path, bert):
  refusals = [
    ("takes strings and hides their tokens", tiny_modules.strings(tmp_path / "strings"), {}),
    ("fewer than --batch_size=1000", bert, {"batch_size": 1000}),
    ("--recipe=probe does nothing in pretrain", bert, {"recipe": "probe"}),
    ("--label_column=y does nothing in pretrain without --probe_dataset", bert, {"label_column": "y"}),
    ("--batch_size=auto does nothing in pretrain", bert, {"batch_size": "auto"}),
    ("reads at most 32 tokens", bert, {"max_length": 64}),
    ("trains nothing of the backbone", bert, {"train_stages": "none"}),
    ("compares an example with the others of its batch", bert, {"objective": "views", "batch_size": 1}),
  ]
  for number, (message, backbone, flags) in enumerate(refusals):
    with pytest.raises(UserError, match=message):
      run(tmp_path, backbone, f"run_{number}", **flags)
    assert not (tmp_path / f"run_{number}").exists()
  objective, image = pretraining.chosen(Config()), dataclasses.replace(load(bert))
  image.spec = dataclasses.replace(image.spec, modality="image")
  assert "reads images, which have no tokens" in objective.problem(image, Config())


def test_layers_with_different_terms_for_distances_cannot_be_written(tmp_path):
  backbone = load(hugging_face_directory(tmp_path / "start", "mpnet"))
  backbone.tied[0].assign(backbone.tied[0] + 1.0)
  with pytest.raises(UserError, match="give the run itself to --backbone"):
    saved_backbone.write(backbone, tmp_path / "saved", CARD)
  assert not (tmp_path / "saved").exists()


@pytest.mark.slow
def test_the_backbone_of_a_run_is_exported(tmp_path):
  flags = tiny_presets.reviews_run(tmp_path)
  run_flags = Config(epochs=1, head_epochs=2, export=False, learning_rate=3e-3, select="fine_tuned", **flags)
  train.train_and_evaluate(run_flags, tmp_path / "run")
  directory = export.export_backbone(tmp_path / "run", "")
  assert (
    directory == tmp_path / "run" / "backbone" and "fine-tuned on labels" in (directory / "model_card.md").read_text()
  )
  tuned, saved = load(tmp_path / "run"), load(directory)
  assert tuned.spec.tuned and not saved.spec.tuned
  np.testing.assert_allclose(features(saved), features(tuned), atol=1e-5)
