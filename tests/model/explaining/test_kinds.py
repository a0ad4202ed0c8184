"""Answers of backbones of several kinds can be explained."""

import numpy as np
import pytest
from test_contracts import _raw, load  # noqa: F401, a fixture

from tl_app import tasks
from tl_app.model import model as model_lib
from tl_app.model.explaining import methods
from tl_app.model.explaining.explainer import Explainer

# The methods that are possible, the first one is that of `auto`.
POSSIBLE = {
  "image_module": [methods.OCCLUSION, methods.INTEGRATED_GRADIENTS],
  "image_module_with_a_map": [methods.GRAD_CAM, methods.OCCLUSION, methods.INTEGRATED_GRADIENTS],
  "text_module_of_strings": [methods.OCCLUSION],
  **dict.fromkeys(
    ("kerashub_distilbert", "windows", "head_tail", "lstm"), [methods.INTEGRATED_GRADIENTS, methods.OCCLUSION]
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSSIBLE)
def test_kind(load, kind):  # noqa: F811
  backbone = load(kind)
  model = model_lib.build(backbone, tasks.SINGLE_LABEL.with_codec(names=("a", "b", "c")))
  rng = np.random.default_rng(0)
  for variable in model.head.trainable_variables:
    variable.assign(rng.normal(size=variable.shape))
  assert methods.available(model) == POSSIBLE[kind]
  raw = _raw(backbone)[3]
  row = [value.encode() if isinstance(value, str) else value for value in np.atleast_1d(np.array(raw, dtype=object))]
  for method in methods.available(model):
    found = Explainer(model, method=method).explain(row)["explanations"][0]
    assert found["method"] == method
    if method == methods.INTEGRATED_GRADIENTS:
      assert found["completeness_error"] < 0.05
      scores = [w["score"] for w in found["words"]] if "words" in found else np.ravel(found["heat"])
      total = sum(score for score in scores if score is not None)
      change = found["score"] - found["baseline_score"]
      assert abs(total - change) <= 0.051 * abs(change)
