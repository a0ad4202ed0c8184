"""The two errors that end a run early. Both are printed as one line, without a traceback."""


class UserError(Exception):
  """The user must change something (exit code 2). The message is one line: what is wrong, and what to do."""


class RunFailed(Exception):
  """The run itself failed (exit code 1): NaN, failed export check, failed audit. The message is one line."""
