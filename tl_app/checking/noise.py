"""Labels that are probably wrong: confident learning on out-of-fold predictions from frozen features."""

import warnings

import numpy as np
import sklearn.linear_model
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing

from tl_app.checking.findings import SHOWN, find
from tl_app.progress import counted

FOLDS = 5
# Inverse strength of the regularisation. With 5 % of the labels made wrong, "both" of cleanlab's filters found 88 % of
# them on TrashNet (46 % of what it named) and 78 % on Banking77 (78 %), and the 20 worst were wrong on both. 0.1 found
# 93 % (38 %) and 80 % (70 %).
STRENGTH = 0.01
FIT_EXAMPLES = 20000
_ITERATIONS = 200


def findings(subject, features):
  """Yields the labels that `cleanlab` takes for wrong, the surest first.

  Args:
    subject: `Subject`.
    features: float32 [n, width], frozen features of its examples.
  """
  import cleanlab.filter

  examples = subject.examples
  names, labels = np.unique(examples.labels.astype(str), return_inverse=True)
  number = np.array([len(set(subject.fingerprints.near[labels == label])) for label in range(len(names))])
  used = np.flatnonzero(np.isin(labels, np.flatnonzero(number >= FOLDS)))
  if len(np.unique(labels[used])) < 2:
    return
  kept, targets = np.unique(labels[used], return_inverse=True)
  probabilities = out_of_fold(features[used], targets, subject.fingerprints.near[used])
  ranked = cleanlab.filter.find_label_issues(
    targets, probabilities, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
  )
  shown = [
    f"{examples.ids[used[i]]} ({names[kept[targets[i]]]}, rather {names[kept[probabilities[i].argmax()]]})"
    for i in ranked[:SHOWN]
  ]
  accuracy = np.mean(probabilities.argmax(axis=1) == targets)
  yield from find("label_noise", len(ranked), len(used), f"out-of-fold accuracy {accuracy:.3f}", shown)


def out_of_fold(features, targets, groups):
  """Returns float64 [n, classes]: each example's probabilities from a logistic regression that has not seen its group.

  Args:
    features: float32 [n, width].
    targets: int [n], every class from 0 on present.
    groups: int [n]; examples of one group are in one fold.
  """
  probabilities = np.zeros((len(targets), targets.max() + 1))
  folds = sklearn.model_selection.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
  with warnings.catch_warnings():
    # A class in one fold only is the fewest-members warning; the fit that stops at the iterations is close enough.
    warnings.simplefilter("ignore")
    for train, held_out in counted(folds.split(features, targets, groups), FOLDS, "label noise, folds"):
      train = train[:: -(-len(train) // FIT_EXAMPLES)]
      model = sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(),
        sklearn.linear_model.LogisticRegression(C=STRENGTH, max_iter=_ITERATIONS, tol=1e-3),
      ).fit(features[train], targets[train])
      probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
  return probabilities
