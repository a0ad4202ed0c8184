"""`Modality`: what one kind of input needs, from reading it to showing it."""

import abc
import pathlib
import typing

import numpy as np

from tl_app.data.examples import Inputs


class Modality(abc.ABC):
  """How inputs of one kind are read, verified, compared, fed to a network, augmented and shown.

  An instance holds no state. Code outside of `tl_app.data.modalities` asks for a capability or calls a method; it never
  compares names. `modalities.of` looks a modality up by its name.

  Attributes:
    name: the value of `BackboneSpec.modality` and of "modality" in JSON files, e.g. "text".
    plural: the noun in messages, e.g. "texts".
    column_flag: the flag that names the column of these inputs in a table.
    flags: the flags that concern this modality and no other.
    predict_sources: what --input of `predict` takes, for messages.
    encoded_form: the encoded form of one input, for messages, e.g. "one text".
    is_decoded: whether the inputs are files that must be decoded. They are verified in several threads, and decoded
      once for each content.
    varies_in_length: whether inputs take different numbers of tokens. Batches then hold inputs of similar length.
    is_batched: whether the steps of a stream take a batch of inputs at a time. Otherwise they take one.
    few_steps: smallest number of steps in which `--preset=balanced` fine-tunes few examples.
    few_frozen: share of the stages, from the input upwards, that `--preset=balanced` does not train on few examples.
    units: what an explanation of an answer gives scores to: "words" or "regions".
    prefers_openvino: whether --frozen_engine=auto may choose OpenVINO.
    augmentations: the values of --augment that a search tries.
    token_checks: the kinds of findings that need the tokens of a backbone.
    serving_modules: the modules that a process must import, besides TensorFlow, to run an export.
    blank: an encoded input that stands in for those of an empty batch, where networks do not answer one; else None.
  """

  name: str
  plural: str
  column_flag: str
  flags: tuple[str, ...]
  predict_sources: str
  encoded_form: str
  is_decoded: bool = False
  varies_in_length: bool = False
  is_batched: bool = False
  few_steps: int = 150
  few_frozen: float = 0.0
  units: str = ""
  prefers_openvino: bool = False
  augmentations: tuple[str, ...] = ()
  token_checks: tuple[str, ...] = ()
  serving_modules: tuple[str, ...] = ()
  blank: bytes | None = None

  @property
  @abc.abstractmethod
  def served_form(self) -> str:
    """What the signatures of an export take, in a few words."""

  @abc.abstractmethod
  def learning_rate(self, feature_size: int) -> float:
    """Returns the default peak learning rate of fine-tuning the whole network.

    Args:
      feature_size: width of the backbone's features.
    """

  @abc.abstractmethod
  def locate(self, cell: str, table: pathlib.Path) -> tuple[typing.Any, str]:
    """Returns (value, reason): what a cell of a table stands for, or why it stands for nothing.

    Args:
      cell: a cell of the column of these inputs, not empty.
      table: path of the table's file.
    """

  @abc.abstractmethod
  def from_bytes(self, data: bytes, store: typing.Callable[[bytes], typing.Any]) -> typing.Any:
    """Returns the value of an input that a data set holds as bytes.

    Args:
      data: the bytes.
      store: function that keeps bytes on disk, or knows where they lie, and returns the value that leads to them.

    Raises:
      ValueError: the bytes are no such input; the message is for the user.
    """

  @abc.abstractmethod
  def encode(self, value: typing.Any) -> tuple[bytes, str]:
    """Returns (bytes, reason): what a client of the export sends for an input, or why the input cannot be read.

    Args:
      value: an input as a `Column` holds it, or None where it is absent.
    """

  def verify(self, encoded: bytes) -> str | None:
    """Returns why training could not decode an input, or None if it can."""
    return None

  @abc.abstractmethod
  def fingerprint(self, values: np.ndarray, hashes: np.ndarray, index: typing.Any) -> typing.Any:
    """Returns what tells nearly equal inputs: an object whose `near` is int64 [n], the same for those.

    Args:
      values: object array [n], the values of a column.
      hashes: object array [n] of str, the content hashes of the examples.
      index: `DecodedImageIndex`, which remembers what was found out about images.
    """

  def slice_values(self, values: np.ndarray, hashes: np.ndarray, index: typing.Any) -> dict[str, list[float]]:
    """Returns numbers that divide inputs into slices, {name: number of each input}.

    Args:
      values, hashes, index: as of `fingerprint`.
    """
    return {}

  @abc.abstractmethod
  def training_steps(
    self, inputs: Inputs, preprocess: typing.Callable, augment: typing.Callable | None = None
  ) -> dict[str, typing.Callable]:
    """Returns the steps from the position of an input to what the network reads, in order.

    Args:
      inputs: `Inputs` of this modality.
      preprocess: `Backbone.preprocess`.
      augment: result of `augmentation`, or None.

    Returns:
      {name of the step: function (value, number, index) -> value} of in-graph functions. `value` is the result of the
      step before. `number`, int64 scalar, counts the elements of the stream. `index` is the position in `inputs`: int32
      scalar, or [batch] where `is_batched`.
    """

  @abc.abstractmethod
  def inference_step(self, inputs: Inputs, preprocess: typing.Callable) -> typing.Callable:
    """Returns the in-graph function from the position of an input, or of a batch of them, to what the network reads.

    Args:
      inputs, preprocess: as of `training_steps`.
    """

  @abc.abstractmethod
  def augmentation(self, name: str, inputs: Inputs, seed: int) -> typing.Callable:
    """Returns the function (input, number) -> augmented input that --augment names; see `tl_app.data.augmentation`.

    Args:
      name: of --augment, "none" excepted.
      inputs: those of the training split.
      seed: seed of the run.

    Raises:
      UserError: the augmentation does not fit the modality or the inputs, or a package is absent.
    """

  def plain_features(self, train: Inputs, others: Inputs) -> tuple[typing.Any, typing.Any] | None:
    """Returns features that need no network, for a baseline; None if there are none that are worth a comparison.

    Args:
      train: the inputs of the training split, from which the features may learn.
      others: other inputs.

    Returns:
      (of `train`, of `others`): arrays or sparse matrices [examples, features].
    """
    return None

  @abc.abstractmethod
  def describe_augmentation(self, name: str) -> str:
    """Returns what --augment=`name` does to an input, in a few words."""

  @abc.abstractmethod
  def augmented_copy(self, row: tuple, digest: str, augment: typing.Callable, number: int) -> tuple[tuple, str]:
    """Returns (row, content hash) of an example with one fixed random change.

    Args:
      row: a value for each column.
      digest: the content hash of the example.
      augment: result of `augmentation`.
      number: what tells this change from others.
    """

  @abc.abstractmethod
  def preview(self, row: tuple) -> dict[str, str]:
    """Returns what the report shows of an example, a value for each column: {"text": str} or {"image": data URI}."""
