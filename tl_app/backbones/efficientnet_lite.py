"""EfficientNet-Lite0, 1 and 2 as functional Keras models, with the weights of a PyTorch checkpoint."""

import math
import os
import re

import keras
import numpy as np

from tl_app.backbones import torch_weights
from tl_app.backbones.weights import Target, assign

# (blocks, kernel, first stride, expansion, output channels); EfficientNet-B0 of Tan and Le 2019, table 1, without
# squeeze-and-excitation and with the width of the last convolution fixed, as published for the Lite variants.
BLOCKS = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)
STEM_WIDTH, TOP_WIDTH = 32, 1280
# {variant: (factor of the widths, factor of the numbers of blocks)}; the stem, the top, and the numbers of blocks in
# the first and the last group are not scaled.
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
# [0, 1] to [-1, 1], as the TF Hub module of these weights does. Training took (x - 127) / 128 of [0, 255], 0.008 off.
SCALE, OFFSET = 2.0, -1.0
EPSILON = 1e-3


def load(path: str | os.PathLike, variant: str = "lite0") -> keras.Model:
  """Returns `build()` with the weights of the checkpoint at `path`. Raises `UserError` unless every name fits.

  Args:
    path: the checkpoint.
    variant: key of `SCALES`.
  """
  state = torch_weights.read(path)
  network = build(variant)
  assign_state(network, state, path)
  return network


def assign_state(network: keras.Model, state: dict[str, np.ndarray], source: str | os.PathLike) -> None:
  """Sets every weight from a PyTorch state dict; missing or extra names raise `UserError` and list them."""
  weights = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked") and not n.startswith("_fc.")}
  assign(network, _targets, weights, source, network.name)


def classifier(path: str | os.PathLike, features: np.ndarray) -> np.ndarray:
  """Returns the original ImageNet probabilities.

  Args:
    path: the checkpoint.
    features: float array [batch, 1280], the mean over the output's positions.

  Returns:
    float32 [batch, 1000], in the class order of ILSVRC 2012.
  """
  state = torch_weights.read(path)
  logits = np.asarray(features) @ state["_fc.weight"].T + state["_fc.bias"]
  exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return exp / exp.sum(axis=-1, keepdims=True)


def blocks(variant: str) -> list[tuple[int, int, int, int, int]]:
  """Returns the rows of `BLOCKS`, scaled for a variant, a key of `SCALES`."""
  width_factor, depth_factor = SCALES[variant]
  rows = []
  for i, (count, kernel, stride, expansion, width) in enumerate(BLOCKS):
    scaled = count if i in (0, len(BLOCKS) - 1) else math.ceil(count * depth_factor)
    rows.append((scaled, kernel, stride, expansion, _multiple_of_8(width * width_factor)))
  return rows


def _multiple_of_8(width):
  """Returns the nearest multiple of 8 that is at least nine tenths of a width."""
  rounded = max(8, int(width + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * width else rounded + 8


def build(variant: str = "lite0") -> keras.Model:
  """Returns the network with fresh weights.

  Args:
    variant: key of `SCALES`.

  Input: float32 [batch, height, width, 3], pixels in [0, 1]; normalised inside.
  Output: float32 [batch, height / 32, width / 32, 1280].
  The first part of a layer's name is its stage: stem, block_0, .., top.
  """
  image = keras.Input((None, None, 3), name="image")
  x = keras.layers.Rescaling(SCALE, OFFSET, name="normalize")(image)
  x = _convolution(x, "stem_conv", STEM_WIDTH, 3, 2)
  x = _relu6(_batch_norm(x, "stem_bn"), "stem_relu")
  index = 0
  for count, kernel, stride, expansion, width in blocks(variant):
    for repeat in range(count):
      x = _block(x, f"block_{index}", kernel, stride if repeat == 0 else 1, expansion, width)
      index += 1
  x = _convolution(x, "top_conv", TOP_WIDTH, 1, 1)
  x = _relu6(_batch_norm(x, "top_bn"), "top_relu")
  return keras.Model(image, x, name=f"efficientnet_{variant}")


def _targets(layer: keras.Layer) -> dict[str, Target]:
  """Returns {PyTorch's name: `Target`} of the weights of one layer."""
  stage, part = re.fullmatch(r"(stem|top|block_\d+)_(\w+)", layer.name).groups()
  if stage == "stem":
    module = {"conv": "_conv_stem", "bn": "_bn0"}[part]
  elif stage == "top":
    module = {"conv": "_conv_head", "bn": "_bn1"}[part]
  else:
    names = {"expand": "_expand_conv", "expand_bn": "_bn0", "depthwise": "_depthwise_conv", "depthwise_bn": "_bn1"}
    names |= {"project": "_project_conv", "project_bn": "_bn2"}
    module = f"_blocks.{stage.removeprefix('block_')}.{names[part]}"
  if isinstance(layer, keras.layers.BatchNormalization):
    variables = ("weight", layer.gamma), ("bias", layer.beta)
    variables += ("running_mean", layer.moving_mean), ("running_var", layer.moving_variance)
    return {f"{module}.{name}": Target(variable) for name, variable in variables}
  # PyTorch: [out, in, h, w]; Keras: [h, w, in, out], depthwise [h, w, in, 1].
  axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
  return {f"{module}.weight": Target(layer.kernel, axes)}


def _block(x, name, kernel, stride, expansion, width):
  """Inverted residual: expand, depthwise, project."""
  shortcut, channels = x, x.shape[-1]
  if expansion != 1:
    x = _convolution(x, f"{name}_expand", channels * expansion, 1, 1)
    x = _relu6(_batch_norm(x, f"{name}_expand_bn"), f"{name}_expand_relu")
  x = keras.layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
  x = _relu6(_batch_norm(x, f"{name}_depthwise_bn"), f"{name}_depthwise_relu")
  x = _batch_norm(_convolution(x, f"{name}_project", width, 1, 1), f"{name}_project_bn")
  if stride == 1 and channels == width:
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
  return x


def _convolution(x, name, width, kernel, stride):
  return keras.layers.Conv2D(width, kernel, stride, padding="same", use_bias=False, name=name)(x)


def _batch_norm(x, name):
  return keras.layers.BatchNormalization(momentum=0.99, epsilon=EPSILON, name=name)(x)


def _relu6(x, name):
  return keras.layers.ReLU(6.0, name=name)(x)
