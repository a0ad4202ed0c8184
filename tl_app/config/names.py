"""Names of flags and values, the old ones too, and config.json."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tl_app.config.settings import FIELDS, TYPES, Config
from tl_app.errors import UserError, suggestion

# Share of letters that a name has in common with one that `suggestion` proposes for it.
NEAR = 0.74
# Flags and values that had another name: {old: new}. On the command line the old name is an error that gives the new
# one; a config.json with the old name is read.
RENAMED_FLAGS = {"head": "probe_solver"}
RENAMED_VALUES = {
  "probe_solver": {"linear": "adamw"},
  "pair_encoding": {"apart": "bi_encoder", "together": "cross_encoder"},
}


def to_json(config: Config) -> str:
  """Returns the JSON text of `config`: every field, in the order of the class."""
  return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, source: str = "config") -> Config:
  """Returns the `Config` written by `to_json`. Missing fields have their defaults, renamed ones are read.

  Raises:
    UserError: the text is not a JSON object, or has an unknown field.
  """
  try:
    values = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{source} is not JSON: {error}") from None
  if not isinstance(values, dict):
    raise UserError(f"{source} does not hold a JSON object of flags and values")
  return from_values(values, source)


def from_values(values: Mapping[str, Any], source: str) -> Config:
  """Returns the `Config` of {field: value}. Missing fields have their defaults, renamed ones are read.

  A number of a field of floats may be an int.

  Raises:
    UserError: a field is unknown; the message begins with `source`.
  """
  fields = {}
  for written, value in values.items():
    name = str(RENAMED_FLAGS.get(written, written))
    if name not in FIELDS:
      raise UserError(f"{source} has an unknown field {name!r}{suggestion(name, FIELDS)}")
    if isinstance(value, str):
      value = RENAMED_VALUES.get(name, {}).get(value, value)
    if TYPES[name] is float and isinstance(value, int) and not isinstance(value, bool):
      value = float(value)
    fields[name] = value
  return Config(**fields)


def renamed_flag(name: str, value: str = "") -> str:
  """Returns what to say about a flag that is now named differently, or an empty string."""
  if name not in RENAMED_FLAGS:
    return ""
  new = RENAMED_FLAGS[name]
  value = RENAMED_VALUES.get(new, {}).get(value, value)
  return f"--{name} is now named --{new}: use --{new}{f'={value}' if value else ''}"


def renamed_value(name: str, value: str) -> str:
  """Returns what to say about a value that is now named differently, or an empty string."""
  new = RENAMED_VALUES.get(name, {}).get(value)
  return f"is now named {new}: use --{name}={new}" if new else ""


def differences(there: Config, here: Config, most: int = 3) -> str:
  """Returns the values of the flags in which a run that exists differs from a config, as words; "" if none differs.

  Args:
    there: the `Config` of the run.
    here: the other `Config`.
    most: number of flags that are named.
  """
  names = differing(there, here)
  shown = [f"--{name}: {getattr(there, name)!r} there, {getattr(here, name)!r} here" for name in names[:most]]
  return "; ".join(shown + ([f"and {len(names) - most} more"] if len(names) > most else []))


def differing(config: Config, other: Config) -> list[str]:
  """Returns the names of the fields in which two configs differ and that change the result of a run."""
  where = {"workdir", "cache_dir", "offline", "bundle", "lock", "trust_backbone"}
  where |= {"frozen_engine", "feature_cache", "feature_cache_gb", "profile_input"}
  where |= {"resume", "checkpoint_minutes"}
  return [name for name in FIELDS if name not in where and getattr(config, name) != getattr(other, name)]
