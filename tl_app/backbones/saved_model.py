"""TF Hub SavedModels, and whatever else `tf.saved_model.save` wrote, as Keras 3 networks."""

import contextlib
import dataclasses
import hashlib
import pathlib
import re
import typing

import keras
import tensorflow as tf

from tl_app.backbones import keras_internals, stages_by_name, variable_usage
from tl_app.backbones.backbone import Backbone
from tl_app.backbones.pooling import pool
from tl_app.backbones.saved_model_signature import Face
from tl_app.errors import UserError
from tl_app.preprocessing import image, text

DEFAULT_IMAGE_SIZE = 224
# Google's BERT reads 512 tokens; taken where a module has no table of positions.
DEFAULT_MAX_LENGTH = 512
_REFERENCES = {"Variable", "VariableV2"}
_MOVING = re.compile(r"moving_(mean|var|avg|std)|running_(mean|var)", re.IGNORECASE)


def load(directory, spec, *, preprocessor=None, pooling="auto", image_size=0):
  """Loads a SavedModel as a `Backbone`; call it inside the scope of the strategy that will train it.

  Args:
    directory: holds saved_model.pb: a TF2 module with `__call__(inputs, training)`, a Keras 2 model, what Keras 3's
      `Model.export` wrote, or signatures alone (these run in inference mode only).
    spec: `BackboneSpec`.
    preprocessor: directory of the TF Hub preprocessing model, or None.
    pooling: "mean", "cls", "pooler", or "auto" for the record's.
    image_size: height and width in pixels; 0 for the record's or the module's own.

  Raises:
    UserError: the module cannot be read, or cannot be a backbone with these choices.
  """
  module = read(directory)
  face = Face.of(module, spec)
  if variable_usage.operations(face.inference.trace) & _REFERENCES:
    raise UserError(
      f"{spec.name} keeps its weights in reference variables of TensorFlow 1, which would be lost in the export: save "
      "it again with tf.compat.v1.enable_resource_variables()"
    )
  size = _image_size(face, spec, image_size) if face.modality == "image" else 0
  outputs = face.outputs(size)
  if face.takes_bytes() and min(spec.value_range) < 0:
    raise UserError(f"{spec.name} takes pixels as integers from 0 to 255: leave --pixels out")
  chosen, source, notes = _choose_pooling(pooling, spec, face, outputs)
  layer = SavedModelLayer(module, face, outputs, source, spec.value_range)
  stages, stage_notes = _stages(layer, spec)
  spec = dataclasses.replace(spec, modality="image" if face.modality == "image" else "text", pooling=chosen)
  rivals = outputs[source].rivals
  if rivals:
    notes.append(f"the features are its output {rivals[0]!r}, the widest beside {', '.join(map(repr, rivals[1:5]))}")
  if face.modality == "image" and not face.takes_bytes():
    notes.append("pixels go in from {:g} to {:g}; --pixels for another range".format(*spec.value_range))
  return SavedModelBackbone(
    spec=spec,
    preprocess=_preprocess(module, face, layer, spec, preprocessor, size),
    network=_network(layer, face, size, chosen, source),
    stages=stages,
    feature_size=int(outputs[source].shape[-1]),
    notes=face.notes + notes + stage_notes + layer.notes(),
    identity=f"{_digest(directory)} {outputs[source].index} {spec.value_range}",
  )


