"""Labels that are probably wrong: confident learning on predictions of models that have not seen the example."""

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import sklearn.linear_model
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing

from tl_app.checking.findings import SHOWN, find
from tl_app.data.corrections import Proposal
from tl_app.terminal.progress import counted

FOLDS = 5
# Inverse strength of the regularisation. With 5 % of the labels made wrong, "both" of cleanlab's filters found 88 % of
# them on TrashNet (46 % of what it named) and 78 % on Banking77 (78 %), and the 20 worst were wrong on both. 0.1 found
# 93 % (38 %) and 80 % (70 %).
STRENGTH = 0.01
FIT_EXAMPLES = 20000
_ITERATIONS = 200


def missing_package() -> str:
  """Returns how to install what `review` and `issues` need, or ""."""
  return "" if importlib.util.find_spec("cleanlab") else "pip install 'tl_app[check]'"


def findings(proposals: Sequence[Proposal], examples, used: int, accuracy: float):
  """Yields the finding of the labels that are probably wrong, the surest first.

  Args:
    proposals: of `review`.
    examples: the `Examples`.
    used, accuracy: of `review`.
  """
  shown = [f"{examples.ids[p.index]} ({examples.labels[p.index]}, rather {p.label})" for p in proposals[:SHOWN]]
  yield from find("label_noise", len(proposals), used, f"out-of-fold accuracy {accuracy:.3f}", shown)


def review(
  labels: np.ndarray, features: np.ndarray, units: np.ndarray, splits: np.ndarray
) -> tuple[list[Proposal], int, float]:
  """Compares labels with out-of-fold predictions from frozen features.

  Args:
    labels: object array [n] of str, one class each.
    features: float32 [n, width].
    units: int [n], the same for examples that belong together, see `splits.units`.
    splits: [n], the name of the split of each example.

  Returns:
    (the labels that are probably wrong, the surest first; number of examples that were looked at: those of classes with
    `FOLDS` different examples; accuracy of the predictions).
  """
  names, targets = np.unique(labels.astype(str), return_inverse=True)
  number = np.array([len(set(units[targets == label])) for label in range(len(names))])
  used = np.flatnonzero(np.isin(targets, np.flatnonzero(number >= FOLDS)))
  if len(np.unique(targets[used])) < 2:
    return [], 0, 0.0
  kept, targets = np.unique(targets[used], return_inverse=True)
  probabilities = out_of_fold(features[used], targets, units[used])
  wrong = issues(targets, probabilities)
  reason = "models that have not seen it"
  proposals = [
    Proposal(int(used[i]), str(names[kept[label]]), confidence, reason, str(splits[used[i]]))
    for i, label, confidence in wrong
  ]
  return proposals, len(used), float(np.mean(probabilities.argmax(axis=1) == targets))


def issues(targets: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int, float]]:
  """Returns the targets that cleanlab takes for wrong, the surest first.

  Args:
    targets: int [n].
    probabilities: float [n, classes], of a model that has not seen the example.

  Returns:
    [(position, class that is probably right, its probability)]; none where all targets are one class.
  """
  if len(np.unique(targets)) < 2:
    return []
  with warnings.catch_warnings():
    # tqdm, which it imports, warns in a notebook without ipywidgets; it warns of each class with few examples.
    warnings.simplefilter("ignore")
    import cleanlab.filter

    probabilities = np.asarray(probabilities, np.float64)
    ranked = cleanlab.filter.find_label_issues(
      targets, probabilities, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
    )
  best = probabilities.argmax(axis=1)
  return [(int(i), int(best[i]), float(probabilities[i, best[i]])) for i in ranked if best[i] != targets[i]]


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
