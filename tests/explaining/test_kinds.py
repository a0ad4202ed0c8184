"""Answers of every kind of backbone can be explained."""

import numpy as np
import pytest
from test_contracts import _raw, load  # noqa: F401, a fixture

from tl_app import tasks
from tl_app.explaining import methods
from tl_app.explaining.explainer import Explainer
from tl_app.model import model as model_lib

# The methods that are possible, beside occlusion.
POSSIBLE = {
  "image_module": [methods.INTEGRATED_GRADIENTS],
  "image_module_with_a_map": [methods.GRAD_CAM, methods.INTEGRATED_GRADIENTS],
  "image_module_with_a_signature": [methods.INTEGRATED_GRADIENTS],
  "kerashub_resnet": [methods.GRAD_CAM, methods.INTEGRATED_GRADIENTS],
  "cnn_small": [methods.GRAD_CAM, methods.INTEGRATED_GRADIENTS],
  "text_module": [],
  "text_module_of_strings": [],
  "bi_encoder_of_a_module": [],
  **dict.fromkeys(
    ("kerashub_bert", "kerashub_distilbert", "tokens", "windows", "head_tail", "cross_encoder", "bi_encoder", "lstm"),
    [methods.INTEGRATED_GRADIENTS],
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSSIBLE)
def test_every_kind_of_backbone(load, kind):  # noqa: F811
  backbone = load(kind)
  per_token = "mask" in backbone.network.output
  task = tasks.TOKEN_CLASSIFICATION if per_token else tasks.SINGLE_LABEL
  names = ("O", "B-place", "I-place") if per_token else ("a", "b", "c")
  model = model_lib.build(backbone, task.with_codec(names=names))
  rng = np.random.default_rng(0)
  for variable in model.head.trainable_variables:
    variable.assign(rng.normal(size=variable.shape))
  assert methods.available(model) == [*POSSIBLE[kind], methods.OCCLUSION]
  raw = _raw(backbone)[3]
  row = [value.encode() if isinstance(value, str) else value for value in np.atleast_1d(np.array(raw, dtype=object))]
  for method in methods.available(model):
    found = Explainer(model, method=method).explain(row)["explanations"][0]
    print(kind, method, found)
    assert found["method"] == method
    if method == methods.INTEGRATED_GRADIENTS:
      assert found["completeness_error"] < 0.05
      scores = [w["score"] for w in found["words"]] if "words" in found else np.ravel(found["heat"])
      total = sum(score for score in scores if score is not None)
      change = found["score"] - found["baseline_score"]
      assert abs(total - change) <= 0.051 * abs(change)
