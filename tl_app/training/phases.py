"""Trains the phases of a run and selects the best candidate."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from tl_app.backbones.weights import values
from tl_app.config import AUTO, Config
from tl_app.data import modalities
from tl_app.data.training_data import TrainingData
from tl_app.features.frozen import Features
from tl_app.model import heads, stages
from tl_app.recipes.phase import Phase
from tl_app.report import formatting
from tl_app.training import continuing, refit, selection
from tl_app.training.cross_validation import CrossValidation
from tl_app.training.fit import fit
from tl_app.training.phase_result import PhaseResult
from tl_app.training.selection import Candidate, Selection
from tl_app.training.time_limit import TimeLimit
from tl_app.workdir import Record

log = logging.getLogger(__name__)

# Name of the part of the `RunState` about the phases that have ended.
PART = "phases"
# Share of the time of training.
_NOTICED = 0.05


def baselines(features: Features, compared: Candidate) -> dict[str, np.ndarray]:
  """Returns {name: outputs for the examples of a candidate's answers} of the baselines.

  They are those of `selection.baselines`, and for texts "tf_idf", a linear model on the counts of words.

  Args:
    features: the `Features` of the run.
    compared: a `Candidate`; a baseline of cross-validation learns from the training part of each fold.
  """
  if compared.rows is None:
    return _baselines(features)
  parts = refit.fold_rows(features)[: compared.estimate["folds"]]
  found = [_baselines(features.with_parts(*part)) for part in parts]
  shared = [name for name in found[0] if all(name in part for part in found)]
  return {name: np.concatenate([part[name] for part in found]) for name in shared}


def _baselines(features):
  data, frozen, task = features.data, features.frozen(), features.model.task
  found = selection.baselines(
    *(frozen[data.train], frozen.targets(data.targets, data.train), frozen[data.validation], task),
    by_example=lambda outputs: frozen.by_example(outputs, data.validation),
  )
  plain = modalities.of(data.examples.modality).plain_features(data.inputs[data.train], data.inputs[data.validation])
  outputs = selection.plain_baseline(plain, data.train_targets, task) if plain else None
  return found if outputs is None else found | {"tf_idf": outputs}


def train(
  phases: list[Phase],
  features: Features,
  config,
  record: Record,
  limit: TimeLimit | None = None,
  plan: Callable[[TrainingData], list[Phase]] | None = None,
) -> tuple[list[Candidate], list[PhaseResult]]:
  """Trains the phases of a plan, the probe first. The compiled steps are kept, see `compiling.release`.

  Args:
    phases: the phases of the `Plan`.
    features: the `Features` of the run.
    config: the `Config`.
    record: the `Record` of the run.
    limit: the `TimeLimit`, or None.
    plan: function that returns the phases of the recipe for other data, for cross-validation; None for none.

  Returns:
    (candidates: the probe, the best fine-tuned weights and the averaged weights, without those for which --max_minutes
    left no time; results of the phases).

  Raises:
    RunFailed: a loss or a logit on the validation split is not finite.
  """
  model, data, state = features.model, features.data, record.state
  # Before a run that continues has trained weights.
  frozen = features.frozen()
  state.know(model.network.variables)
  done = _Done.saved(state.take(PART), phases)
  changing = stages.changing(model, phases)
  if done.phases:
    continuing.assign(model.network.variables, done.variables)
    continuing.set_random_state(done.random)
    _warn_about_dropout(phases[: done.phases], phases[done.phases :], state, model.backbone)
  else:
    heads.standardize(model.head, frozen[data.train])
    heads.reset(model.head, model.task.loss.initial_bias(data.train_targets))
    done.results.append(fit(phases[0], features, config, record))
    done.candidates = [Candidate("probe", features.head_logits(data.validation), values(changing), phases[0].name)]
    done.phases = 1
    _save(done, model, record)
  crossed, decided = None, done.results[0].refit
  if plan and len(phases) > 1 and decided and decided.folds:
    folds = CrossValidation(_once(phases), features, config, record, limit, plan)
    crossed = folds.run(done.candidates[0], decided)
  if crossed:
    candidates = _train_on_all(done, crossed, phases, config, record, limit)
  else:
    done = _train_rest(done, phases, features, config, record, limit)
    candidates = done.candidates + ([done.soup] if done.soup and done.soup_size > 1 else [])
    candidates += _averaged(done.results, features, changing) + _interpolated(config, done, phases, features)
  _report_cost(record)
  models = {candidate.name: candidate.phase for candidate in candidates if candidate.values}
  record.note("candidates", models)
  return candidates, done.results


def _warn_about_dropout(done, rest, state, backbone):
  """Warns where the dropout of the next phase depends on how often the phases before have used it."""
  # A phase that has begun says so itself.
  if rest and not state.has(continuing.PART) and any(phase.trains_backbone for phase in done):
    continuing.warn_about_dropout(rest[0], backbone)


def _train_rest(done, phases, features, config, record, limit):
  """Trains the phases after the probe that are not done yet, on the training split; returns what is done then."""
  model, changing = features.model, stages.changing(features.model, phases)
  for index, phase in enumerate(phases[done.phases :], start=done.phases):
    if phase.inputs.recompute_features and not any(result.done for result in done.results[1:]):
      continue
    if reason := selection.cannot_win(done.candidates[0], phase, features, config):
      log.info("phase %s is skipped: %s", phase.name, reason)
      done.results.append(PhaseResult(phase, None, skipped=reason))
      continue
    if phase.trains.restart:
      use(done.candidates[0], phases, features)
    remaining = sum(later.trains_backbone for later in phases[index:])
    done.results.append(fit(phase, features, _settings(config, phase, done.results), record, limit, remaining))
    # A phase that does not train the head leaves it stale, so there is no candidate until the head is fitted again.
    if done.results[-1].done and (phase.objective.trains_head or phase is phases[-1]):
      latest = _candidate("fine_tuned", phase, features, changing)
      done = dataclasses.replace(done, **_with_latest(done, latest, phase, phases, features))
    _save(dataclasses.replace(done, phases=index + 1), model, record)
  return done


def _settings(config, phase, results):
  """Returns the `Config` of a phase. --profile_input measures the first phase that trains the backbone."""
  profiled = any(result.planned.trains_backbone for result in results)
  changes = {"profile_input": config.profile_input and not profiled, "seed": config.seed + phase.inputs.seed_offset}
  return dataclasses.replace(config, **changes)


def _once(phases):
  """Returns the phases without those that fine-tune again from the probe; these are the last ones."""
  return [phase for phase in phases if not phase.trains.restart]


def _train_on_all(done, crossed, phases, config, record, limit):
  """Trains the phases that won in cross-validation, on both splits, from the probe; returns the candidates."""
  model, features = crossed.features.model, crossed.features
  if crossed.skipped:
    log.info("fine-tuning is skipped: %s", crossed.skipped)
    done.results += [PhaseResult(phase, None, skipped=crossed.skipped) for phase in phases[1:]]
    return crossed.candidates
  if done.phases == 1:
    use(crossed.candidates[0], phases, features)
  log.info(
    "fine-tuning is selected %s: it trains on the %s training and validation examples together",
    *(crossed.candidates[1].measured, f"{len(features.data.train):,}"),
  )
  once = _once(phases)
  for index, (planned, phase) in enumerate(zip(once[1:], crossed.phases), start=1):
    if index < done.phases:
      continue
    settings = _settings(config, phase, done.results)
    remaining = sum(later.trains_backbone for later in crossed.phases[index - 1 :])
    result = fit(phase, features, settings, record, limit, remaining)
    done.results.append(dataclasses.replace(result, planned=planned))
    _save(dataclasses.replace(done, phases=index + 1), model, record)
  probe, tuned = crossed.candidates
  trained = all(result.done for result in done.results)
  reasons = {
    "more examples need fewer epochs, and so fewer phases": once[1 + len(crossed.phases) :],
    "the folds compare one fine-tuning": phases[len(once) :],
  }
  done.results += [PhaseResult(phase, None, skipped=why) for why, skipped in reasons.items() for phase in skipped]
  if not trained:
    return [probe]
  return [probe, dataclasses.replace(tuned, values=values(stages.changing(model, phases)))]


@dataclasses.dataclass
class _Done:
  """What is done of the phases of a run.

  Attributes:
    phases: number of phases that have ended.
    results: their `PhaseResult`s, but for those that were skipped.
    candidates: the probe, and the best fine-tuned weights.
    soup: the mean of the weights of several phases, see `_with_latest`.
    soup_size: number of these phases.
    variables: values of all variables of the network, if they come from a saved run.
    random: see `continuing.random_state`.
  """

  phases: int = 0
  results: list[PhaseResult] = dataclasses.field(default_factory=list)
  candidates: list[Candidate] = dataclasses.field(default_factory=list)
  soup: Candidate | None = None
  soup_size: int = 0
  variables: list[np.ndarray] = dataclasses.field(default_factory=list)
  random: dict = dataclasses.field(default_factory=dict)

  @classmethod
  def saved(cls, tree: dict | None, phases: list[Phase]) -> "_Done":
    """Returns what `to_tree` has saved, or nothing done if `tree` is None."""
    if not tree:
      return cls()
    planned = {phase.name: phase for phase in phases}
    results = [PhaseResult.from_tree(result, planned) for result in tree["results"]]
    candidates, soup = [Candidate(**found) for found in tree["candidates"]], tree["soup"]
    return cls(**tree | {"results": results, "candidates": candidates, "soup": soup and Candidate(**soup)})

  def to_tree(self) -> dict:
    """Returns JSON values and NumPy arrays."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return fields | {
      "results": [result.to_tree() for result in self.results],
      "candidates": [dict(vars(candidate)) for candidate in self.candidates],
      "soup": self.soup and dict(vars(self.soup)),
    }


