"""The paths of the files of one run."""

import dataclasses
import pathlib

from tl_app.files import checksums

LOCK = ".lock"
# The file in an export that holds what its signatures do not tell: modality, task, stages.
EXPORT_FACTS = "assets.extra/tl_app.json"
# Key of a variable in the checkpoint of an export; the file above lists the positions by stage.
EXPORT_VARIABLE = "_variables/{position}/.ATTRIBUTES/VARIABLE_VALUE"
# The file in an export that holds a learnt vocabulary, see `read_vocabulary`.
EXPORT_VOCABULARY = "assets.extra/vocab.txt"
# Forms of a data set that are followed by a path.
PATH_FORMS = ("images", "table", "tfrecord", "texts")


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one run."""

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    """The settings of the run; `--config` reads them."""
    return self.root / "config.json"

  @property
  def plan(self) -> pathlib.Path:
    """Backbone, stages, phases, preprocessing, class names."""
    return self.root / "plan.json"

  @property
  def splits(self) -> pathlib.Path:
    """Which example is in which split."""
    return self.root / "splits.json"

  @property
  def findings(self) -> pathlib.Path:
    """Faults in the data."""
    return self.root / "findings.json"

  @property
  def weights(self) -> pathlib.Path:
    """Weights of the selected model: every variable of the network."""
    return self.root / "checkpoints" / "model.weights.h5"

  @property
  def task(self) -> pathlib.Path:
    """The fitted task: how the logits of these weights are read."""
    return self.root / "checkpoints" / "task.json"

  @property
  def ood(self) -> pathlib.Path:
    """What the out-of-distribution score of the selected model is computed from."""
    return self.weights.parent / "ood.npz"

  @property
  def vocabulary(self) -> pathlib.Path:
    """The vocabulary that was learnt from the training texts, for a backbone without its own."""
    return self.weights.parent / "vocab.txt"

  def candidate(self, name: str) -> pathlib.Path:
    """The directory of the weights and the task of a candidate."""
    return self.weights.parent / name

  @property
  def metrics(self) -> pathlib.Path:
    """All metrics of the run. A run that has this file has been measured: only report and export are written later."""
    return self.root / "metrics.json"

  @property
  def predictions(self) -> pathlib.Path:
    """Label, prediction and score of each test example."""
    return self.root / "predictions_test.csv"

  @property
  def slices(self) -> pathlib.Path:
    """What divides the test examples into slices: a column for each division."""
    return self.root / "slices_test.csv"

  @property
  def label_review(self) -> pathlib.Path:
    """Labels that are probably wrong, as a table that --corrections reads once a person has decided."""
    return self.root / "label_review.csv"

  @property
  def report(self) -> pathlib.Path:
    """The report, one HTML page."""
    return self.root / "report.html"

  @property
  def explanations(self) -> pathlib.Path:
    """What `explain` wrote: of new inputs, and for the report."""
    return self.root / "explanations"

  @property
  def export(self) -> pathlib.Path:
    """The SavedModel."""
    return self.root / "export"

  @property
  def backbone(self) -> pathlib.Path:
    """The pretrained backbone, which --backbone reads."""
    return self.root / "backbone"

  @property
  def corpus(self) -> pathlib.Path:
    """Copies of the texts of a pretraining, while it runs."""
    return self.root / ".corpus"

  @property
  def checksums(self) -> pathlib.Path:
    """The checksums of the files that other commands read."""
    return self.root / checksums.NAME

  @property
  def log(self) -> pathlib.Path:
    """One JSON object per epoch."""
    return self.root / "log.jsonl"

  @property
  def tensorboard(self) -> pathlib.Path:
    """Event files of TensorBoard."""
    return self.root / "tensorboard"

  @property
  def earlier(self) -> pathlib.Path:
    """Files of the previous run, while a new run is in progress."""
    return self.root / ".earlier"

  @property
  def moving(self) -> pathlib.Path:
    """Files of the run while they are moved to another directory or back, so that no killed process divides them."""
    return self.root / ".moving"

  @property
  def resume(self) -> pathlib.Path:
    """The saved state of an unfinished run, see `state.RunState`."""
    return self.root / "resume"

  @property
  def waiting(self) -> pathlib.Path:
    """Files of an interrupted run, while the finished run that it repeats is in its place."""
    return self.root / ".interrupted"

  def results(self) -> tuple[pathlib.Path, ...]:
    """Returns the paths of the results of a finished run."""
    answers = self.predictions, self.slices, self.label_review, self.explanations
    return self.metrics, *answers, self.report, self.export, self.backbone

  def all_paths(self) -> tuple[pathlib.Path, ...]:
    """Returns all paths that a run writes."""
    before = (self.config, self.plan, self.splits, self.findings, self.log, self.weights.parent, self.tensorboard)
    return (*before, self.corpus, self.resume, self.checksums, *self.results())

  def read_back(self) -> list[pathlib.Path]:
    """Returns the files that exist and that other commands read, but metrics.json.

    Of export/ and backbone/, which may be copied alone, these are their checksums.
    """
    directories = (self.export / checksums.NAME, self.backbone / checksums.NAME)
    named = (self.config, self.plan, self.splits, self.findings, self.log, self.predictions, self.slices, *directories)
    return [path for path in (*named, *sorted(self.weights.parent.rglob("*"))) if path.is_file()]
