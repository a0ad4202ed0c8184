"""The disk space that a run needs in its workdir, estimated and checked before it trains."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence

from tl_app.backbones.backbone import parameters
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.model import stages
from tl_app.model.model import BackboneWithHead, Model
from tl_app.recipes.phase import Phase
from tl_app.training import selection
from tl_app.workdir.state import KEPT

# Bytes of a number in all files of weights: they are float32.
_NUMBER = 4
# Bytes for the report, TensorBoard's files and the other small ones.
_REST = 10e6
# Bytes of an example in splits.json.
_EXAMPLE = 150
# States of an unfinished run that are on disk at once: those that are kept, and the one that is written.
_STATES = KEPT + 1
# Free share of the space beyond the estimate, for what file formats add.
_MARGIN = 0.1


def of_training(model: Model, phases: Sequence[Phase], config: Config, examples: int) -> dict[str, float]:
  """Returns {what is written: bytes} of a training run in its workdir.

  Args:
    model: the `Model`.
    phases: the phases of the plan.
    config: the `Config`.
    examples: number of examples of the data set.
  """
  network = parameters(model.network.variables)
  whole = bool(model.backbone.spec.tuned or not model.backbone.pretrained)
  tuning = [phase for phase in phases if phase.trains_backbone]
  # The probe, the fine-tuned weights, their average, the soup and weights in between: see `checkpoint.arrays`.
  averaged, soup = any(phase.optimizer.ema for phase in tuning), any(phase.trains.restart for phase in tuning)
  between = bool(tuning and selection.shares(config, phases))
  candidates = [parameters(model.head.variables)]
  candidates += [parameters(stages.changing(model, phases))] * (bool(tuning) + averaged + soup + between)
  trained = parameters(stages.changing(model, tuning)) if tuning else parameters(model.head.variables)
  # In a phase the weights, the two moments of Adam, the best epoch and the average; of the phases before it their
  # weights, their best candidate and the soup.
  state = trained * ((4 if config.checkpoint_minutes else 1) + averaged + 3 * soup)
  needed = {
    "states to continue from": _STATES * state,
    "weights": network,
    "candidates": network * len(candidates) if whole else sum(candidates),
  }
  if config.export:
    needed["export"] = network
  needed = {name: _NUMBER * count for name, count in needed.items()}
  return needed | {"other files": _REST + _EXAMPLE * examples}


def of_pretraining(model: BackboneWithHead) -> dict[str, float]:
  """Returns {what is written: bytes} of a pretraining in its workdir, without the copy of its texts."""
  backbone = sum(parameters(stage) for stage in model.backbone.stages.values())
  # The weights now and at the beginning of the phase, the two moments of Adam, the best epoch and the best of all.
  state = 6 * (backbone + parameters(model.head.variables))
  states = _NUMBER * _STATES * state
  return {"states to continue from": states, "backbone": _NUMBER * backbone, "other files": _REST}


def check(workdir: pathlib.Path, needed: Mapping[str, float]) -> None:
  """Checks that the files of a run fit on the disk of its workdir.

  Args:
    workdir: an existing directory.
    needed: {what is written: bytes}.

  Raises:
    UserError: they do not fit.
  """
  free, total = shutil.disk_usage(workdir).free, (1 + _MARGIN) * sum(needed.values())
  export = (1 + _MARGIN) * needed.get("export", 0.0)
  if total <= free:
    return
  parts = ", ".join(f"{name} {_gb(size)}" for name, size in needed.items())
  without = f", or use --noexport, which needs {_gb(export)} less" if total - export <= free else ""
  raise UserError(
    f"--workdir={workdir} needs about {_gb(total)} of disk space ({parts}), and {_gb(free)} are free: free some, or "
    f"choose another directory{without}"
  )


def _gb(size):
  return f"{size / 1e9:.3f} GB" if size < 1e9 else f"{size / 1e9:.1f} GB"
