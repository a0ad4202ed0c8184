"""Slices that nobody has named: a small decision tree finds where errors are, and other examples confirm it."""

import typing
from collections.abc import Sequence

import numpy as np
import scipy.stats
import sklearn.tree

from tl_app.report.slices.columns import SliceColumn
from tl_app.report.slices.measure import LEAST, holm

# Conditions of a found slice at most.
DEPTH = 3
# Largest corrected p-value of a slice that is reported: below the usual 0.05, because nobody has asked about it.
SIGNIFICANT = 0.01


def found(columns: Sequence[SliceColumn], mistakes: np.ndarray, seed: int = 0) -> list[dict]:
  """Returns the slices with more errors than the rest that a tree finds on one half and the other half confirms.

  The tree is fitted to the errors of a random half of the examples. The leaves that have more errors than all of the
  half are tested on the other half, which took no part in finding them: Fisher's exact test, or the test of Mann and
  Whitney for errors that are amounts, one-sided and corrected by Holm's method. Two leaves that a condition divides are
  reported as one slice without it, unless their errors differ significantly: they are parts of one fault. So is a leaf
  that the other half has too few examples of.

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
  inside, rules = tree.decision_path(values).toarray() > 0, _rules(tree.tree_, conditions)
  means = {node: mistakes[first][inside[first, node]].mean() for node in rules if tree.tree_.children_left[node] == -1}
  worse = [node for node, mean in sorted(means.items()) if mean > mistakes[first].mean()]
  few = {node for node in worse if inside[second, node].sum() < LEAST}
  leaves = [node for node in worse if node not in few]

  def divided(node):
    """Returns (the errors of the other half in a node of the tree, those of the rest)."""
    return mistakes[second][inside[second, node]], mistakes[second][~inside[second, node]]

  corrected = dict(zip(leaves, holm([_p_value(*divided(leaf)) for leaf in leaves])))
  reported, rows = {leaf for leaf in leaves if corrected[leaf] <= SIGNIFICANT}, []
  for node in _joined(reported, few, tree.tree_, divided):
    own, rest = divided(node)
    p_value = _p_value(own, rest)
    row = {"rule": rules[node], "num_examples": len(own), "mistakes": float(own.mean()), "rest": float(rest.mean())}
    # Of leaves that were joined, Bonferroni's.
    row |= {"p_value": p_value, "corrected_p_value": float(corrected.get(node, min(1.0, p_value * len(leaves))))}
    rows.append(row)
  return sorted(rows, key=lambda row: -row["mistakes"])


def _joined(reported, few, tree, divided):
  """Returns the nodes that stand for reported leaves: the parent for two whose errors do not differ significantly."""
  found = set(reported)
  # A child has a higher number than its parent.
  for parent in reversed(range(tree.node_count)):
    children = {int(tree.children_left[parent]), int(tree.children_right[parent])}
    if not children & found or not children <= found | few:
      continue
    one, other = (divided(child)[0] for child in children)
    if 2 * min(_p_value(one, other), _p_value(other, one)) > SIGNIFICANT:
      found = found - children | {parent}
  return sorted(found)


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
  """Returns {number of a node of the tree: its conditions in words}."""
  rules: dict[int, str] = {}
  waiting: list[tuple[int, tuple]] = [(0, ())]
  while waiting:
    node, path = waiting.pop()
    rules[node] = _in_words(path, conditions)
    if tree.children_left[node] == -1:
      continue
    feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
    left_has_empty = bool(tree.missing_go_to_left[node])
    waiting.append((tree.children_left[node], (*path, (feature, False, threshold, left_has_empty))))
    waiting.append((tree.children_right[node], (*path, (feature, True, threshold, not left_has_empty))))
  return rules


def _in_words(path, conditions):
  words, limits, empty = [], {}, {}
  for feature, is_above, threshold, has_empty in path:
    name, value, numbers = conditions[feature]
    if value is None:
      narrower = max if is_above else min
      limits[feature, is_above] = narrower(limits.get((feature, is_above), threshold), threshold)
      empty[feature] = has_empty and empty.get(feature, bool(np.isnan(numbers).any()))
    elif is_above:
      words = [word for word in words if not word.startswith(f"{name} is not ")] + [f"{name} is {value}"]
    else:
      words.append(f"{name} is not {value}")
  words += [
    _limit(conditions[feature][0], is_above, threshold, empty[feature])
    for (feature, is_above), threshold in limits.items()
  ]
  return " and ".join(words)


def _limit(name, is_above, threshold, has_empty):
  """Returns a condition of a number in words; a threshold of infinity divides empty cells from the others."""
  if np.isinf(threshold):
    return f"{name} is {'' if is_above else 'not '}empty"
  return f"{name} {'over' if is_above else 'up to'} {threshold:g}{' or empty' if has_empty else ''}"
