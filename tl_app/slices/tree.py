"""Slices that nobody has named: a small decision tree finds where errors are, and other examples confirm it."""

import typing
from collections.abc import Sequence

import numpy as np
import scipy.stats
import sklearn.tree

from tl_app.slices.columns import SliceColumn
from tl_app.slices.measure import LEAST, holm

# Conditions of a found slice at most.
DEPTH = 3
# Largest corrected p-value of a slice that is reported: below the usual 0.05, because nobody has asked about it.
SIGNIFICANT = 0.01


def found(columns: Sequence[SliceColumn], mistakes: np.ndarray, seed: int = 0) -> list[dict]:
  """Returns the slices with more errors than the rest that a tree finds on one half and the other half confirms.

  The tree is fitted to the errors of a random half of the examples. The leaves that have more errors than all of the
  half are tested on the other half, which took no part in finding them: Fisher's exact test, or the test of Mann and
  Whitney for errors that are amounts, one-sided and corrected by Holm's method.

  Args:
    columns: what conditions may be about.
    mistakes: float [n], 1 where an answer is wrong and else 0, or the size of the error.
    seed: of the halves.

  Returns:
    [{"rule", "num_examples", "mistakes", "rest", "p_value", "corrected_p_value"}], the most errors first, all measured
    on the other half; empty if there are too few examples.
  """
  conditions = _conditions(columns)
  order = np.random.default_rng(seed).permutation(len(mistakes))
  first, second = order[: len(order) // 2], order[len(order) // 2 :]
  if not conditions or len(first) < 2 * LEAST or mistakes[first].min() == mistakes[first].max():
    return []
  values = np.stack([value for *_, value in conditions], axis=1)
  tree = sklearn.tree.DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=LEAST, random_state=0)
  tree.fit(values[first], mistakes[first])
  leaf_of = tree.apply(values)
  proposed = []
  for leaf, rule in _rules(tree.tree_, conditions):
    inside = leaf_of == leaf
    if inside[second].sum() >= LEAST and mistakes[first][inside[first]].mean() > mistakes[first].mean():
      proposed.append((rule, mistakes[second][inside[second]], mistakes[second][~inside[second]]))
  p_values = [_p_value(own, rest) for _, own, rest in proposed]
  rows = [
    {
      "rule": rule,
      "num_examples": len(own),
      "mistakes": float(own.mean()),
      "rest": float(rest.mean()),
      "p_value": p,
      "corrected_p_value": float(corrected),
    }
    for (rule, own, rest), p, corrected in zip(proposed, p_values, holm(p_values))
    if corrected <= SIGNIFICANT
  ]
  return sorted(rows, key=lambda row: -row["mistakes"])


def _conditions(columns):
  """Returns [(name of the column, value or None for numbers, float [n])]: what the tree reads."""
  conditions = []
  for column in columns:
    if column.numbers is not None:
      conditions.append((column.name, None, column.numbers))
      continue
    masks = [(name, column.values == name) for name in column.names()]
    conditions += [(column.name, name, mask.astype(float)) for name, mask in masks if mask.sum() >= 2 * LEAST]
  return conditions


def _p_value(own, rest):
  if set(np.unique([*own, *rest])) <= {0.0, 1.0}:
    table = [[int(own.sum()), int(len(own) - own.sum())], [int(rest.sum()), int(len(rest) - rest.sum())]]
    return float(typing.cast(typing.Any, scipy.stats.fisher_exact(table, alternative="greater")).pvalue)
  return float(scipy.stats.mannwhitneyu(own, rest, alternative="greater").pvalue)


def _rules(tree, conditions):
  """Returns [(number of a leaf, its conditions in words)]."""
  rules: list[tuple[int, str]] = []
  waiting: list[tuple[int, tuple]] = [(0, ())]
  while waiting:
    node, path = waiting.pop()
    if tree.children_left[node] == -1:
      rules.append((node, _in_words(path, conditions)))
      continue
    feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
    waiting.append((tree.children_left[node], (*path, (feature, False, threshold))))
    waiting.append((tree.children_right[node], (*path, (feature, True, threshold))))
  return rules


def _in_words(path, conditions):
  words, limits = [], {}
  for feature, is_above, threshold in path:
    name, value, _ = conditions[feature]
    if value is None:
      # A later limit of the same side is the narrower one.
      limits[feature, is_above] = f"{name} {'over' if is_above else 'up to'} {threshold:g}"
    elif is_above:
      words = [word for word in words if not word.startswith(f"{name} is not ")] + [f"{name} is {value}"]
    else:
      words.append(f"{name} is not {value}")
  return " and ".join([*words, *limits.values()])
