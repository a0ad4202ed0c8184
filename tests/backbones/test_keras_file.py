"""Keras files as backbones: what they give, what is removed, and what is refused with a way out."""

import keras
import numpy as np
import pytest

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.backbones import saved_backbone
from tl_app.errors import UserError

pytestmark = pytest.mark.slow
LAYERS = keras.layers


def load(path, **flags):
  return backbones.load(backbones.resolve(str(path)), Assets(offline=True), **flags)


def saved(path, *layers, size=16):
  keras.Sequential([keras.Input((size, size, 3)), *layers]).save(path)
  return path


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_file_gives_its_features_in_the_range_that_it_expects(tmp_path, suffix):
  model = keras.Sequential(
    [
      keras.Input((16, 16, 3)),
      LAYERS.Rescaling(1 / 255),
      LAYERS.Conv2D(4, 3),
      LAYERS.GlobalAveragePooling2D(name="features"),
      LAYERS.Dropout(0.2),
      LAYERS.Dense(10, activation="softmax"),
    ]
  )
  model.save(tmp_path / f"m{suffix}")
  backbone = load(tmp_path / f"m{suffix}")
  pixels = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
  wanted = keras.Model(model.inputs, model.get_layer("features").output)(255 * pixels)
  np.testing.assert_allclose(backbone.network(pixels)["features"], wanted, atol=1e-5)
  assert backbone.spec.value_range == (0.0, 255.0) and any("removed at the end: dense" in n for n in backbone.notes)


def _pretrained(inputs):
  return LAYERS.Conv2D(4, 3)(LAYERS.Rescaling(1 / 255)(inputs))


STARTS = {
  "flips": lambda x: LAYERS.Rescaling(1 / 127.5, -1)(LAYERS.RandomFlip()(LAYERS.Resizing(16, 16)(x))),
  "model_in_model": lambda x: keras.Model(i := keras.Input((16, 16, 3)), _pretrained(i))(
    keras.Sequential([LAYERS.RandomFlip(), LAYERS.RandomRotation(0.1)])(x), training=False
  ),
  "mobilenet_v2": keras.applications.mobilenet_v2.preprocess_input,
  "resnet": keras.applications.resnet.preprocess_input,
  "product": lambda x: x * (1 / 255.0),
  "mean": LAYERS.Normalization(mean=[120.0, 117.0, 104.0], variance=[1.0, 1.0, 1.0]),
}
UNIT = {
  "mean": LAYERS.Normalization(mean=[0.5, 0.5, 0.4], variance=[0.1, 0.1, 0.1]),
  "signed": lambda x: x * 2.0 - 1.0,
  "bytes_made_inside": lambda x: LAYERS.Rescaling(1 / 255)(LAYERS.Rescaling(255.0)(x)),
}


@pytest.mark.parametrize("name, high", [*((name, 255.0) for name in STARTS), *((name, 1.0) for name in UNIT)])
def test_the_range_is_that_of_the_first_layer_with_an_effect(tmp_path, name, high):
  inputs = keras.Input((16, 16, 3))
  scaled = (STARTS if high > 1 else UNIT)[name](inputs)
  model = keras.Model(inputs, LAYERS.GlobalAveragePooling2D()(LAYERS.Conv2D(5, 3)(scaled)))
  model.save(tmp_path / "m.keras")
  backbone = load(tmp_path / "m.keras")
  assert backbone.spec.value_range == (0.0, high)
  pixels = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
  found = backbone.network(pixels, training=False)["features"]
  np.testing.assert_allclose(found, model(high * pixels, training=False), atol=1e-3)


def test_random_weights_keep_what_the_model_knows_of_pixels(tmp_path):
  known = LAYERS.Normalization()
  known.adapt(255 * np.random.default_rng(0).random((20, 16, 16, 3)))
  path = saved(tmp_path / "m.keras", known, LAYERS.Conv2D(4, 3))
  spec = backbones.configured(backbones.resolve(str(path)), "random")
  backbone = backbones.load(spec, Assets(offline=True))
  (layer,) = [found for found in backbone.network.layers if isinstance(found, LAYERS.Normalization)]
  np.testing.assert_allclose(layer.mean, known.mean, rtol=1e-5)
  assert backbone.spec.value_range == (0.0, 255.0)


def test_a_map_is_pooled_and_pixels_are_those_of_the_flag(tmp_path):
  path = saved(tmp_path / "map.keras", LAYERS.Conv2D(5, 3))
  assert load(path).network.output["map"].shape == (None, 14, 14, 5)
  assert load(path).spec.value_range == (0.0, 1.0) and load(path, pixels="byte").spec.value_range == (0.0, 255.0)
  with pytest.raises(UserError, match="--pooling=cls: .* does not have it; possible: mean"):
    load(path, pooling="cls")
  with pytest.raises(UserError, match="takes only 16: remove the flag"):
    load(path, image_size=32)


@pytest.mark.parametrize("start", ["file", "cnn_small.scratch"])
def test_what_is_written_loads_in_a_new_process_and_is_written_again(tmp_path, start):
  layers = LAYERS.Rescaling(1 / 255, name="normalize"), LAYERS.Conv2D(5, 3), LAYERS.MaxPooling2D(name="pool")
  path = saved(tmp_path / "start.keras", *layers, size=32) if start == "file" else start
  card = saved_backbone.Card("the start", "a test", "no data", {}, "no licence")
  pixels = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
  features = []
  for number in range(3):
    # Keras numbers equal names anew, as in a new process.
    keras.utils.clear_session(free_memory=False)
    backbone = load(path, **{} if number else {"image_size": 32})
    features.append(backbone.network(pixels, training=False)["features"])
    path = tmp_path / str(number)
    saved_backbone.write(backbone, path, card)
  for found in features[1:]:
    np.testing.assert_allclose(found, features[0], atol=1e-5)


def test_code_in_a_file_is_not_run(tmp_path):
  for name in ("code.keras", "code.h5"):
    saved(tmp_path / name, LAYERS.Lambda(lambda x: 2 * x), LAYERS.Conv2D(4, 3))
    with pytest.raises(UserError, match="safe mode .*; if you trust the file, convert it .* --backbone=converted"):
      load(tmp_path / name)


def test_what_cannot_be_a_backbone_says_what_to_do(tmp_path):
  model = keras.Sequential([keras.Input((5,)), LAYERS.Dense(4)])
  model.save(tmp_path / "numbers.keras")
  with pytest.raises(UserError, match="takes float32 .*not images"):
    load(tmp_path / "numbers.keras")
  model.save_weights(tmp_path / "w.weights.h5")
  with pytest.raises(UserError, match="holds weights alone: build the model"):
    load(tmp_path / "w.weights.h5")
  (tmp_path / "bad.keras").write_bytes(b"no archive")
  with pytest.raises(UserError, match="cannot be loaded in Keras' safe mode"):
    load(tmp_path / "bad.keras")
