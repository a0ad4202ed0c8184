"""Which flags go together: one table of small functions, each with the moment at which it can speak.

A rule returns one line about flags that cannot work, or "". It reads plain facts that it is given, so that nothing is
imported from the packages that know them:

| moment | arguments | when |
|---|---|---|
| `FLAGS` | config | before anything is read |
| `DEVICES` | config, number of devices | when the devices are known |
| `DATA` | config, task | when the labels are read |
| `BACKBONE` | config, modality, flags of other modalities, backbone | when the network is loaded |

Rules that need the phases are in `training.phase_rules`.

To add a rule, write its function and put it into `RULES`; `tests/config/test_rules.py` requires an example of each.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterable

from tl_app.config.groups import AUTO, AnswerConfig, PretrainingConfig
from tl_app.config.settings import FIELDS, Config
from tl_app.config.values import fault
from tl_app.errors import UserError

FLAGS, DEVICES, DATA, BACKBONE = "flags", "devices", "data", "backbone"
# Flags of `inspect` about the backbone that it loads.
LOADING_FLAGS = (
  *("preprocessor", "trust_backbone", "pooling", "image_size", "pixels", "init", "network_width", "network_depth"),
  "vocabulary_size",
)
# Flags of the columns of the inputs of a table. An export remembers them, for `predict`.
INPUT_COLUMNS = ("text_column", "text_pair_column", "image_column")
# Flags about downloads, of each command that needs some.
DOWNLOAD_FLAGS = ("cache_dir", "offline", "bundle", "lock")
# Flags with which a finished run loads its backbone again.
RELOADING_FLAGS = (*DOWNLOAD_FLAGS, "trust_backbone")
# Flags of `evaluate` that replace those of the run.
EVALUATION_FLAGS = (
  *("dataset", "data_dir", *INPUT_COLUMNS, "label_column", "label_columns"),
  *("on_bad_example", "slice_columns", "corrections"),
)
MAX_HIDDEN_UNITS = 65536
# Flags of a run that continues where it was interrupted.
CONTINUING = ("resume", "checkpoint_minutes")
# Flags of `pretrain` alone.
PRETRAINING = tuple(field.name for field in dataclasses.fields(PretrainingConfig))
# Flags about the certainty of answers.
ANSWERS = tuple(field.name for field in dataclasses.fields(AnswerConfig))
# Flags about another domain.
ADAPTATION = ("adapt", "unlabelled_dataset")
# All flags that `pretrain` uses.
USED_BY_PRETRAIN = (
  *("workdir", *DOWNLOAD_FLAGS, "seed", "backbone", "preprocessor", "trust_backbone", "pooling", "pixels"),
  *("init", "network_width", "network_depth", "vocabulary_size", "optimizer", "momentum", "schedule", "warmup"),
  *("image_size", "max_length", "dataset", "validation_dataset", "data_dir", "text_column", "image_column"),
  *("label_column", "text_unit", "on_bad_example", "split_seed", "validation_fraction", "max_examples"),
  *PRETRAINING,
  *("train_stages", "bn", "epochs", "batch_size", "learning_rate", "backbone_learning_rate", "head_learning_rate"),
  *("layer_decay", "weight_decay", "clip_norm", "accumulate_steps", "early_stopping_patience", "max_minutes"),
  *("strategy", "num_devices", "deterministic", "precision", "jit", *CONTINUING),
)
# {objective of pretraining: flags that it alone uses}.
OBJECTIVE_FLAGS = {
  "masked_tokens": ("mask_share", "whole_words"),
  "next_token": ("sampled_tokens",),
  "views": ("temperature", "crop_scale", "color_jitter", "view_flip"),
  "reconstruct": ("noise_share",),
  "clusters": ("clusters", "rounds", "crop_scale", "color_jitter", "view_flip"),
}
# Flags that a command does not use.
UNUSED_BY_COMMAND = {
  "train": PRETRAINING,
  "check": (*PRETRAINING, *CONTINUING, "deterministic", "slice_columns"),
  "pretrain": tuple(name for name in FIELDS if name not in USED_BY_PRETRAIN),
  "find_lr": (
    *PRETRAINING,
    *ADAPTATION,
    *ANSWERS,
    *CONTINUING,
    "slice_columns",
    "refit",
    "fine_tuning_seeds",
    "interpolate",
    "backbone_learning_rate",
    "precision",
    "jit",
    "max_minutes",
    "profile_input",
  ),
  "benchmark": (
    *PRETRAINING,
    *ADAPTATION,
    *ANSWERS,
    *CONTINUING,
    "slice_columns",
    "refit",
    "fine_tuning_seeds",
    "interpolate",
    "precision",
    "jit",
    "max_minutes",
    "profile_input",
    "feature_cache",
    "deterministic",
  ),
}


def validate(config: Config, needed: Iterable[str] = ("workdir", "dataset")) -> None:
  """Checks the values of `config`, and the rules that need nothing but flags.

  Raises:
    UserError: a value cannot work, or one of the fields `needed` is empty.
  """
  for name in FIELDS:
    require(fault(name, getattr(config, name)))
  for name in needed:
    if not getattr(config, name):
      raise UserError(f"--{name} is needed: {FIELDS[name].metadata['help']}")
  check(FLAGS, config)


def check(moment: str, config: Config, *facts) -> None:
  """Raises `UserError` with the line of the first rule of `moment` that `config` breaks."""
  for rule in RULES[moment]:
    require(rule(config, *facts))


def require(problem: str) -> None:
  """Raises `UserError` if there is a problem."""
  if problem:
    raise UserError(problem)


def refuse_unused(config: Config, command: str) -> None:
  """Raises `UserError` at the first flag that `command` does not use."""
  if command not in ("train", "pretrain") and config.strategy == "multi_worker":
    raise UserError(f"--strategy=multi_worker is for train and pretrain, not for {command}: pass --strategy=single")
  auto = auto_batch_size(config) if command in ("benchmark", "pretrain") else []
  require(unused(config, [*UNUSED_BY_COMMAND[command], *auto], f"in {command}"))
  if command == "pretrain" and not config.probe_dataset:
    require(unused(config, ["label_column"], "in pretrain without --probe_dataset"))


def is_given(config: Config, name: str) -> bool:
  """Whether a field differs from its default."""
  return getattr(config, name) != FIELDS[name].default


def unused(config: Config, names: Iterable[str], where: str) -> str:
  """Returns "--name=value does nothing {where}: remove the flag" for the first of `names` that is given, or ""."""
  given = [name for name in names if is_given(config, name)]
  return f"--{given[0]}={getattr(config, given[0])} does nothing {where}: remove the flag" if given else ""


def auto_batch_size(config: Config) -> list[str]:
  """Returns the names of --batch_size=auto, for `unused`: empty if it is a number."""
  return ["batch_size"] if config.batch_size == AUTO else []


# FLAGS: (config)


def hidden_units_are_widths(config):
  """--head_hidden_units is a list of widths."""
  for width in config.head_hidden_units.split(",") if config.head_hidden_units else ():
    if not (width.strip().isdecimal() and 0 < int(width) <= MAX_HIDDEN_UNITS):
      return (
        f"--head_hidden_units={config.head_hidden_units}: {width.strip()!r} is no width; use whole numbers from 1 to "
        f"{MAX_HIDDEN_UNITS}, separated by commas"
      )
  return ""


def activation_needs_hidden_units(config):
  """A linear head has no activation."""
  return "" if config.head_hidden_units else unused(config, ["head_activation"], "without --head_hidden_units")


def head_layers_need_gradients(config):
  """scikit-learn's solvers fit a linear head."""
  if config.probe_solver in (AUTO, "adamw"):
    return ""
  for name in ("head_hidden_units", "head_dropout"):
    if is_given(config, name):
      value = getattr(config, name)
      return f"--{name}={value} needs --probe_solver=adamw: {config.probe_solver} of scikit-learn fits a linear head"
  return ""


