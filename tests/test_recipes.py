"""Recipes are pure functions; a plan is read without TensorFlow."""

import subprocess
import sys

import pytest

from tl_app import recipes
from tl_app.config import Config, Facts

FACTS = Facts(num_train=100, num_classes=3, stage_names=("stem", "stage1"), modality="image")


def test_probe_trains_the_head_alone():
  (phase,) = recipes.plan(Config(recipe="probe", head_epochs=7, batch_size=32), FACTS)
  assert phase.train_stages == ("head",)
  assert not phase.backbone_trains
  assert (phase.epochs, phase.steps_per_epoch, phase.steps) == (7, 4, 28)
  assert phase.warmup_steps == 3


def test_full_trains_every_stage_at_its_rate():
  config = Config(recipe="full", learning_rate=2e-5, head_learning_rate=5e-4)
  (phase,) = recipes.plan(config, FACTS)
  assert phase.train_stages == ("stem", "stage1", "head")
  assert phase.learning_rates == {"stem": 2e-5, "stage1": 2e-5, "head": 5e-4}
  assert phase.backbone_trains


@pytest.mark.parametrize(
    ("batch_size", "num_train", "devices", "expected"), [(32, 100, 1, 32), (32, 10, 1, 10), (32, 11, 2, 10), (8, 1, 2, 2)]
)
def test_batches_are_full_and_divide_among_devices(batch_size, num_train, devices, expected):
  facts = Facts(num_train, 2, (), "text")
  (phase,) = recipes.plan(Config(batch_size=batch_size), facts, devices)
  assert phase.batch_size == expected
  assert phase.steps_per_epoch * phase.batch_size >= num_train


def test_reading_a_plan_needs_no_tensorflow():
  code = "import sys, tl_app.recipes, tl_app.config, tl_app.backbones; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
