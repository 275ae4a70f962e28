"""How a model of the zoo is made: seeded, in evaluation, with activations of order 1."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Camera", "Model", "camera", "made", "random_image"]

#: A network in evaluation, and what its ``forward`` is called with.
Model = tuple[nn.Module, tuple[Tensor, ...]]
#: Mean and standard deviation of the colours of natural images, as most published networks subtract them.
COLOUR_MEAN, COLOUR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def made(
    build: Callable[[], nn.Module], example: tuple[Tensor, ...], seed: int, *, gain: float = math.sqrt(3)
) -> Model:
    """A network whose parameters come from a seed, and its example.

    The running statistics of batch norms are those of the example, moved at random: batch norm neither does nothing
    nor lets activations grow with depth.

    Args:
        build: constructs the network.
        gain: by which PyTorch's first weights are multiplied, where no batch norm follows: the square root of 3 keeps
            the variance, that of 6 keeps it where ReLU follows.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                module.weight.mul_(gain)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            _measured(net, norms, example)
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            deviation = norm.running_var.sqrt()
            norm.running_mean.add_(0.1 * deviation * torch.randn(norm.num_features))
            norm.running_var.mul_(torch.empty(norm.num_features).uniform_(0.7, 1.4))
            norm.weight.mul_(torch.empty(norm.num_features).uniform_(0.7, 1.3))
            norm.bias.normal_(0.0, 0.1)
    return net.eval(), example


def _measured(net: nn.Module, norms: list[nn.BatchNorm2d], example: tuple[Tensor, ...]) -> None:
    """Give batch norms the statistics of the example."""
    usual = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # A second, mirrored input: the variance of a single value is not a number.
    net(*(torch.cat([tensor, tensor.flip(-1)]) for tensor in example))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def random_image(height: int, width: int, seed: int, channels: int = 3) -> Tensor:
    """float32 [1, channels, height, width] of order 1."""
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


class Camera(nn.Module):
    """A network behind its camera: uint8 [batch, row, column, colour] in, normalised within the model.

    Args:
        net: takes float32 [batch, 3, row, column].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", 255 * torch.tensor(COLOUR_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(COLOUR_STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> object:
        """The answer of the network."""
        return self.net((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)


def camera(model: Model, seed: int = 0) -> Model:
    """A model of images, with a camera in front."""
    net, (image,) = model
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)
    return made(lambda: Camera(net), (image,), seed, gain=1.0)
