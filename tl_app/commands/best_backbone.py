"""The backbone of a run of --preset=best that names none: the best one in the cache, by a probe on its features."""

import dataclasses
import logging

from tl_app import backbones, workdir
from tl_app import config as config_lib
from tl_app.assets import Assets
from tl_app.commands import default_backbone, select
from tl_app.config import Config
from tl_app.config.groups import DEFAULT_BACKBONES

log = logging.getLogger(__name__)

# Name of what was chosen among the decisions of a run and in plan.json.
NAME = "backbone_choice"


def named(config: Config) -> tuple[Config, dict]:
  """Returns (the config with a --backbone, what was compared: {"scores", "metric", "examples"}, or {}).

  Only --preset=best compares, and only if --backbone is not given: the default backbone and those in the cache, by
  `select.ranked`. A run that continues or is repeated in its workdir keeps its backbone.

  Args:
    config: the `Config`.

  Raises:
    UserError: the data set is missing, or its modality cannot be told.
    RunFailed: no backbone could be measured.
  """
  if config.backbone or config.preset != "best" or config.strategy == "multi_worker":
    return default_backbone.named(config), {}
  if earlier := _of_workdir(config):
    log.info("backbone: %s, as this run chose when it began", earlier)
    return dataclasses.replace(config, backbone=earlier), {}
  assets, modality = Assets.of(config), default_backbone.modality_of(config)
  default = DEFAULT_BACKBONES[modality.name]
  specs = [spec for spec in select.of_modality(modality) if spec.name == default or backbones.is_cached(spec, assets)]
  if len(specs) < 2:
    return default_backbone.named(config), {}
  listed = ", ".join(spec.name for spec in specs)
  log.info("--preset=best compares %d backbones for %s, those in the cache: %s", len(specs), modality.plural, listed)
  result = select.ranked(dataclasses.replace(config, workdir=""), specs, assets)
  scores = {row["name"]: row["score"] for row in result["backbones"]}
  listed = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
  log.info("backbone: %s, by %s of a cross-validated probe: %s", result["best"], result["metric_title"], listed)
  chosen = {"scores": scores, "metric": result["metric"], "examples": result["examples"]}
  return dataclasses.replace(config, backbone=result["best"]), chosen


def note(chosen: dict, record: workdir.Record) -> None:
  """Writes to plan.json what `named` compared, also in a run that continues and has compared nothing."""
  if compared := record.state.decide(NAME, lambda: chosen):
    record.note(NAME, compared)


def _of_workdir(config):
  """Returns the backbone of the run in --workdir if its other flags are these, or ""."""
  saved = workdir.saved_config(config.workdir)
  if saved and not config_lib.differences(saved, dataclasses.replace(config, backbone=saved.backbone)):
    return saved.backbone
  return ""
