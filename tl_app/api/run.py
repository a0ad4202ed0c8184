"""`Run`: a finished run, as Python and notebooks use it."""

import html
import itertools
import os
import pathlib
import typing
from collections.abc import Iterable

from tl_app import workdir as workdir_lib
from tl_app.api import session
from tl_app.commands import early_checks
from tl_app.config import rules
from tl_app.config.paths import expanded
from tl_app.errors import UserError

if typing.TYPE_CHECKING:
  from collections.abc import Iterable

  import pandas as pd

  from tl_app.commands import explain
  from tl_app.report.plots import Figure
  from tl_app.tasks.task import Task


class Run:
  """A finished run. `tl_app.fit` and `tl_app.load` return one.

  A notebook shows the summary of the run. All methods read the files of the workdir, so that a run can be opened again
  at any time.

  Attributes:
    workdir: the directory, `pathlib.Path`.
    config: the `Config` of the run.
  """

  def __init__(self, workdir: str | pathlib.Path, trust_backbone: bool = False):
    """Opens a finished run.

    Args:
      workdir: its directory.
      trust_backbone: as in `Config`.

    Raises:
      UserError: the directory holds no finished run.
    """
    self._paths, self.config = workdir_lib.open_run(workdir)
    self.workdir = self._paths.root
    self._predictor, self._trust = None, {"trust_backbone": trust_backbone}

  @property
  def metrics(self) -> "Metrics":
    """The content of metrics.json: the metrics of the test and validation splits, candidates, times, .."""
    return Metrics(workdir_lib.read(self._paths.metrics))

  @property
  def report(self) -> "Report":
    """The report, one HTML page, which a notebook shows in a frame."""
    return Report(self._paths.report)

  def evaluate(self, output: str | pathlib.Path = "", **data: typing.Any) -> "Metrics":
    """Evaluates the model on its own test split, or on other labelled data, as `python -m tl_app.evaluate` does.

    Args:
      output: directory for metrics.json, predictions.csv and slices.csv; "" writes none.
      **data: `dataset` and other fields of `Config` that say how to read it: `data_dir`, the columns,
        `on_bad_example`. Without `dataset`, the test split of the run is evaluated.

    Returns:
      The metrics: {"test": .., "task", "primary_metric", "dataset", and those of the baseline}.

    Raises:
      UserError: the data do not fit the model, or `output` is a file.

    Example:
      run.evaluate(dataset="table:more.csv")["test"]["accuracy"]
    """
    unknown = [name for name in data if name not in rules.EVALUATION_FLAGS]
    if unknown:
      raise UserError(f"run.evaluate takes no {unknown[0]!r}, but {', '.join(rules.EVALUATION_FLAGS)}")
    data = {name: expanded(value) for name, value in data.items()}
    early_checks.evaluation(self.config, data)
    with session.running():
      from tl_app.commands import evaluate

      return Metrics(evaluate.evaluate(self.workdir, data, str(output), self._trust))

  def predict(self, inputs: typing.Any, batch_size: int = 32) -> "pd.DataFrame":
    """Answers new inputs with the export of the run, as `python -m tl_app.predict` does.

    Args:
      inputs: list of texts, of paths or encoded bytes of images, or of pairs of texts; or the path of a file or
        directory, as --input of the command. A table has the columns that the settings of the run name.
      batch_size: number of inputs per call of the model.

    Returns:
      A row for each input, in order: `input` (the text, the path, or the place in a file), for one class per input
      `label`, `score`, `next_label`, `next_score` and `prediction_set`, and `error`: why an input has no answer, else
      missing. All inputs give the same columns.

    Raises:
      UserError: the run has no export, or an input does not fit.

    Example:
      run.predict(["I lost my card", "Where is my money?"])
    """
    import pandas as pd

    if batch_size < 1:
      raise UserError(f"run.predict takes no batch_size={batch_size}: use 1 or more")
    with session.running():
      rows = list(self._answers(inputs, batch_size))
    return pd.DataFrame(rows, columns=["input", *self._predictor.columns])

  def _answers(self, inputs, batch_size):
    from tl_app.commands import answer_files, predict
    from tl_app.data.readers import unlabelled

    if self._predictor is None:
      if not self._paths.export.is_dir():
        raise UserError(f"{self.workdir} has no export: run.export() writes it")
      self._predictor = predict.Predictor(self._paths.export, **self._trust)
    facts = self._predictor.facts
    if isinstance(inputs, (str, os.PathLike)):
      if not os.path.exists(expanded(inputs)):
        raise UserError(f"there is no file or directory {str(inputs)[:60]!r}: give a list of inputs, or a path")
      names, rows = None, self._read(facts, expanded(inputs))
    else:
      inputs = session.inputs(inputs)
      names = [f"input {i}" if isinstance(value, bytes) else value for i, value in enumerate(inputs)]
      rows = unlabelled.from_values(inputs, facts["modality"], facts["pairs"])
    answers = itertools.chain.from_iterable(self._predictor.answers(rows, batch_size))
    for number, answer in enumerate(answers):
      yield {"input": names[number] if names else answer["id"]} | answer_files.cells(answer)

  def _read(self, facts, source):
    from tl_app.commands import predict

    columns = self.config.text_column, self.config.image_column, self.config.text_pair_column
    return predict.read(facts, source, *columns)

  def explain(
    self,
    inputs: typing.Any,
    method: str = "auto",
    classes: Iterable[str] = (),
    similar: int = 3,
    output: str | pathlib.Path = "",
  ) -> "Explanations":
    """Explains the answers to new inputs, as `python -m tl_app.explain` does.

    Args:
      inputs: as of `predict`.
      method: "grad_cam", "integrated_gradients", "occlusion", or "auto" for the first of them that fits the model.
      classes: classes, targets or entity types to explain; () for those that are answered.
      similar: number of similar training examples.
      output: directory for explanations.html and explanations.json; "" is explanations/ in the workdir.

    Returns:
      The explanations: a list with a dict for each input, which a notebook shows as a page. "explanations" of an input
      has a dict for each answer, with the "score" of each of its "words", or its "heat" map. "similar" are
      training examples.

    Raises:
      UserError: an input, the method or a class does not fit the model.

    Example:
      run.explain(["I lost my card"])[0]["explanations"][0]["words"]
    """
    from tl_app.model.explaining import methods

    if method not in methods.METHODS:
      raise UserError(f"run.explain takes no method {method!r}, but {', '.join(methods.METHODS)}")
    is_path = isinstance(inputs, (str, os.PathLike))
    source: typing.Any = expanded(str(inputs)) if is_path else session.inputs(inputs)
    with session.running():
      from tl_app.commands import explain

      count = explain.Options.max_inputs if is_path else max(1, len(source))
      options = explain.Options(method, tuple(classes), similar, count)
      return Explanations(explain.explain(self.workdir, source, expanded(str(output)), options, {}, self._trust))

  def errors(self) -> "pd.DataFrame":
    """Returns the wrong predictions of the test split, the worst first.

    A row has the columns of predictions_test.csv, with numbers as numbers, `accept` as bool and `prediction_set` as a
    list. The worst are the wrong answers with the highest scores, or of --task=regression the largest errors.

    Example:
      run.errors().head(10)
    """
    import pandas as pd

    from tl_app.report import predictions

    wrong = self._errors(self.metrics["test"]["num_examples"])
    rows = [predictions.typed(row, self._task.has_class_names) for row in wrong.worst]
    return pd.DataFrame(rows, columns=predictions.columns(self._paths.predictions))

  def changes(self, candidate: str = "") -> "pd.DataFrame":
    """Compares the export with the pretrained backbone, variable by variable, as `python -m tl_app.inspect` does.

    Args:
      candidate: "probe", "fine_tuned" or "averaged", where the run has it; "" for the selected one. The probe has the
        pretrained backbone: nothing has changed.

    Returns:
      A row for each stage, from the input upwards: stage, variables (their number), identical (to the bit), planned
      (to train), trained (of those, changed), parameters, changed_parameters.

    Raises:
      UserError: the run has no export or no such candidate, or `backbone` is another network now.
      RunFailed: a variable changed that the plan freezes, or a stage that should train did not.

    Example:
      run.changes()
    """
    import pandas as pd

    with session.running():
      from tl_app.commands import inspect_run

      changes = inspect_run.compare(self.workdir, self._trust, candidate)
      inspect_run.require_agreement(changes)
    columns = {"name": "stage", "variables": "variables", "identical": "identical", "planned": "planned"}
    columns |= {"trained": "trained", "parameters": "parameters", "moved": "changed_parameters"}
    rows = [{new: getattr(stage, old) for old, new in columns.items()} for stage in changes.stages]
    return pd.DataFrame(rows, columns=list(columns.values()))

  def plot_training(self) -> "Figure":
    """Returns the curves of the loss and of the primary metric, one row for each phase, as in the report."""
    from tl_app.report import epoch_log, plots

    epochs = epoch_log.read(self._paths.log)
    if not epochs:
      raise UserError(f"{self.workdir} has no epochs to plot: its head was solved by scikit-learn")
    return plots.curves_figure(epochs, self._task.metrics)

  def plot_confusion_matrix(self) -> "Figure":
    """Returns the confusion matrix of the test split: a row per true class.

    Of more than 40 classes those with the most wrong answers are shown.

    Raises:
      UserError: the task has no confusion matrix.
    """
    from tl_app.report import plots

    test = self.metrics["test"]
    if "confusion_matrix" not in test and "confusion_cells" not in test:
      raise UserError(f"--task={self._task.name} has no confusion matrix: it is for one class per example")
    return plots.confusion_figure(test)

  def plot_predictions(self) -> "Figure":
    """Returns predictions against labels of the test split, for --task=regression with one target.

    Raises:
      UserError: the task is another one.
    """
    from tl_app.report import plots, predictions

    rows = [] if self._task.has_class_names else predictions.read(self._paths.predictions)
    if not any("label" in row for row in rows):
      raise UserError("predictions are drawn against labels where these are numbers, one per example")
    return plots.scatter_figure(rows)

  def plot_errors(self, most: int = 10) -> "Figure":
    """Returns the images of the worst wrong predictions of the test split.

    Args:
      most: number of images.

    Raises:
      UserError: the run has no images or no wrong prediction.
    """
    with session.running():
      from tl_app.commands import wrong_images
      from tl_app.report import plots

      return plots.pictures_figure(*wrong_images.worst(self.workdir, most))

  def export(self, output: str | pathlib.Path = "", candidate: str = "") -> pathlib.Path:
    """Exports the model again and checks the export, as `python -m tl_app.export` does.

    Args:
      output: directory of the SavedModel; "" is export/ in the workdir.
      candidate: "probe", "fine_tuned" or "averaged", where the run has it; "" for the selected one. Another one needs
        `output`.

    Returns:
      The directory of the SavedModel.

    Raises:
      UserError: the run has no such candidate, or `output` holds other files.
      RunFailed: the answers of the export differ from those of the model.

    Example:
      run.export()
    """
    with session.running():
      from tl_app.commands import export

      directory = export.export(self.workdir, expanded(str(output)), self._trust, candidate)[0]
    self._predictor = None
    return directory

  @property
  def _task(self) -> "Task":
    # It imports scikit-learn. A call with a wrong setting is answered without.
    from tl_app import tasks

    return tasks.of_metrics(self.metrics)

  def _errors(self, most):
    from tl_app.report import predictions

    errors = predictions.worst(self._paths.predictions, self._task.answers, most)
    if errors is None:
      raise UserError(f"{self._paths.predictions} is missing: train again")
    return errors

  def __repr__(self):
    from tl_app.report import summary

    return summary.lines(self.metrics, self.workdir)

  def _repr_html_(self):
    return _table(self.metrics, self.workdir)


