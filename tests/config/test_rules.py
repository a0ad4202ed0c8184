"""Rules about which flags go together: an example of each, and that the defaults break none."""

import dataclasses
import types

import pytest

from tl_app import backbones, tasks
from tl_app.config import Config, rules
from tl_app.data import modalities
from tl_app.errors import UserError

GOOD = Config(workdir="w", backbone="b", dataset="table:a.csv")
TEXT, IMAGE = modalities.of("text"), modalities.of("image")


def network(name, keeps_own_precision=False, compiles_with_xla=True):
  spec = backbones.resolve(name)
  return types.SimpleNamespace(
    modality=spec.modality,
    keeps_own_precision=keeps_own_precision,
    compiles_with_xla=compiles_with_xla,
    pretrained=spec.pretrained,
    spec=spec,
  )


BERT, RESNET, LSTM = network("bert_base"), network("resnet50"), network("lstm.scratch")
SAVED_MODEL = network("resnet50.tfhub", keeps_own_precision=True, compiles_with_xla=False)
NUMBERS, TAGS = tasks.TASKS["regression"], tasks.TASKS["token_classification"]
CLASSES, SETS = tasks.TASKS["single_label"], tasks.TASKS["multi_label"]


def about_images(backbone):
  return IMAGE, modalities.other_flags("image"), backbone


