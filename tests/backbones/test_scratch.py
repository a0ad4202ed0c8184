"""Backbones without pretrained weights: the networks of `scratch`, and --init=random."""

import keras
import numpy as np
import pytest
import tiny_modules
import tiny_presets

from tl_app import backbones
from tl_app.assets import Assets
from tl_app.errors import UserError

TEXTS = np.array(["the film is good", "the film is bad and long"], dtype=object)


def built(name, init="auto", texts=TEXTS, **options):
  """Returns a backbone of width 8; `options` are those of `backbones.load`."""
  keras.utils.set_random_seed(1)
  spec = backbones.configured(backbones.resolve(str(name)), init, width=8)
  return backbones.load(backbones.with_vocabulary(spec, texts, 100), Assets(offline=True), **options)


def test_an_lstm_reads_from_left_to_right():
  backbone = built("lstm.scratch")
  inputs = {name: np.array(value) for name, value in backbone.preprocess(TEXTS).items()}
  sequence = np.array(backbone.network(inputs)["sequence"])
  inputs["input_word_ids"][:, 3:] = 5
  changed = np.array(backbone.network(inputs)["sequence"])
  np.testing.assert_array_equal(changed[:, :3], sequence[:, :3])
  assert np.abs(changed[:, 3:] - sequence[:, 3:]).max() > 0
  assert list(backbone.stages) == ["embeddings", "layer_0"] and backbone.feature_size == 16
  assert not backbone.pretrained and backbone.spec.origin.network_width == 8


def test_an_lstm_has_no_cls_pooling_and_needs_a_vocabulary():
  assert built("lstm.scratch", pooling="mean").feature_size == 8
  with pytest.raises(UserError, match="--pooling=cls: the first output of lstm.scratch has read no word"):
    built("lstm.scratch", pooling="cls")
  with pytest.raises(UserError, match="learns its vocabulary from the training texts, and there are none here"):
    backbones.load(backbones.resolve("lstm.scratch"), Assets(offline=True))


def test_a_small_network_takes_small_images():
  backbone = built("cnn_small.scratch", image_size=8)
  assert backbone.network.output["map"].shape == (None, 2, 2, 8)
  assert list(backbone.stages) == ["stem", "stage1", "stage2", "stage3"]


@pytest.mark.parametrize("kind", [tiny_presets.bert, tiny_presets.resnet])
def test_a_native_network_is_built_without_its_weights(kind, tmp_path):
  handle = kind(tmp_path / "preset")
  pretrained, drawn = built(handle), built(handle, "random")
  assert pretrained.pretrained and not drawn.pretrained and "the initial weights are random" in drawn.notes
  assert drawn.spec.origin.init == "random"
  pairs = [pair for name, stage in pretrained.stages.items() for pair in zip(stage, drawn.stages[name], strict=True)]
  assert all(one.path == other.path and one.shape == other.shape for one, other in pairs)
  kernels = [(one, other) for one, other in pairs if "kernel" in one.path]
  assert all(np.abs(np.array(one) - np.array(other)).max() > 0 for one, other in kernels)


def test_a_saved_model_cannot_be_drawn_again(tmp_path):
  with pytest.raises(UserError, match="--init=random: .* is a SavedModel, which does not tell how"):
    built(tiny_modules.image(tmp_path / "module", size=16), "random")
