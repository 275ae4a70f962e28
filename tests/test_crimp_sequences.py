"""Recorded sequences as what robots see: parts, walks, held-out frames, the box, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorded import npz_arrays, write_npz
from rowcast.tasks.crimp.sequences import recorded_bounds, recorded_view
from rowcast.tasks.crimp.settings import RecordedSettings

REAL = Path(__file__).parents[2] / "shared" / "data" / "rgbd_redkitchen"


def settings(folder: Path | None, **others: Any) -> RecordedSettings:
    return RecordedSettings(data_dir=None if folder is None else str(folder), **others)


@pytest.mark.skipif(not REAL.is_dir(), reason="the red kitchen is not here")
def test_red_kitchen() -> None:
    views = [recorded_view(settings(REAL), index, 4) for index in range(4)]
    assert [(len(view.own), len(view.visit), len(view.tests)) for view in views] == [(40, 50, 30)] * 4
    assert views[0].own.colours.shape == (40, 60, 80, 3)
    assert views[3].visit.labels[0] == views[0].own.labels[0] == "frame 0"
    assert not {label for view in views for label in view.own.labels} & set(views[0].tests.labels)
    bounds = recorded_bounds(settings(REAL))
    assert np.allclose(np.subtract(bounds.high, bounds.low), (4.8, 2.6, 2.7), atol=0.1)


def test_parts(tmp_path: Path) -> None:
    """Two robots share 12 frames: six each, of which the third of each five is kept for the tests of the other."""
    view = recorded_view(settings(write_npz(tmp_path)), 1, 2)
    assert view.own.labels == [f"frame {3 * number}" for number in (6, 7, 9, 10, 11)]
    assert view.visit.labels == [f"frame {3 * number}" for number in range(6)]
    assert view.tests.labels == ["frame 6"]
    arrays = npz_arrays()
    assert np.array_equal(view.visit.colours, arrays["color"][:6])
    assert np.allclose(view.visit.depths * 1000, arrays["depth_mm"][:6])
    assert np.allclose(view.visit.poses, arrays["pose_c2w"][:6])
    assert np.allclose(view.own.times_s, 3 * np.array([6, 7, 9, 10, 11]) / 30)
    assert view.obstacles.shape == (0, 4)
