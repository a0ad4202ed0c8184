"""Labels of one class an example: their names, and how probabilities lead to one of them."""

import dataclasses

import numpy as np

from tl_app.config import AUTO
from tl_app.errors import UserError
from tl_app.tasks import calibration, cells, decisions, prediction_sets, selective, statistics
from tl_app.tasks.label_codec import COST, PROBABILITY, LabelCodec


@dataclasses.dataclass(frozen=True)
class SingleLabelCodec(LabelCodec):
  """Targets are int32 [n], the positions of the classes in `names`, which are sorted as text ("10" before "2").

  Attributes:
    temperature: by which the logits are divided.
    coverage: share of the examples whose prediction set holds the true class; 0 if there are no sets.
    set_method: of --set_method.
    set_thresholds: of `prediction_sets.SetRule`.
    costs: of `decisions.Decision`.
    precisions: wanted by --min_precision, one for each class, 0 for none; () if there are none.
    floors: of `decisions.Decision`.
  """

  temperature: float = 1.0
  coverage: float = 0.0
  set_method: str = prediction_sets.LAC
  set_thresholds: tuple = ()
  costs: tuple = ()
  precisions: tuple = ()
  floors: tuple = ()

  def classes(self, labels):
    several = next((label for label in labels if cells.listed(label) is not None), None)
    if several is not None:
      raise UserError(f"--task=single_label, but a label is the list {several}: use --task=multi_label")
    return [(label,) for label in labels]

  def fit(self, labels):
    names = sorted(set(labels))
    if len(names) < 2:
      raise UserError(f"one class in train, {names[0]!r}: two or more are needed")
    return dataclasses.replace(self, names=tuple(names))

  def targets(self, labels):
    position = {name: index for index, name in enumerate(self.names)}
    unknown = sorted(set(labels) - set(position))
    if unknown:
      raise cells.unknown(unknown[0], self.names)
    return np.array([position[label] for label in labels], np.int32)

  def as_probabilities(self, targets):
    probabilities = np.zeros((len(targets), len(self.names)), np.float32)
    probabilities[np.arange(len(targets)), targets] = 1
    return probabilities

  def decide(self, config):
    costs = decisions.read_costs(config.costs).sorted_as(self.names) if config.costs else ()
    wanted = decisions.check_precisions(config.min_precision, self.names)
    if len(wanted) == len(self.names):
      raise UserError(
        f"--min_precision={config.min_precision} names every class, but an example below all thresholds needs an "
        "answer: leave a class out, or use --max_error to accept only sure answers"
      )
    return dataclasses.replace(self, costs=costs, precisions=decisions.in_order(wanted, self.names))

  def calibrate(self, logits, targets, config):
    temperature = calibration.fit_temperature(logits, targets) if config.calibration == AUTO else 1.0
    fitted = dataclasses.replace(self, temperature=temperature, coverage=config.coverage, set_thresholds=())
    probabilities = statistics.softmax(fitted.calibrated(np.asarray(logits, np.float64)))
    if any(self.precisions):
      fitted = dataclasses.replace(fitted, floors=decisions.fit_floors(self.precisions, probabilities, targets))
    fitted = _with_acceptance(fitted, probabilities, targets, config)
    if not config.coverage:
      return fitted
    rule = prediction_sets.fit(probabilities, targets, config.coverage, config.set_method)
    return dataclasses.replace(fitted, set_method=rule.method, set_thresholds=rule.thresholds)

  @property
  def decision(self) -> decisions.Decision:
    """How probabilities lead to a label."""
    return decisions.Decision(self.costs, self.floors)

  def calibrated(self, logits):
    return logits / self.temperature

  @property
  def set_rule(self) -> prediction_sets.SetRule | None:
    """Which classes are in a prediction set; None if there are no sets."""
    return prediction_sets.SetRule(self.set_thresholds, self.set_method) if self.set_thresholds else None


def _with_acceptance(codec, probabilities, targets, config):
  if codec.decision.rejects:
    return dataclasses.replace(codec, accept_by=COST)
  if config.accept_by != PROBABILITY or not (config.max_error or config.min_accept):
    return codec
  labels = codec.decision.choose(probabilities)
  scores = probabilities[np.arange(len(labels)), labels]
  if config.max_error:
    threshold = selective.threshold_for_error(scores, labels == targets, config.max_error)
  else:
    threshold = selective.threshold_for_share(scores, config.min_accept)
  return dataclasses.replace(codec, accept_by=PROBABILITY, accept_threshold=threshold)
