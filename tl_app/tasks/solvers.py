"""scikit-learn's linear models as heads, in the strengths that are tried on the validation split."""

import sklearn.linear_model
import sklearn.svm

# Inverse strengths of the regularisation; scikit-learn's C.
STRENGTHS = (0.03, 0.3, 3.0)
# Of ridge regression; scikit-learn's alpha.
RIDGE_STRENGTHS = (1e4, 1e3, 1e2, 1e1, 1.0)
MAX_ITERATIONS = 1000


def classifiers(solver):
  """Returns [(C, classifier)] of "logistic" or "svm" (one against the rest), from the most regularised."""
  if solver == "logistic":
    return [(c, sklearn.linear_model.LogisticRegression(C=c, max_iter=MAX_ITERATIONS)) for c in STRENGTHS]
  return [
    (c, sklearn.svm.LinearSVC(C=c * 0.01, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)) for c in STRENGTHS
  ]
