"""How a loaded SavedModel is called: which function, with which arguments, and which tensors it returns."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tl_app.errors import UserError
from tl_app.preprocessing.text import INPUT_NAMES

# Signatures, the first of which is called that a module has: those of features before those of answers.
SIGNATURES = ("features", "embedding", "embeddings", "serving_default", "default", "image_feature_vector", "tokens")
TRAINING_NAMES = ("training", "is_training")
POOLED = ("pooled_output", "pooler_output", "default", "feature_vector", "features", "embedding", "embeddings")
SEQUENCES = ("sequence_output", "last_hidden_state", "default")
# Outputs that answer, in place of features; taken only if there is no other.
ANSWERS = re.compile(r"prob|logit|softmax|predict|^(scores?|class|classes|labels?)$", re.IGNORECASE)
# Kind of the mean of the last `LAYERS_AVERAGED` layers, which TF Hub's BERT modules give as a list of this name.
LAST_LAYERS, LAYERS_AVERAGED = "last_layers", 4
_LAYERS = re.compile(r"^encoder_outputs([_/]\d+)?$")
_ROLES = dict(zip(INPUT_NAMES, (r"word_id|input_ids|token_ids|^(ids|tokens?)$", r"mask", r"type|segment")))


@dataclasses.dataclass(frozen=True)
class Slot:
  """Stands for a tensor in the arguments of a call: its role, or "training" for a boolean tensor."""

  role: str


@dataclasses.dataclass(frozen=True)
class Output:
  """One tensor among the outputs of a module.

  Attributes:
    index: position in the flat structure of outputs.
    position: position among the tensors of the graph; a ragged output has several of these, None has none.
    shape: with the batch first; None for a dimension that varies.
    alternatives: if the names did not decide, the names of all outputs that were possible, that of this one first.
    averaged: positions in the flat structure of the outputs whose mean it is; () for `index` alone.
  """

  index: int
  position: int
  shape: tuple
  alternatives: tuple[str, ...] = ()
  averaged: tuple[int, ...] = ()

  def of(self, flat: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the tensor from the flat structure of outputs."""
    if not self.averaged:
      return flat[self.index]
    return tf.add_n([flat[index] for index in self.averaged]) / len(self.averaged)


@dataclasses.dataclass(frozen=True)
class Call:
  """One traced signature of a function.

  Attributes:
    trace: the concrete function.
    args, kwargs: its arguments, with a `Slot` for each tensor.
    roles: dict, role -> TensorSpec: "image", "text", or some of `INPUT_NAMES`; empty if the inputs are not understood.
    training: True, False or None as traced, or "tensor".
  """

  trace: object
  args: tuple
  kwargs: dict
  roles: dict
  training: object

  @classmethod
  def of(cls, trace, names, defaults):
    """Reads a concrete function.

    Args:
      trace: the concrete function.
      names: of its positional arguments.
      defaults: dict, name of an argument -> default value.
    """
    args, kwargs = trace.structured_input_signature
    # A loaded signature has its arguments in any order.
    kwargs = dict(sorted(kwargs.items()))
    named = [(names[i] if i < len(names) else "", value) for i, value in enumerate(args)] + list(kwargs.items())
    leaves = [leaf for name, value in named for leaf in _data(name, value)]
    # Required scalars whose value is unknown.
    unknown = [name for name, value in named if _is_scalar(name, value) and name not in defaults]
    roles = [] if unknown else _roles(leaves)
    slots = {id(spec): Slot(role) for role, (_, spec) in zip(roles, leaves)}
    training = next((value for name, value in named if name in TRAINING_NAMES), None)
    filled = [_filled(name, value, slots, defaults) for name, value in named]
    return cls(
      trace=trace,
      args=tuple(filled[: len(args)]),
      kwargs=dict(zip(kwargs, filled[len(args) :])),
      roles={role: spec for role, (_, spec) in zip(roles, leaves)},
      training="tensor" if isinstance(training, tf.TensorSpec) else training,
    )

  @property
  def form(self):
    """What goes in: "image", "strings" or "tokens"."""
    return {"image": "image", "text": "strings"}.get(next(iter(self.roles), ""), "tokens")

  def shapes(self):
    """Returns [(role, shape)], to compare two calls."""
    return [(role, str(spec.shape)) for role, spec in self.roles.items()]

  def fixed_dimensions(self):
    """Returns the number of dimensions that have a fixed size."""
    return sum(
      size is not None for spec in self.roles.values() for size in (spec.shape.as_list() if spec.shape else [])
    )

  def fill(self, tensors, training):
    """Returns (args, kwargs) with {role: tensor} in the slots, cast to the traced dtypes and shapes."""

    def value(leaf):
      if not isinstance(leaf, Slot):
        return leaf
      return tf.constant(training) if leaf.role == "training" else _fitted(tensors[leaf.role], self.roles[leaf.role])

    return tf.nest.map_structure(value, (self.args, self.kwargs))


