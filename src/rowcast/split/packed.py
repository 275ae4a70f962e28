"""Convolutions by oneDNN with a weight that is brought into its order once for several slabs of rows.

PyTorch does that anew at each call, which takes longer than the convolution itself where there are few pixels. It can
be had for tensors with their channels last, as those are that come from a camera. Others are left to PyTorch: the
kernel for channels last rounds differently, and slabs are to be computed by the kernel that computes the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["FEW_PIXELS", "SMALL", "Packed", "can_pack", "channels_last", "convolve", "pack"]

#: Pixels of which a convolution with a kernel of one pixel is not worth it: PyTorch multiplies matrices then.
FEW_PIXELS = 64
#: Elements of an image up to which PyTorch convolves by itself.
SMALL = 20480


def _operator(name: str, arguments: str) -> Any:
    """An operator of oneDNN; ``None`` where this build of PyTorch has none with these arguments."""
    found = getattr(getattr(torch.ops.mkldnn, name, None), "default", None)
    if found is None or [argument.name for argument in found._schema.arguments] != arguments.split():
        return None
    return found


SETTINGS = "padding stride dilation groups"
_PACK = _operator("_reorder_convolution_weight", f"self {SETTINGS} input_size")
_CONVOLVE = _operator("_convolution_pointwise", f"X W B {SETTINGS} attr scalars algorithm")
_PLAIN = torch.ops.aten.mkldnn_convolution.default
_AVAILABLE = _PACK is not None and _CONVOLVE is not None


@dataclass(frozen=True)
class Packed:
    """A weight as a convolution takes it.

    Attributes:
        ordered: in oneDNN's order, for rows with their channels last; else as it is.
    """

    weight: torch.Tensor
    ordered: bool


def can_pack(weight: torch.Tensor, groups: int) -> bool:
    """Whether a convolution with such a weight is one that PyTorch leaves to oneDNN, and that can be had this way."""
    return (
        _AVAILABLE
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and weight.dtype is torch.float32
        and weight.device.type == "cpu"
        and weight.dim() == 4
        and groups == 1
    )


def pack(
    rows: torch.Tensor, weight: torch.Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Packed:
    """The weight for such rows, float32 [batch, channels, rows, columns]."""
    if channels_last(rows) or channels_last(weight):
        return Packed(_PACK(weight, padding, stride, dilation, 1, rows.shape), True)
    return Packed(weight, False)


def convolve(
    rows: torch.Tensor,
    packed: Packed,
    bias: torch.Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    large: bool,
) -> torch.Tensor:
    """The convolution of rows; its memory format is theirs.

    Args:
        large: the whole image is more than :data:`SMALL`, so that PyTorch leaves it to oneDNN, which it would not with
            these rows.
    """
    if not packed.ordered:
        if large:
            alike: torch.Tensor = _PLAIN(rows.contiguous(), packed.weight, bias, padding, stride, dilation, 1)
            return alike
        return torch.conv2d(rows, packed.weight, bias, stride, padding, dilation)
    made: torch.Tensor = _CONVOLVE(rows, packed.weight, bias, padding, stride, dilation, 1, "none", [], "")
    return made


def channels_last(tensor: torch.Tensor) -> bool:
    """Whether the channels of one pixel of an image [batch, channels, rows, columns] lie side by side."""
    return tensor.dim() == 4 and tensor.shape[1] > 1 and tensor.stride(1) == 1 and tensor.shape[2] * tensor.shape[3] > 1
