"""Numbers and command lines as people read them."""

import math
import shlex

import pytest

from tl_app import tasks
from tl_app.report import formatting, rendering


@pytest.mark.parametrize(
  ("seconds", "text"), [(0.04, "0.0 s"), (9.5, "9.5 s"), (59.6, "1 min 0 s"), (7265, "2 h 1 min"), (None, "–")]
)
def test_durations(seconds, text):
  assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
  ("preprocessing", "text"),
  [
    ({"image_size": 224}, "images of 224 x 224 pixels"),
    ({"max_length": 0}, "texts of any length"),
    ({"max_length": 48, "texts_cut": 0.0}, "at most 48 tokens of a text"),
    # Of pretraining.
    (
      {"max_length": 48, "texts_cut": 0.1, "tokens_per_text": 20.5},
      "at most 48 tokens of a text; 10.0% of the training texts are longer",
    ),
    (
      {"max_length": 32, "long_text": "windows", "max_windows": 8, "texts_cut": 0.0623, "tokens_read": 0.9597},
      "at most 32 tokens of a text (--long_text=windows, in at most 8 windows); 6.2% of the training texts are longer, "
      "and 95.97% of all tokens are read",
    ),
  ],
)
def test_what_is_read_of_an_example_is_told_in_words(preprocessing, text):
  assert formatting.what_is_read(preprocessing) == text


def test_zero_has_no_sign():
  assert formatting.decimals(-0.0002) == "0.000" and formatting.decimals(-0.0006) == "-0.001"
  assert formatting.interval((-0.0002, 0.1), "+") == "+0.000 to +0.100"


def test_no_line_breaks_after_the_hyphens_of_a_flag():
  template = rendering.environment().from_string("{{ text | unbroken }}")
  text = template.render(text="use --a_b=<1>, (--c) -- not x--y")
  one, other = (f'<span class="flag">--{flag}</span>' for flag in ("a_b=&lt;1&gt;", "c"))
  assert text == f"use {one}, ({other}) -- not x--y"


def test_what_is_no_number_is_a_dash():
  for value in (None, True, "0.5", math.nan, math.inf):
    assert formatting.decimals(value) == formatting.count(value) == formatting.significant(value) == formatting.MISSING
  assert (formatting.decimals(0.12345), formatting.count(1234.0), formatting.significant(3e-7)) == (
    "0.123",
    "1,234",
    "3e-07",
  )


def test_a_command_has_the_flags_that_are_no_defaults_and_can_be_pasted():
  values = {"backbone": "a b", "export": False, "seed": 0, "epochs": 2, "no_such_flag": 1}
  flags = formatting.given_flags(values, but=["epochs"])
  assert sorted(flags) == ["--backbone=a b", "--noexport"]
  assert shlex.split(formatting.command("tl_app.train", flags)) == ["python", "-m", "tl_app.train", *flags]


@pytest.mark.parametrize(("task", "heading"), [("single_label", "class"), ("regression", "label")])
def test_ranges_of_numbers_are_no_classes(task, heading):
  data = {"rows": [("01: 0 to 0.6", [3])], "splits": ["train"], "totals": [3]}
  values = {"task": tasks.TASKS[task], "data": data, "findings": {}}
  html = rendering.environment().get_template("sections/data.html").render(values)
  assert html.count(f'<th scope="col">{heading}</th>') == 1
