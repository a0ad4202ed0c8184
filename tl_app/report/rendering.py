"""The environment of the templates of the reports."""

import base64
import hashlib
import pathlib
import re

import jinja2
import markupsafe

from tl_app.errors.counts import number_of
from tl_app.report import formatting

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
  """Returns the environment of the templates."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=jinja2.select_autoescape(("html",)),
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    "decimals": formatting.decimals,
    "count": formatting.count,
    "significant": formatting.significant,
    "readable": formatting.readable,
    "duration": formatting.duration,
    "plain": formatting.plain,
    "sentence": formatting.sentence,
    "candidate": formatting.candidate,
    "number_of": number_of,
    "what_is_read": formatting.what_is_read,
    "flat": _flat,
    "cell": _cell,
    "unbroken": _unbroken,
  }
  return environment


def _unbroken(text):
  """Returns a text in which no line breaks after the hyphens of a flag, and within it only where it is too long."""
  parts = re.split(r"(?<![\w-])(--\w[^\s;,)]*)", text)
  flag = markupsafe.Markup('<span class="flag">{}</span>')
  return markupsafe.Markup("").join(flag.format(part) if index % 2 else part for index, part in enumerate(parts))


def _cell(text):
  """Returns a text for a line or a cell of a table in Markdown."""
  return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def script() -> str:
  """Returns the script of the report."""
  return (_TEMPLATES / "tables.js").read_text(encoding="utf-8")


def digest(script: str) -> str:
  """Returns the hash of a script as a Content-Security-Policy has it."""
  return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _flat(values):
  """Returns the dict with the entries of inner dicts in the place of these."""
  flat = {}
  for name, value in values.items():
    flat |= _flat(value) if isinstance(value, dict) else {name: value}
  return flat
