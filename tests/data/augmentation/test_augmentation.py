"""Augmentation: in its ranges, the same from the same seed, and nowhere but in the training stream."""

import itertools
import json
import logging
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_data
import tiny_presets
from tiny_data import TEXTS, Lengths

from tl_app import files
from tl_app.commands import train
from tl_app.config import Config, validate
from tl_app.data import copies, modalities, pipeline
from tl_app.data.augmentation import images, mixing, texts
from tl_app.data.examples import Examples, Inputs, strings
from tl_app.errors import UserError
from tl_app.preprocessing.image import ImagePreprocess
from tl_app.recipes import recipes
from tl_app.recipes.facts import Facts
from tl_app.training import phase_augmentation

SENTENCES = strings(
  ["the old film was slow and the plot was thin", "a quick dog ran over two small houses", "he ate bread with red wine"]
  * 10
)


def _angle(image):
  """Returns the direction of the longest axis of what is bright, in degrees above the horizontal, -90 to 90."""
  y, x = np.nonzero(image[..., 0] > (image[..., 0].max() + image[..., 0].min()) / 2)
  xx, yy, xy = np.var(x), np.var(y), np.mean((x - x.mean()) * -(y - y.mean()))
  return np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))


@pytest.fixture(scope="module")
def bar():
  pixels = np.full((96, 96, 3), 0.2, np.float32)
  pixels[44:52, 24:72] = 0.8
  assert abs(_angle(pixels)) < 0.01
  return tf.constant(pixels)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "degrees"), [("light", 10), ("medium", 25)])
def test_images_turn_by_the_degrees_of_the_description(bar, name, degrees):
  assert f"rotation {degrees} degrees" in images.described(name)
  augment = images.Augment(name, seed=0)
  stream = tf.data.Dataset.range(150).map(lambda k: augment(bar, k))
  angles = np.array([_angle(image) for image in stream.as_numpy_iterator()])
  assert -degrees - 1 < angles.min() < -0.8 * degrees and 0.8 * degrees < angles.max() < degrees + 1
  # Even over the range: a uniform distribution's deviation is its half width over the root of three.
  assert angles.std() == pytest.approx(degrees / 3**0.5, rel=0.15)


@pytest.mark.slow
def test_no_operation_of_rand_takes_the_picture_away():
  ramp = np.linspace(0, 1, 32 * 32, dtype="float32").reshape(32, 32, 1).repeat(3, axis=2)
  for layer in images._operations():
    for number in range(30):
      seed = images.Seed(tf.stack([tf.constant(0, tf.int64), tf.constant(number, tf.int64)]))
      changed = images.apply(layer, tf.constant(ramp), seed).numpy()
      assert len(np.unique(changed.round(4))) > 60, layer.name
      # What is darker than the threshold stays, which is nearly all of it.
      assert changed.mean() > 0.3 or not isinstance(layer, keras.layers.Solarization)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["light", "medium", "rand"])
def test_images_keep_their_shape_and_range_and_each_is_another(bar, name):
  augment = images.Augment(name, seed=0)
  dataset = tf.data.Dataset.range(40).map(lambda k: augment(bar, k), num_parallel_calls=4)
  seen, again = ([image for image in dataset.as_numpy_iterator()] for _ in range(2))
  np.testing.assert_array_equal(seen, again)
  assert {image.shape for image in seen} == {(96, 96, 3)} and seen[0].dtype == np.float32
  assert min(image.min() for image in seen) >= 0 and max(image.max() for image in seen) <= 1
  assert len({image.tobytes() for image in seen}) > 25


@pytest.fixture(scope="module")
def squares():
  rng = np.random.default_rng(0)
  return Inputs.of("image", [tf.io.encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)).numpy() for _ in range(6)])


