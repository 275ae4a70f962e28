"""The decoder of every map: trained in a synthetic room of its own, and the same for all places.

It is fixed while robots map. Trained along, it is where delay hurts most: every cell depends on the same few rows,
which all robots push at once. ``decoder.safetensors`` beside this file was made by::

    python -m rowcast.tasks.crimp.decoder src/rowcast/tasks/crimp/decoder.safetensors
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rowcast.errors import ConfigError
from rowcast.tasks.crimp.field import FEATURES, ImplicitMap
from rowcast.tasks.crimp.frames import Frames, Intrinsics
from rowcast.tasks.crimp.mapping import MapSampler, map_loss
from rowcast.tasks.crimp.pixels import usable_pixels
from rowcast.tasks.crimp.rooms import Room, free_poses
from rowcast.tasks.crimp.settings import RoomSettings

__all__ = ["load_decoder", "train_decoder"]

_FILE = Path(__file__).with_name("decoder.safetensors")
#: The room that the decoder is trained in; no task has a seed as large.
_ROOM = 2**32
_FRAMES, _STEPS = 60, 1500
_WIDTH, _HEIGHT, _FOCAL = 64, 48, 40.0
_GRID_RATE, _DECODER_RATE = 0.02, 0.002


@functools.lru_cache(maxsize=1)
def load_decoder() -> Mapping[str, Tensor]:
    """The parameters of the decoder by name.

    Raises:
        ConfigError: the library that reads them is missing.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError("crimp: needs safetensors, which is not installed; pip install 'rowcast[demo]'") from error
    return load_file(_FILE)


def train_decoder() -> dict[str, Tensor]:
    """Train grid and decoder together, from exact frames in random places of one room; the grid is thrown away.

    Where nothing was seen the features are 0: there the decoder is taught free space.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings, room = RoomSettings(rays=1024, newest_share=0.0), Room(_ROOM)
    field = ImplicitMap(room.bounds, settings.voxel, settings.truncation)
    camera = Intrinsics(_FOCAL, _FOCAL, (_WIDTH - 1) / 2, (_HEIGHT - 1) / 2)
    poses = free_poses(room, _FRAMES, rng)
    looks = [room.look(pose, camera, _HEIGHT, _WIDTH) for pose in poses]
    frames = Frames(
        "decoder",
        np.stack([np.round(255 * colour).astype(np.uint8) for colour, _ in looks]),
        np.stack([depth for _, depth in looks]),
        poses,
        camera,
        np.arange(_FRAMES, dtype=np.float64),
        [f"frame {number}" for number in range(_FRAMES)],
    )
    sampler = MapSampler(settings, rng)
    for place in range(_FRAMES):
        sampler.add(usable_pixels(frames, place, settings), poses[place])
    torch.nn.init.normal_(field.grid, std=0.01)
    optimizer = torch.optim.Adam(
        [
            {"params": [field.grid], "lr": _GRID_RATE},
            {"params": list(field.decoder.parameters()), "lr": _DECODER_RATE},
        ],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        unseen = torch.tanh(field.decoder(torch.zeros(1, FEATURES))[:, 0])
        loss = map_loss(field, sampler.draw(), settings.colour_weight) + (unseen - 1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return {name: value.contiguous() for name, value in field.decoder.state_dict().items()}


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="where to: decoder.safetensors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    save_file(train_decoder(), options.file)
    print(f"{options.file}: {options.file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
