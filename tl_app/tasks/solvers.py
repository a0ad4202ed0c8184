"""scikit-learn's linear models as solvers of a probe, with the strengths that are tried on the validation split."""

import typing

import numpy as np
import sklearn.linear_model
import sklearn.svm

# Inverse strengths of the regularisation; scikit-learn's C.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Of ridge regression; scikit-learn's alpha.
RIDGE_STRENGTHS = (1e4, 1e3, 1e2, 1e1, 1.0)
MAX_ITERATIONS = 1000
# Liblinear regularises the intercept of a support vector machine, by this factor squared less than a weight. With 1 few
# examples of unequal classes are answered as if the classes were equal: 320 messages, 46 of them spam, had an accuracy
# of 0.856 in cross-validation, that of the majority class, with 10 they have 0.972.
INTERCEPT_SCALING = 10.0


def classifiers(solver: str) -> list[tuple[float, typing.Any]]:
  """Returns [(C, classifier)] of "logistic" or "svm" (one against the rest), from the most regularised."""
  if solver == "logistic":
    return [(c, sklearn.linear_model.LogisticRegression(C=c, max_iter=MAX_ITERATIONS)) for c in STRENGTHS]
  given = {"dual": "auto", "max_iter": MAX_ITERATIONS, "random_state": 0, "intercept_scaling": INTERCEPT_SCALING}
  return [(c, sklearn.svm.LinearSVC(C=c * 0.01, **given)) for c in STRENGTHS]


def can_start(estimator) -> bool:
  """Returns whether an estimator can start from the coefficients of another one, on which its result depends a little.

  The solver stops within a tolerance: with 108 photographs and C = 10 the losses of both were 0.145 and 0.121.
  """
  return isinstance(estimator, sklearn.linear_model.LogisticRegression)


def start_from(estimator, previous) -> None:
  """Lets an estimator start from the coefficients of a fitted one that is more regularised, where it can."""
  if can_start(estimator):
    estimator.set_params(warm_start=True)
    estimator.coef_, estimator.intercept_ = previous.coef_, previous.intercept_


def sparse_classifier() -> sklearn.svm.LinearSVC:
  """Returns a linear classifier for sparse features of length 1, one class against the rest.

  Logistic regression takes twenty times as long on 77 classes, for about one point of accuracy.
  """
  return sklearn.svm.LinearSVC(C=0.3, random_state=0)


def softmax_weights(classifier) -> tuple[np.ndarray, np.ndarray]:
  """Returns (kernel [features, classes], bias [classes]) of a fitted classifier, in the order of its `classes_`."""
  kernel, bias = classifier.coef_.T, classifier.intercept_
  if kernel.shape[1] == 1:
    # One margin m for two classes; softmax of (-m/2, m/2) is its sigmoid.
    kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
  return kernel, bias
