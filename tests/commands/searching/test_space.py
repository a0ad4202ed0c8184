"""The space of a search: files, faults that are answered with one line, and which flags which trials search."""

import json
import random

import pytest

from tl_app.commands.searching import space as space_lib
from tl_app.commands.searching.space import Choice, Range
from tl_app.config import Config
from tl_app.errors import UserError

SPACE = {"learning_rate": Range(1e-5, 1e-3, log=True), "train_stages": Choice(("all", "top:2"))}


class _Random:
  """Stands for a trial of Optuna."""

  def __init__(self, seed=0):
    self._random, self.names = random.Random(seed), []

  def suggest_categorical(self, name, values):
    self.names.append(name)
    return self._random.choice(values)

  def suggest_float(self, name, low, high, log):
    self.names.append(name)
    return low

  suggest_int = suggest_float


@pytest.mark.parametrize(
  ("suffix", "text"),
  [
    ("json", '{"learning_rate": {"low": 1e-5, "high": 0.001, "log": true}, "train_stages": ["all", "top:2"]}'),
    ("yaml", "learning_rate: {low: 0.00001, high: 0.001, log: true}\ntrain_stages: [all, 'top:2']\n"),
    ("toml", 'train_stages = ["all", "top:2"]\n[learning_rate]\nlow = 1e-5\nhigh = 1e-3\nlog = true\n'),
  ],
)
def test_three_forms_of_a_file(tmp_path, suffix, text):
  path = tmp_path / f"space.{suffix}"
  path.write_text(text)
  assert space_lib.read(str(path)) == SPACE
  again = {name: entry.to_json() for name, entry in SPACE.items()}
  assert space_lib.of(json.loads(json.dumps(again)), "") == SPACE


@pytest.mark.parametrize(
  ("values", "line"),
  [
    ({"lerning_rate": [1]}, "unknown flag lerning_rate; did you mean learning_rate"),
    ({"dataset": ["a"]}, "--dataset cannot be searched"),
    ({"recipe": ["lp_fit"]}, "--recipe='?lp_fit.*did you mean lp_ft"),
    ({"epochs": [2.5]}, "--epochs=2.5 is not of type int"),
    ({"layer_decay": [1.5]}, "--layer_decay=1.5 is above 1"),
    ({"learning_rate": {"low": 1, "hgih": 2}}, "unknown key hgih; did you mean high"),
    ({"learning_rate": {"low": 2, "high": 1}}, "needs low < high"),
    ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "low above 0 for log"),
    ({"learning_rate": {"low": 1, "high": 2, "log": "no"}}, "log of the range of learning_rate is 'no'"),
    ({"recipe": {"low": 0, "high": 1}}, "needs a list of values"),
    ({"learning_rate": {"low": 1}}, "low and high"),
    ({"learning_rate": []}, "has no values"),
    ({"learning_rate": [float("nan")]}, "not a number"),
    ({}, "needs flags"),
    ([1], "needs flags"),
  ],
)
def test_faults_are_one_line(values, line):
  with pytest.raises(UserError, match=line) as raised:
    space_lib.of(values, "--space=s.json")
  assert "\n" not in str(raised.value) and str(raised.value).startswith("--space=s.json")


@pytest.mark.parametrize(
  ("name", "data"), [("s.json", b"{"), ("s.yaml", b"a: ["), ("s.toml", b"a = "), ("s.json", b"\xff")]
)
def test_a_file_that_cannot_be_read(tmp_path, name, data):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=f"{name} is not"):
    space_lib.read(str(tmp_path / name))
  with pytest.raises(UserError, match="cannot be read: No such file"):
    space_lib.read(str(tmp_path / "absent"))


def test_numbers_of_flags_of_floats_may_be_whole():
  assert space_lib.of({"learning_rate": [1], "epochs": [3, 3]}, "")["learning_rate"].values == (1.0,)
  assert space_lib.of({"epochs": [3, 3]}, "")["epochs"].values == (3,)


def test_probes_search_what_the_head_reads():
  space = {
    **SPACE,
    "pooling": Choice(("mean", "cls")),
    "head_dropout": Range(0.0, 0.5),
    "probe_solver": Choice(("svm",)),
  }
  probes, tuned = space_lib.divided(space, "lp_ft")
  assert set(probes) == {"pooling", "head_dropout", "probe_solver"} and set(tuned) == set(SPACE)
  assert space_lib.divided(space, "probe") == (space, {})


def test_flags_without_effect_are_not_chosen():
  space = {"head_learning_rate": Range(1e-4, 1e-2), "probe_solver": Choice(("adamw", "svm"))}
  for seed in range(8):
    trial = _Random(seed)
    chosen = space_lib.sample(space, trial, Config())
    assert ("head_learning_rate" in chosen) == (chosen["probe_solver"] == "adamw")
    assert trial.names[0] == "probe_solver"
  # Without a solver in the space the flag itself asks for gradient descent.
  alone = {"head_learning_rate": space["head_learning_rate"]}
  assert (
    space_lib.sample(alone, _Random(), Config())
    and space_lib.sample(alone, _Random(), Config(probe_solver="svm")) == {}
  )
  grid = space_lib.grid(space, Config())
  assert len(grid) == space_lib.GRID_POINTS + 1
  assert {"probe_solver": "svm"} in grid


def test_grids_have_both_ends():
  assert Range(1e-5, 1e-3, log=True, points=3).grid() == pytest.approx([1e-5, 1e-4, 1e-3])
  assert Range(1, 3).grid() == [1, 2, 3]
  assert Range(0.0, 0.5, points=3).grid() == [0.0, 0.25, 0.5]


def test_the_values_of_a_plain_run():
  config = Config(train_stages="all")
  assert space_lib.default_values(SPACE, config, {"learning_rate": 1e-4}) == {
    "learning_rate": 1e-4,
    "train_stages": "all",
  }
  assert space_lib.default_values(SPACE, config, {"learning_rate": 1.0}) is None


def test_the_default_space_holds_flags_with_usable_values():
  spaces = [space_lib.of_probes(("adamw", "svm")), space_lib.of_fine_tuning(1e-4, 6, True, ("light",))]
  for space in spaces:
    again = space_lib.of({name: entry.to_json() for name, entry in space.items()}, "")
    assert again == space
  assert "augment" not in space_lib.of_fine_tuning(1e-4, 6, True, ())
  assert space_lib.of_fine_tuning(1e-4, 1, False, ())["train_stages"].values == ("auto",)


def test_a_space_of_few_combinations_limits_the_trials():
  """Two solvers had 19 trials, 17 of which repeated the other two."""
  solvers = {"probe_solver": Choice(("logistic", "svm"))}
  assert space_lib.limited(12, solvers, Config()) == 2 and space_lib.limited(1, solvers, Config()) == 1
  # The learning rate has an effect with one of the two.
  rates = {"probe_solver": Choice(("adamw", "svm")), "head_learning_rate": Choice((1e-3, 1e-2))}
  assert space_lib.limited(12, rates, Config()) == 3
  assert space_lib.limited(12, SPACE, Config()) == 12
  wide = {f"flag_{number}": Choice(tuple(range(10))) for number in range(9)}
  assert space_lib.limited(12, wide, Config()) == 12