def _save(done, model, record):
  """Saves the run at the end of a phase."""

  def tree():
    variables, random = values(model.network.variables), continuing.random_state()
    return dataclasses.replace(done, variables=variables, random=random).to_tree()

  continuing.save_part(record, PART, tree)


def _report_cost(record):
  """Logs the time that saving the run took, if it is a share of the training that somebody notices."""
  seconds = record.clock.so_far()
  if record.state.count:
    cost, trained = seconds["checkpoints"], seconds["train"]
    if cost < max(1.0, _NOTICED * trained):
      return
    log.info("saving the state of the run took %.1f s, %.1f %% of the training", cost, 100 * cost / (trained + cost))


def select(
  candidates: list[Candidate], baselines: dict[str, np.ndarray], features: Features, config: Config
) -> Selection:
  """Selects a candidate, see `selection.select`, and logs the scores of all candidates and baselines.

  Args:
    candidates: the candidates, the probe first.
    baselines: {name: outputs for the validation split}.
    features: the `Features` of the run.
    config: the `Config`, for --select and --select_metric.
  """
  task, wanted, first = features.model.task, config.select, candidates[0]
  metric, title = task.metrics.primary_metric, task.metrics.primary_title
  names = [candidate.name for candidate in candidates]
  if wanted not in (AUTO, *names):
    log.warning("--select=%s: this run has no such candidate, only %s; the best is selected", wanted, ", ".join(names))
  selected = selection.of_run(candidates, features, config)
  compared = selection.compared_with_baselines(selected.best, baselines, first.answered(features.data).targets, task)
  selected = dataclasses.replace(selected, baselines=compared)
  scores = {name: values[metric] for name, values in (compared | selected.metrics).items()}
  listed = ", ".join(f"{formatting.candidate(name)} {score:.4f}" for name, score in scores.items())
  log.info("candidates, by %s %s: %s", title, first.measured, listed)
  log.info("selected %s", selected.reason)
  baseline = max(compared, key=lambda name: compared[name][metric])
  if compared[baseline][metric] > selected.metrics[selected.best.name][metric]:
    p_value = compared[baseline]["p_value"]
    significant = p_value <= selection.SIGNIFICANT
    log.warning(
      "a baseline is %sbetter than the selected model %s: %s, %s %.4f (%s p = %.2g); %s",
      *("significantly " if significant else "", first.measured),
      *(formatting.candidate(baseline), title, compared[baseline][metric], task.metrics.test_title, p_value),
      "try another --backbone or --recipe" if significant else "the difference may be chance",
    )
  return selected


