"""TF Hub SavedModels, and whatever else `tf.saved_model.save` wrote, as Keras 3 networks."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import typing

import keras
import tensorflow as tf

from tl_app.assets import saved_models
from tl_app.backbones import stages_by_name, variable_usage
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.float32_layers import L2_NORMALIZED_FEATURES
from tl_app.backbones.pooling import pool
from tl_app.backbones.saved_backbone import PREPROCESSOR
from tl_app.backbones.saved_model_layer import SavedModelLayer
from tl_app.backbones.saved_model_signature import LAST_LAYERS, ModuleInterface, blank_tokens
from tl_app.backbones.spec import L2, BackboneSpec
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.preprocessing import image, text

DEFAULT_IMAGE_SIZE = 224
# Google's BERT reads 512 tokens; taken where a module has no table of positions.
DEFAULT_MAX_LENGTH = 512
_REFERENCES = {"Variable", "VariableV2"}


def load(
  directory: str | os.PathLike,
  spec: BackboneSpec,
  *,
  trust: bool = False,
  preprocessor: str | os.PathLike | None = None,
  pooling: str = "auto",
  image_size: int = 0,
) -> "SavedModelBackbone":
  """Loads a SavedModel as a `Backbone`; call it inside the scope of the strategy that will train it.

  Args:
    directory: with saved_model.pb: a TF2 module with `__call__(inputs, training)`, a Keras 2 model, an export of Keras
      3's `Model.export`, or signatures alone (these run in inference mode only).
    spec: `BackboneSpec`.
    trust: whether their graphs may do something outside the model, see `saved_models.load`.
    preprocessor: directory of the TF Hub preprocessing model, or None.
    pooling: "mean", "cls", "pooler", "last4", or "auto" for the record's.
    image_size: height and width in pixels; 0 for the record's or the module's own.

  Raises:
    UserError: the module cannot be read, or cannot be a backbone with these choices.
  """
  module, effects = read(directory, trust)
  interface = ModuleInterface.of(module, spec)
  if variable_usage.operations(interface.inference.trace) & _REFERENCES:
    raise UserError(
      f"{spec.name} keeps its weights in reference variables of TensorFlow 1, which would be lost in the export: save "
      "it again with tf.compat.v1.enable_resource_variables()"
    )
  size = _image_size(interface, spec, image_size) if interface.form == "image" else 0
  outputs = interface.outputs(size)
  if interface.takes_bytes() and min(spec.value_range) < 0:
    raise UserError(f"{spec.name} takes pixels as integers from 0 to 255: remove --pixels")
  chosen, source, notes = _choose_pooling(pooling, spec, interface, outputs)
  layer = SavedModelLayer(module, interface, outputs, source, spec.value_range)
  stages, stage_notes = _stages(layer, spec)
  notes += _feature_notes(spec, interface, outputs, source, size)
  spec = dataclasses.replace(
    spec,
    modality="image" if interface.form == "image" else "text",
    pooling=chosen,
    l2_normalized=spec.is_l2_normalized(pooling, chosen),
  )
  if interface.form == "image" and not interface.takes_bytes():
    notes.append("pixels are scaled to {:g} to {:g}; --pixels sets another range".format(*spec.value_range))
  tokenizer = saved_models.Loaded(None, "") if preprocessor is None else read(preprocessor, trust)
  preprocess = _preprocess(module, interface, layer, spec, tokenizer.module and (tokenizer.module, preprocessor), size)
  return SavedModelBackbone(
    spec=spec,
    preprocess=preprocess,
    network=_network(layer, interface, size, chosen, source, spec.l2_normalized),
    stages=stages,
    feature_size=int(outputs[source].shape[-1]),
    notes=interface.notes + notes + stage_notes + layer.notes(),
    effects="; ".join(filter(None, (effects, tokenizer.effects))),
    identity=_identity(directory, outputs[source], spec),
    save=lambda path: save(module, layer, preprocessor, path),
  )


def _identity(directory, output, spec):
  made_of = " ".join(map(str, output.averaged or [output.index]))
  return f"{_digest(directory)} {made_of} {spec.value_range}{L2 if spec.l2_normalized else ''}"


def _feature_notes(spec, interface, outputs, source, size):
  own_name, *others = outputs[source].alternatives or ("",)
  if others:
    yield f"the features are its output {own_name!r}, the widest; others: {', '.join(map(repr, others[:4]))}"
  if not spec.modality and source == "pooler" and interface.gives_probabilities(outputs[source], size):
    yield (
      "the features sum to 1 for each example: they are probabilities of a classifier; a module without its last layer "
      "gives better features"
    )


def save(module, layer: SavedModelLayer, preprocessor, directory: pathlib.Path) -> None:
  """Writes a loaded module with its present weights, and its preprocessing model into the folder `PREPROCESSOR`.

  What the module had, it has again: `__call__(inputs, training)`, signatures, files. `variables`,
  `trainable_variables` and `regularization_losses` are added where it had none.

  Args:
    module: result of `read`.
    layer: the layer that runs it.
    preprocessor: directory of the preprocessing model, or None.
    directory: an empty directory.
  """
  variables = list(layer.by_name.values())
  trainable = [variable.value for variable in variables if variable.trainable]
  lists = {"variables": [variable.value for variable in variables], "trainable_variables": trainable}
  for name, values in (lists | {"regularization_losses": []}).items():
    if not hasattr(module, name):
      setattr(module, name, values)
  signatures = dict(getattr(module, "signatures", {}))
  tf.saved_model.save(module, str(directory), signatures=signatures or None)
  if preprocessor is not None:
    shutil.copytree(preprocessor, directory / PREPROCESSOR)


def read(directory: str | os.PathLike, trust: bool = False) -> saved_models.Loaded:
  """Returns `saved_models.load(directory)`; the TF1 Hub format is read too.

  Raises:
    UserError: there is no readable SavedModel, or it is not trusted.
  """
  # The import of preprocessing.text has registered the ops of tensorflow_text, which text modules need.
  tags = [] if (pathlib.Path(directory) / "tfhub_module.pb").exists() else None
  return saved_models.load(directory, trust=trust, tags=tags)


class SavedModelBackbone(Backbone):
  """A `Backbone` whose network is one `SavedModelLayer`: it cannot be split, and has one training mode for all."""

  single_mode: typing.ClassVar[bool] = True
  averages_statistics: typing.ClassVar[bool] = False
  keeps_own_precision: typing.ClassVar[bool] = True
  compiles_with_xla: typing.ClassVar[bool] = False
  tracks_assets: typing.ClassVar[bool] = True

  @property
  def layer(self) -> "SavedModelLayer":
    """The layer that runs the module."""
    return next(layer for layer in self.network.layers if isinstance(layer, SavedModelLayer))

  @property
  def keeps_seeds(self) -> bool:
    """Whether the training graph draws no random numbers from the state of TensorFlow's operations."""
    return not (self.layer.has_training_mode and self.layer.draws_random)

  @property
  def has_training_mode(self) -> bool:
    """Whether the module has a training graph."""
    return self.layer.has_training_mode

  @property
  def has_input_gradient(self) -> bool:
    """Whether the features can be differentiated by the pixels: not if the module rounds them to integers."""
    return super().has_input_gradient and not self.layer.takes_bytes

  @property
  def moving_statistics(self) -> list[keras.Variable]:
    """The variables that the module's training graph changes."""
    return self.layer.statistics

  def poolings(self) -> dict[str, keras.KerasTensor]:
    """Returns {value of --pooling: features}, see `Backbone.poolings`."""
    outputs = dict(self.layer(self.network.input))
    found = super().poolings() | ({"pooler": outputs["pooler"]} if "pooler" in outputs else {})
    if LAST_LAYERS in outputs:
      found["last4"] = pool(outputs[LAST_LAYERS], self.network.input["input_mask"], "last4")
    return found

  def can_split(self, stage: str) -> bool:
    """Returns False: a SavedModel is one layer."""
    return False

  def split(self, stage: str) -> tuple[keras.Model, keras.Model]:
    """Raises `ValueError`: a SavedModel is one layer."""
    raise ValueError(f"{self.spec.name} is a SavedModel and cannot be split")

  def set_training_mode(self, on: bool) -> None:
    """Sets whether training runs the module's training graph (dropout, batch statistics)."""
    self.layer.training_mode = on


