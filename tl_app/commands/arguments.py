"""Checks of the flags that only one command has. They need no TensorFlow and run before it starts."""

import pathlib
from collections.abc import Collection, Sequence

from tl_app import backbones, workdir
from tl_app.commands import early_checks, exports
from tl_app.config import Config
from tl_app.errors import UserError


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
  early_checks.backbone(config)


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


def evaluation(run: str, given: dict) -> None:
  """Checks the finished run of `evaluate`, and the data set that it is given in place of that of the run.

  Args:
    run: value of --workdir.
    given: {name: value} of the data flags of the command.

  Raises:
    UserError: there is no finished run, or the data set is missing.
  """
  _, config = workdir.open_run(run)
  early_checks.evaluation(config, given)


def explanation(run: str, texts: Sequence[str | None], source: str, report: int, given: Collection[str]) -> None:
  """Checks that `explain` has a finished run and one kind of input.

  Args:
    run: value of --workdir.
    texts: values of --text and --text_pair; None for one that is not given.
    source: value of --input; "" for none.
    report: value of --report; 0 for none.
    given: names of the flags that are given.

  Raises:
    UserError: it has not.
  """
  text, other = texts
  given_texts = [value for value in (text, other) if value is not None]
  if [bool(given_texts), bool(source), bool(report)].count(True) != 1 or (len(given_texts) == 1 and not text):
    raise UserError("give one of --input, a file or directory, --text (and --text_pair for a pair), or --report")
  unused = [name for name in ("output", "max_inputs") if report and name in given]
  if unused:
    raise UserError(f"--{unused[0]} does nothing with --report, which adds test examples to report.html: remove it")
  workdir.open_run(run)
  early_checks.require_input(source)


def finished_run(run: str) -> None:
  """Raises `UserError` if `run` is no directory of a finished run."""
  workdir.open_run(run)


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


def prediction(model: str, texts: Sequence[str | None], source: str, columns: dict[str, str]) -> None:
  """Checks that `predict` has a model and either a file or a text.

  Args:
    model: value of --model.
    texts: values of --text and --text_pair; None for one that is not given.
    source: value of --input; "" for none.
    columns: {flag: column} of `rules.INPUT_COLUMNS` that are given.

  Raises:
    UserError: it has not, or one of them does not exist.
  """
  text, other = texts
  if (text is not None) == bool(source) or (other is not None and text is None):
    raise UserError("give either --input, a file or directory, or --text, one text (and --text_pair for a pair)")
  early_checks.prediction(model, source, columns)


def selection(config: Config, names: str) -> None:
  """Checks the data set of `select`, and the names of its backbones.

  Args:
    config: the `Config`, without a backbone.
    names: value of --backbones.

  Raises:
    UserError: the data set is missing, or a backbone has no known name.
  """
  early_checks.run(config)
  for name in filter(None, map(str.strip, names.split(","))):
    backbones.resolve(name, "backbones")


def _require_file(flag, path):
  if path and pathlib.Path(path).is_dir():
    raise UserError(f"--{flag}={path} is a directory: give a file")