def momentum_needs_sgd(config):
  """The other optimizers have coefficients of their own."""
  return "" if config.optimizer == "sgd" else unused(config, ["momentum"], f"with --optimizer={config.optimizer}")


def adam_has_no_weight_decay(config):
  """Adam with decoupled weight decay is AdamW."""
  if config.optimizer != "adam":
    return ""
  return unused(config, ["weight_decay"], "with --optimizer=adam: adamw is Adam with weight decay")


def lora_needs_adam(config):
  """The factors of low-rank updates have the moments of Adam."""
  if config.recipe == "lora" and config.optimizer not in ("adamw", "adam"):
    return f"--recipe=lora updates its factors by Adam, not --optimizer={config.optimizer}: use adamw or adam"
  return ""


def length_holds_a_token(config):
  """The first and the last token of a text are special."""
  if 0 < config.max_length < 3:
    return f"--max_length={config.max_length} leaves no token between the first and the last: use 3 or more"
  return ""


def splits_leave_training_examples(config):
  """The fractions of validation and test stay below 1 together."""
  if config.validation_fraction + config.test_fraction >= 1:
    return "--validation_fraction and --test_fraction leave nothing to train on: lower one"
  return ""


def pair_encoding_needs_pairs(config):
  """--pair_encoding is about --text_pair_column."""
  return "" if config.text_pair_column else unused(config, ["pair_encoding"], "without --text_pair_column")