def _batches(inputs, seed=1, augment=None, mix=None, batches=6, targets=None):
  targets = np.eye(len(inputs), dtype=np.float32) if targets is None else targets
  order = pipeline.index_batches(len(inputs), 3, seed)
  dataset = pipeline.whole(pipeline.training_steps(inputs, targets, ImagePreprocess(16), order, augment, mix))
  return [[x.numpy() for x in batch] for batch in itertools.islice(dataset, batches)]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_batches_and_another_pass_others(squares):
  first, again = (_batches(squares, augment=images.Augment("medium", 1)) for _ in range(2))
  for one, other in zip(first, again):
    np.testing.assert_array_equal(one[0], other[0])
  plain = _batches(squares)
  # The order of the examples is that without augmentation.
  np.testing.assert_array_equal([y for _, y in first], [y for _, y in plain])
  by_example = [{int(t.argmax()): x for b in first[k : k + 2] for x, t in zip(*b)} for k in (0, 2)]
  assert by_example[0].keys() == by_example[1].keys() == set(range(6))
  assert all(np.abs(by_example[0][i] - by_example[1][i]).max() > 0.05 for i in range(6))
  assert np.abs(_batches(squares, augment=images.Augment("medium", 2))[0][0] - first[0][0]).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.4, 1.0)])
def test_mixed_targets_are_the_shares_of_the_images_until_the_last_steps(squares, mixup, cutmix):
  first, again = (_batches(squares, mix=mixing.Mix(mixup, cutmix, 20, 1), batches=24) for _ in range(2))
  plain = _batches(squares, batches=24)
  largest = []
  for number, ((x, y), (same, _), (clean, truth)) in enumerate(zip(first, again, plain)):
    np.testing.assert_array_equal(x, same)
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-5)
    largest += y.max(axis=1).tolist() if number < 20 else []
    if number >= 20:
      np.testing.assert_array_equal(x, clean)
      np.testing.assert_array_equal(y, truth)
    elif mixup and not cutmix:
      # With one-hot targets the shares say which images make which.
      np.testing.assert_allclose(x, np.einsum("bc,chwd->bhwd", y @ truth.T, clean), atol=1e-5)
  assert min(largest) < 0.8


def test_the_last_steps_are_clean():
  facts = {"num_train": 320, "num_classes": 2, "learning_rate": 3e-4, "stages": {"a": ("a/kernel",)}}
  probe, tuned = recipes.plan(Config(mixup=0.2, augment="rand", epochs=5), Facts(**facts))
  assert not probe.inputs.mixes and probe.inputs.augment == "none"
  assert (tuned.schedule.steps, tuned.first_unmixed_step) == (50, 42)
  assert phase_augmentation.describe(probe, modalities.of("image")) == ""
  assert phase_augmentation.describe(tuned, modalities.of("image")).endswith("mixup 0.2, unmixed from step 43 of 50")


def test_texts_lose_move_and_change_few_words():
  augment = texts.Augment("light", SENTENCES, seed=0)
  rng = np.random.default_rng(0)
  words = SENTENCES[0].split()
  seen = [augment.change(words, rng) for _ in range(600)]
  known = {word for text in SENTENCES for word in text.split()}
  assert all(set(text) <= known and 1 <= len(text) <= len(words) for text in seen)
  assert {len(text) for text in seen} >= {8, 9, 10} and words == SENTENCES[0].split()
  assert any(sorted(text) == sorted(words) and text != words for text in seen)
  assert any(len(text) == len(words) and sorted(text) != sorted(words) for text in seen)
  differing = [sum(a != b for a, b in zip(text, words)) for text in seen if len(text) == len(words)]
  assert 0.05 < np.mean(differing) / len(words) < 0.2
  assert augment.change(["alone"], np.random.default_rng(3))


def test_words_are_replaced_within_their_part_of_speech():
  pytest.importorskip("textblob", reason="textblob is absent: pip install -e '.[augment]'")
  augment = texts.Augment("medium", SENTENCES, seed=0)
  rng = np.random.default_rng(0)
  text = SENTENCES[0].split()
  chosen = np.arange(len(text))
  for changed in (augment._replace(list(text), chosen, rng) for _ in range(50)):
    for before, after in zip(text, changed):
      assert augment._tags.get(before) == augment._tags.get(after)
      assert after == before or before in ("film", "plot", "old", "slow", "thin", "was")
  assert {augment._tags[word] for word in ("film", "plot", "dog", "bread")} == {"NN"}
  assert not {"the", "and", "with", "over"} & augment._tags.keys()


