"""Prints the results of commands to standard output."""

import pathlib
from collections.abc import Mapping, Sequence

from tl_app import terminal
from tl_app.checking import summary as findings
from tl_app.errors.counts import number_of
from tl_app.report import explanations, selection_page, summary, tuning_page


def training(metrics: Mapping, workdir: str) -> None:
  """Prints the metrics of a run in `workdir`, and the seconds that the command has taken."""
  terminal.print_results(summary.lines(metrics, workdir, terminal.elapsed()), summary.INDENT)


def pretraining(metrics: Mapping, workdir: str) -> None:
  """Prints the metrics of a pretraining in `workdir`, and the seconds that the command has taken."""
  terminal.print_results(summary.pretraining_lines(metrics, workdir, terminal.elapsed()), summary.INDENT)


def evaluation(metrics: Mapping, output: str) -> None:
  """Prints the metrics of an evaluation, and `output`, the directory of its files; "" for none."""
  terminal.print_results(summary.lines(metrics, output or None), summary.INDENT)


def selection(result: Mapping, workdir: str) -> None:
  """Prints the table of backbones, and the command of the training."""
  print(selection_page.table(result), end="")
  terminal.print_results(selection_page.lines(result, workdir), selection_page.INDENT)


def tuning(result: Mapping, workdir: str) -> None:
  """Prints the best flags of a search in `workdir`, and what the run with them has reached."""
  terminal.print_results(tuning_page.lines(result, workdir), tuning_page.INDENT)


def explanation(result: Mapping | None, page: pathlib.Path, top: int) -> None:
  """Prints explanations, each with at most `top` words, None for none, and the page that holds them."""
  shown = [explanations.lines(result, top)] if result else []
  terminal.print_results("\n".join([*shown, str(page)]))


def check(result: Mapping, found: Sequence, fix: str) -> None:
  """Prints the findings in data, and `fix`, the file of proposed changes; "" for none."""
  terminal.print_results("\n".join(findings.lines(result, found)))
  if fix and result["proposed_changes"]:
    changes = number_of(result["proposed_changes"], "proposed change")
    print(f"{changes} in {fix}: fill its column decision, then give it to --corrections")
  elif fix:
    print(f"no label is proposed to be changed: {fix} has no rows")