@dataclasses.dataclass(frozen=True)
class ModuleInterface:
  """How a module is used as a backbone.

  Attributes:
    function: the function to call.
    inference: the `Call` of inference.
    training: the `Call` of training, or None.
    notes: lines for the user.
  """

  function: object
  inference: Call
  training: Call | None
  notes: list

  @classmethod
  def of(cls, module, spec):
    """Finds how a loaded module is called.

    Args:
      module: result of `tf.saved_model.load`.
      spec: the `BackboneSpec`.

    Raises:
      UserError: no function of the module takes a batch of images, of texts, or of BERT's inputs.
    """
    allowed = {"image": ("image",), "text": ("tokens", "strings")}.get(spec.modality, ("image", "tokens", "strings"))
    entries = [(function, notes, _calls(function)) for function, notes in _entries(module, spec)]

    def fits(call):
      return call.roles and call.form in allowed and call.training is not True

    function, notes, calls = next((entry for entry in entries if any(map(fits, entry[2]))), entries[0])
    usable = [call for call in calls if fits(call)]
    if not usable:
      raise UserError(f"{spec.name} is no backbone for {spec.modality or 'image'}s or texts: {_described(calls)}")
    chosen = min(usable, key=Call.fixed_dimensions)
    if any(shape.rank and shape[0] is not None for shape in (role.shape for role in chosen.roles.values())):
      raise UserError(f"{spec.name} takes only batches of a fixed size: {_described([chosen])}; export it without")
    training = [call for call in calls if call.training is True and call.shapes() == chosen.shapes()]
    training = training or [chosen] * (chosen.training == "tensor")
    return cls(function, chosen, training[0] if training else None, notes)

  @property
  def form(self):
    """What goes in: "image", "strings" or "tokens"."""
    return self.inference.form

  @property
  def roles(self):
    """Dict, role -> TensorSpec of what goes in."""
    return self.inference.roles

  def __call__(self, tensors, training):
    """Returns the module's flat outputs for {role: tensor}; those of inference if it has no training mode."""
    call = self.training if training and self.training else self.inference
    args, kwargs = call.fill(tensors, bool(training))
    return tf.nest.flatten(self.function(*args, **kwargs))

  def takes_bytes(self):
    """Returns whether the module takes pixels as integers in [0, 255]."""
    return self.form == "image" and self.roles["image"].dtype.is_integer

  def described(self):
    """Returns a description of inputs and outputs, for messages."""
    return _described([self.inference])

  def outputs(self, image_size):
    """Returns dict, "pooler", "sequence" or "map" -> `Output`; at least one of them. A module that gives the outputs
    of its layers has `LAST_LAYERS` too.

    Args:
      image_size: height and width in pixels of a module for images.

    Raises:
      UserError: no output is a vector, a sequence or a map per example. A module that takes strings must return a
        vector, since the length of its sequences is unknown.
    """
    leaves, position = [], 0
    for index, (name, spec) in enumerate(_named(self.inference.trace.structured_outputs)):
      if isinstance(spec, tf.TensorSpec | tf.Tensor) and spec.dtype.is_floating:
        leaves.append((name, index, position, spec.shape))
      position += 0 if spec is None else len(tf.nest.flatten(spec, expand_composites=True))
    if any(shape.rank is None or (shape.rank > 1 and shape[-1] is None) for *_, shape in leaves):
      tensors = self._of_blank(image_size)
      leaves = [(name, index, position, tensors[index].shape) for name, index, position, _ in leaves]
    floats = leaves if self.form != "strings" else [leaf for leaf in leaves if leaf[-1].rank == 2]
    found = {
      "pooler": _first(floats, 2, POOLED),
      "sequence": _first(floats, 3, SEQUENCES) if self.form != "image" else None,
      "map": _first(floats, 4, ("default", "map", "feature_map")) if self.form == "image" else None,
    }
    if self.form == "image" and not found["pooler"] and not found["map"]:
      found["sequence"] = _first(floats, 3, ("default",))
    found = {kind: output for kind, output in found.items() if output}
    if self.form == "tokens" and "sequence" in found and (last := _last_layers(floats)):
      found[LAST_LAYERS] = last
    if not found:
      kinds = "vector per text" if self.form == "strings" else "vector, sequence or map per example"
      raise UserError(f"--backbone gives no {kinds}: {self.described()}")
    return found

  def gives_probabilities(self, output: Output, image_size: int) -> bool:
    """Returns whether a vector is not negative and sums to 1 for a blank example: an answer, not features."""
    values = np.asarray(self._of_blank(image_size)[output.index], np.float64)
    return values.shape[-1] > 1 and bool(np.all(values >= 0)) and np.allclose(values.sum(axis=-1), 1, atol=1e-4)

  def _of_blank(self, image_size):
    """Returns the flat outputs for one blank example."""
    # A function that was loaded in the scope of a strategy can only be called in one of its replicas.
    strategy = tf.distribute.get_strategy()
    outputs = strategy.run(self, args=(self._blank(image_size), False))
    return [strategy.experimental_local_results(tensor)[0] for tensor in outputs]

  def _blank(self, image_size):
    if self.form == "image":
      return {"image": tf.zeros([1, image_size, image_size, 3])}
    if self.form == "strings":
      return {"text": tf.constant(["a"])}
    return blank_tokens(self.roles["input_word_ids"].shape[1] or 16)


