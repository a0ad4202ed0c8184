"""The learning rate range test: raises the learning rate step by step, records the loss and proposes a value."""

import dataclasses
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import keras
import matplotlib.figure
import numpy as np

from tl_app import backbones, files
from tl_app import workdir as workdir_lib
from tl_app.backbones.weights import values
from tl_app.commands import default_backbone
from tl_app.commands import train as train_lib
from tl_app.config import Config, rules
from tl_app.errors import RunFailed, UserError
from tl_app.model import heads, stages
from tl_app.recipes import recipes
from tl_app.training import planning
from tl_app.training.compiling import PhaseSteps
from tl_app.training.fit import fit, whole_network_steps
from tl_app.workdir import Record

log = logging.getLogger(__name__)

RESULT, PLOT = "find_lr.json", "find_lr.svg"
LOWEST, HIGHEST = 1e-7, 1.0
# Decay of the moving average of the loss, which covers about 1 / (1 - SMOOTHING) steps.
SMOOTHING = 0.9
# The test ends when the smoothed loss is this many times its minimum, as in fastai's learning rate finder, and this
# many times its first value: after a probe the minimum can be close to 0 by chance.
DIVERGED = 4.0
# Smallest relative fall of the loss from which a value is proposed; below it the rise of the loss decides. After a
# probe, a hundred steps rarely lower the loss.
LEAST_FALL = 0.02
# Relative rise of the smoothed loss, and the divisor of the learning rate at which it is reached: the smoothed loss
# lags behind. MiniLM on movie_reviews reaches it at 5e-4; at 1e-4 fine-tuning gains 7 points.
RISE, BELOW_RISE = 0.1, 5


def measure(config: Config, steps: int) -> dict:
  """Runs the range test of the first phase that trains the backbone and writes find_lr.json and find_lr.svg.

  --learning_rate grows exponentially (Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3),
  and the learning rates of all stages in proportion. The weights are restored, and none are stored.

  Args:
    config: the `Config`.
    steps: number of batches.

  Returns:
    The content of find_lr.json: {"phase", "batch_size", "rates", "losses", "smoothed"} and the result of `propose`.

  Raises:
    UserError: no stage of the backbone trains, a flag has no effect here, or the loss neither falls nor rises.
    RunFailed: the loss is not finite before or at the first step.
  """
  rules.refuse_unused(config, "find_lr")
  workdir_lib.check_output(config.workdir)
  config = default_backbone.named(config)
  with tempfile.TemporaryDirectory() as scratch:
    run_config = dataclasses.replace(config, workdir=f"{scratch}/run", export=False)
    with workdir_lib.claim(run_config.workdir, run_config) as paths:
      record = Record(paths)
      features, plan = train_lib.prepare(run_config, backbones.resolve(run_config.backbone), record, recipes.plan)
      train_lib.announce(plan, run_config, features)
      phase = next((phase for phase in plan.phases if phase.trains_backbone), None)
      if phase is None:
        raise UserError(
          f"--recipe={config.recipe} --train_stages={config.train_stages} trains no stage of the backbone"
        )
      rates = np.geomspace(LOWEST, HIGHEST, steps)
      losses, start = _losses(run_config, features, record, plan.phases[0], phase, rates)
  rates, smoothed = rates[: len(losses)], relative(losses, start)
  result = {"phase": phase.name, "batch_size": phase.inputs.batch_size, "rates": rates.tolist(), "losses": losses}
  result["smoothed"] = smoothed.tolist()
  result |= propose(rates, smoothed)
  root = pathlib.Path(config.workdir)
  root.mkdir(parents=True, exist_ok=True)
  files.write_json(root / RESULT, result)
  with files.atomic_path(root / PLOT) as new:
    _figure(result).savefig(new, format="svg", metadata={"Date": None})
  return result


def smooth(losses: Sequence[float]) -> np.ndarray:
  """Returns the exponential moving average of losses, float64 [n], with bias correction."""
  mean, means = 0.0, []
  for number, loss in enumerate(losses, start=1):
    mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
    means.append(mean / (1 - SMOOTHING**number))
  return np.array(means)


def relative(losses: Sequence[float], start: Sequence[float]) -> np.ndarray:
  """Returns the smoothed losses, float64 [n], corrected for easy and hard batches.

  Losses of different batches differ far more than a hundred steps change them: on movie_reviews with a trained head by
  0.12, which put the minimum of the plain moving average at 2e-6 by chance.

  Args:
    losses: [n], losses of the batches during the test.
    start: [n or more], losses of the same batches before the test.
  """
  before = np.array(start[: len(losses)])
  return smooth(np.array(losses) - before) + before.mean()


def propose(rates: np.ndarray, smoothed: np.ndarray) -> dict:
  """Proposes a learning rate.

  Args:
    rates: float [n], ascending learning rates.
    smoothed: float [n], smoothed loss at each.

  Returns:
    {"least", "steepest", "rises", "proposal"}: learning rates at the minimum of the loss, at its steepest fall, and
    where it has risen, and the one to try. The proposal is a tenth of "least", since steps are almost too large there.
    If the loss does not fall, "least" and "steepest" are None and the proposal is a fifth of "rises"; else "rises" is
    None.

  Raises:
    UserError: the loss neither falls nor rises.
  """
  least, first = int(np.argmin(smoothed)), len(smoothed) // 10
  start = smoothed[: first + 1].mean()
  if least <= first or smoothed[least] > (1 - LEAST_FALL) * start:
    risen = np.flatnonzero(smoothed > (1 + RISE) * start)
    if not len(risen):
      raise UserError("the loss neither falls nor rises at any rate: raise --steps")
    rises = float(rates[risen[0]])
    return {"least": None, "steepest": None, "rises": rises, "proposal": float(f"{rises / BELOW_RISE:.1g}")}
  slopes = np.gradient(smoothed[: least + 1], np.log(rates[: least + 1])) if least else np.zeros(1)
  return {
    "least": float(rates[least]),
    "steepest": float(rates[np.argmin(slopes)]),
    "rises": None,
    "proposal": float(f"{rates[least] / 10:.1g}"),
  }


