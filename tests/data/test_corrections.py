"""--corrections: what a person has decided about labels, applied without touching the data."""

import csv
import os

import pytest
from loading import load, refusal, write, write_images

from tl_app import files
from tl_app.config import Config
from tl_app.data import corrections
from tl_app.data.corrections import Proposal
from tl_app.data.splitting import splits
from tl_app.errors import UserError

TEXTS = ("good one", "good two", "bad one", "good two", "odd", "bad")
ROWS = list(zip(TEXTS, ("pos", "neg", "neg", "neg", "pos", "neg")))


@pytest.fixture
def table(tmp_path):
  with open(tmp_path / "t.csv", "w", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *ROWS])
  return f"table:{tmp_path / 't.csv'}"


def decide(table, path, decisions):
  """Writes the table of proposals {position: (proposed label, decision)} and returns its path."""
  examples = load(table)
  found = [Proposal(index, label, 0.9, "a model", "train") for index, (label, _) in decisions.items()]
  corrections.write(path, examples, found)
  with open(path, newline="") as file:
    rows = list(csv.DictReader(file))
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(row | {"decision": decision} for row, (_, decision) in zip(rows, decisions.values()))
  return str(path)


def test_the_table_of_proposals_has_what_a_person_needs(table, tmp_path):
  corrections.write(tmp_path / "fix.csv", load(table), [Proposal(1, "pos", 0.9, "a model", "test")])
  with open(tmp_path / "fix.csv", newline="") as file:
    (row,) = csv.DictReader(file)
  # A spreadsheet would round hashes of digits alone.
  kind, content = row.pop("content").split(":")
  assert load(table).hashes[1].startswith(content) and (kind, len(content)) == ("sha256", 16)
  expected = {"id": "t.csv:3", "text": "good two", "split": "test", "label": "neg", "proposed_label": "pos"}
  assert row == expected | {"confidence": "0.900", "reason": "a model", "decision": ""}


def test_decisions_change_labels_and_drop_rows_but_not_the_data(table, tmp_path):
  before = (tmp_path / "t.csv").read_bytes()
  path = decide(
    table, tmp_path / "f.csv", {1: ("pos", "Accept "), 4: ("neg", "drop"), 2: ("pos", "keep"), 5: ("pos", "")}
  )
  examples = load(table, corrections=path)
  # The equal content in row 3 gets the label of row 1.
  assert list(examples.labels) == ["pos", "pos", "neg", "pos", "neg"]
  assert "t.csv:6" not in examples.ids and examples.classes[1] == ("pos",)
  assert (
    examples.notes[-1] == f"--corrections={path}: labels replaced: 2, 1 of them of equal contents; examples dropped: 1"
  )
  assert examples.corrections["relabelled"] == 2 and examples.corrections["dropped"] == 1
  assert (tmp_path / "t.csv").read_bytes() == before


def test_the_digest_is_that_of_the_decisions_alone(table, tmp_path):
  def digest(decisions):
    return load(table, corrections=decide(table, tmp_path / "f.csv", decisions)).corrections["sha256"]

  first = digest({1: ("pos", "accept"), 4: ("neg", "")})
  assert digest({4: ("neg", "keep"), 1: ("pos", "accept")}) == first
  assert digest({1: ("pos", "accept"), 4: ("neg", "drop")}) != first


@pytest.mark.parametrize(
  ("row", "problem"),
  [
    ("t.csv:99,neg,pos,accept,", "has no example 't.csv:99'"),
    ("t.csv:3,neg,poss,accept,", "'poss' is none of the 2 classes of table:"),
    ("t.csv:3,neg,,accept,", "the proposed label of t.csv:3 is empty"),
    ("t.csv:3,neg,pos,yes,", "the decision 'yes' is none of keep, accept, drop, or empty"),
    ("t.csv:3,pos,neg,accept,", "t.csv:3 has the label 'neg', not 'pos' as in the table"),
    ("t.csv:3,neg,pos,accept,0123456789abcdef", "t.csv:3 has another content than the table"),
    ("t.csv:3,neg,pos,accept,\nt.csv:3,neg,pos,drop,", "the id t.csv:3 occurs 2 times"),
    (
      "t.csv:3,neg,pos,accept,\nt.csv:5,neg,neg,keep,",
      "t.csv:3 and t.csv:5 are equal, but get the labels 'pos' and 'neg'",
    ),
  ],
)
def test_what_cannot_be_applied_is_one_line(table, tmp_path, row, problem):
  path = write(tmp_path / "f.csv", f"id,label,proposed_label,decision,content\n{row}\n")
  message = refusal(table, corrections=str(path))
  assert message.startswith(f"--corrections={path}") and problem in message


def test_what_is_no_such_table_is_one_line(table, tmp_path):
  assert "cannot be read: No such file" in refusal(table, corrections=str(tmp_path / "none.csv"))
  path = write(tmp_path / "f.csv", "id,label\nt.csv:3,neg\n")
  assert "has no column 'decision'" in refusal(table, corrections=str(path))


def test_rows_of_separators_alone_are_passed_over_and_a_pipe_is_not_read(table, tmp_path):
  path = write(tmp_path / "fix.csv", "id,proposed_label,decision\n,,\nt.csv:2,neg,accept\n,,\n")
  assert load(table, corrections=str(path)).labels[0] == "neg"
  os.mkfifo(tmp_path / "pipe")
  assert "it is a pipe" in refusal(table, corrections=str(tmp_path / "pipe"))


def test_names_of_files_may_begin_with_spaces(tmp_path):
  write_images(tmp_path / "im", " a/1.jpg", "b/2.jpg", "b/3.jpg")
  path = write(tmp_path / "fix.csv", "id,proposed_label,decision\n a/1.jpg,b,accept\n")
  assert list(load(f"images:{tmp_path}/im", corrections=str(path)).labels) == ["b", "b", "b"]


def test_a_long_label_is_shown_by_its_beginning(table, tmp_path):
  path = write(tmp_path / "fix.csv", f"id,proposed_label,decision\nt.csv:2,{'n' * 200},accept\n")
  assert f"'{'n' * 57} ..' is none of the 2 classes" in refusal(table, corrections=str(path))


def test_spreadsheets_may_separate_by_semicolons(table, tmp_path):
  path = write(tmp_path / "f.csv", "\ufeffid;proposed_label;decision\r\nt.csv:3;pos;accept\r\n")
  assert list(load(table, corrections=str(path)).labels[1:4]) == ["pos", "neg", "pos"]


def test_a_run_notices_that_its_corrections_have_changed(table, tmp_path):
  with open(tmp_path / "t.csv", "w", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *((f"text {i}", ("pos", "neg")[i % 2]) for i in range(40))])
  first = load(table, corrections=decide(table, tmp_path / "a.csv", {1: ("pos", "accept")}))
  split = splits.make(first, Config().splits)
  files.write_json(tmp_path / "splits.json", split.manifest())
  assert files.read_json(tmp_path / "splits.json")["corrections"]["relabelled"] == 1
  assert len(splits.read(tmp_path / "splits.json", first).train) == len(split.train)
  other = load(table, corrections=decide(table, tmp_path / "b.csv", {1: ("pos", "accept"), 2: ("neg", "accept")}))
  for changed in (load(table), other):
    with pytest.raises(UserError, match="no longer fits --corrections=.*, which has changed since the run"):
      splits.read(tmp_path / "splits.json", changed)
