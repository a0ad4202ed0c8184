"""The model card: the sentences of the first screen, the metrics and the origin, in valid Markdown."""

import re

from tiny_runs import write_run

from tl_app import files
from tl_app.report import facts, first_screen, model_card


def test_the_card_has_the_sentences_metrics_and_origin_of_the_run(tmp_path):
  metrics = write_run(tmp_path, ["neg|ative", "pos\nitive"])
  plan = files.read_json(tmp_path / "plan.json")
  download = {"kind": "wheel", "source": "weights==1.0", "licence": "MIT", "revision": "abc", "files": {}}
  files.write_json(tmp_path / "plan.json", plan | {"downloads": [download]})
  found = facts.read(tmp_path)
  card = model_card.text(found, "fine_tuned")
  for question, sentences in first_screen.answers(found).items():
    assert f"## {question}\n\n- " in card and len(sentences) == len(_lines(card, question))
  low, high = metrics["test"]["accuracy_ci95"]
  assert f"| accuracy | {metrics['test']['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}) |" in card
  assert "`weights==1.0`, licence MIT, revision `abc`" in card and "--workdir" not in card
  assert "| neg\\|ative | 200 |" in card and "| pos itive | 200 |" in card
  for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_card_of_another_candidate_does_not_speak_of_the_selected_one(tmp_path):
  metrics = write_run(tmp_path, ["a", "b"])
  other = metrics["test"] | {"accuracy": 0.123, "accuracy_ci95": [0.1, 0.15]}
  found = {"dataset": "table:strangers.csv", "num_examples": 9, "ood_score": {"recall": 0.9, "accepted": 0.9}}
  files.write_json(tmp_path / "metrics.json", metrics | {"ood": found, "label_review": {"test": 3}})
  assert "table:strangers.csv" in model_card.text(facts.read(tmp_path), "fine_tuned")
  card = model_card.text(facts.read(tmp_path).of_candidate(other), "probe")
  assert "strangers" not in card and "test labels may be wrong" not in card
  assert "**12 of 100 right**" in card and "candidate\n`probe`" in card and "worst errors" not in card
  assert "| accuracy | 0.123 (95 % interval 0.100 to 0.150) |" in card


def _lines(card, heading):
  """Returns the list below a heading."""
  return card.partition(f"## {heading}\n\n")[2].partition("\n\n")[0].splitlines()
