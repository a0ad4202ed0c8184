"""The sections of the report, in their order on the page."""

from tl_app.report.sections import (
  candidates,
  certainty,
  classes,
  configuration,
  confused,
  data,
  errors,
  explanations,
  machine,
  plan,
  provenance,
  targets,
  training,
)

SECTIONS = (
  classes.SECTION,
  confused.SECTION,
  targets.SECTION,
  certainty.SECTION,
  errors.SECTION,
  explanations.SECTION,
  candidates.SECTION,
  training.SECTION,
  plan.SECTION,
  data.SECTION,
  provenance.SECTION,
  configuration.SECTION,
  machine.SECTION,
)
