"""What a command knows of an export without loading it. No TensorFlow."""

import pathlib
from collections.abc import Mapping

from tl_app import config as config_lib
from tl_app import files, workdir
from tl_app.config import rules
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.files import checksums, nearby


def export_of(model: str | pathlib.Path) -> pathlib.Path:
  """Returns the directory of an export: `model` itself, or export/ of a run.

  Raises:
    UserError: there is no such directory, or the run has no export.
  """
  directory = pathlib.Path(expanded(model))
  run = workdir.Workdir(directory)
  if not directory.exists():
    raise UserError(
      f"--model={model}: there is no such directory{nearby.hint(directory)}; give a finished run or an export"
    )
  if not run.config.is_file() or (directory / "saved_model.pb").is_file():
    return directory
  if not run.export.is_dir():
    raise UserError(f"--model={model} is a run without an export: python -m tl_app.export --workdir={model} writes it")
  return run.export


def read_facts(export: pathlib.Path) -> dict:
  """Returns what an export says of itself: "modality", "pairs", "task", "class_names", ..

  Raises:
    UserError: it is no export, or not what was exported.
  """
  if not (export / "saved_model.pb").is_file() or not (export / workdir.EXPORT_FACTS).is_file():
    raise UserError(f"--model={export} is not an export of tl_app: use WORKDIR/export")
  return files.read_json(checksums.verified(export / workdir.EXPORT_FACTS, checksums.EXPORT_AGAIN))


def input_columns(facts: Mapping, given: Mapping[str, str]) -> dict[str, str]:
  """Returns {flag: column} of the inputs of a table: as given, else as the export remembers them, else the defaults.

  Args:
    facts: the content of `workdir.EXPORT_FACTS`.
    given: {flag: column} of what the user gave.
  """
  remembered = facts.get("columns", {})
  return {
    name: given.get(name) or remembered.get(name) or str(config_lib.FIELDS[name].default)
    for name in rules.INPUT_COLUMNS
  }
