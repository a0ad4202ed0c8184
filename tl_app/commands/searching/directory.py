"""The directory of a search: what was searched there, so that another search does not mix its trials in."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from tl_app import config as config_lib
from tl_app import files
from tl_app import workdir as workdir_lib
from tl_app.commands.searching import study as study_lib
from tl_app.config import Config
from tl_app.errors import UserError

SETTINGS = "search.json"


def open_search(root: pathlib.Path, config: Config, given: Mapping[str, Any]) -> None:
  """Makes the directory of a search, or checks that it holds this one.

  Args:
    root: the directory.
    config: the `Config` of the search.
    given: {"method", "pruning", "space"}, JSON values.

  Raises:
    UserError: it cannot be made, or holds something else.
  """
  if root.is_file():
    raise UserError(f"--workdir={root} is a file: give a directory")
  if workdir_lib.Workdir(root).config.exists():
    raise UserError(f"--workdir={root} holds a run: choose another directory for the search")
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be made: {error.strerror}") from None
  path = root / SETTINGS
  with study_lib.locked(root):
    if path.exists():
      _check_same(path, config, given)
      return
    if any(found.name != study_lib.LOCK for found in root.iterdir()):
      raise UserError(f"--workdir={root} is not empty and holds no search: choose another directory")
    files.write_json(path, {"format": workdir_lib.FORMAT, **given, "config": dataclasses.asdict(config)})


def _check_same(path, config, given):
  root = path.parent
  try:
    there = files.read_json(path)
    earlier, kept = config_lib.from_values(there["config"], str(path)), {name: there[name] for name in given}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    raise UserError(f"{path} is damaged: put back a copy of it, or delete the directory {root}") from None
  different = config_lib.differences(earlier, config)
  for name, value in given.items():
    if kept[name] != value:
      different = different or f"--{name}: {kept[name]} there, {value} here"
  if different:
    raise UserError(f"--workdir={root} holds another search ({different}): choose another directory or delete it")