def final(
  selected: Candidate, phases: list[Phase], results: list[PhaseResult], features: Features, record: Record
) -> Candidate:
  """Returns the selected candidate with its final values: a probe may be fitted on more examples, see `refit`.

  Args:
    selected: the `Candidate`.
    phases: the phases of the `Plan`.
    results: their results.
    features: the `Features` of the run.
    record: the `Record` of the run.
  """
  decided = results[0].refit
  if selected.name != "probe" or not (decided and decided.folds):
    return selected
  with record.clock("train"):
    found = refit.refitted(selected, phases, features, decided)
  log.info(
    "the probe is fitted again, on the %s training and validation examples together; the answers of the %d folds stand "
    "for the validation split",
    *(f"{len(features.data.train) + len(features.data.validation):,}", decided.folds),
  )
  return found


def use(candidate: Candidate, phases: list[Phase], features: Features) -> None:
  """Assigns the values of a candidate to the variables of the model.

  Args:
    candidate: the `Candidate`.
    phases: the phases of the `Plan`.
    features: the `Features` of the run.
  """
  for variable, value in zip(stages.changing(features.model, phases), candidate.values):
    variable.assign(value)


def _with_latest(done, latest, phase, phases, features):
  """Returns the fields of `_Done` after a phase of fine-tuning.

  The soup is greedy (Wortsman et al. 2022), in the order of the phases: weights are added to their mean where it does
  not get worse on the validation split by that.
  """
  probe, *fine_tuned = done.candidates
  task, targets = features.model.task, features.data.validation_targets
  candidates = [probe, selection.better([*fine_tuned, latest], targets, task)]
  if not phase.trains.restart:
    return {"candidates": candidates, "soup": dataclasses.replace(latest, name="soup"), "soup_size": 1}
  # A phase before may have had no time.
  before, size = (done.soup, done.soup_size) if done.soup else (dataclasses.replace(latest, name="soup"), 0)
  mean = [(size * old + new) / (size + 1) for old, new in zip(before.values, latest.values)]
  tried = _with_values("soup", mean, latest.phase, phases, features)
  use(latest, phases, features)
  if task.metrics.score(tried.logits, targets) < task.metrics.score(before.logits, targets):
    return {"candidates": candidates}
  return {"candidates": candidates, "soup": tried, "soup_size": size + 1}


