"""Domain shift: fog and a change of brightness, drawn for each image from a seed.

Fog follows Koschmieder's law (H. Koschmieder, "Theorie der horizontalen Sichtweite", 1924; in the form used
for images by Narasimhan and Nayar, "Vision and the Atmosphere", IJCV 2002)::

    I = J t + A (1 - t),    t = exp(-beta depth)

with the clear image ``J``, the air light ``A``, the extinction ``beta`` and the ``depth`` of the scene. The
depth of an image of a digit is not known, so a smooth random field stands in for it. Five severities, as in
ImageNet-C (D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019); the numbers in :data:`SEVERITIES` are ours.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from rowcast.errors import ConfigError

__all__ = ["SEVERITIES", "DomainShift", "Severity", "brightness", "fog", "smooth_fields"]

FloatArray = NDArray[np.float32]

_GRID = 4
"""Knots along each side of a depth field."""


@dataclasses.dataclass(frozen=True)
class Severity:
    """One row of :data:`SEVERITIES`.

    Attributes:
        beta: extinction per unit of depth; the mean depth of a field is 1, so ``exp(-beta)`` of the light of a
            middling point arrives.
        air_light: lowest and highest air light ``A``, in 0..1; each image draws its own.
        gamma: lowest and highest exponent of the brightness curve; above 1 darkens.
        gain: lowest and highest factor of the brightness; below 1 darkens.
    """

    beta: float
    air_light: tuple[float, float]
    gamma: tuple[float, float]
    gain: tuple[float, float]


SEVERITIES: dict[int, Severity] = {
    1: Severity(beta=0.30, air_light=(0.80, 1.0), gamma=(0.95, 1.05), gain=(0.94, 1.00)),
    2: Severity(beta=0.60, air_light=(0.75, 1.0), gamma=(0.95, 1.10), gain=(0.88, 1.00)),
    3: Severity(beta=0.90, air_light=(0.70, 1.0), gamma=(0.90, 1.20), gain=(0.82, 1.00)),
    4: Severity(beta=1.20, air_light=(0.65, 1.0), gamma=(0.90, 1.30), gain=(0.76, 1.00)),
    5: Severity(beta=1.60, air_light=(0.60, 1.0), gamma=(0.90, 1.40), gain=(0.70, 1.00)),
}
"""How strong the shift is: 1 is haze, 3 thick fog at dusk, 5 hides most of the scene."""


def fog(images: FloatArray, depth: FloatArray, *, beta: float, air_light: float | FloatArray) -> FloatArray:
    """Koschmieder's law: ``J t + A (1 - t)`` with ``t = exp(-beta depth)``.

    Args:
        images: ``(n, channels, height, width)``, values in 0..1.
        depth: ``(n, height, width)``, in units of the mean depth, >= 0.
        beta: extinction per unit of depth, >= 0.
        air_light: ``A`` in 0..1, one number or ``(n,)``.

    Returns:
        foggy images, shape of ``images``, values in 0..1.
    """
    transmission = np.exp(-np.float32(beta) * depth)[:, None]
    light = np.asarray(air_light, dtype=np.float32)
    if light.ndim:
        light = light[:, None, None, None]
    result: FloatArray = (images * transmission + light * (1 - transmission)).astype(np.float32, copy=False)
    return result


def brightness(images: FloatArray, *, gamma: float | FloatArray, gain: float | FloatArray) -> FloatArray:
    """``gain * image ** gamma``, cut to 0..1; ``gamma`` and ``gain`` are one number or ``(n,)``."""
    exponent, factor = (np.asarray(value, dtype=np.float32) for value in (gamma, gain))
    if exponent.ndim:
        exponent = exponent[:, None, None, None]
    if factor.ndim:
        factor = factor[:, None, None, None]
    result: FloatArray = np.clip(factor * images**exponent, 0.0, 1.0).astype(np.float32, copy=False)
    return result


def _interpolation(size: int) -> FloatArray:
    """``(size, _GRID)`` weights of a cosine-smooth interpolation from the knots to ``size`` pixels."""
    where = np.linspace(0.0, _GRID - 1.0, size)
    left = np.minimum(where.astype(np.int64), _GRID - 2)
    share = 0.5 - 0.5 * np.cos(np.pi * (where - left))
    weights = np.zeros((size, _GRID), dtype=np.float32)
    weights[np.arange(size), left] = 1 - share
    weights[np.arange(size), left + 1] = share
    return weights


def smooth_fields(knots: FloatArray, height: int, width: int) -> FloatArray:
    """Smooth fields ``(n, height, width)`` through random knots ``(n, 4, 4)``; between the knots' extremes."""
    fields: FloatArray = np.einsum(
        "hi,nij,wj->nhw", _interpolation(height), knots, _interpolation(width), optimize=True
    ).astype(np.float32, copy=False)
    return fields


class DomainShift:
    """The shift of ``count`` images, each with its own depth field, air light and brightness.

    Everything random is drawn here, once, from ``rng``; :meth:`apply` is then a function of the image and its
    index, so a worker may shift only the images of its shard.

    Args:
        count: number of images.
        severity: 1..5, a key of :data:`SEVERITIES`.
        rng: a seeded numpy generator.

    Raises:
        ConfigError: a severity that is not in the table.
    """

    def __init__(self, count: int, severity: int, rng: np.random.Generator) -> None:
        if severity not in SEVERITIES:
            raise ConfigError(f"severity: expected one of {', '.join(map(str, SEVERITIES))}, got {severity!r}")
        self.severity = SEVERITIES[severity]
        self._knots = rng.uniform(0.2, 1.8, size=(count, _GRID, _GRID)).astype(np.float32)
        self._air_light, self._gamma, self._gain = (
            rng.uniform(low, high, size=count).astype(np.float32)
            for low, high in (self.severity.air_light, self.severity.gamma, self.severity.gain)
        )

    def apply(self, images: FloatArray, indices: NDArray[np.int64]) -> FloatArray:
        """Shift ``images`` ``(n, channels, height, width)`` in 0..1; ``indices`` ``(n,)`` are their numbers."""
        depth = smooth_fields(self._knots[indices], images.shape[2], images.shape[3])
        foggy = fog(images, depth, beta=self.severity.beta, air_light=self._air_light[indices])
        return brightness(foggy, gamma=self._gamma[indices], gain=self._gain[indices])
