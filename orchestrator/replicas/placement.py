"""Where the replicas of a pool go, in Ray's words."""

from typing import Any

from orchestrator.core.config import PlacementConfig


def placement_options(placement: PlacementConfig) -> dict[str, Any]:
    """Options of an actor; none where Ray chooses."""
    options: dict[str, Any] = {}
    if placement.spread:
        options["scheduling_strategy"] = "SPREAD"
    if placement.labels:
        options["label_selector"] = dict(placement.labels)
    return options
