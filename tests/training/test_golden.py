"""Training computes what it computed when golden.json was recorded."""

from __future__ import annotations

import json

import pytest

from . import golden


def test_the_first_twenty_losses_are_the_recorded_ones() -> None:
    recorded = json.loads(golden.LOSSES.read_text())
    for found, expected in zip(golden.run(), recorded, strict=True):
        assert len(expected) == 20
        assert expected[-1] < expected[0] - 0.5  # it learned
        assert found == pytest.approx(expected, rel=1e-4)  # other processors round otherwise
