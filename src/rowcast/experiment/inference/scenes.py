"""Images as a camera gives them, made by code: things that move before a background, and the noise of a sensor."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["scenes"]

#: Standard deviation of the noise, of 255.
NOISE = 1.5
#: Waves of the background, and things before it.
WAVES, THINGS = 6, 5


def scenes(count: int, height: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    """So many images of one scene: uint8 [1, height, width, 3] each."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    background = np.full((height, width, 3), 110.0)
    for _ in range(WAVES):
        across, down, phase = random.uniform(-4, 4), random.uniform(-4, 4), random.uniform(0, 2 * np.pi)
        wave = np.cos(2 * np.pi * (across * columns / width + down * rows / height) + phase)
        background += wave[:, :, None] * random.uniform(4, 16, 3)
    things = [
        (random.uniform(0, (height, width)), random.uniform(-9, 9, 2), random.uniform(0.08, 0.2) * height, colour)
        for colour in random.uniform(20, 235, (THINGS, 3))
    ]
    images = []
    for number in range(count):
        image = background.copy()
        for place, speed, radius, colour in things:
            middle = (place + number * speed) % (height, width)
            distance = np.hypot(rows - middle[0], columns - middle[1])
            share = np.clip(radius - distance, 0.0, 1.0)[:, :, None]
            image += share * (colour - image)
        image += random.normal(0.0, NOISE, image.shape)
        images.append(torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8))[None])
    return images