def copies_need_augmentation(config):
  """--augment_copies counts what --augment makes."""
  return "" if config.augment != "none" else unused(config, ["augment_copies"], "without --augment")


def windows_need_long_text(config):
  """--max_windows is about --long_text=windows."""
  return "" if config.long_text == "windows" else unused(config, ["max_windows"], "without --long_text=windows")


def batches_by_examples_or_tokens(config):
  """--batch_tokens replaces --batch_size."""
  return unused(config, ["batch_size"], f"with --batch_tokens={config.batch_tokens}") if config.batch_tokens else ""


def xla_needs_few_shapes(config):
  """XLA compiles once for each shape of a batch."""
  if config.batch_tokens and config.jit == "on":
    return "--jit=on does not go with --batch_tokens: XLA would compile nearly every batch anew"
  return ""


def windows_have_no_token_batches(config):
  """A text of many windows has no one length."""
  if config.batch_tokens and config.long_text == "windows":
    return "--batch_tokens does not go with --long_text=windows: use --batch_size=auto"
  return ""


def long_pairs_are_encoded_separately(config):
  """The long-text methods read one text, not a joined pair."""
  if config.long_text != "head" and config.pair_encoding == "cross_encoder":
    return (
      f"--long_text={config.long_text} does not go with --pair_encoding=cross_encoder: use --pair_encoding=bi_encoder"
    )
  return ""


def imbalance_needs_gradients(config):
  """scikit-learn's solvers have none of these losses and samplers."""
  if config.imbalance != "none" and config.probe_solver not in (AUTO, "adamw"):
    return f"--imbalance={config.imbalance} needs --probe_solver=adamw, not {config.probe_solver}"
  return ""


def contrastive_has_its_own_loss(config):
  """The supervised contrastive loss takes neither mixed nor smoothed targets, and whole batches."""
  if config.recipe != "contrastive":
    return ""
  names = ["mixup", "cutmix", "label_smoothing", "batch_tokens"]
  where = "with --recipe=contrastive, which compares the examples of a whole batch"
  return unused(config, names, "with --recipe=contrastive") or unused(config, auto_batch_size(config), where)


def worst_group_needs_groups(config):
  """--select_metric=worst_group compares groups, unless --select or --adapt has chosen."""
  if config.select_metric == "primary":
    return ""
  for name in ("select", "adapt"):
    if is_given(config, name):
      return f"--select_metric=worst_group does nothing with --{name}={getattr(config, name)}: remove one of them"
  if not config.slice_columns and not config.group_column:
    return "--select_metric=worst_group needs groups: name their columns by --slice_columns or --group_column"
  return ""


