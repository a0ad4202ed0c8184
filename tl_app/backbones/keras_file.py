"""Models that `model.save` of Keras wrote, `.keras` or `.h5`, as backbones for images."""

import dataclasses
import itertools
import pathlib

import keras
import numpy as np

from tl_app.assets import keras_files
from tl_app.backbones import keras_internals, native, saved_backbone
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import UserError
from tl_app.preprocessing import image

# Activations of a layer that gives answers, not features.
_ANSWERS = ("softmax", "sigmoid", "log_softmax")
# A first layer that divides pixels by at least this, or shifts them by as much, expects them in [0, 255].
_BYTES = 100.0
# Layers whose output has the range of their input; so has that of layers whose class begins with "Random".
_KEEP_RANGE = (
  *(keras.layers.InputLayer, keras.layers.Identity, keras.layers.Resizing, keras.layers.CenterCrop),
  *(keras.layers.Cropping2D, keras.layers.ZeroPadding2D, keras.layers.Dropout, keras.layers.GaussianNoise),
)
DEFAULT_SIZE = 224


def load(spec: BackboneSpec, *, pooling: str = "auto", image_size: int = 0, pixels: str = "auto") -> Backbone:
  """Loads a model file in the safe mode of Keras: code in the file is not run.

  A last layer that classifies is removed, with the dropout before it.

  Args:
    spec: `BackboneSpec`, whose handle is the path.
    pooling: "mean" for a model that ends with a feature map, "pooler" for a vector, or "auto".
    image_size: height and width in pixels; 0 for those of the model.
    pixels: "auto" looks at whether the model rescales its input itself, unless tl_app wrote it; another value has set
      `spec.value_range`.

  Raises:
    UserError: the file cannot be loaded safely, or the model does not take images.
  """
  model = _read(spec)
  if not spec.pretrained:
    model = _reset(model)
  if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] != 3:
    images = "not images [batch, height, width, 3]"
    may_be_text = any("int" in tensor.dtype or tensor.dtype == "string" for tensor in model.inputs)
    advice = f"; a model for texts must be a SavedModel: {_way(spec)}" if may_be_text else ""
    raise UserError(f"--backbone={spec.name} takes {_shapes(model.inputs)}, {images}{advice}")
  if len(model.outputs) != 1:
    raise UserError(f"--backbone={spec.name} has {len(model.outputs)} outputs: save a model with one, its features")
  if pixels == "auto" and not spec.directory and _expects_bytes(model):
    spec = dataclasses.replace(spec, value_range=(0.0, 255.0))
  size = _size(spec, model, image_size)
  output, removed = _features(model.outputs[0])
  if len(output.shape) not in (2, 4):
    raise UserError(f"--backbone={spec.name} gives {_shapes([output])}: a vector or a feature map is needed")
  spec = dataclasses.replace(spec, image_size=size, pooling="pooler" if len(output.shape) == 2 else "mean")
  if spec.pooling_for(pooling) != spec.pooling:
    raise UserError(f"--pooling={pooling}: {spec.name} does not have it; possible: {spec.pooling}")
  inputs = keras.Input((size, size, 3), name="image")
  _rename(model, ("normalize", "pool"))
  features = keras_internals.applied(keras.Model(model.inputs[0], output), native.normalize(inputs, spec))
  outputs = {"features": features}
  if len(features.shape) == 4:
    outputs = {"features": keras.layers.GlobalAveragePooling2D(name="pool")(features), "map": features}
  network = keras.Model(inputs, outputs, name="backbone")
  spec = dataclasses.replace(spec, modality="image")
  backbone = native.of_network(spec, image.ImagePreprocess(size), network, {"config": model.get_config()})
  backbone.save = lambda path: keras.Model(inputs, features).save(path / saved_backbone.KERAS_FILE)
  if removed:
    backbone.notes.append(f"removed at the end: {', '.join(removed)}, which give answers in place of features")
  backbone.notes.append("pixels are scaled to {:g} to {:g}; --pixels sets another range".format(*spec.value_range))
  return backbone


def _rename(model, names):
  """Gives layers with one of `names`, which the backbone may add to the model, names that are free."""
  taken = {layer.name for layer in model.layers}
  for layer in model.layers:
    if layer.name in names:
      layer.name = next(name for i in itertools.count(1) if (name := f"{layer.name}_{i}") not in taken)
      taken.add(layer.name)


