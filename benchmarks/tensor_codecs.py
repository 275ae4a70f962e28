"""Bytes and time of the tensor codecs: camera images and an activation, whole and in eight slabs of rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import Figure, arguments, best_s, finish
from rowcast.codecs.tensors import REGISTRY, TensorCodec, TensorType

#: 200 colour images of 160 x 120 pixels; not part of this repository.
IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "rgbd_redkitchen" / "redkitchen_160x120.npz"
SLABS = 8


@dataclass(frozen=True)
class Content:
    """Tensors of one type.

    Attributes:
        size: of one, for the title.
        most_bytes, most_ms: bounds of `deflate`: share of the bytes, and ms to encode and decode one.
    """

    name: str
    size: str
    kind: TensorType
    tensors: list[np.ndarray]
    most_bytes: float | None = None
    most_ms: float | None = None


def synthetic_image(size: int) -> np.ndarray:
    """What resembles an image of a camera: shading, objects with edges, and the noise of a sensor; uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    image = 90 + 60 * np.stack([x, (x + y) / 2, 1 - y], axis=-1)
    for _ in range(12):
        centre, radius, colour = random.random(2), 0.05 + 0.15 * random.random(), random.uniform(-60, 60, 3)
        image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] += colour
    image += random.normal(0, 2.0, (size, size, 1)) + random.normal(0, 1.0, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def contents(images: Path, *, tiny: bool) -> list[Content]:
    found = []
    if images.exists():
        colour = np.load(images)["color"][:: 50 if tiny else 1]
        kind = TensorType(colour.dtype, colour.shape[1:], row_axis=0, channel_axis=2)
        size = f"{len(colour)} images of {'x'.join(map(str, kind.shape))}"
        found.append(Content("camera", size, kind, list(colour), 0.70, None if tiny else 2.0))
    else:
        print(f"skipped: the images of a camera and their bounds, since {images} is not there; --images names a file")
    image = synthetic_image(32 if tiny else 224)
    kind = TensorType(image.dtype, image.shape, row_axis=0, channel_axis=2)
    found.append(Content("synthetic", "x".join(map(str, image.shape)), kind, [image], 0.70))
    shape = (1, 8, 16, 16) if tiny else (1, 64, 56, 56)
    activation = np.maximum(np.random.default_rng(1).standard_normal(shape, dtype=np.float32), 0)
    kind = TensorType(activation.dtype, shape, row_axis=2, channel_axis=1)
    found.append(Content("activation", f"{'x'.join(map(str, shape[1:]))} float32", kind, [activation]))
    return found


def figures_of(codec: TensorCodec, content: Content, slabs: int, repeat: int) -> list[Figure]:
    """Share of the bytes, and ms for a tensor (the mean of the best of each); what is decoded is compared."""
    kind = content.kind
    bounds = [kind.rows * k // slabs for k in range(slabs + 1)]
    spans = [(kind.index(a, b), kind.slab(a, b)) for a, b in itertools.pairwise(bounds)]

    target = np.empty(kind.shape, kind.dtype)

    def encode(tensor: np.ndarray) -> list[np.ndarray]:
        return [codec.encode(tensor[place], slab) for place, slab in spans]

    def decode(payloads: list[np.ndarray]) -> None:
        for payload, (place, slab) in zip(payloads, spans, strict=True):
            target[place] = codec.decode(payload, slab)

    sent = encode_s = decode_s = 0.0
    for tensor in content.tensors:
        payloads = encode(tensor)
        sent += sum(map(len, payloads))
        decode(payloads)
        off = np.abs(target.astype(np.float64) - tensor).max()
        assert off <= (0 if codec.exact else 0.01 * np.abs(tensor).max())
        encode_s += best_s(lambda tensor=tensor: encode(tensor), repeat)
        decode_s += best_s(lambda payloads=payloads: decode(payloads), repeat)
    share = sent / (len(content.tensors) * kind.nbytes)
    encode_ms, decode_ms = (1e3 * seconds / len(content.tensors) for seconds in (encode_s, decode_s))
    cut = "whole" if slabs == 1 else f"{slabs} slabs"
    name = f"{content.name}, {codec.name}, {cut}"
    asked = codec.name == "deflate"
    return [
        Figure(f"{name}: bytes", share, "of raw", bound=content.most_bytes if asked else None),
        Figure(
            f"{name}: time",
            encode_ms + decode_ms,
            "ms",
            bound=content.most_ms if asked else None,
            note=f"encode {encode_ms:.3f}, decode {decode_ms:.3f}",
        ),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--images",
        type=Path,
        default=IMAGES,
        metavar="FILE",
        help="an .npz with 'color', uint8 [image, row, column, 3]",
    )
    options = parser.parse_args()
    measured = contents(options.images, tiny=options.tiny)
    figures = [
        figure
        for content in measured
        for codec in REGISTRY.values()
        if content.kind.dtype.name in codec.dtypes
        for slabs in (1, SLABS)
        for figure in figures_of(codec, content, slabs, repeat=1 if options.tiny else 5)
    ]
    finish(f"Tensor codecs: {', '.join(f'{each.name} {each.size}' for each in measured)}", figures, options)


if __name__ == "__main__":
    main()
