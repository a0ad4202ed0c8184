"""Where the files that the flags of a finished run name are now."""

import dataclasses
import glob
import os
from collections.abc import Iterable

from tl_app import config as config_lib
from tl_app.config.paths import expanded
from tl_app.errors import UserError
from tl_app.workdir.paths import PATH_FORMS, Workdir
from tl_app.workdir.record import read_plan


def place(run: Workdir) -> dict[str, str]:
  """Returns {"directory", "workdir"}: where the paths of a run's flags start now, and where its workdir is."""
  return {"directory": os.getcwd(), "workdir": str(run.root.resolve())}


def located(run: Workdir, config: config_lib.Config, names: Iterable[str]) -> config_lib.Config:
  """Returns the `Config` of a finished run with the named path flags as they lead to files now.

  A relative path starts in the directory in which the run was started. If the run has been moved, together with what
  lies around it, the path leads to the same place around it. Else it starts in the current directory.

  Args:
    run: the `Workdir`.
    config: its `Config`.
    names: of flags; a flag that is no path stays as it is.

  Raises:
    UserError: a path leads nowhere, or plan.json is damaged.
  """
  then = read_plan(run).get("started", {})
  return dataclasses.replace(config, **{name: _located(run, name, getattr(config, name), then) for name in names})


def _located(run, name, value, then):
  form, colon, path = value.partition(":")
  if not colon or form not in PATH_FORMS:
    form, colon, path = "", "", value
    if not path or "://" in path or name not in ("backbone", "preprocessor", "data_dir", "corrections"):
      return value
  path = expanded(path)
  tried = [os.path.abspath(path)]
  if then:
    start = os.path.join(then["directory"], path)
    moved = os.path.join(run.root.resolve(), os.path.relpath(start, then["workdir"]))
    tried = list(dict.fromkeys(map(os.path.normpath, (start, moved, *tried))))
  found = next((place for place in tried if os.path.exists(place) or glob.glob(place)), None)
  if found is None and (form or os.sep in path):
    raise UserError(
      f"--{name}={value}, of {run.config}, leads nowhere: {' and '.join(tried)} do not exist; correct it in that file"
    )
  return f"{form}{colon}{found}" if found else value
