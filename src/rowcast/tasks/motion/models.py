"""Three models of a clip with the same layers; they differ in which channels come from another frame.

Written from the published description: J. Lin, C. Gan, S. Han, "TSM: Temporal Shift Module for Efficient Video
Understanding", ICCV 2019 (arXiv 1811.08383), sections 3 and 4; algorithms.md 17.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rowcast.errors import ConfigError, near_match

__all__ = ["GROUP", "MODELS", "FrameByFrame", "MotionNet", "check_channels", "shifted"]

#: One channel of so many is shifted each way.
GROUP = 8

#: What is shifted in a model, by its name: channels from the frame before, and from the one behind.
MODELS: dict[str, tuple[bool, bool]] = {"2d": (False, False), "tsm": (True, True), "online": (True, False)}


def check_channels(channels: int) -> None:
    """Raises ConfigError for channels of which no eighth can be shifted."""
    if channels < GROUP or channels % GROUP:
        raise ConfigError(
            f"channels: expected a multiple of {GROUP}, of which an eighth can be shifted, got {channels!r}; "
            f"take {max(channels // GROUP, 1) * GROUP}"
        )


def shifted(maps: Tensor, before: Tensor | None = None, *, both_ways: bool) -> Tensor:
    """Maps of a clip, an eighth of the channels from the frame before, and maybe the next eighth from the one behind.

    Values are moved and nothing is computed. Where there is no frame before or behind, these channels are 0.

    Args:
        maps: ``(n, frames, channels, height, width)``.
        before: ``(n, channels / 8, height, width)``, the first channels of the frame before the first one; ``None``:
            there is none.
        both_ways: whether channels of the frame behind come as well.

    Returns:
        a tensor of the shape of ``maps``.

    Source: TSM, section 3.2 (both ways) and 4.2 (one way, with a cache); algorithms.md 17.
    """
    part = maps.shape[2] // GROUP
    past, next_, rest = maps[:, :, :part], maps[:, :, part : 2 * part], maps[:, :, 2 * part :]
    first = torch.zeros_like(past[:, :1]) if before is None else before[:, None]
    forward = torch.cat([first, past[:, :-1]], dim=1)
    backward = torch.cat([next_[:, 1:], torch.zeros_like(next_[:, :1])], dim=1) if both_ways else next_
    return torch.cat([forward, backward, rest], dim=2)


class _Block(nn.Module):
    """Two 3x3 convolutions beside an identity; what is shifted is shifted in the branch, so that the identity keeps
    the frame's own channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, branch: Tensor) -> Tensor:
        """Maps ``(n, channels, height, width)`` of frames, and what the branch sees of them."""
        out: Tensor = functional.relu(maps + self.conv2(functional.relu(self.conv1(branch))))
        return out


class MotionNet(nn.Module):
    """A small residual network over each frame, whose scores are averaged over the frames.

    Call it with clips ``(n, frames, 1, height, width)`` float32; it returns scores ``(n, classes)``. A 3x3 convolution
    of stride 2, ``blocks`` residual blocks, the mean over the pixels, a linear layer. No layer normalises, so that
    there are no buffers to exchange. Parameters and FLOPs are the same for every ``model``.

    Args:
        model: one of :data:`MODELS`.
        classes: numbers of a score.
        channels: of each layer, a multiple of 8.
        blocks: residual blocks, 1 or more.

    Attributes:
        past, future: whether channels come from the frame before, and from the one behind.

    Raises:
        ConfigError: an unknown model, or channels that eighths do not divide.

    Source: arXiv 1811.08383, section 3.2 (shift within the residual branch) and 4.
    """

    def __init__(self, model: str, classes: int, *, channels: int = 16, blocks: int = 2) -> None:
        super().__init__()
        if model not in MODELS:
            raise ConfigError(f"model: unknown model {model!r}; {near_match(model, MODELS)}")
        check_channels(channels)
        self.model = model
        self.past, self.future = MODELS[model]
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.head = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, clips: Tensor) -> Tensor:
        scores, _ = self.frame_scores(clips)
        return scores.mean(dim=1)

    def frame_scores(self, clips: Tensor, before: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The scores of each frame, and what the next clip needs to go on behind this one.

        Args:
            clips: ``(n, frames, 1, height, width)``.
            before: what this method gave for the frames before, an eighth of the channels ``(n, channels / 8, ...)``
                for each block; ``None``: there are none.

        Returns:
            scores ``(n, frames, classes)``, and the list for the next call.
        """
        count, frames = clips.shape[:2]
        maps = functional.relu(self.stem(clips.flatten(0, 1)))
        carried = []
        for number, block in enumerate(self.blocks):
            branch = maps
            if self.past:
                in_time = maps.reshape(count, frames, *maps.shape[1:])
                earlier = None if before is None else before[number]
                branch = shifted(in_time, earlier, both_ways=self.future).flatten(0, 1)
                carried.append(in_time[:, -1, : maps.shape[1] // GROUP])
            maps = block(maps, branch)
        scores: Tensor = self.head(maps.mean(dim=(2, 3)))
        return scores.reshape(count, frames, -1), carried


class FrameByFrame:
    """A model that is given one frame after the other, as a robot gets them; it keeps an eighth of the maps between.

    After the last frame of a clip the answer is that of the model for the whole clip, up to the order of
    floating-point sums. Nothing is computed twice.

    Args:
        net: a model that needs no later frame: ``online``, or ``2d``. It is used as it is: put it in evaluation mode,
            and call under ``torch.no_grad()`` where nothing is trained.

    Raises:
        ConfigError: a model that needs the frame behind.
    """

    def __init__(self, net: MotionNet) -> None:
        if net.future:
            raise ConfigError(
                f"model: expected one that needs no later frame, got {net.model!r}; train 'online' to run it frame by "
                "frame"
            )
        self.net = net
        self.restart()

    def restart(self) -> None:
        """Begin another clip: forget the frames so far."""
        self.frames = 0
        self._shape: torch.Size | None = None
        self._carried: Sequence[Tensor] | None = None
        self._sum: Tensor | None = None

    def next(self, frame: Tensor) -> Tensor:
        """The scores after one more frame of each clip: the mean over the frames so far.

        Args:
            frame: ``(n, 1, height, width)``; of the same shape until :meth:`restart`.

        Returns:
            scores ``(n, classes)``.

        Raises:
            ConfigError: a frame of another shape.
        """
        wanted = "(n, 1, height, width)" if self._shape is None else str(tuple(self._shape))
        if frame.dim() != 4 or frame.shape[1] != 1 or (self._shape is not None and frame.shape != self._shape):
            raise ConfigError(f"frame: expected {wanted}, got {tuple(frame.shape)}; call restart() for other clips")
        scores, carried = self.net.frame_scores(frame[:, None], self._carried)
        self._shape, self._carried = frame.shape, carried
        self._sum = scores[:, 0] if self._sum is None else self._sum + scores[:, 0]
        self.frames += 1
        return self._sum / self.frames


def _initialise(net: MotionNet) -> None:
    """Kaiming for rectifiers; the last convolution of a block begins at half of it, so that blocks do not add up.

    With PyTorch's own values, which are smaller, half of the directions are told after 130 to 180 steps instead of
    100 to 110 (``tsm``, one robot, three seeds).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    with torch.no_grad():
        for block in net.blocks:
            assert isinstance(block, _Block)
            block.conv2.weight.mul_(0.5)
