"""The promises of the seams. Each function checks one object of a seam; every kind runs through it."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.preprocessing.base import Preprocess

# Attributes of `Backbone` that other packages read in place of asking for the kind of network.
CAPABILITIES = (
  "single_mode",
  "has_training_mode",
  "averages_statistics",
  "keeps_own_precision",
  "compiles_with_xla",
  "tracks_assets",
)


def check_backbone(backbone: Backbone, raw: np.ndarray) -> None:
  """Checks a loaded backbone.

  Args:
    backbone: with freshly loaded weights.
    raw: object array [n, ..] of at least two raw examples, as `Examples.inputs` holds them.
  """
  network, stages = backbone.network, backbone.stages
  members = [id(variable) for variables in stages.values() for variable in variables]
  assert len(members) == len(set(members)), "a variable is in two stages"
  assert set(members) == {id(variable) for variable in network.weights}, "the stages do not cover the network"

  inputs = backbone.preprocess(_tensor(raw))
  outputs = _numpy(network(inputs, training=False))
  _check_outputs(backbone, outputs, len(raw))
  again = _numpy(network(inputs, training=False))
  assert _same(again, outputs), "inference mode is not deterministic"
  alone = _numpy(network(backbone.preprocess(_tensor(raw[:1])), training=False))
  np.testing.assert_allclose(alone["features"][0], outputs["features"][0], atol=1e-5)

  assert not any(backbone.can_split(stage) for stage in list(stages)[:1]), "there is nothing below the first stage"
  for stage in list(stages)[1:]:
    if backbone.can_split(stage):
      _check_split(backbone, stage, inputs, outputs)
    else:
      with pytest.raises(ValueError):
        backbone.split(stage)
  with pytest.raises(ValueError):
    backbone.split("no_such_stage")

  assert all(isinstance(getattr(backbone, name), bool) for name in CAPABILITIES)
  if backbone.single_mode:
    backbone.set_training_mode(True)
    backbone.set_training_mode(False)
    assert _same(_numpy(network(inputs, training=False)), outputs), "the mode does not come back"
  else:
    with pytest.raises(ValueError):
      backbone.set_training_mode(True)
  facts = backbone.cache_facts()
  assert json.loads(json.dumps(facts)) == facts, "the facts of the cache key are not JSON"
  assert all(isinstance(note, str) and note for note in backbone.notes)
  assert backbone.modality == backbone.spec.modality and isinstance(backbone.preprocess, Preprocess)


def _check_outputs(backbone, outputs, count):
  assert all(value.dtype == np.float32 for value in outputs.values())
  assert all(np.isfinite(value).all() for value in outputs.values())
  features = outputs["features"]
  assert (len(features), features.shape[-1]) == (count, backbone.feature_size)
  assert backbone.feature_size % backbone.width == 0
  if "mask" in outputs:
    mask = outputs["mask"]
    assert mask.shape == features.shape[:2] == (count, backbone.preprocess.max_length)
    assert set(np.unique(mask)) <= {0.0, 1.0} and not features[mask == 0].any()
  else:
    assert features.ndim == 2
  for name in ("sequence", "map"):
    assert name not in outputs or len(outputs[name]) == count


def _check_split(backbone, stage, inputs, outputs):
  trunk, tail = backbone.split(stage)
  assert _same(_numpy(tail(trunk(inputs, training=False), training=False)), outputs), f"split at {stage} differs"
  names = list(backbone.stages)
  below = [variable for name in names[: names.index(stage)] for variable in backbone.stages[name]]
  above = [variable for name in names[names.index(stage) :] for variable in backbone.stages[name]]
  assert {id(variable) for variable in trunk.weights} == {id(variable) for variable in below}
  assert {id(variable) for variable in tail.weights} == {id(variable) for variable in above}


def check_preprocess(preprocess: Preprocess, raw: np.ndarray, directory, other: Preprocess) -> None:
  """Checks a preprocessing.

  Args:
    preprocess: what is checked.
    raw: object array [n, ..] of at least two raw examples.
    directory: an empty directory for an export.
    other: a second one, made in the same way.
  """
  for name, default in inspect.get_annotations(Preprocess, eval_str=True).items():
    assert isinstance(getattr(preprocess, name), default), f"{name} is no {default.__name__}"
  assert preprocess.identity and preprocess.identity == other.identity
  assert preprocess.max_length <= (preprocess.limit or preprocess.max_length)

  texts = _tensor(raw)
  expected = _numpy(preprocess(texts))
  assert _same(_numpy(other(texts)), expected), "equal identities, different inputs"
  traced = tf.function(preprocess.__call__, input_signature=[tf.TensorSpec([None, *raw.shape[1:]], tf.string)])
  assert _same(_numpy(traced(texts)), expected), "the graph differs from eager execution"
  stream = tf.data.Dataset.from_tensors(texts).map(preprocess)
  assert _same(_numpy(next(iter(stream))), expected), "the training stream differs"
  module = tf.Module()
  module.preprocess, module.serve = preprocess, traced
  tf.saved_model.save(module, str(directory))
  assert _same(_numpy(tf.saved_model.load(str(directory)).serve(texts)), expected), "the export differs"

  if preprocess.size:
    assert expected[""].shape == (len(raw), preprocess.size, preprocess.size, 3)
    assert expected[""].min() >= 0 and expected[""].max() <= 1
  else:
    counts = preprocess.count_tokens(texts)
    assert counts.dtype == tf.int32 and counts.shape[0] == len(raw)
  if preprocess.limit:
    assert all(values.dtype == np.int32 and values.shape[-1] <= preprocess.max_length for values in expected.values())
    special = preprocess.special_tokens
    assert special is None or len({int(token) for token in special}) == 3
  if preprocess.can_pack and raw.ndim == 1:
    packed = _numpy(preprocess.pack(preprocess.tokenize(texts)))
    assert packed["input_word_ids"].shape[1] <= preprocess.max_length
  if preprocess.can_join_pairs:
    joined = _numpy(preprocess.join(texts, texts))
    assert joined["input_word_ids"].shape[1] <= preprocess.max_length


def _tensor(raw):
  return tf.constant(raw.tolist(), tf.string)


def _numpy(values):
  """Returns {name: array} of a tensor, under "", or of a dict of tensors."""
  named = values if isinstance(values, dict) else {"": values}
  return {name: np.asarray(value) for name, value in named.items()}


def _same(first, second):
  """Whether two dicts of arrays are equal to the bit."""
  return first.keys() == second.keys() and all(
    first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first
  )
