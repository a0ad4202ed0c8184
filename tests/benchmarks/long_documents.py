"""Documents whose telling part is short and anywhere: what --long_text makes of them.

python -m tests.benchmarks.long_documents --workdir=runs/long_documents
"""

import argparse
import csv
import pathlib
import random

from tests.benchmarks import archive
from tl_app.assets import Assets
from tl_app.commands import train
from tl_app.config import Config

# {class: table of the archive}.
KINDS = {"film review": "film reviews", "product review": "product reviews", "tweet": "tweets"}
FILLER = "editorials"


def documents(assets, number, telling, words, seed):
  """Yields rows (text, label): texts of one of `KINDS`, the label, at one random place in newspaper editorials.

  Args:
    assets: `Assets`.
    number: documents; no telling text comes twice.
    telling: telling texts a document.
    words: words of editorials a document, about.
    seed: of the choice.
  """
  rng, filler = random.Random(seed), [text for _, text in archive.rated(assets, FILLER)]
  tellers = {label: [text for _, text in archive.rated(assets, name)] for label, name in KINDS.items()}
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
