"""`Phase`: one part of the training, as small frozen records. This module does not import TensorFlow."""

import dataclasses
import math
import typing

HEAD = "head"
# Values of `Trainable.trainable_filter`, in addition to a regular expression over variable paths.
ALL, BIAS_NORM, KERNELS = "all", "bias_norm", "kernels"
# The default optimizer, and the probe solver that minimises the loss by gradient descent; the other solvers are
# scikit-learn's.
ADAMW = "adamw"
# Share of the steps, at the end, without mixup and cutmix. YOLOX (Ge et al. 2021) trains the last 15 of 300 epochs
# without them, and timm has --mixup-off-epoch; a run of few epochs needs a larger share.
CLEAN_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class Trainable:
  """What a phase trains.

  Attributes:
    train_stages: names of the stages that train, from the input upwards; "head" is the new head.
    trainable_filter: which variables of these stages train: "all", "bias_norm", "kernels", or a regular expression.
    bn: mode of BatchNormalization, see --bn.
    lora_rank: rank of the updates of `trainable_filter="kernels"`; 0 updates whole kernels.
    reset_head: whether the head starts from its initial values again.
    restart: whether all variables start from the values of the probe again.
  """

  train_stages: tuple
  trainable_filter: str = ALL
  bn: str = "frozen"
  lora_rank: int = 0
  reset_head: bool = False
  restart: bool = False


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a phase trains.

  Attributes:
    epochs: largest number of epochs.
    steps_per_epoch: number of batches per epoch.
    warmup_steps: number of batches until the peak learning rate.
    patience: number of epochs without a better `monitor` after which the phase ends; 0 turns early stopping off.
    monitor: metric of the validation split that decides which epoch is best: "loss", or the name of the primary metric,
      with the loss for ties. "": the weights of the last epoch are kept, and no epoch is validated.
    curve: the learning rate after the warm-up, see --schedule.
  """

  epochs: int
  steps_per_epoch: int
  warmup_steps: int = 0
  patience: int = 0
  monitor: str = "loss"
  curve: str = "cosine"

  @property
  def steps(self) -> int:
    """Number of batches of the whole phase."""
    return self.epochs * self.steps_per_epoch


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
  """How a phase updates its variables.

  Attributes:
    learning_rates: {stage: peak learning rate}.
    weight_decay: decoupled weight decay, multiplied by the learning rate; biases and normalisation have none.
    clip_norm: largest global norm of the gradients; 0 is no limit.
    accumulate_steps: number of batches per optimizer step.
    ema: momentum of the averaged weights; 0 averages none.
    solver: "adamw", or the scikit-learn solver of a head: "logistic", "svm", "ridge".
    solver_reason: why it is this solver.
    strength: of the regularisation of a scikit-learn solver; 0 is chosen on the validation split.
    algorithm: name of the optimizer, see --optimizer.
    momentum: momentum of "sgd".
  """

  learning_rates: dict
  weight_decay: float = 0.0
  clip_norm: float = 0.0
  accumulate_steps: int = 1
  ema: float = 0.0
  solver: str = ADAMW
  solver_reason: str = ""
  strength: float = 0.0
  algorithm: str = ADAMW
  momentum: float = 0.9

  @property
  def uses_gradients(self) -> bool:
    """Whether the phase minimises the loss by gradient descent; a scikit-learn solver does not."""
    return self.solver == ADAMW


@dataclasses.dataclass(frozen=True)
class TaskLoss:
  """Objective: the loss of the task, on the logits of the head.

  Attributes:
    label_smoothing: share of the target probability that is spread over all classes, 0 to 1.
    imbalance: how class imbalance is handled, see --imbalance.
  """

  label_smoothing: float = 0.0
  imbalance: str = "none"

  name: typing.ClassVar[str] = "task_loss"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class SupervisedContrastive:
  """Objective: the supervised contrastive loss (Khosla et al. 2020), on L2-normalised features.

  Attributes:
    batch_classes: number of classes in a batch; each has the same number of examples.
  """

  batch_classes: int

  imbalance: typing.ClassVar[str] = "none"
  name: typing.ClassVar[str] = "supervised_contrastive"
  trains_head: typing.ClassVar[bool] = False
  keeps_averages: typing.ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class MaskedTokens:
  """Objective of pretraining: the masked tokens of a text (Devlin et al. 2019, BERT).

  Attributes:
    mask_share: share of the tokens that are predicted.
    whole_words: whether all tokens of a word are masked together.
  """

  mask_share: float = 0.15
  whole_words: bool = False

  name: typing.ClassVar[str] = "masked_tokens"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Objective of pretraining: each token of a text, from those before it.

  Attributes:
    sampled_tokens: number of tokens with which training compares the right one; 0 for all.
  """

  sampled_tokens: int = 1024

  name: typing.ClassVar[str] = "next_token"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Views:
  """Objective of pretraining: agreement of two views of an example.

  Attributes:
    temperature: divisor of the similarities; 0 for the one of the modality.
    crop_scale: smallest share of the area of an image that a view shows.
    color_jitter: largest relative change of brightness, contrast and saturation.
    view_flip: whether half of the views are mirrored.
  """

  temperature: float
  crop_scale: float
  color_jitter: float
  view_flip: bool

  name: typing.ClassVar[str] = "views"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Reconstruct:
  """Objective of pretraining: an example is rebuilt from the features of what is left of it.

  Attributes:
    noise_share: share of the patches of an image, or of the tokens of a text, that are hidden.
  """

  noise_share: float

  name: typing.ClassVar[str] = "reconstruct"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Clusters:
  """Objective of pretraining: the clusters of the features, found anew before each round.

  Attributes:
    clusters: number of clusters.
    rounds: number of rounds that share the epochs.
    crop_scale: as in `Views`.
    color_jitter: as in `Views`.
    view_flip: as in `Views`.
  """

  clusters: int
  rounds: int
  crop_scale: float
  color_jitter: float
  view_flip: bool

  name: typing.ClassVar[str] = "clusters"
  trains_head: typing.ClassVar[bool] = True
  keeps_averages: typing.ClassVar[bool] = False


