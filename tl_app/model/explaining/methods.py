"""The names of the methods, and which of them a model allows."""

import typing

from tl_app.config import AUTO
from tl_app.errors import UserError

if typing.TYPE_CHECKING:
  from tl_app.model.model import Model

GRAD_CAM, INTEGRATED_GRADIENTS, OCCLUSION = "grad_cam", "integrated_gradients", "occlusion"
# A function of logits, tensor [batch, ..], to scores, tensor [batch].
Score: typing.TypeAlias = typing.Callable[[typing.Any], typing.Any]
METHODS = (AUTO, GRAD_CAM, INTEGRATED_GRADIENTS, OCCLUSION)


class NotPossible(UserError):
  """A method does not work for a model or an input."""


def available(model: "Model") -> list[str]:
  """Returns the methods that can explain a model, the best first."""
  from tl_app.data import modalities

  backbone = model.backbone
  if modalities.of(backbone.modality).units == "words":
    differentiable = backbone.preprocess.can_arrange and backbone.token_embedding is not None
    return [*([INTEGRATED_GRADIENTS] if differentiable else []), OCCLUSION]
  found = [GRAD_CAM] if backbone.pools_map else []
  return [*found, OCCLUSION, *([INTEGRATED_GRADIENTS] if backbone.has_input_gradient else [])]


def choose(model: "Model", wanted: str) -> list[str]:
  """Returns the methods to try, the first one first.

  Args:
    model: the `Model`.
    wanted: one of `METHODS`.

  Raises:
    NotPossible: the model does not allow this method.
  """
  found = available(model)
  if wanted in found or wanted == AUTO:
    return found if wanted == AUTO else [wanted]
  reason = {
    GRAD_CAM: "has no feature map whose mean is the features",
    INTEGRATED_GRADIENTS: "has no inputs that a gradient reaches",
  }[wanted]
  raise NotPossible(f"--method={wanted}: {model.backbone.spec.name} {reason}; use {' or '.join(found)}")