# (rule, flags that break it, facts of its moment, part of its line).
EXAMPLES = [
  (rules.hidden_units_are_widths, {"head_hidden_units": "64,,8"}, (), "'' is no width; use whole numbers"),
  (rules.activation_needs_hidden_units, {"head_activation": "tanh"}, (), "does nothing without --head_hidden_units"),
  (
    rules.head_layers_need_gradients,
    {"head_hidden_units": "64", "probe_solver": "svm"},
    (),
    "--head_hidden_units=64 needs --probe_solver=adamw: svm of scikit-learn fits a linear head",
  ),
  (rules.head_layers_need_gradients, {"head_dropout": 0.1, "probe_solver": "logistic"}, (), "--head_dropout=0.1 needs"),
  (rules.worst_group_needs_groups, {"select_metric": "worst_group"}, (), "needs groups: name their columns"),
  (
    rules.worst_group_needs_groups,
    {"select_metric": "worst_group", "slice_columns": "sex", "select": "probe"},
    (),
    "does nothing with --select=probe",
  ),
  (rules.momentum_needs_sgd, {"momentum": 0.5}, (), "--momentum=0.5 does nothing with --optimizer=adamw"),
  (
    rules.adam_has_no_weight_decay,
    {"optimizer": "adam", "weight_decay": 0.1},
    (),
    "adamw is Adam with weight decay",
  ),
  (rules.lora_needs_adam, {"recipe": "lora", "optimizer": "sgd"}, (), "not --optimizer=sgd: use adamw or adam"),
  (rules.length_holds_a_token, {"max_length": 2}, (), "--max_length=2 leaves no token"),
  (rules.splits_leave_training_examples, {"validation_fraction": 0.5, "test_fraction": 0.5}, (), "nothing to train on"),
  (rules.pair_encoding_needs_pairs, {"pair_encoding": "cross_encoder"}, (), "does nothing without --text_pair_column"),
  (rules.copies_need_augmentation, {"augment_copies": 2}, (), "--augment_copies=2 does nothing without --augment"),
  (rules.windows_need_long_text, {"max_windows": 3}, (), "--max_windows=3 does nothing without --long_text=windows"),
  (rules.batches_by_examples_or_tokens, {"batch_tokens": 512, "batch_size": 8}, (), "does nothing with --batch_tokens"),
  (rules.xla_needs_few_shapes, {"batch_tokens": 512, "jit": "on"}, (), "--jit=on does not go with --batch_tokens"),
  (rules.windows_have_no_token_batches, {"batch_tokens": 512, "long_text": "windows"}, (), "use --batch_size=auto"),
  (
    rules.long_pairs_are_encoded_separately,
    {"long_text": "windows", "pair_encoding": "cross_encoder", "text_pair_column": "b"},
    (),
    "use --pair_encoding=bi_encoder",
  ),
  (rules.refit_takes_all_examples, {"refit": "always", "max_examples": 9}, (), "and --max_examples does not allow it"),
  (
    rules.shares_are_between_0_and_1,
    {"interpolate": "0.5,1"},
    (),
    "--interpolate=0.5,1: '1' is no share between 0 and",
  ),
  (rules.shares_are_between_0_and_1, {"interpolate": "half"}, (), "'half' is no share"),
  (
    rules.soups_and_shares_start_from_the_probe,
    {"interpolate": "0.5", "recipe": "full"},
    (),
    "--interpolate=0.5 does not go with --recipe=full",
  ),
  (
    rules.soups_and_shares_start_from_the_probe,
    {"fine_tuning_seeds": 2, "preset": "quick"},
    (),
    "--fine_tuning_seeds=2 does nothing where nothing is fine-tuned",
  ),
  (
    rules.soups_and_shares_start_from_the_probe,
    {"fine_tuning_seeds": 2, "recipe": "gradual"},
    (),
    "does not go with --recipe=gradual",
  ),
  (rules.imbalance_needs_gradients, {"imbalance": "focal", "probe_solver": "svm"}, (), "needs --probe_solver=adamw"),
  (rules.contrastive_has_its_own_loss, {"recipe": "contrastive", "mixup": 0.2}, (), "--mixup=0.2 does nothing with"),
  (
    rules.contrastive_has_its_own_loss,
    {"recipe": "contrastive", "batch_size": "auto"},
    (),
    "examples of a whole batch",
  ),
  (rules.selected_candidate_is_trained, {"recipe": "probe", "select": "fine_tuned"}, (), "fine-tunes nothing"),
  (rules.selected_candidate_is_trained, {"ema": 0.0, "select": "averaged"}, (), "use an --ema above 0"),
  (rules.selected_candidate_is_trained, {"select": "adapted"}, (), "--select=adapted needs an adaptation: add --adapt"),
  (rules.adaptation_has_a_target, {"adapt": "coral"}, (), "add --unlabelled_dataset"),
  (rules.adaptation_has_a_target, {"unlabelled_dataset": "digits"}, (), "does nothing without --adapt"),
  (
    rules.adaptation_trains_the_head,
    {"adapt": "coral", "unlabelled_dataset": "digits"},
    (),
    "adapts the head on frozen features: add --recipe=probe",
  ),
  (
    rules.adaptation_trains_the_head,
    {"adapt": "dann", "unlabelled_dataset": "digits", "recipe": "probe"},
    (),
    "add --head_hidden_units, such as 256",
  ),
  (rules.one_way_to_name_labels, {"label_column": "a", "label_columns": "b,c"}, (), "use one of them"),
  (rules.label_names_name_one_column, {"label_names": "a,b", "label_columns": "b,c"}, (), "with --label_columns"),
  (
    rules.words_have_one_tag,
    {"sentence_column": "s", "label_columns": "b,c"},
    (),
    "--sentence_column does not go with --label_columns",
  ),
  (rules.devices_need_a_strategy, {"num_devices": 2, "strategy": "single"}, (), "needs --strategy=mirrored"),
  (rules.devices_need_a_strategy, {"num_devices": 2, "strategy": "multi_worker"}, (), "--num_devices=2 does nothing"),
  (rules.workers_do_the_same, {"batch_size": "auto", "strategy": "multi_worker"}, (), "or pass --strategy=single"),
  (rules.devices_share_a_batch, {"num_devices": 3, "batch_size": 32}, (), "multiple of --num_devices=3"),
  (rules.cache_size_needs_a_cache, {"feature_cache": "off", "feature_cache_gb": 2.0}, (), "with --feature_cache=off"),
  (rules.cache_is_a_directory, {"feature_cache": ""}, (), "--feature_cache is empty"),
  (rules.cache_is_a_directory, {"feature_cache": __file__}, (), "is a file: use auto, off or a directory"),
  (rules.set_method_needs_sets, {"coverage": 0.0, "set_method": "aps"}, (), "does nothing with --coverage=0"),
  (rules.acceptance_has_one_limit, {"max_error": 0.1, "min_accept": 0.9}, (), "use one of them"),
  (rules.acceptance_has_one_limit, {"accept_by": "ood_score"}, (), "does nothing without --max_error or --min_accept"),
  (rules.acceptance_has_one_limit, {"costs": "c.csv", "min_accept": 0.9}, (), "does nothing with --costs"),
  (
    rules.acceptance_has_one_limit,
    {"ood_dataset": "digits", "text_pair_column": "b"},
    (),
    "--ood_dataset=digits does nothing with --text_pair_column",
  ),
  (
    rules.ood_score_needs_one_worker,
    {"ood_score": True, "strategy": "multi_worker"},
    (),
    "or pass --strategy=single",
  ),
  (rules.columns_need_a_table, {"dataset": "images:x", "group_column": "who"}, (), "--dataset=images:x is none"),
  (rules.columns_need_a_table, {"dataset": "images:x", "sentence_column": "s"}, (), "--dataset=images:x is none"),
  (rules.columns_need_a_table, {"test_dataset": "digits", "time_column": "t"}, (), "--test_dataset=digits is none"),
  (rules.columns_need_a_table, {"dataset": "digits", "text_pair_column": "b"}, (), "needs --dataset=table:PATH"),
  (rules.data_dir_needs_tfds, {"data_dir": "d"}, (), "--data_dir=d does nothing without a tfds: data set"),
  (rules.column_names_need_columns, {"dataset": "images:x", "label_column": "y"}, (), "which has no columns"),
  (
    rules.objectives_have_own_flags,
    {"objective": "other", "mask_share": 0.3},
    (),
    "does nothing with --objective=other",
  ),
  (rules.text_unit_needs_texts, {"text_unit": "file"}, (), "--text_unit=file does nothing without a texts: data set"),
  (rules.xla_needs_one_device, {"jit": "on"}, (2,), "pass --jit=off or --strategy=single"),
  (rules.openvino_needs_one_device, {"frozen_engine": "openvino"}, (2,), "computes on one device"),
  (rules.solver_fits_the_task, {"probe_solver": "ridge"}, (CLASSES,), "does not fit --task=single_label: use adamw, "),
  (rules.flags_fit_the_task, {"label_smoothing": 0.1}, (NUMBERS,), "does nothing for --task=regression"),
  (rules.flags_fit_the_task, {"mixup": 0.1}, (NUMBERS,), "does nothing for --task=regression"),
  (rules.flags_fit_the_task, {"coverage": 0.9}, (TAGS,), "does nothing for --task=token_classification"),
  (rules.flags_fit_the_task, {"calibration": "none"}, (NUMBERS,), "does nothing for --task=regression"),
  (rules.flags_fit_the_task, {"text_pair_column": "b"}, (TAGS,), "does nothing for --task=token_classification"),
  (rules.flags_fit_the_task, {"max_error": 0.1}, (SETS,), "--max_error=0.1 does nothing for --task=multi_label"),
  (rules.flags_fit_the_task, {"min_accept": 0.9}, (NUMBERS,), "--task=regression: add --accept_by=ood_score"),
  (rules.flags_fit_the_task, {"label_separator": ";"}, (CLASSES,), "does nothing for --task=single_label"),
  (
    rules.flags_fit_the_task,
    {"label_names": "a,b"},
    (NUMBERS,),
    "--label_names=a,b does nothing for --task=regression",
  ),
  (rules.flags_fit_the_task, {"sentence_column": "s"}, (CLASSES,), "does nothing for --task=single_label"),
  (rules.pooling_fits_the_task, {"pooling": "cls"}, (TAGS,), "the first subword of a word counts"),
  (rules.imbalance_fits_the_task, {"imbalance": "focal"}, (NUMBERS,), "--task=regression: remove the flag"),
  (rules.examples_per_class_need_classes, {"max_examples_per_class": 5}, (NUMBERS,), "has no classes"),
  (
    rules.adaptation_needs_one_class,
    {"adapt": "coral"},
    (SETS,),
    "needs one class per example, not --task=multi_label",
  ),
  (rules.contrastive_needs_one_class, {"recipe": "contrastive"}, (SETS,), "needs one class per example"),
  (
    rules.backbone_reads_the_data,
    {},
    about_images(BERT),
    "--backbone=b reads texts, but --dataset=table:a.csv holds images",
  ),
  (rules.flags_fit_the_modality, {"max_length": 64}, about_images(RESNET), "--max_length=64 does nothing for images"),
  (
    rules.precision_fits_the_backbone,
    {"precision": "mixed_float16"},
    about_images(SAVED_MODEL),
    "keeps its own precision",
  ),
  (rules.xla_fits_the_backbone, {"jit": "on"}, about_images(SAVED_MODEL), "XLA does not compile a SavedModel here"),
  (
    rules.layers_share_a_learning_rate,
    {"layer_decay": 0.5},
    (TEXT, modalities.other_flags("text"), LSTM),
    "--layer_decay=0.5 does nothing for lstm.scratch, whose initial weights are random",
  ),
  (rules.sizes_fit_the_backbone, {"network_width": 64}, about_images(RESNET), "which has its own"),
  (rules.sizes_fit_the_backbone, {"vocabulary_size": 900}, about_images(RESNET), "--vocabulary_size=900 does nothing"),
  # `without_openvino` makes the package absent.
  (
    rules.openvino_is_installed,
    {"frozen_engine": "openvino"},
    (),
    "pip install 'tl_app[openvino]', or remove the flag",
  ),
]
MOMENT = {rule: moment for moment, table in rules.RULES.items() for rule in table}


