"""A few damaged files, always the same: no traceback, no hang, no great memory. `python -m tests.fuzz` runs many."""

import pytest

from tests.fuzz import cases

# Cases of seed 1: one that once ended in a traceback, and some beside it.
TABLES = (7174, *range(40))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
  return cases.Fuzzer(tmp_path_factory.mktemp("fuzz"), seed=1)


def test_damaged_files_are_read_or_refused_in_one_line(fuzzer):
  outcomes = [fuzzer.table(number) for number in TABLES] + [fuzzer.images(number) for number in range(6)]
  outcomes += [run(number) for run in (fuzzer.records, fuzzer.texts) for number in range(6)]
  assert [outcome.fault for outcome in outcomes if outcome.fault] == []
  # The damage is neither too small nor too large to tell anything.
  assert {bool(outcome.refused) for outcome in outcomes} == {outcome.answered for outcome in outcomes} == {True, False}
