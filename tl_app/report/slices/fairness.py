"""Fairness between groups: how often each class is answered, and how often rightly, in each group."""

from collections.abc import Sequence

import numpy as np


def measures(answers: np.ndarray, truth: np.ndarray, groups: Sequence[str], names: Sequence[str]) -> dict:
  """Returns how unequally a model treats groups, per class, and for the class for which it is worst.

  The measures are those of fairlearn for a class against all others. A group without an example for a rate, such as
  the share of found ones where the class never is the truth, does not count for this rate.

  Args:
    answers: [n, classes] of 0 and 1, the classes that were answered.
    truth: [n, classes] of 0 and 1.
    groups: [n], the group of each example.
    names: of the classes.

  Returns:
    {"demographic_parity_difference": largest less smallest share of the examples of a group for which the class is
    answered; "demographic_parity_ratio": smallest divided by largest; "equalized_odds_difference": the larger of the
    differences in true and in false positive rates; "class": for which the latter is largest; "per_class": {name: the
    same three}}.
  """
  answers, truth = np.asarray(answers, bool), np.asarray(truth, bool)
  parts = [np.asarray(groups) == group for group in dict.fromkeys(groups)]
  selected = np.array([answers[part].mean(axis=0) for part in parts])
  rates = [_rates(answers, parts, truth), _rates(answers, parts, ~truth)]
  odds = np.maximum(*(np.nan_to_num(_spread(rate)) for rate in rates))
  highest = selected.max(axis=0)
  ratio = np.divide(selected.min(axis=0), highest, out=np.ones(len(highest)), where=highest > 0)
  per_class = {
    name: {
      "demographic_parity_difference": float(difference),
      "demographic_parity_ratio": float(of_class),
      "equalized_odds_difference": float(odd),
    }
    for name, difference, of_class, odd in zip(names, _spread(selected), ratio, odds)
  }
  worst = max(per_class, key=lambda name: per_class[name]["equalized_odds_difference"])
  return {
    "demographic_parity_difference": max(row["demographic_parity_difference"] for row in per_class.values()),
    "demographic_parity_ratio": min(row["demographic_parity_ratio"] for row in per_class.values()),
    "equalized_odds_difference": per_class[worst]["equalized_odds_difference"],
    "class": worst,
    "per_class": per_class,
  }


def _rates(answers, parts, among):
  """Returns the share of the examples of each group in `among` for which each class is answered, NaN without any."""
  counts = np.array([among[part].sum(axis=0) for part in parts])
  hits = np.array([(answers & among)[part].sum(axis=0) for part in parts])
  return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)


def _spread(rates):
  """Returns the largest less the smallest of the rates [groups, classes] that are known; NaN for fewer than two."""
  known = ~np.isnan(rates)
  highest = np.where(known, rates, -np.inf).max(axis=0)
  lowest = np.where(known, rates, np.inf).min(axis=0)
  return np.where(known.sum(axis=0) > 1, highest - lowest, np.nan)
