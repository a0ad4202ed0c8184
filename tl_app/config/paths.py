"""Flags that are paths."""

import os
import re
import urllib.parse
from typing import Any


def expanded(value: Any) -> Any:
  """Returns the value of a flag that is a path, with $NAME, ${NAME}, a leading ~ or ~user and file:// replaced.

  An environment variable that is not set stays as it is written, and so does the home of an unknown user. The form
  before a path stays: "table:~/mails.csv". A value that is no path is returned as it is. This is the one place that
  turns such a flag into a path: `cli` calls it for the command line, `Config` for keywords and config.json.
  """
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if not isinstance(value, str):
    return value
  value = os.path.expandvars(value)
  address = re.match(r"([a-z]+:)?file://(?:localhost)?(/.*)", value, re.DOTALL)
  if address:
    return (address[1] or "") + urllib.parse.unquote(address[2])
  found = re.match(r"[a-z]+:(?=~)", value)
  form = found[0] if found else ""
  return form + os.path.expanduser(value[len(form) :])
