"""Counts in messages."""

import pytest

from tl_app.errors.counts import number_of


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ((0, "example"), "0 examples"),
    ((1, "example"), "1 example"),
    ((1234, "example"), "1,234 examples"),
    ((1, "class", "classes"), "1 class"),
    ((2, "class", "classes"), "2 classes"),
  ],
)
def test_a_count_has_its_noun_in_the_right_number(arguments, text):
  assert number_of(*arguments) == text
