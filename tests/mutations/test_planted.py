"""The planted bugs still fit the code."""

import ast

import pytest

from tests.mutations.__main__ import ROOT
from tests.mutations.planted import BUGS


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_can_be_planted(name):
  bug = BUGS[name]
  source = (ROOT / "tl_app" / bug.module).read_text(encoding="utf-8")
  assert source.count(bug.text) == 1
  assert ast.dump(ast.parse(source.replace(bug.text, bug.planted))) != ast.dump(ast.parse(source))
  assert all((ROOT / "tests" / path).exists() for path in bug.tests)