def _read(spec):
  path = pathlib.Path(spec.handle)
  try:
    fault = keras_files.fault(path)
    if fault:
      raise ValueError(fault)
    if path.suffix != ".keras":
      _refuse_weights_alone(path)
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
  except UserError:
    raise
  except Exception as error:
    # Keras raises whatever the code of a damaged or foreign file raises.
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"--backbone={spec.name} cannot be loaded in Keras' safe mode ({reason}); {_way(spec)}") from None
  if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
    raise UserError(f"--backbone={spec.name} is no functional or sequential model with known inputs; {_way(spec)}")
  # A sequential model has no graph of nodes.
  return keras.Model(model.inputs, model.outputs)


def _reset(model):
  """Returns the model with random initial weights; what `Normalization` knows of the pixels is kept."""
  new = keras.models.clone_model(model)
  for old, layer in zip(keras_internals.flat_layers(model), keras_internals.flat_layers(new), strict=True):
    if isinstance(layer, keras.layers.Normalization) and old.weights:
      layer.set_weights(old.get_weights())
      layer.finalize_state()
  return new


def _refuse_weights_alone(path):
  import h5py

  with h5py.File(path) as file:
    if "model_config" in file.attrs:
      return
  raise UserError(
    f"--backbone={path} holds weights alone: build the model, call model.load_weights and model.export(DIRECTORY), "
    "then give --backbone=DIRECTORY"
  )


def _way(spec):
  """Returns how to convert a file, for messages."""
  return (
    "if you trust the file, convert it where its code is: "
    f"keras.saving.load_model({spec.handle!r}, compile=False, safe_mode=False).export('converted'), "
    "then --backbone=converted"
  )


def _shapes(tensors):
  return ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in tensors)


def _size(spec, model, image_size):
  height, width = model.inputs[0].shape[1:3]
  if height != width and height and width:
    raise UserError(f"{spec.name} takes images of {height} x {width} pixels: only square ones are supported")
  fixed = height or width
  if fixed and image_size and image_size != fixed:
    raise UserError(f"--image_size={image_size}, but {spec.name} takes only {fixed}: remove the flag")
  return fixed or image_size or DEFAULT_SIZE


def _expects_bytes(model):
  """Returns whether the first layer with an effect expects pixels in [0, 255]; None if no layer has an effect.

  Models inside the model, of augmentation or a pretrained one, are looked into.
  """
  for node in keras_internals.nodes(keras.Model(model.inputs, model.outputs)):
    layer = node.operation
    name = type(layer).__name__
    if isinstance(layer, _KEEP_RANGE) or name.startswith("Random") or name in ("GetItem", "Stack", "Cast", "Flip"):
      continue
    if not (isinstance(layer, keras.Model) and layer.inputs):
      return _scales_bytes(layer, keras_internals.constants(node))
    found = _expects_bytes(layer)
    if found is not None:
      return found
  return None


def _scales_bytes(layer, constants):
  """Returns whether a layer or operation, with its constant arguments, brings pixels in [0, 255] near 1 or 0."""
  if isinstance(layer, keras.layers.Rescaling):
    return 0 < float(np.max(layer.scale)) <= 1 / _BYTES
  if isinstance(layer, keras.layers.Normalization):
    return float(np.max(np.abs(layer.mean))) > 1
  largest = max((float(np.max(np.abs(constant))) for constant in constants), default=0.0)
  kind = type(layer).__name__
  if kind == "Multiply":
    return 0 < largest <= 1 / _BYTES
  return kind in ("TrueDivide", "Divide", "Subtract", "Add") and largest >= _BYTES


def _features(output):
  """Returns (the tensor of the features, names of the layers after it that are removed)."""
  tensor, removed = output, []
  layer = keras_internals.producer(tensor)
  while isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)) and _answers(layer):
    removed.append(layer.name)
    tensor = layer.input
    layer = keras_internals.producer(tensor)
  if not (isinstance(layer, keras.layers.Dense) and (removed or _answers(layer)) and len(tensor.shape) == 2):
    return output, []
  while True:
    removed.append(layer.name)
    tensor = layer.input
    layer = keras_internals.producer(tensor)
    if not isinstance(layer, keras.layers.Dropout):
      break
  return tensor, removed


def _answers(layer):
  if isinstance(layer, keras.layers.Softmax):
    return True
  return getattr(layer.activation, "__name__", "") in _ANSWERS