def selected_candidate_is_trained(config):
  """--select names a candidate that the recipe trains."""
  if config.select in ("fine_tuned", "averaged", "soup", "interpolated") and config.probe_alone:
    what = "--recipe=probe" if config.recipe == "probe" else "--preset=quick"
    return f"--select={config.select}: {what} fine-tunes nothing; use another one, or remove --select"
  if config.select == "averaged" and not config.ema:
    return "--select=averaged needs averaged weights: use an --ema above 0"
  if config.select == "adapted" and config.adapt == "none":
    return "--select=adapted needs an adaptation: add --adapt"
  return ""


def shares_are_between_0_and_1(config):
  """--interpolate is a list of shares."""
  for share in () if config.interpolate in (AUTO, "none") else config.interpolate.split(","):
    try:
      inside = 0 < float(share) < 1
    except ValueError:
      inside = False
    if not inside:
      return (
        f"--interpolate={config.interpolate}: {share.strip()!r} is no share between 0 and 1; use 0.5, 0.25,0.5,0.75 or "
        "none"
      )
  return ""


def soups_and_shares_start_from_the_probe(config):
  """Weights are averaged between models that share their start."""
  names = []
  if config.recipe in ("gradual", "contrastive"):
    names = ["fine_tuning_seeds", "interpolate"]
  elif config.recipe == "full":
    names = ["interpolate"]
  elif config.probe_alone:
    return unused(config, ["fine_tuning_seeds", "interpolate"], "where nothing is fine-tuned")
  given = next((name for name in names if is_given(config, name)), "")
  value = getattr(config, given) if given else ""
  return given and f"--{given}={value} does not go with --recipe={config.recipe}: remove one of them"


def refit_takes_all_examples(config):
  """--refit=always learns from the validation examples too."""
  if config.refit != "always":
    return ""
  names = ("max_examples", "max_examples_per_class", "time_column", "adapt")
  given = next((name for name in names if is_given(config, name)), "")
  return (
    given and f"--refit=always learns from the validation examples too, and --{given} does not allow it: remove one"
  )


def adaptation_has_a_target(config):
  """--adapt and --unlabelled_dataset belong together."""
  if config.adapt != "none" and not config.unlabelled_dataset:
    return f"--adapt={config.adapt} needs examples of the target domain: add --unlabelled_dataset"
  return "" if config.adapt != "none" else unused(config, ["unlabelled_dataset"], "without --adapt")


def adaptation_trains_the_head(config):
  """The features of source and target are those of the frozen backbone, one text or image each."""
  if config.adapt == "none":
    return ""
  if config.recipe != "probe":
    return f"--adapt={config.adapt} adapts the head on frozen features: add --recipe=probe"
  if config.adapt == "dann" and not config.head_hidden_units:
    return "--adapt=dann trains hidden layers of the head: add --head_hidden_units, such as 256"
  if config.adapt == "dann" and config.probe_solver not in (AUTO, "adamw"):
    return f"--adapt=dann needs --probe_solver=adamw, not {config.probe_solver}"
  names = ["text_pair_column", "augment_copies"]
  return unused(config, names, f"with --adapt={config.adapt}")


def one_way_to_name_labels(config):
  """--label_columns replaces --label_column."""
  if config.label_columns and is_given(config, "label_column"):
    return "--label_column and --label_columns: use one of them"
  return ""


def words_have_one_tag(config):
  """A table with one word per row has one column of texts and one of tags."""
  if config.sentence_column and (config.text_pair_column or config.label_columns):
    other = "text_pair_column" if config.text_pair_column else "label_columns"
    return f"--sentence_column does not go with --{other}: a row is one word with one tag"
  return ""


def label_names_name_one_column(config):
  """--label_columns have names already."""
  return unused(config, ["label_names"], "with --label_columns, which are names") if config.label_columns else ""


def devices_need_a_strategy(config):
  """Several devices need --strategy=mirrored."""
  if config.num_devices > 1 and config.strategy == "single":
    return f"--num_devices={config.num_devices} needs --strategy=mirrored, not single"
  if config.strategy == "multi_worker":
    return unused(config, ["num_devices"], "with --strategy=multi_worker, which uses all devices of each worker")
  return ""


