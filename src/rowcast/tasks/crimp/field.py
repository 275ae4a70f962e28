"""The implicit map: a grid of features in blocks, and a small decoder to signed distance and colour.

The features are trilinearly interpolated between the vertices of a regular grid. Vertices lie in memory in blocks of
4 x 4 x 4, and the parameter :attr:`ImplicitMap.grid` has one row for each block: so a block of space is a row of
Rowcast's layout, and travels where somebody has seen something of it.

A grid with a small decoder is that of NICE-SLAM (Zhu et al., CVPR 2022, arXiv 2112.12130), whose decoders were trained
beforehand and fixed as well; signed distances in place of occupancy are those of ESLAM (Johari et al., CVPR 2023, arXiv
2211.11704) and Co-SLAM (Wang et al., CVPR 2023, arXiv 2304.14377).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from rowcast.errors import ConfigError
from rowcast.tasks.crimp.field_kernels import sample_points
from rowcast.tasks.crimp.scene import Bounds

__all__ = ["BLOCK", "FEATURES", "HIDDEN", "MOST_BLOCKS", "ImplicitMap"]

#: Vertices of a block along each axis; features of a vertex; hidden units of the decoder.
BLOCK, FEATURES, HIDDEN = 4, 8, 32
#: Blocks of a map at most: 256 MB of features, of which a robot and the server keep several copies each. Rowcast's
#: protocol would bear more rows.
MOST_BLOCKS = 1 << 17
#: Voxels by which a length may be over a whole number of them.
_ROUNDING = 1e-6


class ImplicitMap(nn.Module):
    """A map of a box in space.

    Args:
        bounds: of the surfaces.
        voxel: distance of two vertices, metres.
        margin: how far the map goes beyond the bounds at least, metres: a surface at the border has a far side.

    Attributes:
        low, high: corners of the box that the vertices span, float64 [3]; the bounds are in its middle.
        grid: float32 [blocks, 64 * features], what is trained.
        decoder: features to signed distance and colour.

    Raises:
        ConfigError: bounds that are none, or more blocks than a robot has room for.
    """

    def __init__(self, bounds: Bounds, voxel: float, margin: float) -> None:
        super().__init__()
        self.voxel = voxel
        if not (np.isfinite([bounds.low, bounds.high]).all() and np.less_equal(bounds.low, bounds.high).all()):
            raise ConfigError(
                f"bounds: expected finite corners, each number of the lowest at most that of the highest, got "
                f"{bounds.low} and {bounds.high}"
            )
        extent = np.array(bounds.high) - np.array(bounds.low) + 2 * margin
        self.blocks = tuple(int(-(-(np.ceil(side / voxel - _ROUNDING) + 1) // BLOCK)) for side in extent.tolist())
        count = self.blocks[0] * self.blocks[1] * self.blocks[2]
        if count > MOST_BLOCKS:
            raise ConfigError(
                f"voxel: {voxel:g} m makes {count} blocks of a place of {extent[0]:.3g} x {extent[1]:.3g} x "
                f"{extent[2]:.3g} m, and a map may have {MOST_BLOCKS}; expected a larger voxel"
            )
        self.sizes = tuple(BLOCK * each for each in self.blocks)
        middle, half = (np.array(bounds.high) + np.array(bounds.low)) / 2, (np.array(self.sizes) - 1) * voxel / 2
        self.low, self.high = middle - half, middle + half
        self.grid = nn.Parameter(torch.zeros(count, BLOCK**3 * FEATURES))
        self.decoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4))
        self._order = _order(self.blocks)
        self._box = np.array([*self.low, *self.high, voxel])
        corners = [(a * self.sizes[1] + b) * self.sizes[2] + c for a, b, c in itertools.product((0, 1), repeat=3)]
        self.register_buffer("_corners", torch.tensor(corners), persistent=False)
        self.register_buffer("_places", torch.from_numpy(self._order.astype(np.int64)), persistent=False)
        self.register_buffer("_low", torch.tensor(self.low, dtype=torch.float32), persistent=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance and colour at points.

        Args:
            points: float32 [n, 3], metres, in the box; what is outside is taken to its border.

        Returns:
            signed distance [n], as a share of the truncation, -1 to 1, and colour [n, 3], 0 to 1.
        """
        out = self.decoder(self.features(points))
        return torch.tanh(out[:, 0]), torch.sigmoid(out[:, 1:])

    def features(self, points: Tensor) -> Tensor:
        """The interpolated features at points float32 [n, 3]: [n, features]."""
        corners: Any = self._corners
        places: Any = self._places
        low: Any = self._low
        scaled = (points - low) / self.voxel
        limits = torch.tensor(self.sizes, dtype=torch.float32) - 1
        scaled = torch.minimum(scaled.clamp_min(0.0), limits)
        whole = torch.minimum(scaled.floor(), limits - 1)
        part = scaled - whole
        i, j, k = whole.long().unbind(1)
        base = (i * self.sizes[1] + j) * self.sizes[2] + k
        cells = places[base[:, None] + corners]
        along = torch.stack([1 - part, part], dim=2)
        weights = along[:, 0, :, None, None] * along[:, 1, None, :, None] * along[:, 2, None, None, :]
        return functional.embedding_bag(
            cells, self.grid.view(-1, FEATURES), per_sample_weights=weights.reshape(-1, 8), mode="sum"
        )

    def inside(self, points: Tensor) -> Tensor:
        """Whether points [n, 3] are in the box."""
        low, high = (torch.tensor(each, dtype=torch.float32) for each in (self.low, self.high))
        return ((points >= low) & (points <= high)).all(dim=1)

    def arrays(self) -> Any:
        """Geometry, grid and decoder as :mod:`rowcast.tasks.crimp.field_kernels` takes them; the grid is not copied."""
        grid = self.grid.detach().numpy().reshape(-1, FEATURES)
        layers: Any = self.decoder
        first, _, second = layers
        decoder = (
            np.ascontiguousarray(first.weight.detach().numpy().T),
            first.bias.detach().numpy(),
            second.weight.detach().numpy(),
            second.bias.detach().numpy(),
        )
        return (self._order, np.array(self.sizes), self._box), grid, decoder

    def sample(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Values and slopes at points float64 [n, 3] without gradients, float32 [n, 11]: signed distance (share of
        the truncation), its slope (per metre), grey, its slope, red, green, blue. Outside the box: 1 and zeros."""
        found: npt.NDArray[np.float32] = sample_points(points, self.arrays())
        return found

    def block_corners(self) -> npt.NDArray[np.float64]:
        """The lowest corner of each block, float64 [blocks, 3], metres, in the order of the rows."""
        places = np.stack(np.meshgrid(*map(np.arange, self.blocks), indexing="ij"), axis=-1).reshape(-1, 3)
        found: npt.NDArray[np.float64] = self.low + places * (BLOCK * self.voxel)
        return found


def _order(blocks: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """For each vertex, x slowest, its place in memory: blocks one after the other, x slowest in both."""
    sizes = [BLOCK * each for each in blocks]
    i, j, k = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    block = (i // BLOCK * blocks[1] + j // BLOCK) * blocks[2] + k // BLOCK
    within = (i % BLOCK * BLOCK + j % BLOCK) * BLOCK + k % BLOCK
    return (block * BLOCK**3 + within).reshape(-1).astype(np.int32)
