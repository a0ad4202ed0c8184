"""The Keras layer that runs a loaded SavedModel."""

import contextlib
import re
from collections.abc import Mapping

import keras
import tensorflow as tf

from tl_app.backbones import keras_internals, variable_usage
from tl_app.backbones.saved_model_signature import ModuleInterface, Output

# Operations that draw random numbers from a state of their own, which cannot be saved.
_RANDOM = {"RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "Multinomial"}
_MOVING = re.compile(r"moving_(mean|var|avg|std)|running_(mean|var)", re.IGNORECASE)


class SavedModelLayer(keras.layers.Layer):
  """A loaded SavedModel as a layer: {role: tensor} -> those of "pooler", "sequence" and "map" that it has, float32.

  Attributes:
    training_mode: whether `fit` runs the module's training graph (dropout, BatchNorm on the batch) while any of its
      variables trains. False by default if that graph changes variables: these are moving statistics.
    has_training_mode: whether the module has a training graph.
    draws_random: whether that graph has operations that draw random numbers from a state of their own (dropout).
    statistics: list of the `keras.Variable`s that the training graph changes.
    by_name: ordered dict, name -> `keras.Variable`: every variable of the module, once.
    usage: `VariableUsage` of the inference graph; its indices count `by_name`.
    half_precision: names of the trainable variables of 16 bits, which never train.
    disconnected: names of the trainable variables that do not reach the features, which never train.
  """

  def __init__(
    self,
    module,
    interface: ModuleInterface,
    outputs: Mapping[str, Output],
    source: str,
    value_range: tuple[float, float] = (0.0, 1.0),
  ):
    """Wraps a module.

    Args:
      module: result of `tf.saved_model.load`.
      interface: its `ModuleInterface`.
      outputs: result of `interface.outputs`.
      source: the output that the features are made of; variables that do not reach it are not trainable.
      value_range: (low, high) of the pixels that the module takes; the input of the layer is in [0, 1].
    """
    super().__init__(name="saved_model", dtype="float32")
    # Some modules hold what XLA cannot compile: tables, strings, text ops.
    self.supports_jit = False
    self._module, self._interface, self._outputs = module, interface, outputs
    self._value_range = (0.0, 255.0) if interface.takes_bytes() else tuple(value_range)
    raw = _module_variables(module, interface)
    self.usage = variable_usage.walk(interface.inference.trace, list(raw.values()))
    connected = self.usage.reaching[outputs[source].position]
    statistics = _statistics(interface, raw)
    # A hand-written module may list its moving statistics as trainable.
    listed = _trainable(module, raw) - statistics
    # In 16 bits Adam's moments would vanish.
    trainable = {name for name in listed if raw[name].dtype.size >= 4}
    self.half_precision = sorted(listed - trainable)
    self.by_name = {
      name: _wrap(name, variable, name in trainable and index in connected)
      for index, (name, variable) in enumerate(raw.items())
    }
    self._wrapped = list(self.by_name.values())
    self.disconnected = [name for i, name in enumerate(raw) if name in trainable and i not in connected]
    self._losses_of = _losses(module, list(raw.values()))
    self.has_training_mode = interface.training is not None
    self.draws_random = self.has_training_mode and bool(variable_usage.operations(interface.training.trace) & _RANDOM)
    self.statistics = [variable for name, variable in self.by_name.items() if name in statistics]
    self.training_mode = self.has_training_mode and not self.statistics
    self.built = True

  @property
  def takes_bytes(self) -> bool:
    """Whether the module takes pixels as integers in [0, 255]."""
    return self._interface.takes_bytes()

  def call(self, inputs, training=False):
    """Returns {kind of output: float32 tensor} for {role: tensor}."""
    trains = bool(training) and any(variable.trainable for variable in self._wrapped)
    if "image" in inputs:
      low, high = self._value_range
      pixels = inputs["image"] * (high - low) + low
      inputs = {"image": tf.round(pixels) if self._interface.takes_bytes() else pixels}
    flat = self._interface(inputs, trains and self.training_mode)
    if trains:
      self._add_regularization()
    return {kind: self._shaped(output.of(flat), output.shape, inputs) for kind, output in self._outputs.items()}

  def compute_output_spec(self, inputs, training=False):
    """Returns the `KerasTensor`s of `call`."""
    return {kind: keras.KerasTensor(output.shape, "float32") for kind, output in self._outputs.items()}

  def save_own_variables(self, store):
    """Writes the variables by name, so that the order in which a module lists them does not matter."""
    for name, variable in self.by_name.items():
      store[name.replace("/", "|")] = variable.numpy()

  def load_own_variables(self, store):
    """Reads the variables that `save_own_variables` wrote.

    Raises:
      ValueError: names are missing or left over.
    """
    names = {name.replace("/", "|"): variable for name, variable in self.by_name.items()}
    if set(names) != set(store.keys()):
      different = sorted(set(names) ^ set(store.keys()))
      raise ValueError(f"the weights file belongs to another module: different names: {different[:3]}")
    for name, variable in names.items():
      variable.assign(store[name])

  def notes(self) -> list[str]:
    """Returns notes for the user: which parts of the module do not train."""
    notes = []
    if self._interface.training is not None and not self.training_mode:
      notes.append(
        "BatchNorm has one mode for the whole module: moving statistics, or with --bn=train batch statistics"
      )
    if self._interface.training is None:
      notes.append("the module has no training mode: no dropout in fine-tuning")
    if self.disconnected:
      notes.append(f"variables that do not reach the features and never train: {_number_and_first(self.disconnected)}")
    if self.half_precision:
      notes.append(f"variables of 16 bits, which never train: {_number_and_first(self.half_precision)}")
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


def _module_variables(module, interface):
  """Returns {unique name: tf.Variable} of the variables that the module holds or its inference function reads."""
  found = {}
  for variable in [*_listed(module, "variables"), *interface.inference.trace.variables]:
    if variable.dtype.is_floating or variable.dtype.is_integer or variable.dtype.is_bool:
      found.setdefault(keras_internals.variable_id(variable), variable)
  names = {}
  for variable in found.values():
    scopes = variable.name.partition(":")[0].split("/")
    name = "/".join(re.sub(r"[^\w.\-]", "_", scope).lstrip("_-") or "unnamed" for scope in scopes)
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
  """Returns the names of the variables that the module lists as trainable."""
  listed = _listed(module, "trainable_variables")
  ids = {keras_internals.variable_id(variable) for variable in listed}
  return {
    name
    for name, variable in variables.items()
    if variable.dtype.is_floating and (keras_internals.variable_id(variable) in ids if listed else variable.trainable)
  }


def _losses(module, variables):
  """Returns [(callable, indices of the variables that it reads)] for the module's regularization losses."""
  losses = []
  for loss in getattr(module, "regularization_losses", None) or ():
    traces = getattr(loss, "concrete_functions", ())
    read = {keras_internals.variable_id(variable) for trace in traces for variable in trace.variables}
    losses.append((loss, [i for i, v in enumerate(variables) if keras_internals.variable_id(v) in read or not traces]))
  return losses


def _statistics(interface, variables):
  """Returns the names of the variables that the training graph changes, or that are named like moving statistics."""
  names = list(variables)
  assigned = (
    variable_usage.walk(interface.training.trace, list(variables.values())).assigned if interface.training else ()
  )
  return {name for i, name in enumerate(names) if i in assigned or _MOVING.search(name)}


def _number_and_first(names):
  """Returns how many names there are, and the first ones."""
  return f"{len(names):,} ({', '.join(names[:2])}{', ..' if len(names) > 2 else ''})"
