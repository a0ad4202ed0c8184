"""Tests of --probe_solver=auto."""

import pytest

from tl_app.config import Config
from tl_app.recipes import probe_solver, recipes
from tl_app.recipes.facts import Facts

FACTS = Facts(100, 3, 1e-4, {"layer": ("layer/kernel",)}, closed_solver="logistic", probe_work=1e6)


@pytest.mark.parametrize(
  ("flags", "facts", "solver", "reason"),
  [
    ({}, {}, "logistic", "the default of the task"),
    ({}, {"closed_solver": "ridge"}, "ridge", "the default of the task"),
    ({"probe_solver": "svm"}, {}, "svm", "--probe_solver=svm"),
    ({"probe_solver": "adamw"}, {}, "adamw", "--probe_solver=adamw"),
    ({}, {"closed_solver": ""}, "adamw", "no solver for the task"),
    ({}, {"probe_work": 2 * probe_solver.MOST_WORK}, "adamw", "would take too long"),
    ({"imbalance": "focal"}, {}, "adamw", "--imbalance=focal needs gradient descent"),
    ({"head_hidden_units": "8"}, {}, "adamw", "--head_hidden_units=8"),
    ({"head_dropout": 0.1}, {}, "adamw", "--head_dropout=0.1"),
    ({"head_epochs": 5}, {}, "adamw", "--head_epochs=5"),
    ({"head_learning_rate": 0.1}, {}, "adamw", "--head_learning_rate=0.1"),
    ({"head_learning_rate": 0.1, "recipe": "full"}, {}, "logistic", "the default of the task"),
    ({"optimizer": "sgd", "recipe": "probe"}, {}, "adamw", "--optimizer=sgd"),
    ({"optimizer": "sgd", "recipe": "lp_ft"}, {}, "logistic", "the default of the task"),
    ({"adapt": "coral", "recipe": "probe"}, {}, "logistic", "the default of the task"),
    ({"adapt": "dann", "recipe": "probe"}, {}, "adamw", "--adapt=dann"),
  ],
)
def test_the_solver_is_that_of_scikit_learn_unless_something_needs_gradients(flags, facts, solver, reason):
  found = probe_solver.choose(Config(**flags), FACTS.__class__(**vars(FACTS) | facts))
  assert found[0] == solver and reason in found[1]


def test_the_plan_says_which_solver_and_why():
  phase = recipes.plan(Config(recipe="probe"), FACTS)[0]
  assert not phase.optimizer.uses_gradients
  assert {"solver": "logistic", "solver_reason": "the default of the task"}.items() <= phase.to_json().items()
