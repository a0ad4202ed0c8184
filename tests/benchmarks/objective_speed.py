"""Processor time of a training step of each pretraining objective, against plain fine-tuning of the same network.

python -m tests.benchmarks.objective_speed --rounds=3 --steps=10

A ratio of 0.7 means: in the same processor time, pretraining reads 0.7 times as many examples. Every round runs each
candidate once. The steps include the reading and preprocessing of their batches.
"""

import argparse
import csv
import dataclasses
import pathlib
import tempfile
import time

import numpy as np

from tests.benchmarks import archive
from tl_app import backbones
from tl_app import workdir as workdir_lib
from tl_app.assets import Assets
from tl_app.commands import pretrain, train
from tl_app.config import Config
from tl_app.data.corpus import corpus as corpora
from tl_app.model import model as model_lib
from tl_app.model import stages
from tl_app.recipes import recipes
from tl_app.training import feed, planning
from tl_app.training import pretraining as objectives
from tl_app.training.compiling import PhaseSteps, PretrainingSteps
from tl_app.workdir import Record

# {title: (flags of the network, its objectives)}; texts are padded to the longest of a batch, of at most 64 tokens.
NETWORKS = {
  "MiniLM, film reviews": (
    {"backbone": "minilm_l6.pypi", "max_length": 64},
    ("masked_tokens", "views", "reconstruct", "clusters"),
  ),
  "lstm.scratch, film reviews": ({"backbone": "lstm.scratch", "max_length": 64}, ("next_token",)),
  "cnn_small.scratch, digits": (
    {"backbone": "cnn_small.scratch", "image_size": 32},
    ("views", "reconstruct", "clusters"),
  ),
}
TEXTS, BATCH, LEAST = 500, 32, 3


def fine_tuning(config: Config, directory: pathlib.Path):
  """Returns a function that makes one step of fine-tuning all stages and the head on labels."""
  config = dataclasses.replace(config, workdir=str(directory), recipe="full", epochs=1, feature_cache="off")
  with workdir_lib.claim(config.workdir, config) as paths:
    features, _ = train.prepare(config, backbones.resolve(config.backbone), Record(paths), recipes.plan)
    facts = planning.facts(config, features.data, features.model, features.devices)
    phase = recipes.full(config, facts)[-1]
    stages.set_trainable(features.model, phase)
    fed = feed.whole_network(phase, features, config.seed)
    PhaseSteps(fed.network, phase, features.model, features.data.train_targets).compile()
    return _step(fed.network, fed.dataset())


def pretraining(config: Config, directory: pathlib.Path):
  """Returns a function that makes one step of --objective on all stages, the head included."""
  objective, assets = objectives.chosen(config), Assets(config.cache_dir)
  config = dataclasses.replace(config, epochs=1)
  directory.mkdir()
  corpus = corpora.load(config, assets, directory)
  backbone = pretrain.load_backbone(config, assets, corpus)
  settings = objective.settings(config)
  model = model_lib.pretraining(backbone, objective.head(backbone, settings), backbone.tied)
  if config.max_length:
    backbone.preprocess.max_length = config.max_length
  phase = objective.phases(recipes.pretrain(config, pretrain.facts(model, corpus, config), settings))[-1]
  stages.set_trainable(model, phase)
  network, prepared = objective.network(model, phase), objective.prepare(model, phase, corpus)
  PretrainingSteps(network, phase, model, lambda: objective.loss(phase)).compile()
  batches = corpus.batches(phase.inputs.batch_size, config.seed)
  return _step(network, corpora.stream(batches, objective.example(model, phase, config.seed, prepared)))


def _step(network, dataset):
  iterator = iter(dataset)
  return lambda: network.train_on_batch(*next(iterator)[:2])


def measure(steps: dict, rounds: int, count: int) -> dict[str, np.ndarray]:
  """Returns {name: seconds of processor time of `count` steps in each round}; a function is called first to trace."""
  seconds = {name: [] for name in steps}
  for step in steps.values():
    # Batches of other lengths are traced here too.
    for _ in range(LEAST):
      step()
  for round_ in range(rounds):
    order = list(steps)
    for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
      start = time.process_time()
      for _ in range(count):
        steps[name]()
      seconds[name].append(time.process_time() - start)
  return {name: np.array(values) for name, values in seconds.items()}


def texts(path: pathlib.Path) -> str:
  """Writes a table of film reviews and returns the value of --dataset."""
  with open(path, "w", newline="", encoding="utf-8") as file:
    rows = archive.rated(Assets(""), "film reviews")[:TEXTS]
    csv.writer(file).writerows([("text", "label"), *((text, "yes" if rating > 0 else "no") for rating, text in rows)])
  return f"table:{path}"


def main() -> None:
  """Prints a line of the table for each objective."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--networks", default=";".join(NETWORKS), help="Titles, separated by semicolons.")
  parser.add_argument("--objectives", default="", help="Only these, separated by commas.")
  flags = parser.parse_args()
  print("| network | objective | examples in the same processor time, fine-tuning = 1 (range) |\n| --- | --- | --- |")
  for title in flags.networks.split(";"):
    network, names = NETWORKS[title]
    names = [name for name in names if not flags.objectives or name in flags.objectives.split(",")]
    with tempfile.TemporaryDirectory() as root:
      root = pathlib.Path(root)
      dataset = "digits" if "digits" in title else texts(root / "texts.csv")
      config = Config(dataset=dataset, batch_size=BATCH, **network)
      steps = {"fine-tuning": fine_tuning(config, root / "labels")}
      steps |= {name: pretraining(dataclasses.replace(config, objective=name), root / name) for name in names}
      found = measure(steps, flags.rounds, flags.steps)
      for name in names:
        ratios = found["fine-tuning"] / found[name]
        cells = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        print(f"| {title} | `{name}` | {cells} |", flush=True)


if __name__ == "__main__":
  main()
