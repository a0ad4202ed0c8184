"""The benchmark command: what it measures, on a tiny network; the timings themselves are not tested."""

import dataclasses
import importlib.util

import pytest
import tiny_data
import tiny_modules
import tiny_presets

from tl_app import backbones, files, workdir
from tl_app.commands import benchmark, train
from tl_app.config import Config
from tl_app.errors import UserError
from tl_app.model import variables
from tl_app.recipes import recipes

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture
def config(tmp_path):
  return Config(
    backbone=tiny_presets.bert(tmp_path / "bert", list(tiny_modules.VOCABULARY)),
    dataset="table:" + tiny_data.reviews(tmp_path / "reviews.csv"),
    workdir=str(tmp_path / "out"),
    cache_dir=str(tmp_path / "cache"),
    batch_size=8,
  )


@pytest.mark.slow
def test_every_part_is_measured_and_written(config, tmp_path):
  result = benchmark.measure(config, ",".join(benchmark.PARTS), repeats=2, steps=2)
  assert files.read_json(tmp_path / "out/benchmark.json") == result
  assert list(result["parts"]) == [name for name in benchmark.PARTS if name != "engines" or HAS_OPENVINO]
  assert list(result["parts"]["stages"]) == [
    "everything",
    "top half (layer_0 and above)",
    "top stage (layer_1)",
    "head only",
  ]
  for candidates in result["parts"].values():
    assert len(candidates) >= 2
    for timing in candidates.values():
      assert 0 < timing["seconds"][0] <= timing["seconds"][1] <= timing["seconds"][2]
      assert all(ratio > 0 for ratio in timing["ratio"])
    assert next(iter(candidates.values()))["ratio"] == [1.0, 1.0, 1.0]
  text = "\n".join(benchmark.lines(result))
  assert "batches of similar length" in text and "times as fast" in text
  # Nothing of the run itself stays behind.
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["benchmark.json"]


@pytest.mark.slow
def test_a_step_trains_the_stages_of_its_row(config, tmp_path, monkeypatch):
  monkeypatch.setattr(benchmark, "_side_by_side", lambda candidates, repeats: candidates)
  with workdir.claim(tmp_path / "run", config) as paths:
    spec = backbones.resolve(config.backbone)
    features, _ = train.prepare(config, spec, workdir.Record(paths), recipes.plan)
  stages = features.model.stages
  for name, step in benchmark.stage_steps(config, features, repeats=1, steps=2).items():
    before = variables.checksums(stages)
    step()
    moved = [stage for stage, sums in variables.checksums(stages).items() if sums != before[stage]]
    assert moved == benchmark._trained_stages(features.model)[name], name


@pytest.mark.slow
def test_a_module_that_reads_strings_has_no_lengths_and_no_trunk(config, tmp_path, caplog):
  caplog.set_level("INFO")
  own = dataclasses.replace(config, backbone=tiny_modules.strings(tmp_path / "strings"))
  assert benchmark.measure(own, "lengths,trunk", repeats=2, steps=2)["parts"] == {}
  assert "strings takes no tokens" in caplog.text and "nothing is compared below" in caplog.text


def test_an_unknown_part_is_refused(config):
  with pytest.raises(
    UserError, match="--parts=stages,speed: 'speed' is not one of stages, head, trunk, lengths, engines"
  ):
    benchmark.measure(config, "stages,speed", repeats=2, steps=2)


def test_features_of_earlier_runs_mean_nothing(config):
  with pytest.raises(UserError, match="--feature_cache=features does nothing in benchmark"):
    benchmark.measure(dataclasses.replace(config, feature_cache="features"), "trunk", repeats=2, steps=2)