def _with_values(name, found, phase_name, phases, features):
  """Returns the candidate whose changing variables have the values `found`, a list of arrays."""
  found = [np.asarray(value, old.dtype) for value, old in zip(found, values(stages.changing(features.model, phases)))]
  empty = Candidate(name, np.zeros(0), found, phase_name)
  use(empty, phases, features)
  return dataclasses.replace(empty, logits=selection.finite(name, features.logits(features.data.validation)))


def _interpolated(config, done, phases, features):
  """Returns the best candidate between the probe and the best fine-tuned weights (WiSE-FT, Wortsman et al. 2022)."""
  shares = selection.shares(config, phases)
  if not shares or len(done.candidates) < 2:
    return []
  probe, tuned = done.candidates
  found = {}
  for share in shares:
    between = [(1 - share) * old + share * new for old, new in zip(probe.values, tuned.values)]
    found[share] = _with_values("interpolated", between, tuned.phase, phases, features)
  task, targets = features.model.task, features.data.validation_targets
  scores = {share: task.metrics.score(candidate.logits, targets) for share, candidate in found.items()}
  listed = ", ".join(f"{share:g}: {score:.4f}" for share, score in scores.items())
  log.info("weights between the probe and the fine-tuned ones, by share of the latter: %s", listed)
  return [found[max(scores, key=lambda share: scores[share])]]


def _averaged(results, features, changing):
  """Returns the candidate with the averaged weights, in a list; [] if the last phase averages none."""
  done = [result for result in results[1:] if result.done]
  if not done or done[-1].averaged_values is None:
    return []
  last = done[-1]
  for variable, value in zip(stages.changing(features.model, [last.done]), last.averaged_values):
    variable.assign(value)
  return [_candidate("averaged", last.done, features, changing)]


def _candidate(name, phase, features, changing):
  logits = selection.finite(name, features.logits(features.data.validation))
  return Candidate(name, logits, values(changing), phase.name)
