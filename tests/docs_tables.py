"""Writes the tables of docs/ that come from the code, and docs/flags.md.

python -m tests.docs_tables

Run it after a change of a flag, of a backbone record or of a kind of finding. `tests/docs/test_docs.py` requires that
the pages agree.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

from tests.distribution import cost
from tl_app import backbones
from tl_app import config as config_lib
from tl_app.checking import findings

ROOT = pathlib.Path(__file__).resolve().parents[1]


def backbone_rows():
  """Returns the rows of the table of backbones, the header first."""
  rows = [{name: cell for name, cell in row.items() if name != "handle"} for row in backbones.table()]
  return [list(rows[0]), *([f"`{row['name']}`", *list(row.values())[1:]] for row in rows)]


def finding_rows():
  """Returns the rows of the table of findings, the header first."""
  share = f", serious from {100 * findings.SERIOUS_SHARE:.0f} %"
  return [
    ["finding", "severity", "what", "what to do"],
    *(
      [f"`{name}`", kind.severity + (share if kind.grows else ""), kind.meaning, kind.advice]
      for name, kind in findings.KINDS.items()
    ),
  ]


# Page -> function that returns the rows of its table.
TABLES = {
  "docs/backbones.md": backbone_rows,
  "docs/data_checks.md": finding_rows,
  "docs/several_machines.md": cost.EXAMPLE.table,
}


def markdown(rows):
  """Returns the rows as a Markdown table, with a line of dashes after the header."""
  lines = ["| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
  return "\n".join(lines)


def replaced(text, rows):
  """Returns a page with the table that has the header of `rows` replaced by `rows`."""
  header = markdown(rows).partition("\n")[0]
  before, after = text.split(header + "\n", 1)
  rest = after.lstrip().partition("\n\n")
  return before + markdown(rows) + ("\n\n" + rest[2] if rest[1] else "\n")


FLAGS_PAGE = "docs/flags.md"
# Commands that have flags of their own, in the order of the page.
COMMANDS = (
  "train",
  "check",
  "compare",
  "evaluate",
  "export",
  "predict",
  "inspect",
  "find_lr",
  "benchmark",
  "explain",
  "demo",
  "bundle",
  "tune",
  "select",
)
_OWN_FLAGS = "import importlib, json, sys; from tl_app.commands import cli; "
_OWN_FLAGS += "importlib.import_module('tl_app.' + sys.argv[1]).define_flags(); print(json.dumps(cli.own_flags()))"


def flags_page():
  """Returns the text of docs/flags.md: the flags of a run by group, then the flags that only one command has."""
  sections = [
    "# Flags",
    "This page lists all flags with values and defaults. `--help` prints those with an asterisk, `--helpfull` all.",
    "```bash\npython -m tl_app.train --helpfull\n```",
    "`--flagfile` reads a file of flags, one per line. `--config` reads the config.json of an earlier run; flags on "
    "the command line override it. `--offline` switches a bool flag on, `--nooffline` switches it off.",
    "`python -m tests.docs_tables` writes this page.",
  ]
  for heading, group in config_lib.GROUPS.items():
    sections += [f"## {heading}", group.__doc__, markdown([_HEADER, *map(_field_row, dataclasses.fields(group))])]
  sections += ["## Other commands", "Flags that only one command has, besides those of a run."]
  for command in COMMANDS:
    done = subprocess.run([sys.executable, "-c", _OWN_FLAGS, command], capture_output=True, text=True, check=True)
    rows = [_flag_row(about, "") for about in json.loads(done.stdout)]
    sections += [f"### {command}", markdown([_HEADER, *rows])]
  return "\n\n".join(sections) + "\n"


_HEADER = ["flag", "values", "default", "meaning"]


def _field_row(field):
  meta, kind = field.metadata, config_lib.TYPES[field.name].__name__
  kind = {"str": "string"}.get(kind, kind)
  values = "|".join(meta["choices"]) if meta["choices"] else f"{kind}|{meta['word']}" if meta["word"] else kind
  default = str(field.default).lower() if kind == "bool" else str(field.default)
  about = {"name": field.name, "values": values, "default": default, "help": meta["help"]}
  return _flag_row(about, " \\*" if meta["common"] else "")


def _flag_row(about, mark):
  default = f"`{about['default']}`" if about["default"] else ""
  return [f"`--{about['name']}`{mark}", about["values"].replace("|", ", "), default, about["help"].replace("|", "\\|")]


def main():
  """Rewrites the tables in place, and docs/flags.md."""
  (ROOT / FLAGS_PAGE).write_text(flags_page(), encoding="utf-8")
  for name, rows in TABLES.items():
    path = ROOT / name
    path.write_text(replaced(path.read_text(encoding="utf-8"), rows()), encoding="utf-8")


if __name__ == "__main__":
  main()
