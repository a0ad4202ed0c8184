"""The console command: `tl_app train ..` is `python -m tl_app.train ..`."""

import ast
import importlib
import pathlib
import sys

from tl_app.commands import cli
from tl_app.errors import suggestion

COMMANDS = (
  *("train", "pretrain", "check", "compare", "evaluate", "export", "predict", "inspect", "find_lr", "benchmark"),
  *("explain", "demo", "bundle", "tune", "select"),
)


def main():
  """Runs the command that the first argument names, with the other arguments as its flags."""
  name, *arguments = sys.argv[1:] or ["--help"]
  if name in ("--help", "--helpfull", "-h", "help"):
    print(listing())
  elif name == "--version":
    print(f"tl_app {importlib.import_module(__package__).__version__}")
  elif name in COMMANDS:
    sys.argv = [f"tl_app {name}", *arguments]
    module = importlib.import_module(f"tl_app.{name}")
    cli.run(module.main, module.__doc__, module.define_flags)
  else:
    print(f"tl_app: {name!r} is not a command{suggestion(name, COMMANDS)} (`tl_app` lists them)", file=sys.stderr)
    sys.exit(2)


def listing():
  """Returns the commands with one line each. No command is imported: that costs time."""
  lines = ["Fine-tunes pretrained image and text models.", "", "Usage: tl_app COMMAND [--flag=value ..]", ""]
  for name in COMMANDS:
    code = pathlib.Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    lines.append(f"  {name:10} {ast.get_docstring(ast.parse(code)).splitlines()[0]}")
  return "\n".join([*lines, "", "`tl_app COMMAND --help` shows the flags of a command."])


if __name__ == "__main__":
  main()
