"""Checks of the flags that only one command has, which need neither the data nor NumPy: they run first."""

import pathlib
from collections.abc import Collection, Sequence

from tl_app import workdir
from tl_app.commands import exports
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.errors.counts import number_of
from tl_app.files import nearby


def bundle(config: Config, output: str) -> None:
  """Checks that the flags of `bundle` name something to download, and that `output` can be a file.

  Args:
    config: the `Config` of the run that the archive is for.
    output: value of --output.

  Raises:
    UserError: they do not.
  """
  if not (config.backbone or config.dataset):
    raise UserError("--backbone or --dataset is needed: the flags of the run that the archive is for")
  _require_file("output", output)


def check(output: str, fix: str) -> None:
  """Checks that `check` may write its files.

  Args:
    output: value of --output, a .json file; "" for none.
    fix: value of --fix, a new file; "" for none.

  Raises:
    UserError: one of them is a directory, or a file with something else in it.
  """
  _require_file("output", output)
  _require_file("fix", fix)
  if output and pathlib.Path(output).exists() and not output.lower().endswith(".json"):
    raise UserError(f"--output={output} exists and is no .json file: the findings would replace it; name another file")
  if fix and pathlib.Path(fix).exists():
    raise UserError(f"--fix={fix} exists and may hold decisions: name another file")


def demo(model: str, run: str) -> None:
  """Checks that `demo` has one model.

  Args:
    model: value of --model, an export or a run; "" for none.
    run: value of --workdir; "" for none.

  Raises:
    UserError: it has none or two, or the export cannot be read.
  """
  if bool(model) == bool(run):
    raise UserError("give either --model, an export, or --workdir, a finished run, which explains answers too")
  exports.read_facts(exports.export_of(model or run))


def explanation(run: str, texts: Sequence[Sequence[str]], source: str, report: int, given: Collection[str]) -> None:
  """Checks that `explain` has a finished run and one kind of input.

  Args:
    run: value of --workdir.
    texts: the values of --text and those of --text_pair.
    source: value of --input; "" for none.
    report: value of --report; 0 for none.
    given: names of the flags that are given.

  Raises:
    UserError: it has not.
  """
  firsts, others = texts
  unpaired = bool(others) > bool(firsts) or not (others or all(firsts))
  if [bool(firsts or others), bool(source), bool(report)].count(True) != 1 or unpaired:
    raise UserError("give one of --input, a file or directory, --text (and --text_pair for a pair), or --report")
  _require_pairs(firsts, others)
  unused = [name for name in ("output", "max_inputs") if report and name in given]
  if unused:
    raise UserError(f"--{unused[0]} does nothing with --report, which adds test examples to report.html: remove it")
  workdir.open_run(run)
  require_input(source)


def finished_run(run: str) -> Config:
  """Returns the `Config` of a finished run; raises `UserError` if `run` is no directory of one."""
  return workdir.open_run(run)[1]


def inspection(run: str, candidate: str, given: Collection[str]) -> None:
  """Checks that `inspect` has either a run or a backbone.

  Args:
    run: value of --workdir; "" for none.
    candidate: value of --candidate; "" for none.
    given: names of the flags of the backbone that are given.

  Raises:
    UserError: flags of one are given with the other, or there is no finished run.
  """
  if candidate and not run:
    raise UserError(f"--candidate={candidate} is of a run: give its --workdir")
  if run and set(given) - {"trust_backbone"}:
    raise UserError("--workdir names a run, which has a backbone: remove --backbone and its flags")
  if run:
    workdir.open_run(run)


def prediction(texts: Sequence[Sequence[str]], source: str) -> None:
  """Checks that `predict` has either a file or texts.

  Args:
    texts: the values of --text and those of --text_pair.
    source: value of --input; "" for none.

  Raises:
    UserError: it has not.
  """
  firsts, others = texts
  if bool(firsts) == bool(source) or (others and not firsts):
    raise UserError("give either --input, a file or directory, or --text, a text (and --text_pair for a pair)")
  _require_pairs(firsts, others)


def require_input(source: str) -> None:
  """Raises `UserError` if there is no file or directory `source`; "" and "-", standard input, are none."""
  if source not in ("", "-") and not pathlib.Path(source).exists():
    raise UserError(f"--input={source}: there is no such file or directory{nearby.hint(source)}")


def _require_pairs(firsts, others):
  """Raises `UserError` if there are second texts, but not one for each text."""
  if others and len(firsts) != len(others):
    times = f"--text is given {number_of(len(firsts), 'time')}, --text_pair {number_of(len(others), 'time')}"
    raise UserError(f"{times}: give one --text_pair for each --text")


def _require_file(flag, path):
  if path and pathlib.Path(path).is_dir():
    raise UserError(f"--{flag}={path} is a directory: give a file")