def _stages(layer, spec):
  """Returns (ordered dict of stage -> `keras.Variable`s, notes)."""
  shapes = {name: tuple(variable.shape) for name, variable in layer.by_name.items()}
  names = list(shapes)
  if not names:
    return {}, ["the module has no variables, so it has no stages: only a head can be trained on it"]
  order = {names[index]: time for index, time in layer.usage.first_use.items()}
  notes = []
  stages = stages_by_name.by_patterns(names, spec.stages) if spec.stages else stages_by_name.partition(shapes, order)
  if not stages:
    stages = stages_by_name.by_order(shapes, order)
    notes.append(
      f"the variable names do not show stages: {number_of(len(stages), 'part')} in the order of use in the graph"
    )
  return {stage: [layer.by_name[name] for name in members] for stage, members in stages.items()}, notes


def _image_size(interface, spec, image_size):
  """Returns the height and width in pixels that the network will take."""
  shape = interface.roles["image"].shape
  height, width, channels = shape[1:] if shape.rank == 4 else (None, None, 3)
  if channels not in (3, None):
    raise UserError(f"{spec.name} takes images {interface.described()}: only 3 channels, the last axis, are supported")
  if height != width and height and width:
    raise UserError(f"{spec.name} takes images of {height} x {width} pixels: only square ones are supported")
  fixed = height or width
  if fixed and image_size and image_size not in (fixed, spec.image_size):
    raise UserError(f"--image_size={image_size}, but {spec.name} takes only {fixed}: remove the flag")
  return fixed or image_size or spec.image_size or DEFAULT_IMAGE_SIZE


