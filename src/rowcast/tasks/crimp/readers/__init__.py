"""Readers of recorded RGB-D sequences, by the layout of their files.

=========  =======================================================================================
npz        one archive with all frames
7scenes    ``frame-000000.color.png``, ``.depth.png`` and ``.pose.txt``
tum        ``rgb.txt``, ``depth.txt``, ``groundtruth.txt``
scannet    ``color/0.jpg``, ``depth/0.png``, ``pose/0.txt``, ``intrinsic/``
replica    ``results/frame000000.jpg``, ``results/depth000000.png``, ``traj.txt``, as NICE-SLAM has it
=========  =======================================================================================

A folder with sub-folders ``seq-01``, ``seq-02``, ... holds several sequences in one frame of reference.
"""

from __future__ import annotations

from pathlib import Path

from rowcast.errors import ConfigError, DataError, near_match
from rowcast.tasks.crimp.readers.base import Camera, Layout, Recording
from rowcast.tasks.crimp.readers.npz import NPZ
from rowcast.tasks.crimp.readers.replica import REPLICA
from rowcast.tasks.crimp.readers.scannet import SCANNET
from rowcast.tasks.crimp.readers.seven_scenes import SEVEN_SCENES
from rowcast.tasks.crimp.readers.tum import TUM

__all__ = ["LAYOUTS", "Camera", "Layout", "Recording", "find_sequences"]

#: Layouts by name.
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NPZ, SEVEN_SCENES, TUM, SCANNET, REPLICA)}


def find_sequences(
    folder: str | Path | None, layout: str | None = None, camera: Camera | None = None
) -> list[Recording]:
    """The sequences that lie in a folder, in order of their names; their files are found and not decoded.

    Args:
        folder: of one sequence, or with sub-folders ``seq-*`` that share a frame of reference; a file for ``npz``.
        layout: name of the layout; ``None``: the one that is found.
        camera: what is said of the camera in place of what the data set has.

    Raises:
        ConfigError: an unknown layout.
        DataError: no folder, files of no layout or of several, or what the layout's reader finds wrong.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"layout: unknown layout {layout!r}; {near_match(layout, LAYOUTS)}")
    if folder is None:
        raise DataError(f"no data folder given; name a folder that holds {_wanted(layout)}")
    path = Path(folder)
    if not path.exists():
        raise DataError(f"{path}: no such folder; expected one that holds {_wanted(layout)}")
    several = sorted(
        (each for each in path.glob("seq-*") if each.is_dir()), key=lambda each: (len(each.name), each.name)
    )
    kind = _layout_of(path, several, layout)
    here = several if several and not kind.is_here(path) else [path]
    return [kind.open(each, camera or Camera()) for each in here]


def _layout_of(path: Path, several: list[Path], layout: str | None) -> Layout:
    known = list(LAYOUTS.values()) if layout is None else [LAYOUTS[layout]]
    found = [kind for kind in known if kind.is_here(path)]
    found = found or [kind for kind in known if several and all(kind.is_here(each) for each in several)]
    if not found:
        inside = sorted(each.name for each in path.iterdir()) if path.is_dir() else [path.name]
        shown = ", ".join(inside[:6]) + (f" and {len(inside) - 6} more" if len(inside) > 6 else "") or "nothing"
        others = [kind.name for kind in LAYOUTS.values() if any(map(kind.is_here, [path, *several]))]
        hint = f"set the layout to {' or '.join(others)}" if others else "name the folder of the sequence itself"
        raise DataError(f"{path}: expected {_wanted(layout)}, there or in each sub-folder seq-*; found {shown}; {hint}")
    if len(found) > 1:
        raise DataError(
            f"{path}: holds sequences of several layouts, {', '.join(kind.name for kind in found)}; say which is meant "
            "with the setting layout"
        )
    return found[0]


def _wanted(layout: str | None) -> str:
    known = LAYOUTS.values() if layout is None else [LAYOUTS[layout]]
    return ", or ".join(f"{kind.files} ({kind.name})" for kind in known)
