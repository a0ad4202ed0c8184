"""The sections of the report, in their order on the page."""

from tl_app.report.sections import (
  accepted,
  candidates,
  certainty,
  classes,
  configuration,
  confused,
  data,
  errors,
  explanations,
  labels,
  machine,
  plan,
  provenance,
  slices,
  targets,
  training,
)

SECTIONS = (
  classes.SECTION,
  confused.SECTION,
  targets.SECTION,
  certainty.SECTION,
  accepted.SECTION,
  slices.SECTION,
  errors.SECTION,
  explanations.SECTION,
  labels.SECTION,
  candidates.SECTION,
  training.SECTION,
  plan.SECTION,
  data.SECTION,
  provenance.SECTION,
  configuration.SECTION,
  machine.SECTION,
)
