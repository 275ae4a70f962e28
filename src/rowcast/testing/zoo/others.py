"""Networks with answers for each place of an image, of sequences, and with the less usual operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rowcast.testing.zoo.base import Model, made, random_image

__all__ = ["detector", "recurrent", "unet", "unusual", "vit"]


def _two(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down and up again, with what was seen on the way down beside what comes up (Ronneberger et al., 2015)."""

    def __init__(self, widths: Sequence[int], classes: int, up: str) -> None:
        super().__init__()
        self.up = up
        self.down = nn.ModuleList(_two(a, b) for a, b in zip((3, *widths), widths, strict=False))
        steps = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, 2) if up == "transposed" else nn.Conv2d(a, b, 1) for a, b in steps
        )
        self.join = nn.ModuleList(_two(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if level else x)
            seen.append(x)
        for grow, join, beside in zip(self.grow, self.join, reversed(seen[:-1]), strict=True):
            x = grow(x)
            if self.up != "transposed":
                x = functional.interpolate(x, scale_factor=2, mode=self.up, align_corners=False)
            x = join(torch.cat([beside, x], 1))
        answer: Tensor = self.head(x)
        return answer


def unet(
    widths: Sequence[int] = (32, 64, 128, 256),
    *,
    up: str = "bilinear",
    classes: int = 21,
    size: tuple[int, int] = (240, 320),
    seed: int = 0,
) -> Model:
    """U-Net: a class for each pixel.

    Args:
        up: ``"bilinear"`` or ``"transposed"``.
        size: multiples of ``2 ** (len(widths) - 1)``.
    """
    return made(lambda: UNet(widths, classes, up), (random_image(*size, seed),), seed)


class Attention(nn.Module):
    """Attention of all tokens to all, written out: or that of ``torch.nn``."""

    def __init__(self, width: int, heads: int, own: bool) -> None:
        super().__init__()
        self.heads = heads
        if own:
            self.all = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
        else:
            self.inner = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        if not self.own:
            given: Tensor = self.inner(x, x, x, need_weights=False)[0]
            return given
        batch, tokens, width = x.shape
        q, k, v = self.all(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class Block(nn.Module):
    """Attention, then two linear layers, each beside a shortcut, with layer norm in front."""

    def __init__(self, width: int, heads: int, own: bool) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, own)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.attention(self.before(x))
        mixed: Tensor = x + 0.5 * self.mix(self.between(x))
        return mixed


class ViT(nn.Module):
    """Patches as tokens (Dosovitskiy et al., 2021), one more token for the class."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, own: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(0.5 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, own) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        answer: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return answer


def vit(
    *,
    own: bool = True,
    patch: int = 16,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    size: int = 224,
    seed: int = 0,
) -> Model:
    """A small vision transformer.

    Args:
        own: attention written out; otherwise ``torch.nn.MultiheadAttention``.
    """
    return made(lambda: ViT(size, patch, width, depth, heads, own), (random_image(size, size, seed),), seed)


class Detector(nn.Module):
    """One stage that finds objects at several scales: class scores and boxes, each head with its own scale."""

    scales: Tensor

    def __init__(self, width: int, levels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1, inplace=True)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(_two(width << level, width << level), nn.Conv2d(width << level, 2 * width << level, 3, 2, 1))
            for level in range(levels)
        )
        self.sides = nn.ModuleList(nn.Conv2d(2 * width << level, 2 * width, 1) for level in range(levels))
        self.score, self.box = nn.Conv2d(2 * width, classes, 1), nn.Conv2d(2 * width, 4, 1)
        self.register_buffer("scales", torch.linspace(1.0, 2.0, levels))

    def forward(self, image: Tensor) -> dict[str, object]:
        features, x = [], self.stem(image)
        for level, side in zip(self.levels, self.sides, strict=True):
            x = level(x)
            features.append(side(torch.relu(x)))
        for finer, coarser in zip(range(len(features) - 2, -1, -1), reversed(features), strict=False):
            features[finer] = features[finer] + functional.interpolate(coarser, size=features[finer].shape[-2:])
        boxes = [torch.exp(0.1 * self.box(each)) * self.scales[level] for level, each in enumerate(features)]
        scores = [self.score(each).flatten(2) for each in features]
        return {"scores": torch.cat(scores, 2).sigmoid(), "boxes": tuple(boxes)}


def detector(
    *, width: int = 32, levels: int = 3, classes: int = 20, size: tuple[int, int] = (480, 640), seed: int = 0
) -> Model:
    """A detector with a dictionary of answers: ``scores`` of all places, and ``boxes`` for each scale."""
    return made(lambda: Detector(width, levels, classes), (random_image(*size, seed),), seed)


def unusual(*, width: int = 32, size: tuple[int, int] = (120, 160), seed: int = 0) -> Model:
    """Dilation, padding "same", pooling that rounds up, averages that count no padding, PReLU."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 5, padding="same", dilation=2),
            nn.PReLU(width),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(width, width, 3, padding="same"),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.ELU(),
            nn.Conv2d(width, 2 * width, 3, 2, dilation=2),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2, 1),
        )

    return made(build, (random_image(*size, seed),), seed)


class Recurrent(nn.Module):
    """Convolution over time, an LSTM in both directions, an answer for each step and one for the whole."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(features, width, 5, padding=2)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.each, self.whole = nn.Linear(2 * width, classes), nn.Linear(2 * width, classes)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.silu(self.first(signal.transpose(1, 2))).transpose(1, 2)
        y, _ = self.lstm(x)
        return self.each(y), self.whole(y.mean(1))


def recurrent(*, steps: int = 200, features: int = 12, width: int = 64, classes: int = 6, seed: int = 0) -> Model:
    """A model of the readings of sensors, float32 [batch, step, feature]."""
    signal = torch.randn(1, steps, features, generator=torch.Generator().manual_seed(seed))
    return made(lambda: Recurrent(features, width, classes), (signal,), seed)
