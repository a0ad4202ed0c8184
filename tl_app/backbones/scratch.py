"""Small networks without pretrained weights, whose width and depth are flags: an LSTM and a residual network."""

import dataclasses
import functools
import pathlib

import keras
from keras import layers, ops

from tl_app import files, workdir
from tl_app.backbones import native, saved_backbone
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import UserError
from tl_app.preprocessing import text

# Shares of the embeddings and of the outputs of a recurrent layer that dropout removes.
EMBEDDING_DROPOUT, LAYER_DROPOUT = 0.2, 0.3
# An output of an LSTM is larger than this, so that padding has no effect on a maximum.
LEAST = -1.0
# Number of stages of the residual network; each has twice the channels of the one below it.
STAGES = 3
# Batches until the moving statistics forget their initial values: a small data set has few batches.
MOMENTUM = 0.9


def load(spec: BackboneSpec, *, pooling: str = "auto", image_size: int = 0) -> Backbone:
  """Builds a network of `NETWORKS`, with random weights or those that `save` wrote.

  Args:
    spec: `BackboneSpec`, with width, depth and, for texts, the vocabulary.
    pooling: as in `native.load`.
    image_size: as in `native.load`.

  Raises:
    UserError: the network does not have this pooling or image size, there is no vocabulary, or the weights are damaged.
  """
  backbone = NETWORKS[spec.handle](spec, pooling, image_size or spec.image_size)
  if spec.pretrained:
    try:
      backbone.network.load_weights(spec.weights)
    except (OSError, ValueError, KeyError) as error:
      reason = " ".join(str(error).split())[:200]
      raise UserError(f"--backbone={spec.name}: {spec.weights} is damaged ({reason}): pretrain again") from None
  return backbone


def save(backbone: Backbone, directory: pathlib.Path) -> None:
  """Writes the network with its present weights, and its vocabulary, into an existing directory."""
  spec = backbone.spec
  files.write_json(
    directory / saved_backbone.NETWORK, {name: getattr(spec, name) for name in saved_backbone.NETWORK_FIELDS}
  )
  workdir.write_vocabulary(directory / saved_backbone.VOCABULARY, spec.vocabulary)
  backbone.network.save_weights(directory / saved_backbone.WEIGHTS)


def _lstm(spec, pooling, size):
  """Returns the backbone of LSTM layers from left to right.

  They are not bidirectional, so that predicting the next token can pretrain them. Their "pooler" is the mean and the
  maximum of the outputs over the tokens (concat pooling without the last output, Howard and Ruder 2018).
  """
  if spec.pooling_for(pooling) == "cls":
    raise UserError(f"--pooling=cls: the first output of {spec.name} has read no word; choose mean or pooler")
  if not spec.vocabulary:
    raise UserError(f"{spec.name} learns its vocabulary from the training texts, and there are none here")
  preprocess = text.WordPiece({token: i for i, token in enumerate(spec.vocabulary)}, True, spec.max_length)
  inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in text.INPUT_NAMES}
  x = layers.Embedding(len(spec.vocabulary), spec.width, name="token_embedding")(inputs["input_word_ids"])
  x = layers.SpatialDropout1D(EMBEDDING_DROPOUT, name="embeddings_dropout")(x)
  for i in range(spec.depth):
    x = layers.LSTM(spec.width, return_sequences=True, name=f"layer_{i}_lstm")(x)
    x = layers.Dropout(LAYER_DROPOUT, name=f"layer_{i}_dropout")(x)
  is_token = ops.expand_dims(inputs["input_mask"], axis=-1) > 0
  largest = ops.max(ops.where(is_token, x, LEAST), axis=1)
  outputs = {"sequence": x, "pooler": ops.concatenate([native.pool(x, inputs["input_mask"], "mean"), largest], axis=-1)}
  backbone = native.text_backbone(spec, preprocess, inputs, outputs, pooling, _facts(spec))
  backbone.notes.append(f"vocabulary of {len(spec.vocabulary):,} tokens, learnt from the training texts")
  backbone.save = functools.partial(save, backbone)
  return backbone


def _cnn_small(spec, pooling, size):
  """Returns the backbone of a residual network (He et al. 2016) whose first stage keeps the resolution of the image."""
  spec = dataclasses.replace(spec, image_size=size)
  pixels = keras.Input((size, size, 3), name="image")
  channels = [max(1, spec.width >> (STAGES - 1 - stage)) for stage in range(STAGES)]
  x = _convolution(native.normalize(pixels, spec), "stem", channels[0])
  for stage, width in enumerate(channels, start=1):
    for block in range(spec.depth):
      x = _block(x, f"stage{stage}_block{block}", width, stride=2 if stage > 1 and block == 0 else 1)
  return native.image_backbone(spec, pixels, {"map": x}, pooling, _facts(spec))


def _facts(spec):
  return {"network": spec.handle, "width": spec.width, "depth": spec.depth}


def _block(x, name, width, stride):
  """Returns the sum of two convolutions and their input, which is projected where its shape differs."""
  shortcut = x
  if stride > 1 or x.shape[-1] != width:
    shortcut = _convolution(x, f"{name}_shortcut", width, kernel=1, stride=stride, activation=False)
  x = _convolution(x, f"{name}_0", width, stride=stride)
  x = _convolution(x, f"{name}_1", width, activation=False)
  return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _convolution(x, name, width, kernel=3, stride=1, activation=True):
  convolution = layers.Conv2D(
    width, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
  )
  x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(convolution(x))
  return layers.ReLU(name=f"{name}_relu")(x) if activation else x


# {`BackboneSpec.handle`: builder}.
NETWORKS = {"lstm": _lstm, "cnn_small": _cnn_small}
