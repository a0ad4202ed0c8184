"""The flags of the run."""

from tl_app import config as config_lib
from tl_app.report.sections.section import Section


def _context(facts):
  return {"flags": _flags(facts.config)} if facts.config else None


def _flags(config):
  """Returns a row per flag, those that differ from their default first."""
  rows = []
  for name, value in config.items():
    field = config_lib.FIELDS.get(name)
    row = {"name": name, "value": value, "default": None, "help": "", "is_default": False}
    if field:
      row |= {"default": field.default, "help": field.metadata["help"], "is_default": value == field.default}
    rows.append(row)
  return sorted(rows, key=lambda row: row["is_default"])


SECTION = Section("configuration", "Configuration", _context)