def blank_tokens(length: int) -> dict[str, tf.Tensor]:
  """Returns the inputs for one sequence without padding, {name of `INPUT_NAMES`: int32 [1, length]}.

  The types are 0: some modules have only this one.
  """
  ids = tf.ones([1, length], tf.int32)
  return {name: tf.zeros_like(ids) if name == "input_type_ids" else ids for name in INPUT_NAMES}


def _entries(module, spec):
  """Yields (function, notes) for those that exist of the module's `__call__`, Keras 3's endpoint, and a signature."""
  functions = [getattr(module, name, None) for name in ("__call__", "serve")]
  traced = [function for function in functions if getattr(function, "concrete_functions", None)]
  yield from ((function, []) for function in traced)
  signatures = dict(getattr(module, "signatures", None) or {})
  name = next((name for name in SIGNATURES if name in signatures), None)
  if name is None and len(signatures) == 1:
    name = next(iter(signatures))
  if name is None and traced:
    return
  if name is None:
    raise UserError(
      f"{spec.name} can be called neither as a module nor by a signature of "
      f"{', '.join(SIGNATURES)}; it has: {', '.join(signatures) or 'none'}"
    )
  yield signatures[name], [f"only the signature {name} can be called: inference mode in training too"]


def _calls(function):
  spec = getattr(function, "function_spec", None)
  full = getattr(spec, "fullargspec", None)
  traces = getattr(function, "concrete_functions", None) or [function]
  if full is None or traces == [function]:
    return [Call.of(trace, [], {}) for trace in traces]
  names = [name for name in full.args if name != "self"]
  given = full.defaults or ()
  defaults = {**dict(zip(names[len(names) - len(given) :], given)), **(full.kwonlydefaults or {})}
  return [Call.of(trace, names, defaults) for trace in traces]


def _data(name, value):
  """Returns [(name, TensorSpec)] of an argument that carries examples, in the order of `tf.nest.flatten`."""
  leaves = _named(value, name)
  tensors = all(isinstance(spec, tf.TensorSpec) and spec.shape.rank != 0 for _, spec in leaves)
  return leaves if leaves and tensors and name not in TRAINING_NAMES else []


def _named(structure, name=""):
  """Returns [(nearest name, leaf)] of nested specs, in the order of `tf.nest.flatten`."""
  if isinstance(structure, dict):
    return [leaf for key in sorted(structure) for leaf in _named(structure[key], str(key))]
  if isinstance(structure, list | tuple):
    return [leaf for i, part in enumerate(structure) for leaf in _named(part, getattr(part, "name", None) or name)]
  return [(name or getattr(structure, "name", None) or "", structure)]


