"""Where the operations of a SavedModel get their inputs from, across its functions. Nothing of it is run."""

import re
import typing
from collections.abc import Iterator

from tl_app.assets.operations import SAVES

# Operations that give their first input on, unchanged.
_PASS = {"Identity", "StopGradient", "PreventGradient", "EnsureShape", "PlaceholderWithDefault"}
# Operations that build the name of a checkpoint from that of the saver.
_NAMING = {
  "StringJoin",
  "ShardedFilename",
  "Pack",
  "Select",
  "SelectV2",
  "StaticRegexFullMatch",
  *_PASS,
  "MergeV2Checkpoints",
}
# Operations that call a function with all of their inputs, and those whose first input chooses the function.
_CALLS = {"StatefulPartitionedCall", "PartitionedCall", "TPUPartitionedCall"}
_CHOOSES = {"If", "StatelessIf", "_If", "Case", "StatelessCase"}
# Constants from which a saver makes names below its own directory.
_BELOW = re.compile(rb"(?!/)(?!.*\.\.)[\w./ -]*")


class Node(typing.NamedTuple):
  """An operation and the function that holds it; "" is the graph itself."""

  function: str
  operation: typing.Any

  @property
  def inputs(self) -> list[str]:
    """Names of the input tensors; without control inputs."""
    return [name for name in self.operation.input if not name.startswith("^")]


class Graph:
  """The graph of a SavedModel with its functions.

  Attributes:
    nodes: every `Node` of the graph and of all functions, reached or not.
  """

  def __init__(self, meta):
    """Indexes a graph.

    Args:
      meta: `MetaGraphDef`.
    """
    self._functions = {function.signature.name: function for function in meta.graph_def.library.function}
    self.nodes = [Node("", node) for node in meta.graph_def.node]
    for name, function in self._functions.items():
      self.nodes += [Node(name, node) for node in function.node_def]
    self._by_name = {(node.function, node.operation.name): node for node in self.nodes}
    self._assets = {_node_name(asset.tensor_info.name) for asset in meta.asset_file_def}
    saver = meta.saver_def
    self._saver_file = _node_name(saver.filename_tensor_name)
    self._savers = {_node_name(saver.save_tensor_name), _node_name(saver.restore_op_name)} - {""}
    self._objects = meta.object_graph_def
    self._callers = {}
    for node in self.nodes:
      for name in {*functions_of(node.operation)} & set(self._functions):
        self._callers.setdefault(name, []).append(node)

  def is_function(self, name: str) -> bool:
    """Returns whether the library has a function of this name."""
    return name in self._functions

  def reads_assets_only(self, node: Node, position: int) -> bool:
    """Returns whether an input of a node, the name of a file, can only be an asset of the model."""
    return len(node.inputs) > position and self._is_asset(node.function, node.inputs[position], set())

  def is_of_saver(self, node: Node) -> bool:
    """Returns whether an operation of `SAVES` belongs to the functions that save and restore the model's variables."""
    position = SAVES[node.operation.op]
    if len(node.inputs) <= position or not self._only_saved_by(node.function, set()):
      return False
    return self._is_made_by_saver(node.function, node.inputs[position], set())

  def _is_asset(self, function, tensor, seen):
    if (function, tensor) in seen:
      return True
    seen.add((function, tensor))
    node = self._producer(function, tensor)
    if node is None:
      return self._is_asset_argument(function, tensor, seen)
    if not function and node.operation.name in self._assets:
      return True
    if node.operation.op in _PASS:
      return bool(node.inputs) and self._is_asset(function, node.inputs[0], seen)
    if node.operation.op == "ReadVariableOp" and not function:
      return self._holds_asset(node.inputs[0], seen)
    return False

  def _holds_asset(self, variable, seen):
    """Returns whether a variable of the graph is only read, and only an asset is assigned to it."""
    assigned = 0
    for user in self.nodes:
      if user.function or _node_name(variable) not in map(_node_name, user.inputs):
        continue
      if user.operation.op == "AssignVariableOp" and self._is_asset("", user.inputs[1], seen):
        assigned += 1
      elif user.operation.op not in ("ReadVariableOp", "VarIsInitializedOp"):
        return False
    return assigned > 0

  def _is_asset_argument(self, function, tensor, seen):
    """Returns whether an argument of a function is an asset, whoever calls it."""
    position = self._position(function, tensor)
    if position is None:
      return False
    uses = [
      argument is not None and self._is_asset(caller.function, argument, seen)
      for caller, argument in self._arguments(function, position)
    ]
    concrete = self._objects.concrete_functions
    if function in concrete:
      bound = concrete[function].bound_inputs
      first = len(self._functions[function].signature.input_arg) - len(bound)
      uses.append(position >= first and self._objects.nodes[bound[position - first]].WhichOneof("kind") == "asset")
    return bool(uses) and all(uses)

  def _producer(self, function, tensor):
    """Returns the `Node` whose output a tensor is, or None for an argument of the function."""
    # In a function an argument has its bare name, and the output of a node has a colon.
    return None if function and ":" not in tensor else self._by_name.get((function, _node_name(tensor)))

  def _position(self, function, tensor):
    if function not in self._functions:
      return None
    names = [argument.name for argument in self._functions[function].signature.input_arg]
    return names.index(tensor) if tensor in names else None

  def _arguments(self, function, position) -> Iterator[tuple]:
    """Yields (calling node, name of the tensor that it gives as an argument, or None if that is not known)."""
    for caller in self._callers.get(function, ()):
      kind, inputs = caller.operation.op, caller.inputs
      index = position if kind in _CALLS or kind == function else position + 1 if kind in _CHOOSES else len(inputs)
      yield caller, inputs[index] if index < len(inputs) else None

  def _only_saved_by(self, function, seen):
    """Returns whether a function is called by nothing but the saver."""
    if not function:
      return True
    if function in seen:
      return True
    seen.add(function)
    if function in self._objects.concrete_functions:
      return False
    return all(
      caller.operation.name in self._savers if not caller.function else self._only_saved_by(caller.function, seen)
      for caller in self._callers.get(function, ())
    )

  def _is_made_by_saver(self, function, tensor, seen):
    """Returns whether a name of a file is made from that of the saver alone."""
    if (function, tensor) in seen:
      return True
    seen.add((function, tensor))
    node = self._producer(function, tensor)
    if node is None:
      position = self._position(function, tensor)
      return position is not None and all(
        argument is not None and self._is_made_by_saver(caller.function, argument, seen)
        for caller, argument in self._arguments(function, position)
      )
    if not function and node.operation.name == self._saver_file:
      return True
    if node.operation.op == "Const":
      value = node.operation.attr["value"].tensor
      return all(_BELOW.fullmatch(text) for text in value.string_val)
    return node.operation.op in _NAMING and all(self._is_made_by_saver(function, name, seen) for name in node.inputs)


def functions_of(operation) -> Iterator[str]:
  """Yields the names of the functions that an operation calls."""
  yield operation.op
  for value in operation.attr.values():
    if value.HasField("func"):
      yield value.func.name
    for function in value.list.func:
      yield function.name


def _node_name(tensor):
  return tensor.removeprefix("^").partition(":")[0]