def workers_do_the_same(config):
  """What one process measures or computes by itself does not go with several workers."""
  if config.strategy != "multi_worker":
    return ""
  alone = ["profile_input", "adapt", *auto_batch_size(config)]
  line = unused(config, alone, "with --strategy=multi_worker")
  return line and f"{line}, or pass --strategy=single"


def devices_share_a_batch(config):
  """Every device gets the same number of examples."""
  by_examples = config.batch_size != AUTO and not config.batch_tokens
  if by_examples and config.strategy != "single" and config.num_devices and config.batch_size % config.num_devices:
    return (
      f"--batch_size={config.batch_size} is the global batch: make it a multiple of --num_devices={config.num_devices}"
    )
  return ""


def cache_size_needs_a_cache(config):
  """--feature_cache_gb limits the cache of --feature_cache."""
  return unused(config, ["feature_cache_gb"], "with --feature_cache=off") if config.feature_cache == "off" else ""


def cache_is_a_directory(config):
  """--feature_cache is auto, off or a directory."""
  if not config.feature_cache:
    return "--feature_cache is empty: use auto, off or a directory"
  if config.feature_cache not in ("auto", "off") and os.path.isfile(config.feature_cache):
    return f"--feature_cache={config.feature_cache} is a file: use auto, off or a directory"
  return ""


def openvino_is_installed(config):
  """--frozen_engine=openvino needs an optional package."""
  if config.frozen_engine == "openvino" and importlib.util.find_spec("openvino") is None:
    return "--frozen_engine=openvino needs OpenVINO: pip install 'tl_app[openvino]', or remove the flag"
  return ""


def columns_need_a_table(config):
  """Groups, times and pairs of texts are read from tables only; slices from everything with named columns."""
  for flag, name in _datasets(config).items():
    if config.slice_columns and not name.startswith(("table:", "tfds:", "tfrecord:")):
      return f"--slice_columns={config.slice_columns} needs data with columns, and --{flag}={name} has none"
    if not name.startswith("table:"):
      for key in ("group_column", "time_column", "sentence_column"):
        if getattr(config, key):
          return f"--{key}={getattr(config, key)} names a column of a table, but --{flag}={name} is none"
      if config.text_pair_column:
        return f"--text_pair_column={config.text_pair_column} needs --{flag}=table:PATH, not {name}"
  return ""


def objectives_have_own_flags(config):
  """A flag of one objective of pretraining does nothing with another."""
  own = OBJECTIVE_FLAGS.get(config.objective, ())
  others = [name for names in OBJECTIVE_FLAGS.values() for name in names if name not in own]
  return unused(config, others, f"with --objective={config.objective}")


def text_unit_needs_texts(config):
  """--text_unit is about texts: data sets."""
  return "" if "texts" in _forms(config) else unused(config, ["text_unit"], "without a texts: data set")


def data_dir_needs_tfds(config):
  """--data_dir is about TFDS data sets."""
  return "" if "tfds" in _forms(config) else unused(config, ["data_dir"], "without a tfds: data set")


def set_method_needs_sets(config):
  """Without a coverage there are no prediction sets."""
  return "" if config.coverage else unused(config, ["set_method"], "with --coverage=0")


def acceptance_has_one_limit(config):
  """Answers are accepted by an error, by a share or by their cost."""
  if config.max_error and config.min_accept:
    return "--max_error and --min_accept: use one of them"
  names = ["max_error", "min_accept", "accept_by", "min_precision"]
  if config.costs:
    return unused(config, names, "with --costs, which decide what is answered and, by a column reject, accepted")
  if config.ood_dataset and config.text_pair_column:
    return unused(config, ["ood_dataset"], "with --text_pair_column")
  limit = config.max_error or config.min_accept
  return "" if limit else unused(config, ["accept_by"], "without --max_error or --min_accept")


