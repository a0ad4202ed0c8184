"""`PretrainingObjective`: what a pretraining minimises. An objective is one subclass and one record of its settings."""

import abc
import typing
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from tl_app.backbones.backbone import Backbone
from tl_app.config import Config
from tl_app.data.corpus.corpus import Corpus
from tl_app.model.model import BackboneWithHead
from tl_app.recipes.phase import Phase


class PretrainingObjective(abc.ABC):
  """What a pretraining minimises. Its settings are a frozen record in `Phase.objective`.

  An instance holds no state. `network` and `example` belong together: one takes the inputs that the other makes.

  Attributes:
    warm_up_steps: steps in which the head trains alone before the backbone does; 0 for a head that needs none. A new
      head would else destroy what the backbone knows.
    metrics: {key of a held-out metric: its title}, the loss first. The best epoch has the lowest loss.
  """

  warm_up_steps: int = 0
  metrics: typing.ClassVar[dict[str, str]] = {"loss": "loss"}

  @abc.abstractmethod
  def settings(self, config: Config) -> typing.Any:
    """Returns the frozen record of `tl_app.recipes.phase` with the settings of the flags."""

  @abc.abstractmethod
  def problem(self, backbone: Backbone, config: Config) -> str:
    """Returns why the objective does not work with a backbone or with the flags, one line for the user, or ""."""

  @abc.abstractmethod
  def head(self, backbone: Backbone, settings: typing.Any) -> keras.Model:
    """Returns the `keras.Model` named "head" on outputs of the backbone, with fresh weights.

    It is thrown away after the pretraining. Its variables are the stage "head"; it must not hold those of the backbone.

    Args:
      backbone: the `Backbone`.
      settings: what `settings` returned.
    """

  @abc.abstractmethod
  def network(self, model: BackboneWithHead, phase: Phase) -> keras.Model:
    """Returns the model to fit, from the inputs of `example` to what the loss reads.

    `graphs.backbone_outputs(model, phase)` gives the outputs of the backbone as the phase trains it.
    """

  @abc.abstractmethod
  def example(
    self, model: BackboneWithHead, phase: Phase, seed: int, prepared: typing.Any = None, held_out: bool = False
  ) -> Callable:
    """Returns the in-graph function (raw, rows, number) -> (inputs of `network`, targets).

    Args of the function: string [batch] of UTF-8 texts or encoded images; int64 [batch] positions in the training part,
    or in the held-out one; int64 number of the batch. The same number must give the same result: derive every random
    choice from (`seed`, number), as in `tf.random.stateless_uniform`.

    Args:
      model: the `BackboneWithHead`; `model.backbone.preprocess` reads `raw`.
      phase: the `Phase`.
      seed: seed of the random choices.
      prepared: what `prepare` returned.
      held_out: whether the examples are those of the held-out part.
    """

  @abc.abstractmethod
  def loss(self, phase: Phase) -> Callable:
    """Returns a new Keras loss, a function of (targets, outputs of `network`)."""

  def phases(self, planned: list[Phase]) -> list[Phase]:
    """Returns the phases of a run: those of `recipes.pretrain`, or more, each with its own name."""
    return planned

  def prepare(self, model: BackboneWithHead, phase: Phase, corpus: Corpus) -> typing.Any:
    """Returns what `example` needs besides an example, such as pseudo-labels of all rows, computed before a phase.

    It may give the head new initial values. It is a dict of NumPy arrays, which a run that continues does not compute
    again, or None.
    """
    return None

  def measure(self, network: keras.Model, phase: Phase) -> Callable[[Iterable], dict[str, float]]:
    """Returns the function that measures held-out batches: iterable of (inputs, targets) -> {key of `metrics`: value}.

    It is traced once, and reads the variables as they are when it is called. By default the loss, without dropout.

    Args:
      network: what `network` returned.
      phase: the `Phase`.
    """
    loss = self.loss(phase)

    @tf.function(reduce_retracing=True)
    def of_batch(inputs, targets):
      return tf.reduce_mean(loss(targets, network(inputs, training=False)))

    def run(batches):
      total = examples = 0.0
      for inputs, targets in batches:
        size = int(tf.shape(tf.nest.flatten(inputs)[0])[0])
        total, examples = total + size * float(of_batch(inputs, targets)), examples + size
      return {"loss": total / examples}

    return run

  def description(self, phase: Phase) -> str:
    """Returns the settings of the objective for the printed plan, such as ", 15 % of the tokens masked"."""
    return ""