def lines(result: dict, workdir: str | pathlib.Path) -> Iterator[str]:
  """Yields the lines of a result that are printed.

  Args:
    result: the result of `measure`.
    workdir: directory of the plot.
  """
  tried = f"{len(result['rates'])} batches of {result['batch_size']}, learning rates {result['rates'][0]:.0e} to"
  yield f"phase {result['phase']}: {tried} {result['rates'][-1]:.0e}"
  first, plot = result["smoothed"][0], pathlib.Path(workdir) / PLOT
  if result["least"]:
    yield f"initial loss {first:.3f}, minimum {min(result['smoothed']):.3f} at {result['least']:.1e}"
    yield f"the loss falls fastest at {result['steepest']:.1e}; curve in {plot}"
    yield f"try --learning_rate={result['proposal']:g}, a tenth of the learning rate at the minimum"
  else:
    yield f"initial loss {first:.3f}; it does not fall at any learning rate within so few steps"
    yield f"the loss has risen at {result['rises']:.1e}; curve in {plot}"
    yield f"try --learning_rate={result['proposal']:g}, a fifth of that"


def _losses(config, features, record, probe, phase, rates):
  """Returns (loss of each batch, fewer than `rates` if the loss diverges; loss of each batch before any step)."""
  data, model = features.data, features.model
  heads.standardize(model.head, features.frozen()[data.train])
  heads.reset(model.head, model.task.loss.initial_bias(data.train_targets))
  if phase.objective.trains_head and not phase.trains.reset_head:
    fit(probe, features, config, record)
  changing = stages.changing(model, [phase])
  before = values(changing)
  start = _LossHistory()
  history = _LossHistory(start.losses)
  log.info("learning rate range test: %d batches of phase %s", len(rates), phase.name)
  with features.devices.scope():
    stages.set_trainable(model, phase)
    feed, steps = whole_network_steps(phase, features, config.seed)
    schedule = _Exponential(rates[0] / _rate(config, features, phase), rates[1] / rates[0])
    plain = phase.replace(ema=0.0, accumulate_steps=1)
    network, dataset = steps.network, feed.dataset()
    PhaseSteps(network, plain, model, data.train_targets, schedule).compile()
    network.evaluate(dataset, steps=len(rates), callbacks=[start], verbose=0)
    if not np.isfinite(start.losses).all():
      raise RunFailed("the loss is not finite before any step: lower --head_learning_rate, or choose another backbone")
    network.fit(dataset, steps_per_epoch=len(rates), callbacks=[history], verbose=0, shuffle=False)
  for variable, value in zip(changing, before):
    variable.assign(value)
  if not history.losses:
    raise RunFailed(f"the loss is not finite at the first step, at {rates[0]:.0e}: choose another backbone")
  return history.losses, start.losses


def _rate(config, features, phase):
  """Returns the --learning_rate from which the learning rates of a phase follow; a reset head has its own."""
  facts = planning.facts(config, features.data, features.model, features.devices)
  phases = recipes.plan(dataclasses.replace(config, learning_rate=1.0), facts, features.devices.replicas)
  shares = next(planned for planned in phases if planned.name == phase.name).optimizer.learning_rates
  rates = phase.optimizer.learning_rates.items()
  return next((rate / shares[name] for name, rate in rates if rate != shares[name]), 1.0)


def _figure(result):
  figure = matplotlib.figure.Figure(figsize=(7.2, 4.0), layout="constrained")
  axes = figure.subplots()
  axes.plot(result["rates"], result["losses"], color="#8a94a0", linewidth=0.8, label="batch")
  axes.plot(result["rates"], result["smoothed"], color="#0a66c2", linewidth=1.8, label="smoothed")
  axes.axvline(result["proposal"], color="#c2410c", linestyle="--", label=f"proposal {result['proposal']:g}")
  axes.set(xscale="log", xlabel="--learning_rate", ylabel="loss", ylim=(0, 1.5 * max(result["smoothed"][0], 1e-3)))
  axes.legend(frameon=False)
  return figure


class _LossHistory(keras.callbacks.Callback):
  """Records the loss of every batch, and stops if it diverges from `start`, the losses of these batches before."""

  def __init__(self, start=()):
    super().__init__()
    self.losses, self._start = [], start

  def on_test_batch_end(self, batch, logs=None):
    self.losses.append(float(logs["loss"]))
    # Keras reports the mean since the last reset.
    self.model.reset_metrics()

  def on_train_batch_end(self, batch, logs=None):
    self.on_test_batch_end(batch, logs)
    if not np.isfinite(self.losses[-1]):
      self.losses.pop()
      self.model.stop_training = True
    else:
      smoothed = relative(self.losses, self._start)
      self.model.stop_training = bool(smoothed[-1] > DIVERGED * max(smoothed.min(), smoothed[0]))


class _Exponential(keras.optimizers.schedules.LearningRateSchedule):
  """`first` at the first update, multiplied by `factor` at each further one."""

  def __init__(self, first, factor):
    self.first, self.factor = float(first), float(factor)

  def __call__(self, step):
    return self.first * keras.ops.power(self.factor, keras.ops.cast(step, "float32"))

  def get_config(self):
    return {"first": self.first, "factor": self.factor}
