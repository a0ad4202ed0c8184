"""What the first screen of the report and the model card say in plain sentences, from the files of a run."""

from tl_app.errors.counts import number_of
from tl_app.report.facts import RunFacts
from tl_app.report.sections import SECTIONS
from tl_app.report.sections.section import QUESTIONS


def answers(facts: RunFacts) -> dict[str, list[str]]:
  """Returns {question: sentences} of `QUESTIONS`, without those that nothing answers, see `Section.answers`."""
  found = {question: [] for question in QUESTIONS}
  found["quality"] += [*facts.task.metrics.describe(facts.test), _unseen(facts.test)]
  for section in SECTIONS:
    for question, sentences in section.answers(facts).items():
      found[question] += sentences
  return {QUESTIONS[question]: sentences for question, sentences in found.items() if sentences}


def _unseen(test):
  examples = number_of(test["num_examples"], "test example")
  return f"Measured on {examples}. The test split took no part in the training."
