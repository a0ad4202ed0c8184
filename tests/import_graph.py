"""Counts the import graph of tl_app over rooms: a package directly under tl_app/, or a module of its root, is one room.

python -m tests.import_graph [--list]

Imports inside functions count like those at the top of a file. `tl_app/__init__.py` is the room `tl_app`.
"""

import argparse
import ast
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tl_app"
FRONT_DOOR = "tl_app"


def modules(package: pathlib.Path = PACKAGE) -> dict[str, pathlib.Path]:
  """Returns {dotted name below tl_app: path} of every module that has code; a package is its `__init__.py`."""
  found = {}
  for path in sorted(package.rglob("*.py")):
    name = ".".join(path.relative_to(package).with_suffix("").parts)
    if path.read_text(encoding="utf-8").strip():
      found[FRONT_DOOR if name == "__init__" else name.removesuffix(".__init__")] = path
  return found


def imported(path: pathlib.Path, names: dict[str, pathlib.Path]) -> set[str]:
  """Returns the modules among `names` that the file at `path` imports, at any depth of its code."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      candidates = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
      candidates = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      raise ValueError(f"{path}:{node.lineno}: a relative import; this project imports by full name")
    else:
      continue
    found |= {module for candidate in candidates if (module := _module(candidate, names))}
  return found


def graph(package: pathlib.Path = PACKAGE) -> dict[str, set[str]]:
  """Returns {module: the other modules that it imports}."""
  names = modules(package)
  return {name: imported(path, names) - {name} for name, path in names.items()}


def rooms(module_graph: dict[str, set[str]]) -> dict[str, set[str]]:
  """Returns {room: the other rooms that it imports}."""
  found = {room(name): set() for name in module_graph}
  for name, others in module_graph.items():
    found[room(name)] |= {room(other) for other in others} - {room(name)}
  return found


def room(name: str) -> str:
  """Returns the room of a module, for instance "data" of "data.readers.tables"."""
  return name.split(".")[0]


def is_root_module(name: str) -> bool:
  """Returns whether a room is a module of the root rather than a package."""
  return (PACKAGE / f"{name}.py").is_file()


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
  """Returns the groups of nodes that reach each other, each sorted; a node alone is no circle."""
  reached = {node: _reachable(node, edges) for node in edges}
  groups = {
    tuple(sorted(other for other in reached[node] if node in reached[other])) for node in edges if node in reached[node]
  }
  return [list(group) for group in sorted(groups)]


def levels(edges: dict[str, set[str]]) -> int:
  """Returns the number of nodes on the longest chain of imports.

  Raises:
    ValueError: the graph has a circle, so that a chain has no end.
  """
  if found := circles(edges):
    raise ValueError(f"circle: {' '.join(found[0])}")

  @functools.cache
  def height(node):
    return 1 + max((height(other) for other in edges[node]), default=0)

  return max((height(node) for node in edges), default=0)


def _module(candidate, names):
  """Returns the longest prefix of a dotted name that is a module of tl_app, or None."""
  if candidate.split(".")[0] != FRONT_DOOR:
    return None
  parts = candidate.split(".")[1:]
  for length in range(len(parts), 0, -1):
    if (name := ".".join(parts[:length])) in names:
      return name
  return FRONT_DOOR


def _reachable(node, edges):
  """Returns every node that a chain of one edge or more leads to."""
  found, waiting = set(), list(edges[node])
  while waiting:
    if (other := waiting.pop()) not in found:
      found.add(other)
      waiting += edges[other]
  return found


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--list", action="store_true", help="Print the edges too.")
  arguments = parser.parse_args()
  edges = rooms(graph())
  if arguments.list:
    for name in sorted(edges):
      print(f"{name}: {' '.join(sorted(edges[name])) or '-'}")
    print()
  found = circles(edges)
  print(f"rooms         {len(edges)}")
  print(f"levels        {'no end, there is a circle' if found else levels(edges)}")
  print(f"edges         {sum(map(len, edges.values()))}")
  print(f"circles       {len(found)}{''.join(f' ({chr(32).join(circle)})' for circle in found)}")
  entry_points = [name for name, path in modules().items() if "." not in name and _is_entry_point(path)]
  others = [path.stem for path in PACKAGE.glob("*.py") if path.stem not in (*entry_points, "__init__")]
  print(
    f"root modules  {len(others)} besides __init__ and {len(entry_points)} entry points: {' '.join(sorted(others))}"
  )
  return 0


def _is_entry_point(path):
  return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


if __name__ == "__main__":
  sys.exit(main())