def test_text_batches_repeat_and_keep_their_targets_and_pairs_stay_pairs():
  pairs = tf.constant([[a, b] for a, b in zip(SENTENCES[:6], SENTENCES[6:12])])
  augment = texts.Augment("light", SENTENCES[:12], seed=3)
  one, same, other = (augment(pairs, tf.constant(k, tf.int64)).numpy() for k in (0, 0, 1))
  assert one.shape == (6, 2) and (one == same).all() and (one != other).any()
  assert all(any(w in b"the old film quick dog bread wine" for w in text.split()) for text in one.reshape(-1))
  long = Inputs.of("text", [f"{text} " * 3 for text in TEXTS.array()])
  targets = np.arange(len(long), dtype=np.int32)
  order = pipeline.index_batches(len(long), 8, 3, pipeline.token_counts(Lengths(), long))

  def stream(augment):
    dataset = pipeline.whole(pipeline.training_steps(long, targets, Lengths(), order, augment))
    return [[x.numpy() for x in batch] for batch in itertools.islice(dataset, 8)]

  plain, changed, again = (
    stream(texts.Augment("light", long.array(), 3) if on else None) for on in (False, True, True)
  )
  np.testing.assert_array_equal([y for _, y in plain], [y for _, y in changed])
  for (lengths, _), (repeated, _) in zip(changed, again):
    np.testing.assert_array_equal(lengths, repeated)
  assert any((x[:, 0] != lengths[:, 0]).any() for (x, _), (lengths, _) in zip(plain, changed))


@pytest.mark.parametrize(
  ("name", "inputs", "message"),
  [
    ("rand", SENTENCES, "--augment=rand is for images: texts take light or medium"),
    ("light", strings(["我喜欢这部电影", "很好"]), "--augment=light needs texts of several words"),
    ("medium", strings(["zeer mooie wolken drijven voorbij"] * 3), "which knows .* take --augment=light"),
  ],
)
def test_what_does_not_fit_is_refused(name, inputs, message):
  if name == "medium":
    pytest.importorskip("textblob", reason="textblob is absent: pip install -e '.[augment]'")
  with pytest.raises(UserError, match=message):
    modalities.of("text").augmentation(name, Inputs.of("text", inputs), 0)


def test_an_absent_tagger_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "textblob", None)
  with pytest.raises(UserError, match=r"needs TextBlob: pip install 'tl_app\[augment\]'"):
    modalities.of("text").augmentation("medium", Inputs.of("text", SENTENCES), 0)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_copies_depend_on_their_example_alone_and_are_the_same_each_time(squares, modality):
  inputs = squares if modality == "image" else Inputs.of("text", SENTENCES[:3])
  augment = modalities.of(modality).augmentation("light", inputs, 1)
  names = strings(f"{i:x}" for i in range(len(inputs)))
  whole = Examples(names, inputs, names, names, names, [], "some")
  made, hashes = copies.make(whole, np.arange(len(whole)), augment, 4)
  some, of_some = copies.make(whole, np.array([2]), augment, 4)
  assert of_some.tolist() == hashes[2 :: len(whole)].tolist() and len({*hashes, *whole.hashes}) > 4 * len(whole) - 2
  if modality == "text":
    assert some.rows() == made[2 :: len(whole)].rows()
    augment = texts.Augment("light", inputs.array(), 2)
    assert copies.make(whole, np.array([0]), augment, 4)[0].rows() != made[:: len(whole)].rows()
    return
  dataset, positions = pipeline.for_inference(inputs.joined(made), ImagePreprocess(16), 6)
  first, again = (pipeline.restore(np.concatenate(list(dataset)), positions) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first[:6], [ImagePreprocess(16).one(image) for image in inputs.array()])
  assert len({image.tobytes() for image in first}) == len(first)
  other = copies.make(whole, np.arange(len(whole)), images.Augment("medium", 1), 4)[1]
  assert not set(other) & set(hashes)


