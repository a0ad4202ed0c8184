"""The settings of a run: `Config`, its groups, its names in config.json, and which flags go together."""

from tl_app.config.groups import AUTO, RANDOM
from tl_app.config.names import (
  differences,
  differing,
  from_json,
  from_values,
  renamed_flag,
  renamed_value,
  suggestion,
  to_json,
)
from tl_app.config.rules import validate
from tl_app.config.settings import FIELDS, GROUPS, TYPES, Config

__all__ = [
  "AUTO",
  "FIELDS",
  "GROUPS",
  "RANDOM",
  "TYPES",
  "Config",
  "differences",
  "differing",
  "from_json",
  "from_values",
  "renamed_flag",
  "renamed_value",
  "suggestion",
  "to_json",
  "validate",
]
