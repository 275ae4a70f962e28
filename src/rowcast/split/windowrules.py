"""Row rules of operators that read several rows for one: convolutions, pooling, interpolation, padding."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from rowcast.graphs import Identity, Resize, RunningSum, Transposed, Window
from rowcast.split.site import Place, Site, sizes

__all__ = ["adaptive", "conv_padding", "convolution", "pad", "pad_of", "pixel_shuffle", "pool", "upsample"]


def _window_at(site: Site, spatial: int) -> tuple[int, int] | None:
    """Index of the rows among the spatial axes, and their number; the axes in front are batch and channels."""
    sole = site.sole()
    if sole is None:
        return None
    node, axis, count = sole
    return (axis - 2, count) if len(sizes(node)) == spatial + 2 and axis >= 2 else None


def convolution(site: Site) -> Place | None:
    weight = site.arguments["weight"]
    if not isinstance(weight, Node):
        return None
    shape = sizes(weight)
    at = _window_at(site, len(shape) - 2)
    if at is None:
        return None
    index, count = at
    kernel = shape[index + 2] or 0
    stride, dilation = site.spatial("stride", index, 1), site.spatial("dilation", index, 1)
    if site.name.startswith("conv_transpose") or site.flag("transposed"):
        extra = site.spatial("output_padding", index, 0)
        return Transposed(count, kernel, stride, site.spatial("padding", index, 0), dilation, extra), index + 2
    before, after = conv_padding(site, index, kernel, dilation)
    return Window(count, kernel, stride, before, dilation, padding_after=None if before == after else after), index + 2


def conv_padding(site: Site, index: int, kernel: int, dilation: int) -> tuple[int, int]:
    """Padding of a convolution before and behind one spatial axis."""
    padding = site.arguments["padding"]
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = dilation * (kernel - 1)
        return total // 2, total - total // 2
    both = site.spatial("padding", index, 0)
    return both, both


def pool(site: Site) -> Place | None:
    at = _window_at(site, pool_axes(site))
    if at is None or (site.name.endswith("with_indices") and _uses_indices(site.node)):
        return None
    index, count = at
    kernel = site.spatial("kernel_size", index, 1)
    window = Window(
        count,
        kernel,
        site.spatial("stride", index, kernel),
        site.spatial("padding", index, 0),
        site.spatial("dilation", index, 1),
        site.flag("ceil_mode"),
    )
    return window, index + 2


def pool_axes(site: Site) -> int:
    """Spatial axes of a pooling, as its name says: ``max_pool2d``."""
    return int(site.name[site.name.index("pool") + 4])


def _uses_indices(node: Node) -> bool:
    """Whether anyone reads more than the first result; indices count the elements of the whole image."""
    return any(user.args[1] != 0 for user in node.users)


def adaptive(site: Site) -> Place | None:
    at = _window_at(site, pool_axes(site))
    if at is None:
        return None
    index, count = at
    wanted = site.out_sizes[index + 2]
    if wanted == 1:
        return (RunningSum(count), None) if site.name.startswith("adaptive_avg") else None
    if wanted is None or count % wanted:
        return None
    return Window(count, count // wanted, count // wanted), index + 2


def upsample(site: Site) -> Place | None:
    at = _window_at(site, 2)
    if at is None or at[0] != 0 or site.out_sizes[2] is None:
        return None
    mode = "nearest" if "nearest" in site.name else "bilinear"
    factors = site.get("scale_factors")
    scale = factors[0] if factors else site.get("scales_h")
    rule = Resize(at[1], site.out_sizes[2], mode, site.flag("align_corners"), None if scale is None else float(scale))
    return rule, 2


def pad(site: Site) -> Place | None:
    """A constant around it; padded rows are rows of the result that read nothing."""
    sole = site.sole()
    if sole is None or site.arguments.get("mode", "constant") != "constant":
        return None
    node, axis, count = sole
    before, after = pad_of(site.arguments["pad"], axis, len(sizes(node)))
    if min(before, after) < 0:
        return None
    return (Window(count, 1, 1, before, padding_after=after) if before or after else Identity(count)), axis


def pad_of(pad: Sequence[int], axis: int, ndim: int) -> tuple[int, int]:
    """What ``torch.nn.functional.pad`` adds before and behind an axis: it is told of the last axis first."""
    place = 2 * (ndim - 1 - axis)
    return (pad[place], pad[place + 1]) if place + 1 < len(pad) else (0, 0)


def pixel_shuffle(site: Site) -> Place | None:
    at = _window_at(site, 2)
    if at is None or at[0] != 0:
        return None
    factor = site.arguments["upscale_factor"]
    rule = Resize(at[1], at[1] * factor)
    exact = all(rule.need(row, row + 1) == (row // factor, row // factor + 1) for row in range(rule.out_rows))
    return (rule, 2) if exact else None
