"""Pretraining on data without labels: the objectives, and the fit of their phases."""

from tl_app.config import Config
from tl_app.recipes.phase import Clusters, MaskedTokens, NextToken, Phase, Reconstruct, Views
from tl_app.training.pretraining.clusters import ClustersObjective
from tl_app.training.pretraining.masked_tokens import MaskedTokensObjective
from tl_app.training.pretraining.next_token import NextTokenObjective
from tl_app.training.pretraining.objective import PretrainingObjective
from tl_app.training.pretraining.reconstruct import ReconstructObjective
from tl_app.training.pretraining.views import ViewsObjective

# {class of the settings in a `Phase`: its objective}.
OBJECTIVES: dict[type, PretrainingObjective] = {
  MaskedTokens: MaskedTokensObjective(),
  NextToken: NextTokenObjective(),
  Views: ViewsObjective(),
  Reconstruct: ReconstructObjective(),
  Clusters: ClustersObjective(),
}


def of(phase: Phase) -> PretrainingObjective:
  """Returns the `PretrainingObjective` of a phase."""
  return OBJECTIVES[type(phase.objective)]


def chosen(config: Config) -> PretrainingObjective:
  """Returns the one that --objective names."""
  return next(objective for kind, objective in OBJECTIVES.items() if kind.name == config.objective)
