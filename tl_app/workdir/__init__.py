"""The directory of one run: its paths, its lock, the writer of its files, and the state from which it continues."""

from tl_app.workdir.located import located, place
from tl_app.workdir.locking import check_contents, check_output, claim, open_run, resumable, saved_config
from tl_app.workdir.paths import EXPORT_FACTS, EXPORT_VARIABLE, EXPORT_VOCABULARY, Workdir
from tl_app.workdir.record import (
  FORMAT,
  Clock,
  Record,
  read,
  read_plan,
  read_vocabulary,
  verified,
  write_vocabulary,
)

__all__ = [
  "EXPORT_FACTS",
  "EXPORT_VARIABLE",
  "EXPORT_VOCABULARY",
  "FORMAT",
  "Clock",
  "Record",
  "Workdir",
  "check_contents",
  "check_output",
  "claim",
  "located",
  "open_run",
  "place",
  "read",
  "read_plan",
  "read_vocabulary",
  "resumable",
  "saved_config",
  "verified",
  "write_vocabulary",
]
