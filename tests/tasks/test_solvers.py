"""The linear models of scikit-learn that solve a probe."""

import numpy as np
import pytest

from tl_app.tasks import solvers


@pytest.mark.parametrize("solver", ["logistic", "svm"])
def test_unequal_classes_without_a_signal_are_answered_by_the_larger_one(solver):
  """With a regularised intercept a quarter of the answers was the small class."""
  random = np.random.default_rng(0)
  features, others = random.normal(size=(2, 300, 400))
  labels = (np.arange(300) % 7 == 0).astype(int)
  _, most_regularised = solvers.classifiers(solver)[0]
  answers = most_regularised.fit(features, labels).predict(others)
  assert (answers == 0).mean() > 0.98
