"""Imports go one way: each line of `ORDER` imports only from lines above it. Imports inside functions count too.

`python -m tests.import_graph --list` prints the graph.
"""

import ast
import subprocess
import sys

import pytest

import tl_app
from tests import import_graph

# Packages and modules directly under tl_app/. Rooms on one line do not import each other.
ORDER = [
  ["errors", "terminal"],
  ["files", "config", "recipes", "preprocessing", "compute"],
  ["assets", "tasks", "workdir"],
  ["backbones", "data"],
  ["report", "checking", "model"],
  ["features", "serving"],
  ["training"],
  ["commands"],
  ["api"],
  # Entry points. `tl_app` is the package's own `__init__.py`.
  [
    *("tl_app", "__main__"),
    *("train", "pretrain", "evaluate", "predict", "export", "inspect", "compare", "benchmark", "check", "find_lr"),
    *("explain", "demo", "bundle", "tune", "select"),
  ],
]
LINE_OF = {room: line for line, rooms in enumerate(ORDER) for room in rooms}
MODULES = import_graph.modules()
GRAPH = import_graph.graph()
WITHOUT_TENSORFLOW = [
  "config",
  "files",
  "assets",
  "recipes.recipes",
  "workdir",
  "backbones",
  "commands.cli",
  "commands.inspect_backbone",
  "commands.early_checks",
  "api",
  "commands.compare",
  "tasks.statistics",
]


def test_every_room_has_a_line():
  assert sorted({import_graph.room(name) for name in MODULES}) == sorted(LINE_OF)


def test_imports_go_one_way():
  upwards = [
    f"{module} imports from {room}, which is not above it"
    for module, others in GRAPH.items()
    for room in map(import_graph.room, others)
    if room != import_graph.room(module) and LINE_OF[room] >= LINE_OF[import_graph.room(module)]
  ]
  assert not upwards, "\n".join(upwards)


def test_contributing_shows_the_same_order():
  page = (import_graph.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
  shown = page.partition("```text\n")[2].partition("```")[0].splitlines()
  assert [line.split() for line in shown[:-1]] == ORDER[:-1]
  assert shown[-1] == "entry points"


def test_no_modules_import_each_other_in_a_circle():
  assert import_graph.circles(GRAPH) == []


def test_the_graph_stays_small():
  rooms = import_graph.rooms(GRAPH)
  assert len(rooms) <= 37 and sum(map(len, rooms.values())) <= 128 and import_graph.levels(rooms) <= 10
  assert len([room for room in rooms if import_graph.is_root_module(room) and room not in ORDER[-1]]) == 0


def test_private_names_of_other_objects_are_used_in_keras_internals_only():
  used = [
    f"{name}:{node.lineno}: {node.attr}"
    for name, path in MODULES.items()
    if name != "backbones.keras_internals"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Attribute) and _is_private(node)
  ]
  assert used == []


def test_durations_do_not_come_from_a_clock_that_may_jump():
  used = [name for name, path in MODULES.items() if "time.time(" in path.read_text(encoding="utf-8")]
  assert used == []


def _is_private(node):
  # Named tuples and `os` have public functions that begin with an underscore.
  if not node.attr.startswith("_") or node.attr.startswith("__") or node.attr in ("_asdict", "_replace", "_exit"):
    return False
  return not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))


def test_flags_are_known_only_to_the_entry_points_and_cli():
  users = {name for name, path in MODULES.items() if "absl" in path.read_text(encoding="utf-8")}
  assert users <= {"commands.cli", *ORDER[-1]}


def test_entry_points_are_thin():
  for name in ORDER[-1]:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) < 70, name


def test_entry_points_define_their_flags_only_when_they_run():
  names = ORDER[-1][2:]
  code = f"from tl_app import {', '.join(names)}; from tl_app.commands import cli; "
  code += "before = set(cli.FLAGS); train.define_flags(); "
  code += "train_flags = set(cli.config_lib.FIELDS) - set(cli.config_lib.rules.PRETRAINING); "
  code += "print(len(before & set(cli.config_lib.FIELDS)), set(cli.FLAGS) & set(cli.config_lib.FIELDS) == train_flags)"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0 True\n"


def test_circles_and_levels_of_a_small_graph():
  edges = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"a"}}
  assert import_graph.circles(edges) == [] and import_graph.levels(edges) == 4
  edges["c"] = {"a"}
  assert import_graph.circles(edges) == [["a", "b", "c"]]
  with pytest.raises(ValueError, match="circle: a b c"):
    import_graph.levels(edges)


def test_imports_inside_functions_and_of_names_count(tmp_path):
  (tmp_path / "data").mkdir()
  (tmp_path / "data" / "__init__.py").write_text("from tl_app.errors import UserError\n")
  (tmp_path / "data" / "rows.py").write_text("def f():\n  from tl_app import files, data\n")
  (tmp_path / "files.py").write_text("import tl_app.errors\n")
  (tmp_path / "errors.py").write_text("import os\n")
  graph = import_graph.graph(tmp_path)
  assert graph == {"data": {"errors"}, "data.rows": {"files", "data"}, "files": {"errors"}, "errors": set()}
  assert import_graph.rooms(graph) == {"data": {"errors", "files"}, "files": {"errors"}, "errors": set()}


def test_these_modules_do_not_import_tensorflow():
  imports = "; ".join(f"import tl_app.{name}" for name in WITHOUT_TENSORFLOW)
  code = f"import sys; {imports}; sys.exit(' '.join({{'tensorflow', 'keras'}} & set(sys.modules)) or 0)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_the_public_names_need_no_tensorflow_until_they_are_used():
  code = "import sys, tl_app; dir(tl_app); tl_app.Config(); from tl_app import train; "
  code += "print({'tensorflow', 'keras', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
  code = "import sys, tl_app\ntry:\n  tl_app.fit(dataset='table:absent.csv', backbone='minilm_l6.pypi', workdir='w')\n"
  code += "except tl_app.UserError:\n  print({'tensorflow', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules))"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
  assert dir(tl_app) == tl_app.__all__ and all(getattr(tl_app, name) for name in tl_app.__all__)
  with pytest.raises(AttributeError, match="no attribute 'train_all'"):
    tl_app.train_all  # noqa: B018
