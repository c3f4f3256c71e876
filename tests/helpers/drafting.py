"""Drafts whatever they cost."""

from ellm.serving import speculation
from ellm.serving.drafter import Drafter
from ellm.serving.step_costs import StepCosts


def draft_always(patch) -> None:
    """As many as there are: all rows cost the same, all drafts are as good, and those of heads cost nothing."""
    patch.setattr(speculation, "WORTH", 0)
    patch.setattr(StepCosts, "expected", lambda costs: [(rows, 1.0) for rows in costs._rows])
    patch.setattr(Drafter, "seconds", lambda drafter, sequences: 0.0)
