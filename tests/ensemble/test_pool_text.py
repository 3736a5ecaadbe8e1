"""What `ensemble` says of a calibration: whether it was worth it, on rows held out."""

import pytest

from ensemble.pool_text import pool_lines
from ensemble.pools import Pooled

BEFORE = {"nll": 0.1311, "brier": 0.0605, "ece": 0.0433}


def told(**changes):
    """What is said where a calibration adds so much to the figures."""
    after = {name: value + changes.get(name, 0.0) for name, value in BEFORE.items()}
    made = Pooled({}, [], None, {"kind": "isotonic"}, before=BEFORE, after=after)
    return "\n".join(pool_lines(None, made))


@pytest.mark.parametrize(
    ("changes", "worse"),
    [
        ({"brier": 0.001}, "makes brier worse"),
        ({"nll": 0.001, "brier": -0.001, "ece": 0.001}, "makes nll and ece worse"),
        ({"nll": 0.001, "brier": 0.001, "ece": 0.001}, "makes nll, brier and ece worse"),
    ],
)
def test_a_calibration_that_loses_is_said_to(changes, worse):
    assert f"this calibration {worse} on rows held out" in told(**changes)


@pytest.mark.parametrize("change", [-0.001, 0.0, 0.000001])
def test_one_that_gains_or_changes_nothing_that_can_be_seen_is_not(change):
    assert "worse" not in told(nll=change, ece=-0.01)
