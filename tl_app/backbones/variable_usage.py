"""How the graph of a function uses its variables: first use, outputs they reach, assignments."""

import collections
import dataclasses
import re
from collections.abc import Sequence

import tensorflow as tf

# Operations without a gradient; a cast to integers has none either.
_BARRIERS = re.compile(
  "StopGradient|(Greater|Less)(Equal)?|(Not)?Equal|Logical(And|Or|Not)|Arg(Max|Min)|Round|Rint|Floor|Ceil|Sign|Shape|"
  "Size|Rank|(Zeros|Ones)Like|Where"
)
_CALLS = ("f", "body", "then_branch", "else_branch", "branches")


@dataclasses.dataclass
class VariableUsage:
  """How the graph of a function uses its variables.

  Attributes:
    first_use: dict, variable index -> number of operations between the input and the first use.
    reaching: list, for each flat output the set of indices of the variables that reach it through differentiable ops.
    assigned: set of the indices of variables that the function changes.
  """

  first_use: dict[int, int]
  reaching: list[set[int]]
  assigned: set[int]


# depth: operations since the input, None if the value does not depend on it; bits: the variables it depends on.
Value = collections.namedtuple("Value", ("depth", "bits"))
_NOTHING = Value(None, 0)


def walk(function, variables: Sequence[tf.Variable]) -> VariableUsage:
  """Returns the `VariableUsage` of a ConcreteFunction.

  Args:
    function: `tf.types.experimental.ConcreteFunction`, loaded or traced.
    variables: list of tf.Variable, plain or distributed; their positions are the indices.
  """
  walker = _Walker(function.graph.as_graph_def().library.function)
  captured = list(function.captured_inputs)
  index_of = {_identity(variable): index for index, variable in enumerate(variables)}
  inputs = list(function.inputs)
  given = {}
  for position, tensor in enumerate(inputs):
    capture = position - (len(inputs) - len(captured))
    index = index_of.get(id(captured[capture])) if capture >= 0 else None
    if capture < 0:
      given[tensor.op.name] = [Value(0, 0)]
    else:
      given[tensor.op.name] = [Value(None, 0 if index is None else 1 << index)]
  nodes = function.graph.as_graph_def().node
  values = walker.run(nodes, given)
  outputs = [_output(values, f"{tensor.op.name}:{tensor.value_index}") for tensor in function.outputs]
  return VariableUsage(walker.first, [_indices(value.bits) for value in outputs], _indices(walker.assigned))


def operations(function) -> set[str]:
  """Returns the types of all operations of a ConcreteFunction and of the functions that it calls."""
  graph = function.graph.as_graph_def()
  return {node.op for nodes in (graph.node, *(body.node_def for body in graph.library.function)) for node in nodes}


class _Walker:
  """Evaluates graphs over `Value`s instead of tensors; functions are inlined at each call."""

  def __init__(self, library):
    self.functions = {function.signature.name: function for function in library}
    self.first = {}
    self.assigned = 0

  def run(self, nodes, given):
    """Returns {node name: list of output `Value`s}; a node that is no call has one value for all its outputs."""
    values = dict(given)
    by_name = {node.name: node for node in nodes}
    for root in by_name:
      stack = [root]
      while stack:
        name = stack[-1]
        if name in values:
          stack.pop()
          continue
        node = by_name[name]
        waiting = [base for base in map(_base, node.input) if base not in values and base in by_name]
        # A while loop of the old control flow is a cycle: its back edge is read as nothing.
        waiting = [base for base in waiting if base not in stack]
        if waiting:
          stack.extend(waiting)
        else:
          values[name] = self._node(node, [_output(values, i) for i in node.input if not i.startswith("^")])
          stack.pop()
    return values

  def _node(self, node, inputs):
    bodies = [self.functions[name] for name in _called(node) if name in self.functions]
    if bodies:
      arguments = inputs[1:] if node.op in ("If", "StatelessIf", "Case", "StatelessCase") else inputs
      results = [self._call(body, arguments) for body in bodies]
      while node.op in ("While", "StatelessWhile"):
        # What one turn gives is what the next one takes.
        turned = [_join(pair) for pair in zip(arguments, results[0])]
        if [value.bits for value in turned] == [value.bits for value in arguments]:
          break
        arguments, results = turned, [self._call(bodies[0], turned)]
      return [_join(values) for values in zip(*results)] or [_join(inputs)]
    if node.op.startswith("Assign") and node.op.endswith("VariableOp"):
      self.assigned |= inputs[0].bits
    value = _join(inputs)
    if value.depth is None:
      return [value]
    fresh = 0
    for given in inputs:
      if given.depth is None:
        fresh |= given.bits
    for index in _indices(fresh):
      self.first[index] = min(value.depth, self.first.get(index, value.depth))
    return [Value(value.depth + 1, 0 if _is_barrier(node) else value.bits)]

  def _call(self, body, arguments):
    given = {argument.name: [value] for argument, value in zip(body.signature.input_arg, arguments)}
    values = self.run(body.node_def, given)
    return [_output(values, body.ret[output.name]) for output in body.signature.output_arg]


def _is_barrier(node):
  return _BARRIERS.fullmatch(node.op) or node.op == "Cast" and not tf.as_dtype(node.attr["DstT"].type).is_floating


def _called(node):
  for name in _CALLS:
    if name in node.attr:
      attribute = node.attr[name]
      yield from (function.name for function in attribute.list.func)
      if attribute.func.name:
        yield attribute.func.name


def _base(reference):
  return reference.lstrip("^").split(":")[0]


def _output(values, reference):
  """Returns the value of "node", "node:2" (a graph) or "node:name:2" (a function)."""
  outputs = values.get(_base(reference), [_NOTHING])
  last = reference.split(":")[-1]
  index = int(last) if ":" in reference and last.isdigit() else 0
  return outputs[index] if index < len(outputs) else outputs[0]


def _join(values):
  depths = [value.depth for value in values if value.depth is not None]
  bits = 0
  for value in values:
    bits |= value.bits
  return Value(max(depths) if depths else None, bits)


def _indices(bits):
  found = set()
  while bits:
    lowest = bits & -bits
    found.add(lowest.bit_length() - 1)
    bits ^= lowest
  return found


def _identity(variable):
  return id(variable) if isinstance(variable, tf.distribute.DistributedValues) else id(variable.handle)
