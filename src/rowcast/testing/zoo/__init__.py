"""Networks to try split inference on, written from their published descriptions; they need PyTorch, and no weights.

Each function gives a network in evaluation and the arguments of its ``forward``: seeded, with activations of order 1.
Their sizes are parameters; :data:`FULL` has the usual ones, :data:`SMALL` networks of the same kinds of operators that
run in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rowcast.testing.zoo.base import Camera, Model, camera
from rowcast.testing.zoo.classifiers import convnext, densenet, mobilenet, resnet, vgg
from rowcast.testing.zoo.others import detector, recurrent, unet, unusual, vit

__all__ = [
    "FULL",
    "SMALL",
    "Camera",
    "Model",
    "camera",
    "convnext",
    "densenet",
    "detector",
    "mobilenet",
    "recurrent",
    "resnet",
    "unet",
    "unusual",
    "vgg",
    "vit",
]

#: Name -> the network as it is published, or in a size that robots use.
FULL: Mapping[str, Callable[[], Model]] = {
    "vgg19": vgg,
    "resnet50": resnet,
    "resnet152": lambda: resnet((3, 8, 36, 3)),
    "densenet121": densenet,
    "mobilenet-se": mobilenet,
    "convnext": convnext,
    "unet-bilinear": unet,
    "unet-transposed": lambda: unet(up="transposed"),
    "vit": vit,
    "vit-mha": lambda: vit(own=False),
    "detector": detector,
    "unusual": unusual,
    "recurrent": recurrent,
    "camera": lambda: camera(resnet()),
}

#: The same kinds of networks, small.
SMALL: Mapping[str, Callable[[], Model]] = {
    "vgg19": lambda: vgg(((1, 1), (2, 1), (2, 2)), width=8, hidden=32, size=32),
    "resnet50": lambda: resnet((1, 2), width=8, size=(48, 64), classes=10),
    "resnet152": lambda: resnet((1, 1, 1), width=4, size=(64, 64), classes=10),
    "densenet121": lambda: densenet((2, 2), growth=4, size=48),
    "mobilenet-se": lambda: mobilenet(((1, 1.5, 3, 2), (2, 1.5, 5, 1)), width=8, size=48),
    "convnext": lambda: convnext((1, 2), width=8, size=64),
    "unet-bilinear": lambda: unet((6, 8, 12), classes=3, size=(24, 32)),
    "unet-transposed": lambda: unet((6, 8, 12), up="transposed", classes=3, size=(24, 32)),
    "vit": lambda: vit(patch=8, width=24, depth=1, size=32),
    "vit-mha": lambda: vit(own=False, patch=8, width=24, depth=1, size=32),
    "detector": lambda: detector(width=6, classes=3, size=(48, 64)),
    "unusual": lambda: unusual(width=6, size=(41, 37)),
    "recurrent": lambda: recurrent(steps=10, features=5, width=12),
    "camera": lambda: camera(resnet((1,), width=8, size=(40, 48), classes=10)),
}
