"""Pretraining of MiniLM on the texts of a data set, and what its features are worth with few labels.

python -m tests.benchmarks.pretrained_texts --workdir=runs/pretrained_texts

The texts of the training split are read without labels; those of the test split are never read. Finished pretrainings
are not run again.
"""

import pathlib
import random

from tests.benchmarks import few_labels, small_data
from tests.benchmarks.few_labels import Benchmark, Labelled
from tl_app.assets import Assets
from tl_app.commands import pretrain
from tl_app.config import Config
from tl_app.data.readers import starters

BACKBONE = "minilm_l6.pypi"
# {name: (folder, table of the training split, of the test split)}; without one a fifth is for test.
TABLES = {
  "banking77": ("train.tsv", "test.tsv"),
  "clinc150": ("train.tsv", "test.tsv"),
  "sms_spam": ("all.tsv", None),
}
DATA = (*TABLES, "movie_reviews")
# {title: flags of tl_app.pretrain}.
OBJECTIVES = {
  "masked_tokens": {"objective": "masked_tokens", "epochs": 2, "learning_rate": 5e-5},
  "views": {"objective": "views", "epochs": 1, "learning_rate": 1e-5, "batch_size": 64},
  "reconstruct": {"objective": "reconstruct", "epochs": 1, "learning_rate": 3e-5},
  "clusters": {"objective": "clusters", "clusters": 100, "epochs": 3, "rounds": 3, "learning_rate": 2e-5},
}
COUNTS = [10, 50]


def load(name: str, shared: pathlib.Path) -> Labelled:
  """Returns a data set of `DATA`; the questions of clinc150 without an intent are removed."""
  if name == "movie_reviews":
    rows = [(text, label) for _, text, label in starters.movie_reviews(Assets(""))]
    train, test = None, None
  else:
    train, test = TABLES[name]
    rows = small_data.read(shared / name / train)
  rows = [row for row in rows if row[1] != "oos"]
  if test:
    return Labelled(rows, [row for row in small_data.read(shared / name / test) if row[1] != "oos"])
  # Equal texts are on the same side.
  texts = sorted({text for text, _ in rows})
  random.Random(0).shuffle(texts)
  held_out = set(texts[: len(texts) // 5])
  return Labelled([row for row in rows if row[0] not in held_out], [row for row in rows if row[0] in held_out])


def pretrained(name: str, title: str, data: Labelled, root: pathlib.Path) -> tuple[str, dict]:
  """Returns (the backbone after a pretraining on the texts of the training split, its metrics)."""
  workdir = root / f"{name}-{title}"
  if not (workdir / "metrics.json").exists():
    texts = root / f"{name}.txt"
    texts.write_text("".join(" ".join(text.split()) + "\n" for text, _ in data.train), encoding="utf-8")
    pretrain.pretrain(Config(backbone=BACKBONE, dataset=f"texts:{texts}", **OBJECTIVES[title]), workdir)
  return few_labels.finished(workdir)


def network(_: str, backbone: str) -> Config:
  """Returns the `Config` of a backbone; "" is that before pretraining."""
  return Config(backbone=backbone or BACKBONE)


BENCHMARK = Benchmark(DATA, tuple(OBJECTIVES), "before", COUNTS, load, pretrained, network)

if __name__ == "__main__":
  BENCHMARK.main(__doc__)
