"""`Preprocess`: the interface of everything that turns a raw column into the inputs of a backbone."""

import abc
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

# Frequent, and in most vocabularies.
FULL_STOP = "."


class _AbstractModule(abc.ABCMeta, type(tf.Module)):
  """`tf.Module` has a metaclass of its own, so `abc.ABC` cannot stand beside it."""


class _Traces:
  """Holds functions by `max_length`. A `tf.Module` does not look into it, so they are not exported."""

  def __init__(self):
    self.of = {}


class Preprocess(tf.Module, metaclass=_AbstractModule):
  """Raw values to backbone inputs, in TensorFlow operations alone.

  Training, evaluation and the exported model run the same function. It is a `tf.Module`, so that its tables and files
  are saved with the export. Every attribute has a default; a subclass sets those that apply to it, and defines
  `__call__`. The other methods are optional: preprocessings of texts have `count_tokens`, and the attributes say which
  have `tokenize`, `pack` and `join`.

  Attributes:
    identity: str that distinguishes two preprocessings: two with the same identity and the same `max_length` give the
      same inputs. It is part of the key of the feature cache.
    size: height and width of an image in pixels; 0 for texts.
    limit: largest number of tokens that the backbone accepts; 0 for images, and for texts of any length.
    max_length: largest number of tokens of an example, special tokens included; at most `limit`. It can be set until
      the first trace. 0 for images, and for texts of any length.
    max_windows: largest number of sequences that one text is split into.
    can_pack: whether `tokenize` and `pack` exist, so that a caller can choose among the tokens of a text.
    can_arrange: whether `tokenize_column` and `arrange` exist, so that a caller can follow each token of the raw texts.
    can_join_pairs: whether `join` exists, which makes one sequence of two texts.
    separators_between: number of end tokens between the two texts of a joined pair (RoBERTa: 2).
    mask_token: id of the token that stands for a masked one; -1 if there is none, or if it is not known.
    vocabulary_size: number of token ids; 0 if it is not known.
  """

  identity: str = ""
  size: int = 0
  limit: int = 0
  max_length: int = 0
  max_windows: int = 1
  can_pack: bool = False
  can_arrange: bool = False
  can_join_pairs: bool = False
  separators_between: int = 1
  mask_token: int = -1
  vocabulary_size: int = 0

  @property
  def word_starts(self) -> np.ndarray | None:
    """Whether each token id may begin a word, bool [vocabulary_size]; None if the vocabulary does not tell."""
    return None

  @property
  def special_tokens(self) -> tuple[int, int, int] | None:
    """Ids of the start, end and padding tokens; None if the preprocessing does not know them."""
    return None

  @property
  def blank_token(self) -> int:
    """Id of a token that says little: that of a full stop, if `can_arrange`."""
    tokens = self.tokenize_column(tf.constant([FULL_STOP])).flat_values.numpy()
    return int(tokens[-1]) if len(tokens) else 0

  @abc.abstractmethod
  def __call__(self, raw: tf.Tensor):
    """Returns the backbone's inputs, a tensor or a dict of tensors, for a batch of raw values.

    Args:
      raw: string [batch], or [batch, 2] for pairs of texts: texts, or encoded images.
    """

  def traced(self) -> Callable:
    """Returns `__call__` as a `tf.function`, which all data sets with the present `max_length` share.

    Tracing a tokenizer takes longer than reading a small data set with it.
    """
    if "_traces" not in vars(self):
      self._traces = _Traces()
    return self._traces.of.setdefault(self.max_length, tf.function(self.__call__, reduce_retracing=True))

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of each text before truncation, special tokens included, int32 [batch]."""
    raise NotImplementedError

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch], if `can_pack`."""
    raise NotImplementedError

  def pack(self, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, int32 [batch, length], for ragged int32 [batch, (tokens)], if `can_pack`."""
    raise NotImplementedError

  def join(self, first: tf.Tensor, second: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns one sequence for each pair of texts, string [batch] each, if `can_join_pairs`."""
    raise NotImplementedError

  def tokenize_column(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the tokens of one column as `arrange` takes them, ragged int32 [batch, (tokens)], if `can_arrange`."""
    return self.tokenize(texts)

  def arrange(self, columns: Sequence[tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """Returns the token inputs of `__call__` for the tokens of each column, if `can_arrange`.

    Where a token goes depends on how many there are, and not on their ids.

    Args:
      columns: ragged int32 [batch, (tokens)] of `tokenize_column`, one for each text of an example.
    """
    (tokens,) = columns
    return self.pack(tokens)


class PreprocessWrapper(Preprocess):
  """A preprocessing that changes what another one does, and shares its length and tokens."""

  def __init__(self, preprocess: Preprocess, description: str):
    """Wraps a preprocessing.

    Args:
      preprocess: the preprocessing of single texts.
      description: what this one does with it; it begins the `identity`.
    """
    super().__init__(name="wrapper")
    self._preprocess = preprocess
    self.limit = preprocess.limit
    self.max_windows = preprocess.max_windows
    self.can_arrange = preprocess.can_arrange
    self.identity = f"{description} {preprocess.identity}"

  @property
  def max_length(self) -> int:
    """The length of the wrapped preprocessing."""
    return self._preprocess.max_length

  @max_length.setter
  def max_length(self, value: int):
    self._preprocess.max_length = value

  def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns ragged int32 [batch, (tokens)] without special tokens for texts, string [batch]."""
    return self._preprocess.tokenize(texts)

  def pack(self, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """Returns the network's inputs, int32 [batch, length], for ragged int32 [batch, (tokens)]."""
    return self._preprocess.pack(tokens)

  def count_tokens(self, texts: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of each text before truncation, special tokens included, int32 [batch]."""
    return self._preprocess.count_tokens(texts)
