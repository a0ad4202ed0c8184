"""Slices: parts of a split for which a model may be worse, what it does on each, and whether the difference is chance.

`columns` says which slices there are, `measure` compares them, `fairness` and `tree` look at groups and at errors.
"""

from tl_app.report.slices.columns import SliceColumn, divisions, of_examples, of_user
from tl_app.report.slices.report import measured, worst_group

__all__ = ["SliceColumn", "divisions", "measured", "of_examples", "of_user", "worst_group"]