def test_every_copy_of_an_example_is_drawn_and_the_order_of_the_examples_stays():
  batches = pipeline.index_batches(6, 3, seed=1)
  plain, drawn, again = (
    np.concatenate([batch.numpy() for batch in itertools.islice(stream, 60)])
    for stream in (batches, *[pipeline.draw_copies(batches, 6, 3, seed=1)] * 2)
  )
  np.testing.assert_array_equal(drawn, again)
  np.testing.assert_array_equal(drawn % 6, plain)
  assert np.bincount(drawn // 6, minlength=3).min() > 40 and set(drawn) == set(range(18))


@pytest.mark.slow
def test_the_probe_learns_from_the_copies(run):
  metrics, plain, root, _ = run
  config = Config(**files.read_json(root / "plain" / "config.json") | {"augment": "medium", "augment_copies": 3})
  with_copies = train.train_and_evaluate(config, root / "copies")
  assert with_copies["candidates"]["probe"]["loss"] != pytest.approx(plain["candidates"]["probe"]["loss"], rel=1e-3)
  assert with_copies["candidates"]["nearest_neighbours"] == plain["candidates"]["nearest_neighbours"]
  (probe,) = files.read_json(root / "copies" / "plan.json")["phases"]
  assert "3 copies of each beside it, made once" in probe["changed_examples"]
  (index,) = (root / "cache" / "features").glob("*/index.f32.jsonl")
  assert len(index.read_text().splitlines()) == 30 + 3 * probe["examples"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Two runs of one network: with augmentation and mixup, and the probe alone without."""
  root = tmp_path_factory.mktemp("augmentation")
  config = Config(
    backbone=tiny_presets.resnet(root / "resnet", 32),
    dataset="images:" + tiny_data.colours(root / "colours", per_class=10),
    cache_dir=str(root / "cache"),
    train_stages="top:1",
    head_epochs=5,
    epochs=3,
    learning_rate=1e-3,
    export=False,
  )
  changed = {"augment": "light", "mixup": 0.4}
  logs = []
  handler = logging.Handler()
  handler.emit = lambda record: logs.append(record.getMessage())
  logger, level = logging.getLogger("tl_app"), logging.getLogger("tl_app").level
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  try:
    metrics = train.train_and_evaluate(Config(**vars(config) | changed), root / "changed")
  finally:
    logger.removeHandler(handler)
    logger.setLevel(level)
  plain = train.train_and_evaluate(Config(**vars(config) | {"recipe": "probe"}), root / "plain")
  return metrics, plain, root, logs


@pytest.mark.slow
def test_what_does_not_train_never_sees_a_changed_example(run):
  metrics, plain, root, _ = run
  drop = {"p_value"}
  probes = [{k: v for k, v in m["candidates"]["probe"].items() if k not in drop} for m in (metrics, plain)]
  assert probes[0] == probes[1]
  assert metrics["candidates"]["nearest_neighbours"] == plain["candidates"]["nearest_neighbours"]
  if metrics["selected"] == "probe":
    assert metrics["test"] == plain["test"]


@pytest.mark.slow
def test_the_plan_says_what_is_changed_and_the_frozen_stages_run(run):
  _, _, root, logs = run
  probe, tuned = files.read_json(root / "changed" / "plan.json")["phases"]
  assert probe["changed_examples"] == "" and probe["augment"] == "none"
  assert "contrast 10%), mixup 0.4, unmixed from step 3 of 3" in tuned["changed_examples"]
  assert any("training examples are augmented: light" in line for line in logs)
  assert any("augmented examples differ in every step" in line for line in logs)
  assert not list((root / "cache" / "features").glob("trunk-*"))
  assert "Augmentation in phase fine_tune: light" in (root / "changed" / "report.html").read_text()


@pytest.mark.slow
def test_metrics_of_mixed_batches_are_finite(run):
  lines = [json.loads(line) for line in (run[2] / "changed" / "log.jsonl").read_text().splitlines()]
  tuned = [line for line in lines if line["phase"] == "fine_tune"]
  assert len(tuned) == 3 and all(0 <= line["accuracy"] <= 1 and np.isfinite(line["loss"]) for line in tuned)


def test_copies_need_an_augmentation():
  with pytest.raises(UserError, match="--augment_copies=2 does nothing without --augment"):
    validate(Config(backbone="x", dataset="x", workdir="x", augment_copies=2))
