"""The two errors that end a run early. Both are printed as one line, without a traceback."""


class _OneLine(Exception):
  def _render_traceback_(self):
    """Returns the lines that a notebook shows."""
    return [f"tl_app.{type(self).__name__}: {self}"]


class UserError(_OneLine):
  """The user must change something (exit code 2). The message is one line: what is wrong, and what to do."""


class RunFailed(_OneLine):
  """The run itself failed (exit code 1): NaN, failed export check, failed audit. The message is one line."""