def read(directory):
  """Returns `tf.saved_model.load(directory)`, in TF1 Hub format too.

  Raises:
    UserError: there is no readable SavedModel.
  """
  # Importing preprocessing.text has registered the ops of tensorflow_text, which text modules are made of.
  directory = str(directory)
  tags = [] if (pathlib.Path(directory) / "tfhub_module.pb").exists() else None
  try:
    return tf.saved_model.load(directory, tags=tags)
  except (OSError, tf.errors.OpError, ValueError, TypeError, KeyError, RuntimeError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{directory} holds no readable SavedModel: {reason}") from None


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
  def has_training_mode(self) -> bool:
    """Whether the module has a training graph."""
    return self.layer.has_training_mode

  @property
  def moving_statistics(self) -> list[keras.Variable]:
    """The variables that the module's training graph changes."""
    return self.layer.statistics

  def can_split(self, stage: str) -> bool:
    """Returns False: a SavedModel is one layer."""
    return False

  def split(self, stage: str) -> tuple[keras.Model, keras.Model]:
    """Raises `ValueError`: a SavedModel is one layer."""
    raise ValueError(f"{self.spec.name} is a SavedModel and cannot be split")

  def set_training_mode(self, on: bool) -> None:
    """Sets whether training runs the module's training graph (dropout, batch statistics)."""
    self.layer.training_mode = on


class SavedModelLayer(keras.layers.Layer):
  """A loaded SavedModel: {role: tensor} to {"pooler", "sequence", "map"}, float32, as far as it has them.

  Attributes:
    training_mode: whether `fit` runs the module's training graph (dropout, BatchNorm on the batch) while any of its
      variables trains. False by default where that graph changes variables, that is moving statistics.
    has_training_mode: whether the module has such a graph at all.
    statistics: list of the `keras.Variable`s that its training graph changes.
    by_name: ordered dict, name -> `keras.Variable`: every variable of the module, once.
    uses: `variable_usage.Uses` of the inference graph; indices count `by_name`.
  """

  def __init__(self, module, face, outputs, source, value_range=(0.0, 1.0)):
    """Wraps a module.

    Args:
      module: what `tf.saved_model.load` gave.
      face: its `Face`.
      outputs: `face.outputs(..)`.
      source: the output that the features are made of; variables that do not reach it are not trainable.
      value_range: (low, high) of the pixels that the module takes; the layer's own input is in [0, 1].
    """
    super().__init__(name="saved_model", dtype="float32")
    # XLA cannot compile what some modules hold: tables, strings, text ops.
    self.supports_jit = False
    self._module, self._face, self._outputs = module, face, outputs
    self._value_range = (0.0, 255.0) if face.takes_bytes() else tuple(value_range)
    raw = _module_variables(module, face)
    self.uses = variable_usage.walk(face.inference.trace, list(raw.values()))
    reached = self.uses.reach[outputs[source].place]
    statistics = _statistics(face, raw)
    # A hand-written module may call its moving statistics trainable.
    listed = _trainable(module, raw) - statistics
    # Adam's moments would vanish in 16 bits.
    trainable = {name for name in listed if raw[name].dtype.size >= 4}
    self.narrow = sorted(listed - trainable)
    self.by_name = {
      name: _wrap(name, variable, name in trainable and index in reached)
      for index, (name, variable) in enumerate(raw.items())
    }
    self._wrapped = list(self.by_name.values())
    self.unreached = [name for i, name in enumerate(raw) if name in trainable and i not in reached]
    self._losses_of = _losses(module, list(raw.values()))
    self.has_training_mode = face.training is not None
    self.statistics = [variable for name, variable in self.by_name.items() if name in statistics]
    self.training_mode = self.has_training_mode and not self.statistics
    self.built = True

  def call(self, inputs, training=False):
    """Returns {kind: float32 tensor} of {role: tensor}."""
    trains = bool(training) and any(variable.trainable for variable in self._wrapped)
    if "image" in inputs:
      low, high = self._value_range
      pixels = inputs["image"] * (high - low) + low
      inputs = {"image": tf.round(pixels) if self._face.takes_bytes() else pixels}
    flat = self._face(inputs, trains and self.training_mode)
    if trains:
      self._add_regularization()
    return {kind: self._shaped(flat[output.index], output.shape, inputs) for kind, output in self._outputs.items()}

  def compute_output_spec(self, inputs, training=False):
    """Returns the `KerasTensor`s of `call`."""
    return {kind: keras.KerasTensor(output.shape, "float32") for kind, output in self._outputs.items()}

  def save_own_variables(self, store):
    """Writes the variables under their names, so that the order in which a module lists them does not matter."""
    for name, variable in self.by_name.items():
      store[name.replace("/", "|")] = variable.numpy()

  def load_own_variables(self, store):
    """Reads what `save_own_variables` wrote.

    Raises:
      ValueError: names are missing or left over.
    """
    names = {name.replace("/", "|"): variable for name, variable in self.by_name.items()}
    if set(names) != set(store.keys()):
      different = sorted(set(names) ^ set(store.keys()))
      raise ValueError(f"the weights file belongs to another module: {len(different)} names differ: {different[:3]}")
    for name, variable in names.items():
      variable.assign(store[name])

  def notes(self):
    """Returns lines worth telling the user."""
    notes = []
    if self._face.training is not None and not self.training_mode:
      notes.append("BatchNorm has one mode for the whole module: its own statistics, or with --bn=train the batch's")
    if self._face.training is None:
      notes.append("the module has no training mode: no dropout in fine-tuning")
    if self.unreached:
      some = ", ".join(self.unreached[:2])
      notes.append(f"{len(self.unreached)} variables do not reach the features and never train ({some}, ..)")
    if self.narrow:
      notes.append(f"{len(self.narrow)} variables of 16 bits never train ({', '.join(self.narrow[:2])}, ..)")
    return notes

  def _add_regularization(self):
    for loss, indices in self._losses_of:
      if any(self._wrapped[index].trainable for index in indices):
        self.add_loss(tf.cast(loss(), tf.float32))

  def _shaped(self, tensor, shape, inputs):
    tensor = tf.cast(tensor, tf.float32)
    if len(shape) == 3 and "input_word_ids" in inputs:
      tensor = tensor[:, : tf.shape(inputs["input_word_ids"])[1]]
    return tf.ensure_shape(tensor, shape)


def _wrap(name, variable, trainable):
  """Returns a `keras.Variable` of the same storage whose path is the module's name for it."""
  *scopes, leaf = name.split("/")
  with contextlib.ExitStack() as stack:
    for scope in scopes:
      stack.enter_context(keras.name_scope(scope))
    return keras.Variable(variable, trainable=trainable, name=leaf, autocast=False)


def _module_variables(module, face):
  """Returns {unique name: tf.Variable} of everything the module holds or its forward function reads, each once."""
  found = {}
  for variable in [*_listed(module, "variables"), *face.inference.trace.variables]:
    if variable.dtype.is_floating or variable.dtype.is_integer or variable.dtype.is_bool:
      found.setdefault(keras_internals.variable_id(variable), variable)
  names = {}
  for variable in found.values():
    parts = variable.name.partition(":")[0].split("/")
    name = "/".join(re.sub(r"[^\w.\-]", "_", part).lstrip("_-") or "unnamed" for part in parts)
    unique, count = name, 0
    while unique in names:
      count += 1
      unique = f"{name}_{count}"
    names[unique] = variable
  return names


def _listed(module, attribute):
  value = getattr(module, attribute, None)
  value = value() if callable(value) else value
  try:
    return [variable for variable in value or () if isinstance(variable, tf.Variable)]
  except TypeError:
    return []


def _trainable(module, variables):
  """Returns the names of the variables that the module says can train."""
  listed = _listed(module, "trainable_variables")
  ids = {keras_internals.variable_id(variable) for variable in listed}
  return {
    name
    for name, variable in variables.items()
    if variable.dtype.is_floating and (keras_internals.variable_id(variable) in ids if listed else variable.trainable)
  }


def _losses(module, variables):
  """Returns [(callable, indices of the variables that it reads)] of the module's regularization losses."""
  losses = []
  for loss in getattr(module, "regularization_losses", None) or ():
    traces = getattr(loss, "concrete_functions", ())
    read = {keras_internals.variable_id(variable) for trace in traces for variable in trace.variables}
    losses.append((loss, [i for i, v in enumerate(variables) if keras_internals.variable_id(v) in read or not traces]))
  return losses


def _statistics(face, variables):
  """Returns the names of the variables that the training graph changes, or whose name says moving statistics."""
  names = list(variables)
  assigned = variable_usage.walk(face.training.trace, list(variables.values())).assigned if face.training else ()
  return {name for i, name in enumerate(names) if i in assigned or _MOVING.search(name)}


def _stages(layer, spec):
  """Returns (ordered dict of stage -> `keras.Variable`s, notes)."""
  shapes = {name: tuple(variable.shape) for name, variable in layer.by_name.items()}
  names = list(shapes)
  if not names:
    return {}, ["the module has no variables, so no stages: a head can be trained on it, nothing else"]
  order = {names[index]: time for index, time in layer.uses.first.items()}
  notes = []
  stages = stages_by_name.by_patterns(names, spec.stages) if spec.stages else stages_by_name.partition(shapes, order)
  if not stages:
    stages = stages_by_name.by_order(shapes, order)
    notes.append(f"the module's names tell no stages: {len(stages)} parts by the order of their use in the graph")
  return {stage: [layer.by_name[name] for name in members] for stage, members in stages.items()}, notes


def _image_size(face, spec, image_size):
  """Returns the height and width in pixels that the network will take."""
  shape = face.roles["image"].shape
  height, width, channels = shape[1:] if shape.rank == 4 else (None, None, 3)
  if channels not in (3, None):
    raise UserError(f"{spec.name} takes images {face.described()}: only 3 channels, the last axis, are supported")
  if height != width and height and width:
    raise UserError(f"{spec.name} takes images of {height} x {width} pixels: only square ones are supported")
  fixed = height or width
  if fixed and image_size and image_size not in (fixed, spec.image_size):
    raise UserError(f"--image_size={image_size}, but {spec.name} takes only {fixed}: leave the flag out")
  return fixed or image_size or spec.image_size or DEFAULT_IMAGE_SIZE


def _choose_pooling(pooling, spec, face, outputs):
  """Returns (pooling, the output it is made of, notes)."""
  wanted = spec.pooling_for(pooling)
  spatial = next((kind for kind in ("sequence", "map") if kind in outputs), None)
  possible = {"pooler": "pooler" if "pooler" in outputs else None, "mean": spatial}
  possible["cls"] = "sequence" if "sequence" in outputs else None
  if possible[wanted]:
    return wanted, possible[wanted], []
  instead = next(choice for choice in ("pooler", "mean") if possible[choice])
  if wanted != spec.pooling:
    gives = ", ".join(choice for choice in ("pooler", "mean", "cls") if possible[choice])
    raise UserError(f"--pooling={wanted}: {spec.name} cannot give it; possible: {gives}")
  said = [f"the module gives no {wanted} pooling: {instead} is taken"] if face.modality == "tokens" else []
  return instead, possible[instead], said


def _network(layer, face, size, pooling, source):
  """Returns the functional model from the backbone's inputs to "features" and the module's "sequence" or "map"."""
  if face.modality == "image":
    inputs = keras.Input((size, size, 3), dtype="float32", name="image")
    tensors = {"image": inputs}
  elif face.modality == "strings":
    inputs = keras.Input((), dtype="string", name="text")
    tensors = {"text": inputs}
  else:
    inputs = tensors = {name: keras.Input((None,), dtype="int32", name=name) for name in text.INPUT_NAMES}
  outputs = dict(layer(tensors))
  features = pool(outputs[source], tensors.get("input_mask"), pooling)
  outputs = {"features": features} | {kind: tensor for kind, tensor in outputs.items() if kind != "pooler"}
  return keras.Model(inputs, outputs, name="backbone")


def _preprocess(module, face, layer, spec, preprocessor, size):
  """Returns the `tf.Module` from raw strings or encoded images to the network's inputs."""
  if face.modality == "image":
    return image.ImagePreprocess(size)
  if face.modality == "strings":
    return text.RawStrings()
  limit = _limit(face, layer, spec)
  if preprocessor is not None:
    return text.HubPreprocess(read(preprocessor), limit, identity=_digest(preprocessor))
  vocabulary = getattr(getattr(module, "vocab_file", None), "asset_path", None)
  if vocabulary is None:
    raise UserError(f"{spec.name} carries no vocab_file: name its preprocessing module with --preprocessor")
  lower = getattr(module, "do_lower_case", True)
  return text.WordPiece(vocabulary.numpy().decode(), bool(getattr(lower, "numpy", lambda: lower)()), limit)


def _limit(face, layer, spec):
  """Returns the longest input in tokens: the module's fixed length, or the size of its table of positions."""
  fixed = face.roles["input_word_ids"].shape[1]
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
  ids = tf.ones([1, length], tf.int32)
  try:
    layer({name: tf.zeros_like(ids) if "type" in name else ids for name in text.INPUT_NAMES})
  except (tf.errors.OpError, ValueError):
    return False
  return True


def _digest(directory):
  digest = hashlib.sha256()
  root = pathlib.Path(directory)
  for path in sorted([root / "saved_model.pb", *filter(pathlib.Path.is_file, (root / "assets").rglob("*"))]):
    digest.update(path.read_bytes())
  return digest.hexdigest()
