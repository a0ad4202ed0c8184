"""`Config`: one frozen dataclass, one field per flag, the only home of defaults. Standard library only."""

import dataclasses
import difflib
import json
import math
import os
import typing

from tl_app.errors import UserError

# What --batch_size may be besides a number.
AUTO = "auto"


def _field(default, help, choices=None, low=None, high=None, word=None):
  metadata = {"help": help, "choices": choices, "low": low, "high": high, "word": word}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that decides a run. A field is a flag of the same name; `validate` refuses what cannot work."""

  # Where
  workdir: str = _field("", "Directory of this run: everything decided or measured is written there.")
  cache_dir: str = _field(
    "", "Directory of downloads and features. Empty: $TL_APP_CACHE, else tl_app in the user's cache directory."
  )
  offline: bool = _field(False, "Refuse the network: only what is cached or local is used.")

  # Backbone
  backbone: str = _field("", "Name from `python -m tl_app.inspect`, or a handle: URL, kaggle://, hf://, directory.")
  preprocessor: str = _field(
    "", "Handle of the text module's preprocessing twin. Empty: the table's, else built from the module's vocabulary."
  )
  pooling: str = _field(
    "auto",
    "Features from the backbone's output: auto takes the table's or the model's own choice; mean over real tokens or "
    "positions; cls is the first token; pooler is the module's own pooled output.",
    choices=("auto", "mean", "cls", "pooler"),
  )
  max_length: int = _field(
    0,
    "Text length in tokens, special ones included. 0: holds 99 % of the training texts, at most the backbone's limit.",
    low=0,
  )
  long_text: str = _field(
    "head",
    "What is read of a text of more than --max_length tokens. head: its beginning. head_tail: a quarter of what fits "
    "from its beginning, the rest from its end. windows: all of it, in overlapping windows of --max_length tokens "
    "(0: at most 128), whose features are averaged.",
    choices=("head", "head_tail", "windows"),
  )
  max_windows: int = _field(
    8, "Windows of a text, at most; those of a longer text are spread evenly over it. Bounds memory and time.", low=2
  )
  image_size: int = _field(0, "Height and width in pixels. 0: the backbone's own.", low=0, high=4096)

  pixels: str = _field(
    "auto",
    "Range of the pixels that a SavedModel takes. auto: its record's, and of one without a record 0 to 1, as TF Hub's "
    "are. unit: 0 to 1; signed: -1 to 1; byte: 0 to 255, which what Keras exports of its applications mostly takes.",
    choices=("auto", "unit", "signed", "byte"),
  )

  # Data
  dataset: str = _field(
    "",
    "movie_reviews, digits, images:DIR, table:PATH, tfrecord:PATH (each a glob too), or tfds:NAME[/CONFIG][:VERSION].",
  )
  validation_dataset: str = _field("", "Validation examples, in any form of --dataset. Empty: from --dataset.")
  test_dataset: str = _field("", "Test examples, in any form of --dataset. Empty: from --dataset.")
  data_dir: str = _field("", "Directory of prepared TFDS data sets.")
  text_column: str = _field("text", "Column (or feature) of the text.")
  text_pair_column: str = _field("", "Column of the second text, for pairs of texts.")
  pair_encoding: str = _field(
    "apart",
    "How the backbone reads --text_pair_column. apart: each text by itself, the head sees both features, their "
    "distance and their product. together: as one sequence with segment ids.",
    choices=("apart", "together"),
  )
  image_column: str = _field("image", "Column of image paths, relative to the table, or feature of encoded images.")
  label_column: str = _field("label", "Column (or feature) of the label.")
  label_columns: str = _field(
    "", "Several columns with commas, in place of --label_column: a class each, 0 or 1, or an amount each."
  )
  label_separator: str = _field(
    "", "What joins the classes in a cell of --task=multi_label. Empty: found in the labels among , ; |"
  )
  task: str = _field(
    "auto",
    "What the labels are. single_label: one class an example. multi_label: any number of classes. regression: one or "
    "more amounts. token_classification: a tag a word (BIO, IOB1, IOBES, BILOU). auto: found in the labels, and said.",
    choices=("auto", "single_label", "multi_label", "regression", "token_classification"),
  )
  group_column: str = _field("", "Column of a patient, user or document: a drawn split never separates its examples.")
  time_column: str = _field(
    "", "Column of numbers or ISO dates: the latest examples become the test split, those before them validation."
  )
  split_seed: int = _field(0, "Seed of the splits that are drawn.", low=0)
  validation_fraction: float = _field(0.1, "Share of the training examples drawn for validation.", low=0.01, high=0.5)
  test_fraction: float = _field(0.2, "Share of all examples drawn for test.", low=0.01, high=0.9)
  max_examples: int = _field(0, "Use at most this many training examples, stratified. 0: all.", low=0)
  max_examples_per_class: int = _field(
    0, "Use at most this many training examples of each class, as in few-shot studies. 0: all.", low=0
  )
  on_bad_example: str = _field(
    "fail", "An unreadable or empty example: stop, or skip it and list it.", choices=("fail", "skip")
  )
  on_leak: str = _field(
    "report",
    "Given splits that share equal or nearly equal examples, or groups: say how many, or stop.",
    choices=("report", "fail"),
  )

  # Training
  recipe: str = _field(
    "lp_ft",
    "probe: the head on frozen features. lp_ft: the probe, then fine-tuning from it. gradual: the probe, then one "
    "more stage a phase from the top. full: everything at once from a fresh head. lora: the probe, then low-rank "
    "updates of the kernels. bias_norm: the probe, then biases and normalisation only. contrastive: the backbone by "
    "supervised contrast, then the probe anew; for few examples a class. The best rung ships.",
    choices=("probe", "lp_ft", "gradual", "full", "lora", "bias_norm", "contrastive"),
  )
  train_stages: str = _field(
    "all",
    "What fine-tuning trains: all, none, top:N, stage names with commas (head is the new one), or a regular "
    "expression over variable names.",
  )
  bn: str = _field(
    "frozen",
    "BatchNormalization in fine-tuning. frozen: everywhere with its own statistics. train_unfrozen: on batch "
    "statistics in the stages that train. train: everywhere.",
    choices=("frozen", "train_unfrozen", "train"),
  )
  head: str = _field(
    "linear",
    "How the probe is found: linear is AdamW on the loss; logistic, svm and (of --task=regression) ridge are "
    "scikit-learn's, their strength chosen on the validation split.",
    choices=("linear", "logistic", "svm", "ridge"),
  )
  epochs: int = _field(0, "Epochs of fine-tuning. 0: about 1,000 optimizer steps, between 3 and 20 epochs.", low=0)
  head_epochs: int = _field(100, "Epochs of the probe, at most.", low=1)
  batch_size: int | str = _field(
    32,
    "Examples per optimizer step, over all devices together. auto: 32, computed in parts of 16, 8, .. examples where "
    "memory does not hold more: the steps stay what they are. Answers likewise.",
    low=1,
    word=AUTO,
  )
  batch_tokens: int = _field(
    0,
    "Tokens of a batch of texts in fine-tuning, padding included, in place of --batch_size: many short texts or few "
    "long ones, of like length; each text counts the same. 0: off.",
    low=0,
    high=2**30,
  )
  learning_rate: float = _field(
    0.0,
    "Peak learning rate of fine-tuning, at the top stage and at a probed head. 0: by recipe, modality and width.",
    low=0.0,
  )
  backbone_learning_rate: float = _field(
    0.0, "Peak learning rate of the top stage of the backbone. 0: as --learning_rate.", low=0.0
  )
  head_learning_rate: float = _field(1e-3, "Peak learning rate of a fresh head.", low=0.0)
  layer_decay: float = _field(
    0.9, "Each stage's learning rate as a share of that of the stage above it.", low=0.01, high=1.0
  )
  lora_rank: int = _field(8, "Rank of the updates of --recipe=lora.", low=1)
  weight_decay: float = _field(
    0.01,
    "Decoupled weight decay of AdamW, times the learning rate; not on biases and normalisation.",
    low=0.0,
    high=1.0,
  )
  clip_norm: float = _field(1.0, "Largest global norm of a gradient in fine-tuning. 0: no limit.", low=0.0)
  label_smoothing: float = _field(0.0, "Share of the target spread over all classes in fine-tuning.", low=0.0, high=0.9)
  augment: str = _field(
    "none",
    "Random changes of the training examples in fine-tuning. Images: light and medium flip, rotate, zoom, shift, "
    "brighten; rand is RandAugment. Texts: light and medium replace, swap and drop words.",
    choices=("none", "light", "medium", "rand"),
  )
  augment_copies: int = _field(
    0,
    "Changed copies of each training example that --augment makes once: the probe learns from them too, and frozen "
    "stages run once for each. 0: fine-tuning changes every example anew in each step.",
    low=0,
    high=64,
  )
  mixup: float = _field(
    0.0, "Alpha of mixup of images in fine-tuning, off in the last 15 % of the steps. 0: off.", low=0.0, high=1.0
  )
  cutmix: float = _field(
    0.0, "Alpha of cutmix, likewise; with --mixup each batch takes one of the two. 0: off.", low=0.0, high=1.0
  )
  imbalance: str = _field(
    "none",
    "For rare classes, in probe and fine-tuning. class_weights: by effective number of examples. focal: focal loss. "
    "balanced: every class equally often. logit_adjustment: by the logarithm of the class shares.",
    choices=("none", "class_weights", "focal", "balanced", "logit_adjustment"),
  )
  accumulate_steps: int = _field(1, "Batches whose gradients make one optimizer step in fine-tuning.", low=1)
  ema: float = _field(
    0.99, "Momentum of the averaged weights, a rung of their own after fine-tuning. 0: off.", low=0.0, high=0.99999
  )
  max_minutes: float = _field(
    0.0,
    "Minutes from the reading of the data to the end of the run. By measured times: images are taken smaller where "
    "their features alone would fill it; fine-tuning is cut to fewer epochs, then to the upper stages, then to a part "
    "of an epoch. The probe is always made. 0: no limit.",
    low=0.0,
  )
  early_stopping_patience: int = _field(
    10, "Stop a phase after this many epochs without a better validation figure. 0: never.", low=0
  )
  seed: int = _field(0, "Seed of shuffling, dropout and initialisation.", low=0)

  # Machine
  strategy: str = _field("auto", "auto: mirrored when there are several GPUs.", choices=("auto", "single", "mirrored"))
  num_devices: int = _field(
    0, "Devices of --strategy=mirrored; logical CPU devices where there is no GPU. 0: all.", low=0, high=64
  )
  precision: str = _field(
    "auto",
    "What the backbone computes fine-tuning steps in; variables, head, loss and all answers stay float32. auto: for "
    "500 steps or more the candidates are measured here, and a clearly faster one that keeps the loss is taken.",
    choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
  )
  jit: str = _field(
    "auto",
    "Whether XLA compiles fine-tuning steps. auto: measured like --precision on a GPU, else not.",
    choices=("auto", "on", "off"),
  )
  frozen_engine: str = _field(
    "auto",
    "What computes frozen features on a CPU, always in float32. auto: OpenVINO where it is installed, there is enough "
    "to compute and its features agree with TensorFlow's, which computes everything else.",
    choices=("auto", "tensorflow", "openvino"),
  )
  feature_cache: str = _field(
    "auto", "auto: frozen features are kept in --cache_dir. off: computed in every run. Or a directory."
  )
  feature_cache_gb: float = _field(
    8.0,
    "Most GB that all features there may take, those longest unused go first. What does not fit is computed in every "
    "run, and in every step below stages that train.",
    low=0.0,
  )

  profile_input: bool = _field(
    False,
    "Measure before fine-tuning what share of a step waits for its data, and which part of the input pipeline takes "
    "how long. It changes no result.",
  )

  # Result
  export: bool = _field(True, "Write the SavedModel and compare it with the evaluation in a fresh process.")

  @property
  def examples_per_step(self):
    """--batch_size as a number."""
    return FIELDS["batch_size"].default if self.batch_size == AUTO else self.batch_size


@dataclasses.dataclass(frozen=True)
class Facts:
  """What `Config` does not know before data and backbone are loaded; recipes are functions of both.

  Attributes:
    num_train: training examples.
    num_classes: logits.
    modality: "text" or "image".
    feature_size: width of the backbone's pooled output.
    stages: ordered dict, stage of the backbone -> tuple of the paths of those of its variables that can train, from the
      input upwards; a stage that does not reach the features has none.
    score: key of the task's figure that fine-tuning is watched by.
    batch_examples: of a batch of --batch_tokens on average, where it is given.
  """

  num_train: int
  num_classes: int
  modality: str
  feature_size: int
  stages: dict
  score: str = "accuracy"
  batch_examples: float = 0.0


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# Of a field that takes a word besides numbers, that of the numbers.
TYPES = {name: (typing.get_args(hint) or [hint])[0] for name, hint in typing.get_type_hints(Config).items()}


def validate(config, needed=("workdir", "backbone", "dataset")):
  """Raises `UserError` on the first value that cannot work, or the first of the fields `needed` that is empty."""
  for name, field in FIELDS.items():
    value, meta = getattr(config, name), field.metadata
    if meta["word"] and value == meta["word"]:
      continue
    if not isinstance(value, TYPES[name]) or (TYPES[name] is not bool and isinstance(value, bool)):
      raise UserError(f"--{name}={value!r} is not of type {TYPES[name].__name__}")
    if meta["choices"] and value not in meta["choices"]:
      raise UserError(f"--{name}={value} is not one of: {', '.join(meta['choices'])}")
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name}={value} is not a number")
    if meta["low"] is not None and not value >= meta["low"]:
      raise UserError(f"--{name}={value} is below {meta['low']}")
    if meta["high"] is not None and not value <= meta["high"]:
      raise UserError(f"--{name}={value} is above {meta['high']}")
  if config.head_learning_rate == 0:
    raise UserError("--head_learning_rate=0 trains no head: give a rate above 0")
  if 0 < config.max_length < 3:
    raise UserError(f"--max_length={config.max_length} leaves no token beside the first and the last: give 3 or more")
  for name in needed:
    if not getattr(config, name):
      raise UserError(f"--{name} is needed: {FIELDS[name].metadata['help']}")
  if config.validation_fraction + config.test_fraction >= 1:
    raise UserError("--validation_fraction and --test_fraction leave nothing to train on: lower one")
  if not config.text_pair_column:
    refuse(config, ["pair_encoding"], "without --text_pair_column")
  if config.augment == "none":
    refuse(config, ["augment_copies"], "without --augment")
  if config.long_text != "windows":
    refuse(config, ["max_windows"], "without --long_text=windows")
  if config.batch_tokens:
    refuse(config, ["batch_size"], f"with --batch_tokens={config.batch_tokens}")
    if config.jit == "on":
      raise UserError("--jit=on does not go with --batch_tokens: XLA would compile nearly every batch by itself")
    if config.long_text == "windows":
      raise UserError("--batch_tokens does not go with --long_text=windows: take --batch_size=auto")
  if config.long_text != FIELDS["long_text"].default and config.pair_encoding == "together":
    raise UserError(f"--long_text={config.long_text} does not go with --pair_encoding=together: take apart")
  if config.imbalance != "none" and config.head != "linear":
    raise UserError(f"--imbalance={config.imbalance} needs --head=linear, not {config.head}")
  if config.recipe == "contrastive":
    refuse(config, ["mixup", "cutmix", "label_smoothing", "batch_tokens"], "with --recipe=contrastive")
    refuse_auto(config, "with --recipe=contrastive, which compares the examples of a whole batch")
  if config.label_columns and config.label_column != FIELDS["label_column"].default:
    raise UserError("--label_column and --label_columns: give one of them")
  if config.num_devices > 1 and config.strategy == "single":
    raise UserError(f"--num_devices={config.num_devices} needs --strategy=mirrored, not single")
  fixed = config.batch_size != AUTO and not config.batch_tokens
  if fixed and config.strategy != "single" and config.num_devices and config.batch_size % config.num_devices:
    raise UserError(
      f"--batch_size={config.batch_size} is the global batch: make it a multiple of --num_devices={config.num_devices}"
    )
  if config.feature_cache == "off":
    refuse(config, ["feature_cache_gb"], "with --feature_cache=off")
  if not config.feature_cache:
    raise UserError("--feature_cache is empty: give auto, off or a directory")
  if config.feature_cache not in ("auto", "off") and os.path.isfile(os.path.expanduser(config.feature_cache)):
    raise UserError(f"--feature_cache={config.feature_cache} is a file: give auto, off or a directory")


def refuse(config, names, where):
  """Raises `UserError` at the first of the fields `names` that is given although it does nothing there.

  Args:
    config: `Config`.
    names: of fields; at its default one is not given.
    where: ends the sentence "--name=value does nothing ..".
  """
  for name in names:
    if getattr(config, name) != FIELDS[name].default:
      raise UserError(f"--{name}={getattr(config, name)} does nothing {where}: leave it out")


def refuse_auto(config, where):
  """Raises `UserError` at --batch_size=auto; `where` as of `refuse`."""
  if config.batch_size == AUTO:
    refuse(config, ["batch_size"], where)


def to_json(config):
  """Returns the JSON text of `config`: every field, in the order of the class."""
  return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text, source="config"):
  """Returns the `Config` written by `to_json`. Missing fields take their defaults; unknown ones are refused."""
  try:
    values = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{source} is not JSON: {error}") from None
  if not isinstance(values, dict):
    raise UserError(f"{source} does not hold a JSON object of flags and values")
  for name in values:
    if name not in FIELDS:
      raise UserError(f"{source} has an unknown field {name!r}{suggestion(name, FIELDS)}")
    if TYPES[name] is float and isinstance(values[name], int) and not isinstance(values[name], bool):
      values[name] = float(values[name])
  return Config(**values)


def suggestion(name, known):
  """Returns `"; did you mean X?"` for the nearest known name, or an empty string."""
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  return f"; did you mean {near[0]}?" if near else ""


def differing(config, other):
  """Returns the names of the fields in which two configs differ and that change the result of a run."""
  where = {"workdir", "cache_dir", "offline", "frozen_engine", "feature_cache", "feature_cache_gb", "profile_input"}
  return [name for name in FIELDS if name not in where and getattr(config, name) != getattr(other, name)]
