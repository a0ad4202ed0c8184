"""`Section`: one part of the report."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tl_app.report.facts import RunFacts

# The questions that the first screen answers: {key: question}.
QUESTIONS = {
  "quality": "How good is it?",
  "comparison": "Is it better than guessing, or than a simple method?",
  "certainty": "When can I rely on an answer?",
  "failures": "Where does it fail?",
  "next": "What should be done next?",
}


def _nothing(facts: RunFacts) -> Mapping[str, Sequence[str]]:
  return {}


@dataclasses.dataclass(frozen=True)
class Section:
  """One part of the report: a heading, what its template shows, and what it says on the first screen.

  Attributes:
    name: of the template, templates/sections/NAME.html, and of the anchor in the page.
    title: the heading, also in the navigation.
    context: function from the facts of a run to the variables of the template, or to None if the page of this run has
      no such section. Every template also has `facts`, `task`, `metrics`, `test`, `primary`, the key of the primary
      metric, and `title`, its title.
    answers: function from the facts of a run to plain sentences for the first screen: {key of `QUESTIONS`: sentences},
      where this section says something to a question. They stand there in the order of the sections.
  """

  name: str
  title: str
  context: Callable[[RunFacts], dict | None]
  answers: Callable[[RunFacts], Mapping[str, Sequence[str]]] = _nothing
