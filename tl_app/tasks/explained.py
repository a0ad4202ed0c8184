"""`Explained`: one number of an answer, which an explanation divides among the parts of the input."""

import dataclasses
from collections.abc import Iterable, Sequence

from tl_app.errors import UserError, suggestion

# Title of `log_odds`.
LOG_ODDS = "log-odds"


@dataclasses.dataclass(frozen=True)
class Explained:
  """One number of an answer.

  Attributes:
    name: of the class, of the target, or of the entity type.
    place: index of its logit among those of the example.
    value: what the export answers: the probability, or the value of the target.
    words: (first, last) word of an entity, from 0; None of an answer about the whole input.
  """

  name: str
  place: tuple[int, ...]
  value: float
  words: tuple[int, int] | None = None


def log_odds(logits, index: int):
  """Returns log(p / (1 - p)) of one class, float [..], p being its softmax probability.

  Unlike a single logit it does not depend on a constant that is added to all of them.

  Args:
    logits: tensor [.., classes].
    index: the class.
  """
  import tensorflow as tf

  others = tf.concat([logits[..., :index], logits[..., index + 1 :]], axis=-1)
  return logits[..., index] - tf.reduce_logsumexp(others, axis=-1)


def positions(wanted: Iterable[str], names: Sequence[str]) -> list[int]:
  """Returns the positions of the wanted names in `names`.

  Raises:
    UserError: one of them is not there.
  """
  wanted, names = list(wanted), list(names)
  for name in wanted:
    if name not in names:
      known = ", ".join(names[:20]) + (", .." if len(names) > 20 else "")
      raise UserError(f"--class={name} is unknown; the model knows: {known}{suggestion(name, names)}")
  return [names.index(name) for name in wanted]