class Metrics(dict):
  """Metrics as in metrics.json: a dict, of which a notebook shows the summary."""

  def _repr_html_(self):
    return _table(self)


class Explanations(list):
  """Explanations of several inputs: a list of dicts, which a notebook shows as a page.

  Attributes:
    path: the HTML page.
  """

  def __init__(self, written: "explain.Written"):
    super().__init__(entry for group in written.result["groups"] for entry in group["entries"])
    self.path = written.page

  def _repr_html_(self):
    return _framed(self.path)


class Report:
  """The report of a run.

  Attributes:
    path: the HTML file.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __repr__(self):
    return str(self.path)

  def _repr_html_(self):
    return _framed(self.path)


def _framed(path):
  # A frame keeps the styles of the page away from those of the notebook.
  page = html.escape(path.read_text(encoding="utf-8"))
  return f'<iframe srcdoc="{page}" width="100%" height="600" frameborder="0"></iframe>'


def _table(metrics, workdir=None):
  from tl_app.report import summary

  return table(summary.rows(metrics, workdir))


def table(rows: "Iterable[tuple[str, str]]") -> str:
  """Returns the HTML table of (name, text) rows."""
  cell = '<td style="text-align:left;white-space:normal">'
  lines = [
    f'<tr><th style="text-align:left;white-space:nowrap">{html.escape(name)}</th>{cell}{html.escape(text)}</td></tr>'
    for name, text in rows
  ]
  return f"<table>{''.join(lines)}</table>"