def ood_score_needs_one_worker(config):
  """The training features that the score is learnt from are those of one process."""
  if config.strategy == "multi_worker" and config.answers.needs_ood:
    names = ["ood_score", "ood_dataset", "accept_by"]
    return unused(config, names, "with --strategy=multi_worker") + ", or pass --strategy=single"
  return ""


def column_names_need_columns(config):
  """Image folders and starter sets have no columns."""
  if _forms(config) & {"table", "tfrecord", "tfds", "texts"}:
    return ""
  columns = ["text_column", "image_column", "label_column"]
  return unused(config, columns, f"for --dataset={config.dataset}, which has no columns")


def _datasets(config):
  """Returns {flag: name} of the data sets that are given."""
  names = {flag: getattr(config, flag) for flag in ("dataset", "validation_dataset", "test_dataset")}
  return {flag: name for flag, name in names.items() if name}


def _forms(config):
  """Returns the forms of the data sets: "images", "table", .., or the name of a starter set."""
  names = [*_datasets(config).values(), config.probe_dataset, config.unlabelled_dataset, config.ood_dataset]
  return {name.partition(":")[0] for name in names if name}


# DEVICES: (config, num_devices)


def xla_needs_one_device(config, num_devices):
  """XLA compiles no step of several devices here."""
  if config.jit == "on" and num_devices > 1:
    return "--jit=on: XLA compiles no step over several devices here; pass --jit=off or --strategy=single"
  return ""


def openvino_needs_one_device(config, num_devices):
  """OpenVINO does not share a batch among devices."""
  if config.frozen_engine == "openvino" and num_devices > 1:
    return "--frozen_engine=openvino computes on one device: pass --strategy=single"
  return ""


# DATA: (config, task)


def solver_fits_the_task(config, task):
  """Each task has its own solvers of the probe."""
  if config.probe_solver in (AUTO, *task.probe_solvers):
    return ""
  return f"--probe_solver={config.probe_solver} does not fit --task={task.name}: use {', '.join(task.probe_solvers)}"


def flags_fit_the_task(config, task):
  """Some flags need classes, one class per example, or whole texts."""
  names = [] if task.supports_label_smoothing else ["label_smoothing"]
  names += [] if task.supports_mixup else ["mixup", "cutmix"]
  names += ["text_pair_column", "label_columns", "preprocessor", "augment", "long_text"] if task.per_token else []
  names += [] if task.uses_separator else ["label_separator"]
  names += [] if task.has_class_names else ["label_names"]
  names += [] if task.per_token else ["sentence_column"]
  names += [name for name in ANSWERS if name not in task.answer_flags]
  if config.min_accept and config.accept_by not in task.accept_by:
    how = f"add --accept_by={task.accept_by[0]}" if task.accept_by else "remove the flag"
    return (
      f"--min_accept={config.min_accept:g} accepts by the probability of one class, not for --task={task.name}: {how}"
    )
  return unused(config, names, f"for --task={task.name}")


def pooling_fits_the_task(config, task):
  """Answers per token read the output of each token; nothing is pooled."""
  if task.per_token and config.pooling != "auto":
    return f"--pooling={config.pooling} does nothing for --task={task.name}: the first subword of a word counts"
  return ""


def imbalance_fits_the_task(config, task):
  """Each task supports its own treatments of rare classes."""
  if config.imbalance in ("none", *task.imbalances):
    return ""
  advice = f"use {', '.join(task.imbalances)}" if task.imbalances else "remove the flag"
  return f"--imbalance={config.imbalance} does not fit --task={task.name}: {advice}"


def examples_per_class_need_classes(config, task):
  """--max_examples_per_class counts the examples of a class."""
  if config.max_examples_per_class and not task.has_class_names:
    return (
      f"--max_examples_per_class={config.max_examples_per_class}: --task={task.name} has no classes; remove the flag"
    )
  return ""


def adaptation_needs_one_class(config, task):
  """Adaptation is about classes of whole examples."""
  if config.adapt != "none" and not task.single_label:
    return f"--adapt={config.adapt} needs one class per example, not --task={task.name}"
  return ""


