"""Writes the tables of docs/ that come from the code.

python -m tests.docs_tables

Run it after a change of a backbone record or of a kind of finding. `tests/docs/test_docs.py` requires that the tables
agree.
"""

import pathlib

from tl_app import backbones
from tl_app.checking import findings

ROOT = pathlib.Path(__file__).resolve().parents[1]


def backbone_rows():
  """Returns the rows of the table of backbones, the header first."""
  rows = backbones.table()
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
TABLES = {"docs/backbones.md": backbone_rows, "docs/data_checks.md": finding_rows}


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


def main():
  """Rewrites the tables in place."""
  for name, rows in TABLES.items():
    path = ROOT / name
    path.write_text(replaced(path.read_text(encoding="utf-8"), rows()), encoding="utf-8")


if __name__ == "__main__":
  main()
