"""Explains the answers of a finished run: what each is due to, and which training examples are similar."""

import dataclasses
import itertools
import logging
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tl_app import workdir as workdir_lib
from tl_app.assets import Assets, cache_root
from tl_app.backbones import tuned
from tl_app.commands import finished_run
from tl_app.compute import devices as devices_lib
from tl_app.config import Config
from tl_app.data import modalities, training_data
from tl_app.data.examples import Examples
from tl_app.data.readers import unlabelled
from tl_app.data.readers.rows import Row
from tl_app.data.splitting import splits
from tl_app.errors import UserError
from tl_app.features import frozen
from tl_app.model.explaining import similar
from tl_app.model.explaining.explainer import Explainer
from tl_app.model.explaining.methods import NotPossible
from tl_app.model.explaining.similar import Similar
from tl_app.model.model import Model
from tl_app.report import explanations, page, predictions
from tl_app.terminal import progress
from tl_app.training.selection import HEADS
from tl_app.workdir import Record, Workdir

log = logging.getLogger(__name__)

# Classes of which the report shows a typical example: those with the most test examples.
MOST_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Options:
  """What is explained, and how.

  Attributes:
    method: one of `methods.METHODS`.
    names: classes, targets or entity types to explain; () for those that are answered.
    similar: number of similar training examples.
    max_inputs: most inputs that are explained; the first ones.
    top: number of words that the page and the terminal list.
  """

  method: str = "auto"
  names: tuple[str, ...] = ()
  similar: int = 3
  max_inputs: int = 20
  top: int = 10


@dataclasses.dataclass(frozen=True)
class Written:
  """What was explained.

  Attributes:
    result: the content of the JSON file, see `_result`.
    page: the HTML page that shows it.
  """

  result: dict
  page: pathlib.Path


def explain(
  workdir: str | pathlib.Path,
  source: str | Sequence,
  output: str = "",
  options: Options = Options(),
  columns: Mapping[str, str] = types.MappingProxyType({}),
  downloads: Mapping = types.MappingProxyType({}),
) -> "Written":
  """Explains the answers to new inputs, and writes explanations.html and explanations.json.

  Args:
    workdir: directory of the run.
    source: an image, a directory of images, a .txt file or a table; or a list of inputs, see `unlabelled.from_values`.
    output: directory of the two files; "" is explanations/ in the workdir.
    options: the `Options`.
    columns: {flag: column} of `rules.INPUT_COLUMNS`, in place of those of the run.
    downloads: as of `finished_run.opened`.

  Returns:
    The `Written`.

  Raises:
    UserError: there is no finished run, or the inputs, the method or a name do not fit its model.
  """
  finished_run.check_output(output)
  paths, config, assets = finished_run.opened(workdir, downloads)
  model = finished_run.restore(paths, config, assets)
  explainer = Explainer(model, tuple(options.names), options.method)
  rows = list(itertools.islice(_rows(source, model, config, columns), options.max_inputs + 1))
  if not rows:
    raise UserError(f"--input={source} has no inputs")
  if len(rows) > options.max_inputs:
    log.warning("--max_inputs=%d: further inputs are not explained", options.max_inputs)
  found = _similar(paths, config, assets, model) if options.similar else None
  with progress.examples("explaining", len(rows[: options.max_inputs])):
    entries = [_entry(row, explainer, found, options) for row in rows[: options.max_inputs]]
  result = _result(model, [{"title": "", "entries": entries}])
  directory = pathlib.Path(output) if output else paths.explanations
  Record(paths).write_explanations(directory / explanations.JSON, result)
  explanations.write(directory / explanations.PAGE, result, options.top)
  return Written(result, directory / explanations.PAGE)


def opened(
  workdir: str | pathlib.Path, options: Options = Options(), downloads: Mapping = types.MappingProxyType({})
) -> Callable[[Row], dict]:
  """Returns a function that explains one input of a finished run: row -> content of explanations.json.

  Args:
    workdir, options, downloads: as of `explain`.

  Raises:
    UserError: as of `explain`.
  """
  paths, config, assets = finished_run.opened(workdir, downloads)
  model = finished_run.restore(paths, config, assets)
  explainer = Explainer(model, tuple(options.names), options.method)
  found = _similar(paths, config, assets, model) if options.similar else None
  return lambda row: _result(model, [{"title": "", "entries": [_entry(row, explainer, found, options)]}])


