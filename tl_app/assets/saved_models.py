"""SavedModels that others made: what their graph may do is found before TensorFlow loads them."""

import logging
import pathlib
import typing

from tl_app.assets import operations
from tl_app.assets.saved_model_graph import Graph, assets_of
from tl_app.errors import UserError

log = logging.getLogger(__name__)

# Operations that a message names.
_SHOWN = 3


class Fault(typing.NamedTuple):
  """An operation of a SavedModel that is not let through.

  Attributes:
    operation: its name.
    reason: what it does.
    where: the function that holds it, or "" for the graph itself.
  """

  operation: str
  reason: str
  where: str = ""


class Loaded(typing.NamedTuple):
  """A SavedModel that was loaded.

  Attributes:
    module: result of `tf.saved_model.load`.
    effects: what its graph does outside the model, as a line, or "".
  """

  module: typing.Any
  effects: str


def load(directory: str | pathlib.Path, *, trust: bool = False, tags: list[str] | None = None) -> Loaded:
  """Loads a SavedModel, if its graph does nothing outside the model.

  Args:
    directory: of the SavedModel.
    trust: whether a graph that does is loaded too; a line in the log says what it does.
    tags: as of `tf.saved_model.load`.

  Raises:
    UserError: the SavedModel is damaged, or its graph reads or writes files or reaches the network; or it runs Python,
      whatever `trust` is.
  """
  import tensorflow as tf

  try:
    faults = scan(directory)
    effects, python = described(faults), [fault for fault in faults if fault.reason == operations.PYTHON]
    if python:
      raise UserError(
        f"{directory} is not loaded: its graph has {described(python)}; the code is not in the file, so it cannot run "
        "here: save the model without tf.py_function and tf.numpy_function"
      )
    if effects and not trust:
      raise UserError(
        f"{directory} is not loaded: its graph has {effects}; if you trust whoever made it, pass --trust_backbone"
      )
    if effects:
      log.warning("%s is loaded because of --trust_backbone: its graph has %s", directory, effects)
    return Loaded(tf.saved_model.load(str(directory), tags=tags), effects)
  except (UserError, MemoryError):
    raise
  # A damaged graph or checkpoint makes the loader fail anywhere.
  except Exception as error:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise UserError(f"{directory} holds no readable SavedModel: {reason}") from None


def described(faults: list[Fault]) -> str:
  """Returns "WriteFile, which writes files, PyFunc, which runs Python code; and 2 more such operations", or ""."""
  kinds = dict.fromkeys((fault.operation, fault.reason) for fault in faults)
  shown = ", ".join(f"{name}, which {reason}" for name, reason in list(kinds)[:_SHOWN])
  more = len(kinds) - _SHOWN
  return f"{shown}; and {more} more such operation{'s' * (more > 1)}" if more > 0 else shown


def scan(directory: str | pathlib.Path) -> list[Fault]:
  """Returns the operations of a SavedModel that do something outside the model. Nothing of it is run.

  Reading its own assets is let through, and so are the functions that save and restore its variables.

  Args:
    directory: of the SavedModel. The operations of tensorflow_text are known if it is imported.

  Raises:
    UserError: saved_model.pb is damaged, or it names an asset outside of its directory.
  """
  directory = pathlib.Path(directory)
  graphs = parsed(directory).meta_graphs
  # The format of TensorFlow 2; of another one the loader runs parts of the graph itself.
  runs = len(graphs) > 1 or not graphs[0].HasField("object_graph_def")
  return [fault for meta in graphs for fault in _of_graph(meta, directory, runs)]


def parsed(directory: pathlib.Path) -> typing.Any:
  """Returns the `SavedModel` message of a directory.

  Raises:
    UserError: it is missing or damaged.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2

  path, found = directory / "saved_model.pb", saved_model_pb2.SavedModel()
  try:
    found.ParseFromString(path.read_bytes())
  except OSError as error:
    raise UserError(f"{directory} holds no readable SavedModel: {path.name}: {error.strerror}") from None
  except message.DecodeError:
    found.Clear()
  if not found.meta_graphs:
    raise UserError(f"{directory} holds no readable SavedModel: {path.name} is damaged; copy or fetch the model again")
  return found


def _of_graph(meta, directory, runs):
  root = directory.resolve()
  for asset in assets_of(meta):
    path = (directory / "assets" / asset.filename).resolve()
    if root not in path.parents:
      raise UserError(f"{directory} is not loaded: its asset {asset.filename!r} is {path}, a file outside the model")
  graph = Graph(meta, runs)
  return list(
    dict.fromkeys(
      Fault(node.operation.op, reason, node.function) for node in graph.nodes if (reason := _reason(graph, node))
    )
  )


def _reason(graph, node):
  """Returns what a node does outside the model, or ""."""
  from tensorflow.python.framework import op_def_registry

  name = node.operation.op
  if graph.is_function(name):
    return ""
  if name in operations.READS_ASSET:
    return "" if graph.reads_assets_only(node, operations.READS_ASSET[name]) else operations.READS
  if name in operations.SAVES:
    reads = name.startswith("Restore")
    return "" if graph.is_of_saver(node) else operations.READS if reads else operations.WRITES
  if name in operations.REFUSED:
    return operations.REFUSED[name]
  definition = op_def_registry.get(name)
  if definition is None:
    return operations.UNKNOWN
  if definition.is_stateful and name not in operations.HARMLESS:
    return operations.EFFECT
  return _by_attributes(name, node.operation.attr)


def _by_attributes(name, attributes):
  """Returns what an operation does outside the model because of its attributes, or ""."""
  if name == "PrintV2" and attributes["output_stream"].s.startswith(b"file:"):
    return operations.WRITES
  if name in ("DecodeProtoV2", "EncodeProto") and not attributes["descriptor_source"].s.startswith(
    (b"local:", b"bytes:")
  ):
    return operations.READS if attributes["descriptor_source"].s else ""
  if name == "FixedUnigramCandidateSampler" and attributes["vocab_file"].s:
    return operations.READS
  if name in ("Copy", "CopyHost") and attributes["debug_ops_spec"].list.s:
    return operations.WRITES
  if name == "XlaCallModule" and b"callback" in attributes["module"].s:
    return operations.PYTHON
  return ""
