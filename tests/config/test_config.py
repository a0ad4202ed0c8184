"""Config: one home of defaults, strict, re-runnable."""

import dataclasses
import re

import pytest

from tl_app import config as config_lib
from tl_app.config import Config, groups, names
from tl_app.errors import UserError

GOOD = Config(workdir="w", backbone="resnet50", dataset="digits")


def test_json_round_trip_keeps_every_field():
  config = dataclasses.replace(GOOD, learning_rate=3e-5, export=False, text_column="Text é")
  assert config_lib.from_json(config_lib.to_json(config)) == config


def test_old_names_in_config_json_are_read():
  config = config_lib.from_json('{"head": "linear", "pair_encoding": "together"}')
  assert (config.probe_solver, config.pair_encoding) == ("adamw", "cross_encoder")
  assert config_lib.from_json('{"head": "svm"}').probe_solver == "svm"


def test_every_renamed_flag_and_value_exists():
  assert set(names.RENAMED_FLAGS.values()) <= set(config_lib.FIELDS)
  assert not set(names.RENAMED_FLAGS) & set(config_lib.FIELDS)
  for name, values in names.RENAMED_VALUES.items():
    choices = config_lib.FIELDS[name].metadata["choices"]
    assert set(values.values()) <= set(choices) and not set(values) & set(choices)


def test_a_field_belongs_to_one_group():
  leaves = [field.name for group in config_lib.GROUPS.values() for field in dataclasses.fields(group)]
  assert leaves == list(config_lib.FIELDS) and len(leaves) == len(set(leaves))


def test_a_group_has_the_values_of_the_config():
  config = dataclasses.replace(GOOD, split_seed=7, text_column="t", precision="float32")
  assert config.splits == groups.SplitConfig(split_seed=7)
  assert config.data == groups.DataConfig(dataset="digits", text_column="t")
  assert config.machine == groups.MachineConfig(precision="float32")


def test_unknown_field_is_refused_with_the_nearest():
  with pytest.raises(UserError, match="unknown field 'epoch'; did you mean epochs"):
    config_lib.from_json('{"epoch": 3}')


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"epochs": -1}, "--epochs=-1 is below 0"),
    ({"layer_decay": 1.5}, "--layer_decay=1.5 is above 1"),
    ({"recipe": "magic"}, "--recipe=magic is not one of: "),
    ({"dataset": ""}, "--dataset is needed"),
    ({"workdir": ""}, "--workdir is needed"),
    ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
    ({"strategy": "single", "num_devices": 2}, "needs --strategy=mirrored"),
    ({"num_devices": 3, "batch_size": 32}, "multiple of --num_devices=3"),
    ({"max_minutes": float("inf")}, "--max_minutes=inf is not a number"),
    ({"batch_tokens": 3_000_000_000}, "--batch_tokens=3000000000 is above"),
    ({"batch_tokens": 512, "jit": "on"}, "--jit=on does not go with --batch_tokens"),
    ({"feature_cache": "off", "feature_cache_gb": 2.0}, "--feature_cache_gb=2.0 does nothing with --feature_cache=off"),
    ({"feature_cache": ""}, "--feature_cache is empty: use auto, off or a directory"),
    ({"learning_rate": float("nan")}, "--learning_rate=nan is not a number"),
    ({"max_length": 2}, "--max_length=2 leaves no token"),
    ({"pair_encoding": "apart"}, "--pair_encoding=apart is now named bi_encoder: use --pair_encoding=bi_encoder"),
    ({"epochs": "3"}, "is not of type int"),
    ({"epochs": True}, "is not of type int"),
  ],
)
def test_what_cannot_work_is_refused_by_name(change, message):
  config_lib.validate(GOOD)
  with pytest.raises(UserError, match=re.escape(message)):
    config_lib.validate(dataclasses.replace(GOOD, **change))


def test_every_field_is_read_somewhere():
  import pathlib

  package = pathlib.Path(config_lib.__file__).parents[1]
  code = "\n".join(path.read_text() for path in package.rglob("*.py") if path.parent.name != "config")
  unread = [name for name in config_lib.FIELDS if not re.search(rf"config\.{name}\b|\"{name}\"", code)]
  assert unread == []


def test_differing_ignores_where_things_lie():
  other = dataclasses.replace(GOOD, workdir="elsewhere", cache_dir="c", offline=True, epochs=GOOD.epochs + 1)
  assert config_lib.differing(GOOD, other) == ["epochs"]