def _is_scalar(name, value):
  return name not in TRAINING_NAMES and isinstance(value, tf.TensorSpec) and value.shape.rank == 0


def _filled(name, value, slots, defaults):
  if name in TRAINING_NAMES and isinstance(value, tf.TensorSpec):
    return Slot("training")
  if _is_scalar(name, value):
    return defaults.get(name)
  return tf.nest.map_structure(lambda leaf: slots.get(id(leaf), leaf), value)


def _roles(leaves):
  """Returns the role of each (name, TensorSpec), or [] if they are not understood."""
  specs = [spec for _, spec in leaves]
  if len(specs) == 1 and specs[0].dtype == tf.string and specs[0].shape.rank in (1, None):
    return ["text"]
  if (
    len(specs) == 1 and specs[0].shape.rank in (4, None) and (specs[0].dtype.is_floating or specs[0].dtype == tf.uint8)
  ):
    return ["image"]
  if not 1 <= len(specs) <= 3 or any(not spec.dtype.is_integer or spec.shape.rank not in (2, None) for spec in specs):
    return []
  by_name = [next((r for r, p in _ROLES.items() if re.search(p, name, re.IGNORECASE)), None) for name, _ in leaves]
  if not any(by_name):
    return list(INPUT_NAMES[: len(specs)])
  if by_name.count(None) == 1 and len(specs) > 1 and INPUT_NAMES[0] not in by_name:
    by_name[by_name.index(None)] = INPUT_NAMES[0]
  return by_name if None not in by_name and len(set(by_name)) == len(by_name) else []


def _fitted(tensor, spec):
  """Returns `tensor` as traced: the dtype, and a fixed number of tokens by padding with 0."""
  tensor = tf.cast(tensor, spec.dtype) if spec.dtype != tf.string else tensor
  if spec.shape.rank == 2 and spec.shape[1]:
    tensor = tf.pad(tensor, [[0, 0], [0, spec.shape[1] - tf.shape(tensor)[1]]])
    tensor = tf.ensure_shape(tensor, [None, spec.shape[1]])
  return tensor


def _last_layers(outputs):
  """Returns the `Output` of the mean of the last layers, None for a module that does not give them."""
  layers = [output for output in outputs if _LAYERS.search(output[0]) and output[-1].rank == 3][-LAYERS_AVERAGED:]
  if len(layers) < 2:
    return None
  _, index, position, shape = layers[-1]
  return Output(index, position, (None, None, shape[-1]), averaged=tuple(layer[1] for layer in layers))


def _first(outputs, rank, names):
  """Returns the `Output` of a rank: by name, else the widest; outputs of inner layers only if there is no other."""
  fitting = [output for output in outputs if output[-1].rank == rank]
  outer = [output for output in fitting if not _LAYERS.search(output[0])] or fitting
  if not outer:
    return None
  known = [output for name in names for output in outer if output[0] == name]
  inner = [output for output in outer if not ANSWERS.search(output[0])] or outer
  name, index, position, shape = known[0] if known else max(inner, key=lambda output: output[-1][-1] or 0)
  others = [output[0] for output in outer if output[1] != index]
  alternatives = () if known or not others else (name, *others)
  sizes = [None] * (rank - 2) if rank == 3 else shape.as_list()[1:-1]
  return Output(index, position, (None, *sizes, shape[-1]), alternatives)


def _described(calls):
  """Returns "it takes .. and gives .." of traced calls, shortened."""
  if not calls:
    return "it has no traced function"
  args, kwargs = calls[0].trace.structured_input_signature
  takes = [f"{spec.dtype.name}{_shape(spec)}" for spec in tf.nest.flatten((args, kwargs)) if hasattr(spec, "dtype")]
  gives = [
    f"{name or 'output'} {spec.dtype.name}{_shape(spec)}"
    for name, spec in _named(calls[0].trace.structured_outputs)
    if hasattr(spec, "dtype") and hasattr(spec, "shape")
  ]
  return f"it takes {', '.join(takes) or 'nothing'} and gives {', '.join(gives[:4]) or 'nothing'}"


def _shape(spec):
  return "[" + ", ".join("?" if size is None else str(size) for size in spec.shape) + "]" if spec.shape.rank else ""
