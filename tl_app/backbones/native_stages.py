"""Stages of a functional Keras network: which weights belong to which stage, and where the network can be split."""

import re
from collections.abc import Iterator, Sequence

import keras

from tl_app.backbones import keras_internals
from tl_app.backbones.spec import BackboneSpec
from tl_app.errors import UserError
from tl_app.errors.counts import number_of

Stages = dict[str, list[keras.Variable]]

# For records without stages: (expression over the Keras path of a weight, its stage); the first match counts.
TEXT_RULES = (
  (r"(?:.*/)?[a-z_]*layers?_(\d+)[_/]", r"layer_\1"),
  (r"(?:.*/)?[a-z_]*block_(\d+)[_/]", r"layer_\1"),
  (r"[a-z_]*embed|position|segment", "embeddings"),
  (r"pool", "pooler"),
)
IMAGE_RULES = (
  (r"(stem|top)_", r"\1"),
  (r"[a-z_]*embed", "embeddings"),
  (r"[a-z_]*encoder/(?:[a-z_]+/)*[a-z_]*_(\d+)/", r"layer_\1"),
  (r"conv1_", "stem"),
  (r"conv([2-9])_block", r"conv\1"),
  (r"stack(\d+)_", r"stack\1"),
  (r"[a-z_]*stage_?(\d+)_", r"stage\1"),
  (r"block_(\d+)_", r"block_\1"),
  (r"block(\d+)[a-z]?_", r"block\1"),
)
NUM_GROUPS = 4


def stage_weights(network: keras.Model, spec: BackboneSpec) -> tuple[Stages, list[str]]:
  """Assigns every weight of a network to a stage.

  The stages are those of the record; without any, built-in rules over the layer names; if these fail, four groups in
  the order of the graph. A weight that no expression matches belongs to the stage of the weight before it.

  Args:
    network: functional `keras.Model`.
    spec: `BackboneSpec`.

  Returns:
    (ordered dict, stage name -> list of `keras.Variable`; list of notes for the user). The seed states of dropout are
    not weights.

  Raises:
    UserError: the weights do not follow the stages of the record.
  """
  weights = _forward_weights(network)
  rules = [(pattern, name) for name, pattern in spec.stages]
  if not rules:
    rules = TEXT_RULES if len(network.inputs) > 1 else IMAGE_RULES
  names = [_stage_name(weight.path, rules) for weight in weights]
  matched = [name for name in names if name]
  if len(matched) > len(names) / 2 and len(set(matched)) > 1:
    stages = _collect(weights, names, [name for name, _ in spec.stages] or list(dict.fromkeys(matched)))
    if _is_forward(network, stages):
      return stages, []
  if spec.stages:
    raise UserError(f"{spec.name}: the layers of this network do not follow the stages of its record")
  layers = list(dict.fromkeys(weight.path.partition("/")[0] for weight in weights))
  group = {layer: f"group_{i * NUM_GROUPS // len(layers)}" for i, layer in enumerate(layers)}
  names = [group[weight.path.partition("/")[0]] for weight in weights]
  stages = _collect(weights, names, list(dict.fromkeys(names)))
  return stages, [f"the layer names do not show stages: {number_of(len(stages), 'group')} in the order of the graph"]


def crossing_layer(network: keras.Model, stages: Stages, stage: str) -> str:
  """Returns the name of a layer that holds weights both below and above the cut at `stage`, or ""."""
  cut_index = list(stages).index(stage)
  return next(
    (node.operation.name for node, span, _ in _walk(network, stages) if span and span[0] < cut_index <= span[1]), ""
  )


