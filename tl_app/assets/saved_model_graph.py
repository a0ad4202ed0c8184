"""Where the operations of a SavedModel get their inputs from, across its functions. Nothing of it is run."""

import re
import typing
from collections.abc import Iterator

from tl_app.assets.operations import SAVES

# Operations that give their first input on, unchanged.
_PASS = {"Identity", "StopGradient", "PreventGradient", "EnsureShape", "PlaceholderWithDefault"}
# Operations that build the name of a checkpoint: {name: which of their inputs must be such a name}.
_NAMING = {name: slice(0, 1) for name in ("StringJoin", "ShardedFilename", *_PASS)} | {
  **dict.fromkeys(("Select", "SelectV2"), slice(1, 3)),
  "Pack": slice(None),
}
# Operations that call a function with all of their inputs, and those whose first input chooses the function.
_CALLS = {"StatefulPartitionedCall", "PartitionedCall", "TPUPartitionedCall"}
_CHOOSES = {"If", "StatelessIf", "_If", "Case", "StatelessCase"}
# Constants that a saver joins to the name of its checkpoint: what is joined leads nowhere else.
_BELOW = re.compile(rb"(\.?[\w -]+(/\.?[\w -]+)*)?")
_SEPARATORS = (b"", b"/")


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

  def __init__(self, meta, runs: bool = False):
    """Indexes a graph.

    Args:
      meta: `MetaGraphDef`.
      runs: whether TensorFlow runs parts of the graph itself, as in the format of TensorFlow 1, and not its functions
        alone. Only its initialisers then get the names of the assets, and only its saver that of the checkpoint;
        anything else that reaches these nodes reads what is written in them.
    """
    self._functions = {function.signature.name: function for function in meta.graph_def.library.function}
    self.nodes = [Node("", node) for node in meta.graph_def.node]
    for name, function in self._functions.items():
      self.nodes += [Node(name, node) for node in function.node_def]
    self._by_name = {(node.function, node.operation.name): node for node in self.nodes}
    saver, answers, initializers = meta.saver_def, [], []
    if runs:
      answers, initializers = list(_outputs(meta)), list(_initializers(meta))
    assets = {_node_name(asset.tensor_info.name) for asset in assets_of(meta)}
    self._assets = assets - self._below([*answers, saver.restore_op_name])
    self._saver_files = {_node_name(saver.filename_tensor_name)} - self._below([*answers, *initializers]) - {""}
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
    # Names before that of the result are those of files that are moved there.
    return all(self._is_checkpoint(node.function, name, set()) for name in node.inputs[: position + 1])

  def _below(self, tensors):
    """Returns the names of the nodes of the graph itself from which tensors or operations are computed."""
    waiting, found = [_node_name(tensor) for tensor in tensors], set()
    while waiting:
      name = waiting.pop()
      if name not in found and ("", name) in self._by_name:
        found.add(name)
        waiting += map(_node_name, self._by_name["", name].operation.input)
    return found

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

  def _is_checkpoint(self, function, tensor, seen):
    """Returns whether the name of a file begins with that of the saver, and is below its directory."""
    if (function, tensor) in seen:
      return True
    seen.add((function, tensor))
    node = self._producer(function, tensor)
    if node is None:
      position = self._position(function, tensor)
      return position is not None and all(
        argument is not None and self._is_checkpoint(caller.function, argument, seen)
        for caller, argument in self._arguments(function, position)
      )
    if not function and node.operation.name in self._saver_files:
      return True
    names = node.inputs[_NAMING.get(node.operation.op, slice(0))]
    if node.operation.op == "StringJoin" and not (
      node.operation.attr["separator"].s in _SEPARATORS
      and all(self._is_below(function, part, set()) for part in node.inputs[1:])
    ):
      return False
    return bool(names) and all(self._is_checkpoint(function, name, seen) for name in names)

  def _is_below(self, function, tensor, seen):
    """Returns whether a text that is joined to the name of a file is a constant that leads nowhere else."""
    node = None if (function, tensor) in seen else self._producer(function, tensor)
    if node is None:
      return False
    seen.add((function, tensor))
    if node.operation.op == "Const":
      value = node.operation.attr["value"].tensor
      return not value.tensor_content and all(_BELOW.fullmatch(text) for text in value.string_val)
    names = node.inputs[_NAMING[node.operation.op]] if node.operation.op in ("Select", "SelectV2", *_PASS) else []
    return bool(names) and all(self._is_below(function, name, seen) for name in names)


def functions_of(operation) -> Iterator[str]:
  """Yields the names of the functions that an operation calls."""
  yield operation.op
  for value in operation.attr.values():
    if value.HasField("func"):
      yield value.func.name
    for function in value.list.func:
      yield function.name


def assets_of(meta) -> list:
  """Returns the `AssetFileDef`s of a graph; the format of TensorFlow 1 keeps them in a collection."""
  from tensorflow.core.protobuf import meta_graph_pb2

  found, kept = list(meta.asset_file_def), meta.collection_def["saved_model_assets"].any_list.value
  return found or [meta_graph_pb2.AssetFileDef.FromString(content.value) for content in kept]


def _outputs(meta) -> Iterator[str]:
  """Yields the names of the tensors that the signatures of a graph return."""
  waiting = [info for signature in meta.signature_def.values() for info in signature.outputs.values()]
  while waiting:
    info = waiting.pop()
    sparse = info.coo_sparse
    yield from (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    waiting += info.composite_tensor.components


def _initializers(meta) -> Iterator[str]:
  """Yields the names of the operations that initialise a graph: of each collection, since any may name them."""
  from tensorflow.core.framework import variable_pb2

  for collection in meta.collection_def.values():
    yield from collection.node_list.value
  for content in meta.collection_def["local_variables"].bytes_list.value:
    yield variable_pb2.VariableDef.FromString(content).initializer_name  # pyright: ignore[reportAttributeAccessIssue]


def _node_name(tensor):
  return tensor.removeprefix("^").partition(":")[0]
