"""What commands print of their results."""

import pytest

from tl_app.commands import results


@pytest.mark.parametrize(
  ("count", "line"),
  [
    (0, "no label is proposed to be changed: fix.csv has no rows"),
    (1, "1 proposed change in fix.csv: fill its column decision, then give it to --corrections"),
    (2, "2 proposed changes in fix.csv: fill its column decision, then give it to --corrections"),
  ],
)
def test_check_tells_how_many_changes_are_proposed(monkeypatch, capsys, count, line):
  """A file without rows was to be filled, too."""
  monkeypatch.setattr(results.findings, "lines", lambda result, found: ["serious: 0"])
  results.check({"proposed_changes": count}, [], "fix.csv")
  assert capsys.readouterr().out.splitlines()[-1] == line