# Every record that `Phase.objective` may be: of training on labels, and of pretraining.
OBJECTIVES = (TaskLoss, SupervisedContrastive)
PRETRAINING_OBJECTIVES = (MaskedTokens, NextToken, Views, Reconstruct, Clusters)


@dataclasses.dataclass(frozen=True)
class InputSpec:
  """What a phase reads.

  Attributes:
    batch_size: global number of examples per batch; with `batch_tokens`, about the mean number.
    batch_tokens: number of tokens per batch of texts, see --batch_tokens; 0 turns it off.
    microbatches: number of equal parts in which a batch is computed, one after the other, if memory does not hold all.
    longest: length in tokens for which `microbatches` was measured; batches of shorter texts need fewer parts.
    recompute_features: whether the head is fitted on features of the current backbone instead of the pretrained one.
    augment: random changes of the examples, see --augment.
    augment_copies: number of changed copies of each example, see --augment_copies.
    mixup: alpha of the Beta distribution of mixup; 0 turns it off.
    cutmix: alpha of the Beta distribution of cutmix; 0 turns it off.
    seed_offset: added to --seed for the order of the examples.
  """

  batch_size: int
  batch_tokens: int = 0
  microbatches: int = 1
  longest: int = 1
  recompute_features: bool = False
  augment: str = "none"
  augment_copies: int = 0
  mixup: float = 0.0
  cutmix: float = 0.0
  seed_offset: int = 0

  @property
  def mixes(self) -> bool:
    """Whether images and targets are mixed."""
    return self.mixup > 0 or self.cutmix > 0


@dataclasses.dataclass(frozen=True)
class Phase:
  """One part of the training.

  Attributes:
    name: "probe", "fine_tune", ..; unique within a run.
    trains: the `Trainable`.
    schedule: the `Schedule`.
    optimizer: the `OptimizerSpec`.
    objective: one of `OBJECTIVES` or `PRETRAINING_OBJECTIVES`, the settings of an objective in `training`.
    inputs: the `InputSpec`.
  """

  name: str
  trains: Trainable
  schedule: Schedule
  optimizer: OptimizerSpec
  inputs: InputSpec
  objective: typing.Any = TaskLoss()

  @property
  def trains_backbone(self) -> bool:
    """Whether any stage of the backbone trains."""
    return any(stage != HEAD for stage in self.trains.train_stages)

  @property
  def first_unmixed_step(self) -> int:
    """Index of the first batch without mixup and cutmix."""
    return self.schedule.steps - math.ceil(CLEAN_SHARE * self.schedule.steps)

  def replace(self, **changes) -> "Phase":
    """Returns the phase with other values: `phase.replace(name="again", epochs=3)`.

    Args:
      **changes: fields of the phase or of one of its records; the field names of the records are unique.

    Raises:
      TypeError: the phase has no such field.
    """
    names = {field.name for field in dataclasses.fields(self)} & set(changes)
    phase = dataclasses.replace(self, **{name: changes.pop(name) for name in names})
    for part in ("trains", "schedule", "optimizer", "objective", "inputs"):
      record = getattr(phase, part)
      names = {field.name for field in dataclasses.fields(record)} & set(changes)
      if names:
        values = {name: changes.pop(name) for name in names}
        phase = dataclasses.replace(phase, **{part: dataclasses.replace(record, **values)})
    if changes:
      raise TypeError(f"a Phase has no field {next(iter(changes))!r}")
    return phase

  def to_json(self) -> dict:
    """Returns all fields as one flat dict, as in plan.json."""
    records = (self.trains, self.schedule, self.optimizer, self.objective, self.inputs)
    flat = {key: value for record in records for key, value in dataclasses.asdict(record).items()}
    return {"name": self.name, "objective": self.objective.name} | flat

  @classmethod
  def from_json(cls, values: dict) -> "Phase":
    """Returns the phase from the dict that `to_json` returned; other keys are ignored."""
    objectives = {objective.name: objective for objective in (*OBJECTIVES, *PRETRAINING_OBJECTIVES)}
    values = values | {"train_stages": tuple(values["train_stages"])}
    records = {
      "trains": Trainable,
      "schedule": Schedule,
      "optimizer": OptimizerSpec,
      "objective": objectives[values["objective"]],
      "inputs": InputSpec,
    }
    parts = {
      name: record(**{field.name: values[field.name] for field in dataclasses.fields(record)})
      for name, record in records.items()
    }
    return cls(name=values["name"], **parts)
