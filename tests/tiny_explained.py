"""Models of which the evidence for an answer is known: one layer reads a colour or a word, and the head its amount."""

import keras
import numpy as np
import tensorflow as tf
import tiny_modules

from tl_app import tasks
from tl_app.backbones import text_pairs, token_features
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.pooling import pool
from tl_app.backbones.spec import BackboneSpec
from tl_app.model import model as model_lib
from tl_app.preprocessing import text
from tl_app.preprocessing.image import ImagePreprocess

SIZE = 28
WIDTH = 6
VOCABULARY = {token: number for number, token in enumerate(tiny_modules.VOCABULARY)}


def image_model(seed=0, size=SIZE, red=0.0):
  """Returns a `Model` of two classes on a convolution of 7 x 7 positions; `red` adds a channel of red for class "b"."""
  rng = np.random.default_rng(seed)
  pixels = keras.Input((size, size, 3), name="image")
  convolution = keras.layers.Conv2D(WIDTH, 4, 4, activation="softplus", name="stem")
  output = convolution(pixels)
  kernel = rng.normal(size=convolution.kernel.shape) * 0.2
  if red:
    kernel[..., 0] = np.array([red, -red, -red])
  convolution.kernel.assign(kernel)
  features = keras.layers.GlobalAveragePooling2D()(output)
  network = keras.Model(pixels, {"features": features, "map": output}, name="backbone")
  spec = BackboneSpec("tiny", "kerashub", "tiny", modality="image", pooling="mean")
  backbone = Backbone(spec, ImagePreprocess(size), network, {"stem": network.weights}, feature_size=WIDTH)
  kernel = rng.normal(size=(WIDTH, 2)) * (0.1 if red else 1.0)
  if red:
    kernel[0] = [-5.0, 5.0]
  return _with_head(backbone, tasks.SINGLE_LABEL.with_codec(names=("a", "b")), kernel)


def text_backbone(seed=0, word="", pairs="", words=False):
  """Returns a text `Backbone`: the mean of embeddings after one layer; `word` has a large embedding."""
  rng = np.random.default_rng(seed)
  inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in text.INPUT_NAMES}
  table = keras.layers.Embedding(len(VOCABULARY), WIDTH, name="token_embedding")
  dense = keras.layers.Dense(WIDTH, activation="tanh", name="dense")
  sequence = dense(table(inputs["input_word_ids"]))
  rows = rng.normal(size=(len(VOCABULARY), WIDTH)) * (0.1 if word else 0.5)
  if word:
    rows[VOCABULARY[word]] = 2.0
  table.embeddings.assign(rows)
  dense.kernel.assign(np.eye(WIDTH) if word else rng.normal(size=(WIDTH, WIDTH)))
  network = keras.Model(
    inputs, {"features": pool(sequence, inputs["input_mask"], "mean"), "sequence": sequence}, name="backbone"
  )
  spec = BackboneSpec("tiny", "kerashub", "tiny", modality="text", pooling="mean")
  stages = {"embeddings": network.weights[:1], "dense": network.weights[1:]}
  backbone = Backbone(spec, text.WordPiece(VOCABULARY, True, 24), network, stages, feature_size=WIDTH)
  backbone = token_features.read_words(backbone) if words else backbone
  return text_pairs.read_pairs(backbone, pairs) if pairs else backbone


def text_model(task=None, seed=0, outputs=2, **options):
  """Returns a `Model` on `text_backbone(seed, **options)`; output 0 is against the word, the last one for it."""
  backbone = text_backbone(seed, **options)
  kernel = np.random.default_rng(seed + 1).normal(size=(backbone.feature_size, outputs))
  if options.get("word"):
    kernel = np.linspace(-1.0, 1.0, outputs) + kernel * 0.05
  return _with_head(backbone, task or tasks.SINGLE_LABEL.with_codec(names=("a", "b")), kernel)


def _with_head(backbone, task, kernel):
  model = model_lib.build(backbone, task)
  next(v for v in model.head.trainable_variables if v.shape == kernel.shape).assign(kernel)
  return model


def picture(patch=None, seed=0, size=SIZE):
  """Returns a PNG of noise, with a red square of a quarter of the side at `patch` (row, column), in pixels."""
  pixels = np.random.default_rng(seed).integers(60, 200, (size, size, 3), np.uint8)
  if patch is not None:
    row, column = patch
    pixels[row : row + size // 4, column : column + size // 4] = (255, 0, 0)
  return tf.io.encode_png(pixels).numpy()
