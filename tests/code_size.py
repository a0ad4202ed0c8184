"""Lists what is long: functions over 60 lines, files over 400 lines, functions with more than six parameters.

python -m tests.code_size [PATH ..]

Without a path: the package. Lines of a function include its docstring; `self` and `cls` are no parameters.
"""

import argparse
import ast
import pathlib
import re
import sys

from tests.import_graph import PACKAGE, ROOT

FUNCTION_LINES = 60
FILE_LINES = 400
PARAMETERS = 6

# {path, or "path name" of a function: why it stays as it is}
REASONS = {
  "tl_app/backbones/table.py": "the literal table of the backbones, one record after the other",
  "tl_app/config/groups.py": "every flag with its default and help, one field after the other",
  "tl_app/config/rules.py": "one small function for each rule about flags; the table at the end lists them in order",
  "tl_app/commands/predict.py predict": "one for each flag of the command",
  "tl_app/config/groups.py _field": "the facts about a flag, by name and with defaults",
  "tl_app/preprocessing/text.py __init__": "the settings of a BERT tokenizer, by name and with defaults",
  "tl_app/serving/handover.py _readme": "the text of one page",
  "tl_app/serving/parity.py export_and_prove": "the model, where it goes, and what its answers must be",
  "tl_app/recipes/recipes.py _fine_tune": "what every recipe gives, and three that single recipes change",
  "tl_app/training/optimizers.py __init__": "the settings of the optimizer, as those of keras.optimizers.AdamW",
}


def long_files(paths: list[pathlib.Path]) -> list[tuple[str, int]]:
  """Returns [(path, lines)] of the files over `FILE_LINES`, the longest first."""
  counted = [(_shown(path), len(path.read_text(encoding="utf-8").splitlines())) for path in paths]
  return sorted((found for found in counted if found[1] > FILE_LINES), key=lambda found: -found[1])


def long_functions(paths: list[pathlib.Path]) -> list[tuple[str, int]]:
  """Returns [(path:line name, lines)] of the functions over `FUNCTION_LINES`, the longest first."""
  counted = [(place, (node.end_lineno or node.lineno) - node.lineno + 1) for place, node in _functions(paths)]
  return sorted((found for found in counted if found[1] > FUNCTION_LINES), key=lambda found: -found[1])


def long_parameter_lists(paths: list[pathlib.Path]) -> list[tuple[str, int]]:
  """Returns [(path:line name, parameters)] of the functions with more than `PARAMETERS`, most first."""
  counted = [(place, len(_parameters(node))) for place, node in _functions(paths)]
  return sorted((found for found in counted if found[1] > PARAMETERS), key=lambda found: -found[1])


def reason(place: str) -> str:
  """Returns why what stands at a place, of one of the functions above, stays as it is; "" if nothing is known."""
  return REASONS.get(re.sub(r":\d+", "", place), "")


def _functions(paths):
  """Yields ("path:line name", node) of every function and method, nested ones too."""
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield f"{_shown(path)}:{node.lineno} {node.name}", node


def _parameters(function):
  arguments = function.args
  named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
  return [argument.arg for argument in named if argument and argument.arg not in ("self", "cls")]


def _shown(path):
  return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("paths", nargs="*", type=pathlib.Path, default=[PACKAGE], help="Files or directories.")
  given = parser.parse_args().paths
  paths = sorted({file.resolve() for path in given for file in (path.rglob("*.py") if path.is_dir() else [path])})
  for title, found in (
    (f"functions over {FUNCTION_LINES} lines", long_functions(paths)),
    (f"files over {FILE_LINES} lines", long_files(paths)),
    (f"functions with more than {PARAMETERS} parameters", long_parameter_lists(paths)),
  ):
    print(f"{title}: {len(found)}")
    print("".join(f"{count:6} {place}: {reason(place) or 'no reason is given'}\n" for place, count in found), end="")
  return 0


if __name__ == "__main__":
  sys.exit(main())
