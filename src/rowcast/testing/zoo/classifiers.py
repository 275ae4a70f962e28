"""Networks that name what is in an image, from their published descriptions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rowcast.testing.zoo.base import Model, made, random_image

__all__ = ["convnext", "densenet", "mobilenet", "resnet", "vgg"]

VGG19 = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
RELU_GAIN = math.sqrt(6)


def vgg(
    stages: Sequence[tuple[int, int]] = VGG19, *, width: int = 64, hidden: int = 4096, size: int = 224, seed: int = 0
) -> Model:
    """VGG with batch norm (Simonyan and Zisserman, 2015); by default VGG19.

    Args:
        stages: for each stage its channels, in units of ``width``, and its convolutions.
        hidden: units of the two hidden layers.
        size: of the image, a multiple of ``2 ** len(stages)``.
    """

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        before = 3
        for channels, convolutions in stages:
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, channels * width, 3, padding=1), nn.BatchNorm2d(channels * width)]
                layers.append(nn.ReLU(inplace=True))
                before = channels * width
            layers.append(nn.MaxPool2d(2))
        side = size >> len(stages)
        layers += [nn.Flatten(), nn.Linear(before * side * side, hidden), nn.ReLU(inplace=True), nn.Dropout()]
        return nn.Sequential(
            *layers, nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(hidden, 1000)
        )

    return made(build, (random_image(size, size, seed),), seed, gain=RELU_GAIN)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut (He et al., 2016), the stride in the 3x3."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        last = nn.BatchNorm2d(after)
        nn.init.constant_(last.weight, 0.3)  # the sum of many blocks stays of order 1
        self.body = nn.Sequential(
            *_convolution(before, width, 1),
            *_convolution(width, width, 3, stride),
            nn.Conv2d(width, after, 1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y += self.shortcut(x)
        return torch.relu_(y)


def resnet(
    depths: Sequence[int] = (3, 4, 6, 3),
    *,
    width: int = 64,
    size: tuple[int, int] = (224, 224),
    classes: int = 1000,
    seed: int = 0,
) -> Model:
    """ResNet of bottlenecks (He et al., 2016); by default ResNet50, ResNet152 with (3, 8, 36, 3)."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [*_convolution(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
        before = width
        for stage, depth in enumerate(depths):
            for block in range(depth):
                layers.append(Bottleneck(before, width << stage, 2 if stage and not block else 1))
                before = 4 * (width << stage)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))

    return made(build, (random_image(*size, seed),), seed)


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to those that it reads (Huang et al., 2017)."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(inplace=True),
            *_convolution(before, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        new: Tensor = self.body(torch.cat(features, 1))
        return new


class DenseBlock(nn.Module):
    """Each layer reads the results of all before it."""

    def __init__(self, before: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(before + growth * layer, growth) for layer in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features += [layer(features)]
        return torch.cat(features, 1)


def densenet(depths: Sequence[int] = (6, 12, 24, 16), *, growth: int = 32, size: int = 224, seed: int = 0) -> Model:
    """DenseNet with bottlenecks and halving transitions (Huang et al., 2017); by default DenseNet121."""

    def build() -> nn.Module:
        channels = 2 * growth
        layers: list[nn.Module] = [*_convolution(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for block, depth in enumerate(depths):
            layers.append(DenseBlock(channels, growth, depth))
            channels += growth * depth
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            if block < len(depths) - 1:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))

    return made(build, (random_image(size, size, seed),), seed)


class SqueezeExcite(nn.Module):
    """Scales each channel by what the means of all channels say (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        between = max(8, channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, between, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.gate(x) * x
        return scaled


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, narrows (Howard et al., 2019)."""

    def __init__(self, before: int, wide: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.shortcut = before == after and stride == 1
        self.body = nn.Sequential(
            *_convolution(before, wide, 1, activation=nn.Hardswish),
            *_convolution(wide, wide, kernel, stride, groups=wide, activation=nn.Hardswish),
            SqueezeExcite(wide),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


#: (widening, channels in units of ``width``, kernel, stride)
MOBILE = (
    (1, 1, 3, 2),
    (4, 1.5, 3, 2),
    (4, 1.5, 3, 1),
    (4, 2.5, 5, 2),
    (6, 2.5, 5, 1),
    (3, 3, 5, 1),
    (6, 6, 5, 2),
    (6, 6, 5, 1),
)


def mobilenet(
    blocks: Sequence[tuple[int, float, int, int]] = MOBILE, *, width: int = 16, size: int = 224, seed: int = 0
) -> Model:
    """Inverted residuals with squeeze and excitation in each, in the manner of MobileNetV3 small."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [*_convolution(3, width, 3, 2, activation=nn.Hardswish)]
        before = width
        for widening, channels, kernel, stride in blocks:
            after = int(channels * width)
            layers.append(InvertedResidual(before, widening * before, after, kernel, stride))
            before = after
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6 * before, 64 * width), nn.Hardswish()]
        layers += [*_convolution(before, 6 * before, 1, activation=nn.Hardswish), *head, nn.Dropout(0.2)]
        return nn.Sequential(*layers, nn.Linear(64 * width, 1000))

    return made(build, (random_image(size, size, seed),), seed)


class ConvNeXtBlock(nn.Module):
    """A 7x7 convolution of each channel, then two linear layers over channels (Liu et al., 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        moved: Tensor = (self.scale * self.mix(y)).permute(0, 3, 1, 2)
        return x + moved


def convnext(depths: Sequence[int] = (2, 2, 4, 2), *, width: int = 40, size: int = 224, seed: int = 0) -> Model:
    """A small ConvNeXt (Liu et al., 2022): a stem of 4x4 patches, stages that halve the image."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), nn.GroupNorm(1, width)]
        for stage, depth in enumerate(depths):
            channels = width << stage
            if stage:
                layers += [nn.GroupNorm(1, channels // 2), nn.Conv2d(channels // 2, channels, 2, 2)]
            layers += [ConvNeXtBlock(channels) for _ in range(depth)]
        last = width << (len(depths) - 1)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(last), nn.Linear(last, 1000))

    return made(build, (random_image(size, size, seed),), seed)


def _convolution(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, activation: type[nn.Module] = nn.ReLU
) -> tuple[nn.Module, ...]:
    """Convolution, batch norm, activation; the size is kept, but for the stride."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(after), activation(inplace=True)
