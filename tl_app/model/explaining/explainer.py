"""`Explainer`: why a model answers an input as it does, ready for JSON."""

import base64
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tl_app.data import modalities
from tl_app.model.explaining import methods, regions, words
from tl_app.model.explaining.integration import Integrated
from tl_app.model.model import Model
from tl_app.tasks import explained
from tl_app.tasks.explained import Explained


@dataclasses.dataclass(frozen=True)
class Explainer:
  """Explains the answers of a model.

  Attributes:
    model: the `Model`.
    names: classes, targets or entity types that are explained in place of those that are answered.
    method: one of `methods.METHODS`.

  Raises:
    UserError: the model does not allow the method, or does not know a name.
  """

  model: Model
  names: tuple[str, ...] = ()
  method: str = "auto"

  def __post_init__(self):
    methods.choose(self.model, self.method)
    explained.positions(self.names, self.model.task.answers.explainable)

  def explain(self, row: Sequence[bytes]) -> dict:
    """Returns the explanations of the answer to one input.

    Args:
      row: a UTF-8 text, or an encoded image; of a pair there are two.

    Returns:
      A dict: "inputs" (the texts) or "image" (a data URI of what the network sees), and "explanations": a list of dicts
      with "name", "value", "score", "entity" (its text) if it is one, "method", those of `_facts`, and "words" or
      "heat".

    Raises:
      NotPossible: the method does not work for this input.
    """
    units = modalities.of(self.model.backbone.modality).units
    explain = {"words": self._words, "regions": self._regions}[units]
    return explain(row)

  def _words(self, row):
    texts = [value.decode("utf-8") for value in row]
    logits = self._logits(tf.constant([texts if len(texts) > 1 else texts[0]], tf.string))

    def explain(method, score):
      found = {
        methods.INTEGRATED_GRADIENTS: words.integrated_gradients,
        methods.OCCLUSION: words.occlusion,
      }[method](self.model, texts, score)
      return {"words": _scored_words(found, texts)} | _facts(found.integrated)

    return {"inputs": texts, "explanations": list(self._explanations(logits, explain, texts))}

  def _regions(self, row):
    pixels = self.model.backbone.preprocess(tf.constant(list(row), tf.string))
    logits = self._logits(tf.constant(list(row), tf.string))

    def explain(method, score):
      if method == methods.INTEGRATED_GRADIENTS:
        heat, integrated = regions.integrated_gradients(self.model, pixels, score)
      else:
        heat, integrated = self._heat(method, pixels, score), None
      return {"heat": [[_rounded(value) for value in line] for line in heat]} | _facts(integrated)

    return {"image": _picture(pixels[0]), "explanations": list(self._explanations(logits, explain, []))}

  @functools.cached_property
  def _grad_cam(self):
    return regions.GradCam(self.model)

  def _heat(self, method, pixels, score):
    if method == methods.GRAD_CAM:
      return regions.located(self._grad_cam.heat(pixels, score))
    return regions.occlusion(self.model, pixels, score)

  def _logits(self, raw):
    return self.model.network(self.model.backbone.preprocess(raw), training=False)[0].numpy()

  def _explanations(self, logits, explain: Callable, texts) -> Iterator[dict]:
    answers = self.model.task.answers
    for target in answers.explained(logits, self.names):
      yield {
        "name": target.name,
        "value": _rounded(target.value),
        "score": _rounded(float(answers.score(tf.constant(logits)[None], target.place)[0])),
        **_entity(target, texts),
        **self._by_method(explain, lambda logits, place=target.place: answers.score(logits, place)),
      }

  def _by_method(self, explain, score):
    """Returns the result of the first method that works."""
    *others, last = methods.choose(self.model, self.method)
    for method in others:
      try:
        return {"method": method} | explain(method, score)
      except methods.NotPossible:
        continue
    return {"method": last} | explain(last, score)


def _entity(target: Explained, texts) -> dict:
  """Returns {"entity": its text} of an entity."""
  if target.words is None:
    return {}
  spans = words.split(texts, at_space=True)
  first, last = target.words
  return {"entity": texts[0][spans[first].start : spans[min(last, len(spans) - 1)].end]} if first < len(spans) else {}


def _scored_words(found: words.Scored, texts) -> list[dict]:
  return [
    {
      "column": span.column,
      "start": span.start,
      "end": span.end,
      "text": texts[span.column][span.start : span.end],
      # Not read by the network.
      "score": None if math.isnan(score) else _rounded(score),
    }
    for span, score in zip(found.spans, found.scores)
  ]


def _facts(integrated: Integrated | None) -> dict:
  """Returns what is told of integrated gradients: "baseline_score", "completeness_error", "points"; {} without."""
  if integrated is None:
    return {}
  return {
    "baseline_score": _rounded(integrated.baseline_score),
    "completeness_error": _rounded(integrated.completeness_error),
    "points": integrated.points,
  }


def _picture(pixels) -> str:
  """Returns the data URI of pixels, float32 [size, size, 3] in [0, 1]."""
  data = tf.io.encode_jpeg(tf.cast(tf.round(pixels * 255.0), tf.uint8), quality=75).numpy()
  return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _rounded(value: float) -> float:
  """Returns a number with six significant digits: float32 has no more."""
  return float(f"{float(np.float64(value)):.6g}")