def contrastive_needs_one_class(config, task):
  """The supervised contrastive loss needs exactly one class per example."""
  if config.recipe == "contrastive" and not task.single_label:
    return f"--recipe=contrastive needs one class per example, not --task={task.name}"
  return ""


# BACKBONE: (config, modality, other_flags, backbone)


def backbone_reads_the_data(config, modality, other_flags, backbone):
  """A network reads texts or images."""
  if backbone.modality == modality.name:
    return ""
  return (
    f"--backbone={config.backbone} reads {backbone.modality}s, but --dataset={config.dataset} "
    f"holds {modality.plural}: choose a backbone for {modality.plural}"
  )


def flags_fit_the_modality(config, modality, other_flags, backbone):
  """Images have no tokens, texts no pixels."""
  return unused(config, other_flags, f"for {modality.plural}")


def precision_fits_the_backbone(config, modality, other_flags, backbone):
  """Some networks have a fixed number format."""
  if backbone.keeps_own_precision and config.precision not in ("auto", "float32"):
    return f"--precision={config.precision}: a SavedModel keeps its own precision; remove the flag"
  return ""


def xla_fits_the_backbone(config, modality, other_flags, backbone):
  """XLA cannot compile every network."""
  if config.jit == "on" and not backbone.compiles_with_xla:
    return "--jit=on: XLA does not compile a SavedModel here; remove the flag"
  return ""


def layers_share_a_learning_rate(config, modality, other_flags, backbone):
  """Random weights have no lower layers that are good already."""
  if backbone.pretrained:
    return ""
  return unused(config, ["layer_decay"], f"for {backbone.spec.name}, whose initial weights are random")


def sizes_fit_the_backbone(config, modality, other_flags, backbone):
  """The size of a pretrained network is fixed, and so is its vocabulary."""
  spec = backbone.spec
  names = [] if spec.has_chosen_size else ["network_width", "network_depth"]
  names += [] if spec.learns_vocabulary and not spec.tuned else ["vocabulary_size"]
  return unused(config, names, f"for --backbone={config.backbone}, which has its own")


# {moment: rules in the order in which they are checked}.
RULES = {
  FLAGS: (
    hidden_units_are_widths,
    activation_needs_hidden_units,
    head_layers_need_gradients,
    momentum_needs_sgd,
    adam_has_no_weight_decay,
    lora_needs_adam,
    length_holds_a_token,
    splits_leave_training_examples,
    pair_encoding_needs_pairs,
    copies_need_augmentation,
    windows_need_long_text,
    batches_by_examples_or_tokens,
    xla_needs_few_shapes,
    windows_have_no_token_batches,
    long_pairs_are_encoded_separately,
    imbalance_needs_gradients,
    contrastive_has_its_own_loss,
    selected_candidate_is_trained,
    refit_takes_all_examples,
    worst_group_needs_groups,
    shares_are_between_0_and_1,
    soups_and_shares_start_from_the_probe,
    adaptation_has_a_target,
    adaptation_trains_the_head,
    one_way_to_name_labels,
    label_names_name_one_column,
    words_have_one_tag,
    devices_need_a_strategy,
    workers_do_the_same,
    devices_share_a_batch,
    cache_size_needs_a_cache,
    cache_is_a_directory,
    openvino_is_installed,
    columns_need_a_table,
    objectives_have_own_flags,
    text_unit_needs_texts,
    data_dir_needs_tfds,
    column_names_need_columns,
    set_method_needs_sets,
    acceptance_has_one_limit,
    ood_score_needs_one_worker,
  ),
  DEVICES: (
    xla_needs_one_device,
    openvino_needs_one_device,
  ),
  DATA: (
    solver_fits_the_task,
    flags_fit_the_task,
    pooling_fits_the_task,
    imbalance_fits_the_task,
    examples_per_class_need_classes,
    contrastive_needs_one_class,
    adaptation_needs_one_class,
  ),
  BACKBONE: (
    backbone_reads_the_data,
    flags_fit_the_modality,
    precision_fits_the_backbone,
    xla_fits_the_backbone,
    layers_share_a_learning_rate,
    sizes_fit_the_backbone,
  ),
}