def _choose_pooling(pooling, spec, interface, outputs):
  """Returns (pooling, the output it is made of, notes)."""
  wanted = spec.pooling_for(pooling)
  spatial = next((kind for kind in ("sequence", "map") if kind in outputs), None)
  possible = {"pooler": "pooler" if "pooler" in outputs else None, "mean": spatial}
  possible["cls"] = "sequence" if "sequence" in outputs else None
  possible["last4"] = LAST_LAYERS if LAST_LAYERS in outputs else None
  if possible[wanted]:
    return wanted, possible[wanted], []
  instead = next(choice for choice in ("pooler", "mean") if possible[choice])
  if wanted != spec.pooling:
    gives = ", ".join(choice for choice in possible if possible[choice])
    raise UserError(f"--pooling={wanted}: {spec.name} does not have it; possible: {gives}")
  note = [f"the module has no {wanted} pooling: {instead} is used"] if interface.form == "tokens" else []
  return instead, possible[instead], note


def _network(layer, interface, size, pooling, source, l2_normalized):
  """Returns the functional model from the backbone's inputs to "features" and the module's "sequence" or "map"."""
  if interface.form == "image":
    inputs = keras.Input((size, size, 3), dtype="float32", name="image")
    tensors = {"image": inputs}
  elif interface.form == "strings":
    inputs = keras.Input((), dtype="string", name="text")
    tensors = {"text": inputs}
  else:
    inputs = tensors = {name: keras.Input((None,), dtype="int32", name=name) for name in text.INPUT_NAMES}
  outputs = dict(layer(tensors))
  features = pool(outputs[source], tensors.get("input_mask"), pooling)
  if l2_normalized:
    features = keras.layers.UnitNormalization(name=L2_NORMALIZED_FEATURES)(features)
  positions = {kind: tensor for kind, tensor in outputs.items() if kind in ("sequence", "map")}
  outputs = {"features": features} | positions
  return keras.Model(inputs, outputs, name="backbone")


def _preprocess(module, interface, layer, spec, tokenizer, size):
  """Returns the `tf.Module` from raw strings or encoded images to the network's inputs.

  `tokenizer` is (loaded preprocessing model, its directory), or None.
  """
  if interface.form == "image":
    return image.ImagePreprocess(size)
  if interface.form == "strings":
    return text.RawStrings()
  limit = _limit(interface, layer, spec)
  if tokenizer:
    return text.HubPreprocess(tokenizer[0], limit, identity=_digest(tokenizer[1]))
  vocabulary = getattr(getattr(module, "vocab_file", None), "asset_path", None)
  if vocabulary is None:
    raise UserError(f"{spec.name} has no vocab_file: give its preprocessing model with --preprocessor")
  lower = getattr(module, "do_lower_case", True)
  return text.WordPiece(vocabulary.numpy().decode(), bool(getattr(lower, "numpy", lambda: lower)()), limit)


def _limit(interface, layer, spec):
  """Returns the longest input in tokens: the module's fixed length, or the size of its table of positions."""
  fixed = interface.roles["input_word_ids"].shape[1]
  if fixed:
    return fixed
  most = spec.max_length or DEFAULT_MAX_LENGTH
  tables = {name: v.shape[0] for name, v in layer.by_name.items() if len(v.shape) == 2}
  named = [size for name, size in tables.items() if "position_embedding" in name]
  if named:
    return min(most, *named)
  # A table of positions without a name shows only by the length at which the module breaks.
  sizes = sorted({most, *(size for size in tables.values() if 2 < size < most)}, reverse=True)
  return next((size for size in sizes if _reads(layer, size)), 2)


def _reads(layer, length):
  try:
    layer(blank_tokens(length))
  except (tf.errors.OpError, ValueError):
    return False
  return True


def _digest(directory):
  digest = hashlib.sha256()
  root = pathlib.Path(directory)
  for path in sorted([root / "saved_model.pb", *filter(pathlib.Path.is_file, (root / "assets").rglob("*"))]):
    digest.update(path.read_bytes())
  return digest.hexdigest()
