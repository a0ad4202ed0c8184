"""Reads log.jsonl, the epochs of a run."""

import json
import pathlib

from tl_app.files import checksums


def read(path: pathlib.Path) -> list[dict]:
  """Returns the epochs of log.jsonl in order, without other lines or the incomplete last line of a killed run.

  Args:
    path: the file; if it does not exist, there are no epochs.
  """
  epochs = []
  if not path.exists():
    return epochs
  for line in checksums.verified(path).read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      entry = json.loads(line)
    except ValueError:
      continue
    if isinstance(entry, dict) and {"phase", "epoch"} <= entry.keys():
      epochs.append(entry)
  return epochs