def explain_test(
  workdir: str | pathlib.Path,
  count: int,
  options: Options = Options(),
  downloads: Mapping = types.MappingProxyType({}),
) -> "Written":
  """Explains test examples, which the report then shows: the worst errors, the least sure and typical ones.

  Args:
    workdir: directory of the run.
    count: number of the worst errors, and of the least sure examples. Of each class there is one typical example.
    options: the `Options`.
    downloads: as of `finished_run.opened`.

  Returns:
    The `Written`, whose page is the report.

  Raises:
    UserError: there is no finished run, its data are gone, or the method does not fit its model.
  """
  paths, config, assets = finished_run.opened(workdir, downloads)
  model = finished_run.restore(paths, config, assets)
  explainer = Explainer(model, tuple(options.names), options.method)
  split = finished_run.split_examples(paths, config, assets)
  examples = split.examples
  found = _neighbours(paths, config, split, model) if options.similar else None
  chosen = _chosen(predictions.read(paths.predictions), model.task, count)
  place = {predictions.written(id): index for index, id in enumerate(examples.ids)}
  groups = []
  with progress.examples("explaining", sum(len(members) for _, members in chosen)):
    for title, members in chosen:
      rows = _encoded(examples.take([place[member["id"]] for member in members]))
      entries = [
        _entry(row, explainer, found, options)
        | {name: member[name] for name in ("label", "prediction") if name in member}
        for row, member in zip(rows, members)
      ]
      groups.append({"title": title, "entries": entries})
  result = _result(model, groups)
  Record(paths).write_explanations(paths.explanations / explanations.OF_REPORT, result)
  return Written(result, page.write(paths.root, examples))


def _result(model: Model, groups: list[dict]) -> dict:
  """Returns the content of explanations.json.

  Args:
    model: the `Model`.
    groups: dicts of "title" and "entries", see `_entry`.
  """
  answers = model.task.answers
  about = {"backbone": model.backbone.spec.name, "task": model.task.name, "score_title": answers.score_title}
  return about | {"groups": groups}


def _rows(source, model: Model, config: Config, columns) -> Iterator[Row]:
  modality, pairs = model.backbone.modality, model.backbone.pairs
  if not isinstance(source, str):
    return unlabelled.from_values(source, modality, pairs)
  named = [columns.get(name) or getattr(config, name) for name in ("text_column", "image_column", "text_pair_column")]
  return unlabelled.read(source, modality, *named, words=model.task.per_token)


def _encoded(examples: Examples) -> list[Row]:
  modality = modalities.of(examples.modality)
  pairs = [[modality.encode(value) for value in values] for values in examples.inputs.rows()]
  return [
    Row(str(id), tuple(value for value, _ in of_row), reason=next((reason for _, reason in of_row if reason), ""))
    for id, of_row in zip(examples.ids, pairs)
  ]


def _entry(row: Row, explainer: Explainer, found: Similar | None, options: Options) -> dict:
  """Returns the explanation of a row: {"id", "explanations", "similar", ..}, or {"id", "error"}."""
  modality = modalities.of(explainer.model.backbone.modality)
  reason = row.reason or next(filter(None, map(modality.verify, row.values)), None)
  try:
    entry = {"id": row.id} | ({"error": reason} if reason else explainer.explain(row.values))
  except NotPossible as error:
    entry = {"id": row.id, "error": str(error)}
  progress.examples_done(1)
  return entry | ({"similar": found.nearest(row.values, options.similar)} if found and "error" not in entry else {})


def _chosen(rows: list[dict], task, count: int) -> list[tuple[str, list[dict]]]:
  """Returns [(title, rows of predictions_test.csv)] of the examples that the report explains."""
  error = task.answers.error
  wrong = sorted((row for row in rows if error(row) is not None), key=error, reverse=True)
  groups = [("Worst errors", wrong[:count])]
  if rows and "score" in rows[0]:
    groups.append(("Least sure", sorted(rows, key=lambda row: float(row["score"]))[:count]))
  if task.has_typical_examples:
    groups.append(("Typical examples", _typical([row for row in rows if error(row) is None])))
  return [(title, members) for title, members in groups if members]


def _typical(right):
  """Returns the surest right answer of each label, of those with the most right answers first."""
  of_label: dict[str, list] = {}
  for row in right:
    of_label.setdefault(row["label"], []).append(row)
  most = sorted(of_label.values(), key=len, reverse=True)[:MOST_CLASSES]
  return [max(members, key=lambda row: float(row["score"])) for members in most]


def _similar(paths: Workdir, config: Config, assets: Assets, model: Model) -> Similar | None:
  """Returns what `_neighbours` does; None if the training examples are gone, which the log tells."""
  try:
    return _neighbours(paths, config, finished_run.split_examples(paths, config, assets), model)
  except UserError as error:
    log.warning("no similar training examples: %s", error)
    return None


def _neighbours(paths: Workdir, config: Config, split: splits.Splits, model: Model) -> Similar | None:
  """Returns the training examples with their frozen features; None of a task with an answer for each word."""
  if model.task.per_token:
    return None
  if tuned.selected(paths.root) not in HEADS:
    # The features of the pretrained network are in the cache.
    model = finished_run.rebuild(paths, config, Assets.of(config))
  examples, none = split.examples, np.zeros(0, np.int64)
  split = dataclasses.replace(split, validation=none, test=none)
  rows = training_data.make(examples, split, training_data.targets_of(model.task, examples, split))
  batch_size = finished_run.inference_batch(paths, model)
  store = frozen.store(config.machine, cache_root(config.cache_dir))
  devices = devices_lib.make("single", 1)
  features = frozen.Features(
    model, frozen.with_lengths(rows, model.backbone), devices, store, batch_size, workdir_lib.Clock()
  )
  return Similar(model, examples.take(split.train), similar.unit(features.frozen()[split.train]))