def split(network: keras.Model, stages: Stages, stage: str, name: str) -> tuple[keras.Model, keras.Model]:
  """Splits a network below a stage.

  Args:
    network: functional `keras.Model`.
    stages: its stages, ordered from the input upwards.
    stage: name of the lowest stage of the tail.
    name: of the network, for error messages.

  Returns:
    (trunk, tail), two functional models that share the weights: `tail(trunk(inputs))` equals `network(inputs)`. The
    trunk returns a dict of the tensors that the tail needs, keyed by the name of the layer or input they come from.

  Raises:
    ValueError: there is no such stage, or one layer of the network holds weights from below and above the cut.
  """
  if stage not in stages:
    raise ValueError(f"unknown stage {stage!r}: this backbone has {', '.join(stages)}")
  layer = crossing_layer(network, stages, stage)
  if layer:
    raise ValueError(f"{name} cannot be split at {stage}: {layer} is one layer across it")
  cut_index = list(stages).index(stage)
  # For each tensor below the cut, the tensors that the trunk returns for it: the tensor itself, or, if it follows from
  # the inputs without weights, those inputs.
  sources_of, makers, wanted = {}, {}, list(network.outputs)
  for node, span, below in _walk(network, stages):
    if max(below, span[1] if span else -1) >= cut_index:
      wanted += node.input_tensors
      continue
    free = node.input_tensors if below < 0 and not span else ()
    sources = [source for tensor in free for source in sources_of[id(tensor)]]
    sources_of.update({id(tensor): sources or [tensor] for tensor in node.outputs})
    if not span and node.input_tensors:
      makers.update({id(tensor): node for tensor in node.outputs})
  wanted = [source for tensor in wanted for source in sources_of.get(id(tensor), ())]
  candidates = {id(tensor): tensor for tensor in wanted}
  boundary = [tensor for tensor in candidates.values() if not _follows(tensor, candidates, makers)]
  keys = _keys(boundary)
  trunk = keras.Model(network.input, dict(zip(keys, boundary)), name="trunk")
  inputs = {key: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key) for key, tensor in zip(keys, boundary)}
  upper = keras.Model(boundary, network.output)
  return trunk, keras.Model(inputs, upper.call(list(inputs.values())), name="tail")


def _forward_weights(network):
  """Returns the weights in forward order, each once."""
  weights = {}
  for node in keras_internals.nodes(network):
    for weight in getattr(node.operation, "weights", ()):
      weights.setdefault(id(weight), weight)
  return list(weights.values())


def _stage_name(path: str, rules: Sequence[tuple[str, str]]) -> str | None:
  for pattern, name in rules:
    match = re.match(pattern, path)
    if match:
      return match.expand(name)
  return None


def _collect(weights, names, order):
  """Returns {stage: weights} in the given order, without empty stages.

  A weight whose name is None joins the stage of the weight before it; at the beginning, the stage of the next one.
  """
  stages = {name: [] for name in order}
  current = next(name for name in names if name)
  for weight, name in zip(weights, names):
    current = name or current
    stages[current].append(weight)
  return {name: members for name, members in stages.items() if members}


def _is_forward(network, stages):
  """Returns whether no layer of a lower stage comes after a layer of a higher stage."""
  return all(span is None or span[0] >= below for _, span, below in _walk(network, stages))


def _walk(network, stages) -> Iterator[tuple]:
  """Yields (node, span, below) in forward order.

  span: (lowest, highest) stage index among the weights of the node's layer, None without weights. below: highest stage
  index that the node's inputs depend on, -1 for none.
  """
  index = {id(weight): i for i, members in enumerate(stages.values()) for weight in members}
  highest = {}
  for node in keras_internals.nodes(network):
    indices = [index[id(weight)] for weight in getattr(node.operation, "weights", ())]
    span = (min(indices), max(indices)) if indices else None
    below = max((highest[id(tensor)] for tensor in node.input_tensors), default=-1)
    highest.update({id(tensor): max(below, span[1] if span else -1) for tensor in node.outputs})
    yield node, span, below


def _follows(tensor, candidates, makers):
  """Returns whether a tensor follows from others in `candidates` through the nodes without weights, `makers`."""
  node = makers.get(id(tensor))
  return node is not None and all(
    id(source) in candidates or _follows(source, candidates, makers) for source in node.input_tensors
  )


def _keys(tensors):
  """Returns a distinct name for each tensor: the layer or input that it comes from."""
  keys = []
  for tensor in tensors:
    name = keras_internals.producer(tensor).name
    keys.append(name if name not in keys else f"{name}_{len(keys)}")
  return keys
