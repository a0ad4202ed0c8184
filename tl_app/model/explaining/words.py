"""Which words of a text, or of a pair of texts, an answer is due to."""

import contextlib
import dataclasses
import itertools
import re
import typing
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_app.model.explaining import integration
from tl_app.model.explaining.integration import Integrated
from tl_app.model.explaining.methods import NotPossible, Score
from tl_app.model.model import Model
from tl_app.preprocessing.base import Preprocess

# A word, which may have apostrophes in it; a Chinese character; or another sign.
_FINE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+(?:['’][^\W_]+)*|[^\w\s]")
# The white space of `tf.strings.split`: it separates the words of a task with an answer for each word.
_COARSE = re.compile(r"[^ \t\n\v\f\r]+")
# Stands for a hidden word where the number of words must stay.
FILLER = "*"
# Longer texts are hidden by runs of words, so that there are at most so many forward passes.
MOST_HIDDEN = 128
# Texts in a forward pass, and tokens in one with gradients.
BATCH, TOKENS = 16, 4096
# Stand for tokens when these are followed through a preprocessing; no vocabulary has so many.
_FIRST_NUMBER = 2**24


class Span(typing.NamedTuple):
  """A word, or a run of words.

  Attributes:
    column: number of the text of a pair; 0 for a single text.
    start, end: in characters.
  """

  column: int
  start: int
  end: int


@dataclasses.dataclass(frozen=True)
class Scored:
  """The result of a method.

  Attributes:
    spans: of the words, in order.
    scores: float [words]; NaN for a word that the network does not read.
    integrated: the `Integrated`, if the method has it.
  """

  spans: list[Span]
  scores: np.ndarray
  integrated: Integrated | None = None


def split(texts: Sequence[str], at_space: bool = False) -> list[Span]:
  """Returns the words of texts.

  Args:
    texts: one text, or those of a pair.
    at_space: whether only white space separates words.
  """
  pattern = _COARSE if at_space else _FINE
  return [Span(column, *match.span()) for column, text in enumerate(texts) for match in pattern.finditer(text)]


def integrated_gradients(model: Model, texts: Sequence[str], score: Score) -> Scored:
  """Explains by integrated gradients on the embeddings of the tokens, summed over each word.

  The baseline has the same special tokens, and a full stop in place of the others: an answer to mask or padding tokens
  alone is often a sure one, so that they are no neutral beginning.

  Args:
    model: with `Backbone.token_embedding`, whose preprocessing `can_arrange`.
    texts: one text, or those of a pair.
    score: function of logits, tensor [batch, ..], to scores, tensor [batch].

  Raises:
    NotPossible: the tokens of these texts do not follow their words.
  """
  preprocess = model.backbone.preprocess
  spans, counts, columns = _tokenized(preprocess, texts)
  starts = np.cumsum([0, *map(len, columns)])
  numbers = [np.arange(start, start + len(tokens)) + _FIRST_NUMBER for start, tokens in zip(starts, columns)]
  path = _Embeddings(model, texts, _arranged(preprocess, numbers), score)
  found = integration.integrate(path)
  word_of = np.repeat(np.arange(len(spans)), counts)
  scores, read = np.zeros(len(spans)), np.zeros(len(spans), bool)
  for attributions, placed in zip(found.attributions, path.numbers()):
    words = word_of[placed[placed >= _FIRST_NUMBER] - _FIRST_NUMBER]
    np.add.at(scores, words, attributions.sum(axis=-1)[placed >= _FIRST_NUMBER])
    read[words] = True
  return Scored(spans, np.where(read, scores, np.nan), found)


def occlusion(model: Model, texts: Sequence[str], score: Score) -> Scored:
  """Explains by hiding each word of the raw text in turn: the score of a word is the fall without it.

  Args:
    model: the `Model`. With an answer for each word, `FILLER` stands in place of a hidden word; else it is removed.
    texts, score: as of `integrated_gradients`.
  """
  filler = FILLER if model.task.per_token else ""
  spans = _runs(split(texts, at_space=model.task.per_token))
  variants = [tuple(texts), *(_without(texts, span, filler) for span in spans)]
  scores = []
  for start in range(0, len(variants), BATCH):
    part = variants[start : start + BATCH]
    raw = tf.constant([row if len(texts) > 1 else row[0] for row in part], tf.string)
    scores.append(score(model.network(model.backbone.preprocess(raw), training=False)).numpy())
  scores = np.concatenate(scores).astype(np.float64)
  return Scored(spans, scores[0] - scores[1:])


def _without(texts, span, filler):
  """Returns the texts without a span, of which each word becomes `filler` where there is one."""
  text = texts[span.column]
  hidden = _COARSE.sub(filler, text[span.start : span.end]) if filler else ""
  changed = text[: span.start] + hidden + text[span.end :]
  return tuple(changed if column == span.column else other for column, other in enumerate(texts))


def _runs(spans):
  """Returns the spans, or runs of them within a text, so that there are about `MOST_HIDDEN`."""
  length = max(1, -(-len(spans) // MOST_HIDDEN))
  runs = []
  for column, group in itertools.groupby(spans, key=lambda span: span.column):
    members = list(group)
    parts = [members[start : start + length] for start in range(0, len(members), length)]
    runs += [Span(column, part[0].start, part[-1].end) for part in parts]
  return runs


def _tokenized(preprocess, texts):
  """Returns (spans of the words, number of tokens of each, tokens of each text)."""
  columns = [preprocess.tokenize_column(tf.constant([text]))[0].numpy() for text in texts]
  for at_space in (False, True):
    spans = split(texts, at_space)
    # A word is tokenized with the space before it, which byte-pair vocabularies read.
    ends = {column: 0 for column in range(len(texts))}
    pieces = []
    for span in spans:
      pieces.append(texts[span.column][ends[span.column] : span.end])
      ends[span.column] = span.end
    tokens = preprocess.tokenize_column(tf.constant(pieces, tf.string)) if pieces else None
    if tokens is not None and np.array_equal(tokens.flat_values.numpy(), np.concatenate(columns)):
      return spans, tokens.row_lengths().numpy(), columns
  raise NotPossible("the tokens of the text do not follow its words: use --method=occlusion")


def _arranged(preprocess: Preprocess, columns: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
  """Returns {name of the input: int [..]} of the token ids among the network's inputs, for the ids of one example."""
  ragged = [tf.RaggedTensor.from_row_lengths(tf.constant(ids, tf.int32), [len(ids)]) for ids in columns]
  return {name: x.numpy().ravel() for name, x in preprocess.arrange(ragged).items() if name.endswith("word_ids")}


class _Embeddings:
  """The way from the embeddings of blank tokens to those of a text, see `integration.Path`.

  A network may read its table of embeddings several times, once for each text of a pair: each time is one part.
  """

  def __init__(self, model, texts, numbers, score):
    self._model, self._score = model, score
    raw = tf.constant([texts if len(texts) > 1 else texts[0]], tf.string)
    self._inputs = model.backbone.preprocess(raw)
    self._numbers, self._blank = numbers, model.backbone.preprocess.blank_token
    self._ids = {name: self._inputs[name].numpy().ravel() for name in numbers}
    self._parts: dict[str, np.ndarray] = {}
    self.chunk = max(1, TOKENS // max(1, sum(map(len, self._ids.values()))))

  def numbers(self) -> list[np.ndarray]:
    """Returns which token stands at each position of each part."""
    return [self._numbers[name] for name in self._parts]

  def differences(self):
    return list(self._parts.values())

  def evaluate(self, shares):
    count = len(shares)
    batch = {name: tf.repeat(tensor, count, axis=0) for name, tensor in self._inputs.items()}
    points: dict[str, typing.Any] = {}
    self._parts = {}

    def between(ids, read):
      name = self._name_of(ids, count, points)
      known = tf.constant(np.tile(self._numbers[name], count).reshape(ids.shape) >= _FIRST_NUMBER)
      whole, blank = (
        read(ids),
        read(tf.where(known, tf.cast(self._blank, ids.dtype), ids)),
      )
      positions = len(self._ids[name])
      self._parts[name] = tf.reshape(whole - blank, [count, positions, -1])[0].numpy()
      share = tf.repeat(tf.constant(shares, whole.dtype), len(ids) // count)[:, None, None]
      points[name] = blank + share * (whole - blank)
      tape.watch(points[name])
      return points[name]

    layer = self._model.backbone.token_embedding
    with tf.GradientTape(watch_accessed_variables=False) as tape, _embedding_replaced(layer, between):
      scores = self._score(self._model.network(batch, training=False))
    gradients = tape.gradient(scores, list(points.values()))
    return scores.numpy(), [
      tf.reshape(gradient, [count, len(self._ids[name]), -1]).numpy() for name, gradient in zip(points, gradients)
    ]

  def _name_of(self, ids, count, taken):
    """Returns the name of the input that a table of embeddings reads now."""
    first = tf.reshape(ids, [count, -1])[0].numpy()
    return next(name for name, known in self._ids.items() if name not in taken and np.array_equal(known, first))


@contextlib.contextmanager
def _embedding_replaced(layer: keras.layers.Embedding, change: Callable) -> Iterator[None]:
  """A context in which `change(ids, read)` stands in place of a layer, whose own function is `read`."""
  read = layer.call
  layer.call = lambda ids, *args, **kwargs: change(ids, read)
  try:
    yield
  finally:
    del layer.call