@pytest.fixture
def without_openvino(monkeypatch):
  monkeypatch.setattr(rules.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(("rule", "flags", "facts", "line"), EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_speaks_at_its_moment(without_openvino, rule, flags, facts, line):
  config = dataclasses.replace(GOOD, **flags)
  assert line in rule(config, *facts)
  with pytest.raises(UserError) as error:
    rules.check(MOMENT[rule], config, *facts)
  assert line in str(error.value) and "\n" not in str(error.value)


def test_every_rule_has_a_docstring_and_an_example():
  assert {rule for rule, *_ in EXAMPLES} == set(MOMENT)
  assert [rule.__name__ for rule in MOMENT if not rule.__doc__] == []


@pytest.mark.parametrize("dataset", ["table:a.csv", "images:x", "digits", "tfds:mnist"])
def test_the_defaults_break_no_rule(dataset):
  config = dataclasses.replace(GOOD, dataset=dataset)
  rules.validate(config)
  facts = {rules.FLAGS: (), rules.DEVICES: (2,), rules.DATA: (CLASSES,), rules.BACKBONE: about_images(RESNET)}
  assert [line for rule, moment in MOMENT.items() if (line := rule(config, *facts[moment]))] == []
  rules.check(rules.DEVICES, config, 2)
  for task in tasks.TASKS.values():
    rules.check(rules.DATA, config, task)
  for modality, backbone in ((TEXT, BERT), (TEXT, LSTM), (IMAGE, RESNET)):
    rules.check(rules.BACKBONE, config, modality, modalities.other_flags(modality.name), backbone)


def test_flags_that_a_command_does_not_use_are_refused():
  with pytest.raises(UserError, match="--jit=on does nothing in find_lr: remove the flag"):
    rules.refuse_unused(Config(jit="on"), "find_lr")
  with pytest.raises(UserError, match="--batch_size=auto does nothing in benchmark: remove the flag"):
    rules.refuse_unused(Config(batch_size="auto"), "benchmark")
  rules.refuse_unused(Config(batch_size="auto"), "find_lr")


@pytest.mark.parametrize("flag", ["unlabelled_dataset", "ood_dataset"])
@pytest.mark.parametrize(
  ("name", "flags"),
  [
    ("tfds:other", {"data_dir": "d"}),
    ("texts:other", {"text_unit": "file"}),
    ("table:other.csv", {"dataset": "images:photos", "image_column": "path"}),
  ],
)
def test_data_without_labels_have_forms_and_columns_too(flag, name, flags):
  adapt = {"adapt": "coral", "recipe": "probe"} if flag == "unlabelled_dataset" else {}
  rules.validate(dataclasses.replace(GOOD, **flags, **adapt, **{flag: name}))
  # No other data set takes these flags.
  with pytest.raises(UserError, match=f"--{list(flags)[-1]}=.* does nothing"):
    rules.validate(dataclasses.replace(GOOD, **flags))
