"""Shares as people say them, for the plain sentences about metrics."""


def of_hundred(share: float) -> str:
  """Returns a share in [0, 1] as "96 of 100"; near 0 and 1, "997 of 1,000" and "more than 999 of 1,000"."""
  if share in (0, 1) or 0 < round(100 * share) < 100:
    return f"{round(100 * share)} of 100"
  if 0 < round(1000 * share) < 1000:
    return f"{round(1000 * share)} of 1,000"
  return "more than 999 of 1,000" if share > 0.5 else "fewer than 1 of 1,000"


def percent(share: float) -> str:
  """Returns a share in [0, 1] as "93 %", rounded down: for "at least"."""
  return f"{int(100 * share + 1e-9)} %"
