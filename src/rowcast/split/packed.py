"""Convolutions by oneDNN with a weight that is brought into its order once for several slabs of rows.

PyTorch does that anew at each call, which takes longer than the convolution itself where there are few pixels. The
kernels are those that PyTorch calls, so the result is that of the whole image, and so is the memory format: channels
last where the rows are, else contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["FEW_PIXELS", "Packed", "can_pack", "convolve", "pack"]

#: Pixels of which a convolution with a kernel of one pixel is not worth it: PyTorch multiplies matrices then.
FEW_PIXELS = 64


def _operator(namespace: Any, name: str, arguments: str) -> Any:
    """An operator of PyTorch; ``None`` where this build has none with these arguments."""
    found = getattr(getattr(namespace, name, None), "default", None)
    if found is None or [argument.name for argument in found._schema.arguments] != arguments.split():
        return None
    return found


SETTINGS = "padding stride dilation groups"
_PACK_LAST = _operator(torch.ops.mkldnn, "_reorder_convolution_weight", f"self {SETTINGS} input_size")
_CONVOLVE_LAST = _operator(torch.ops.mkldnn, "_convolution_pointwise", f"X W B {SETTINGS} attr scalars algorithm")
_PACK = _operator(torch.ops.aten, "mkldnn_reorder_conv2d_weight", f"self {SETTINGS} input_size")
_CONVOLVE = _operator(torch.ops.aten, "mkldnn_convolution", f"self weight bias {SETTINGS}")
_AVAILABLE = None not in (_PACK_LAST, _CONVOLVE_LAST, _PACK, _CONVOLVE)


@dataclass(frozen=True)
class Packed:
    """A weight in the order that oneDNN wants.

    Attributes:
        last: for rows with their channels last.
    """

    weight: torch.Tensor
    last: bool


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
    if _channels_last(rows) or _channels_last(weight):
        return Packed(_PACK_LAST(weight, padding, stride, dilation, 1, rows.shape), True)
    return Packed(_PACK(weight.to_mkldnn(), padding, stride, dilation, 1, rows.shape), False)


def convolve(
    rows: torch.Tensor,
    packed: Packed,
    bias: torch.Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """The convolution of rows, in the memory format for which the weight was packed."""
    if packed.last:
        made = _CONVOLVE_LAST(rows, packed.weight, bias, padding, stride, dilation, 1, "none", [], "")
    else:
        made = _CONVOLVE(rows.contiguous(), packed.weight, bias, padding, stride, dilation, 1)
    result: torch.Tensor = made
    return result


def _channels_last(tensor: torch.Tensor) -> bool:
    return tensor.shape[1] > 1 and tensor.stride(1) == 1 and tensor.shape[2] * tensor.shape[3] > 1
