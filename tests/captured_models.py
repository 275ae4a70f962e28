"""Small captured models that tests share: each is captured once in a process."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rowcast.split import Captured, capture
from rowcast.testing.zoo import SMALL

__all__ = ["NAMES", "Example", "answer_of", "assert_equal_answers", "small", "variant"]

NAMES = tuple(sorted(SMALL))
Example = tuple[torch.Tensor, ...]


@functools.cache
def small(name: str) -> tuple[Captured, Example]:
    """A model of the zoo and its example; nobody may change its parameters."""
    torch.set_num_threads(1)
    net, example = SMALL[name]()
    return capture(net, example), example


def variant(example: Example, seed: int, batch: int = 1) -> Example:
    """Inputs like the example, with other values."""
    generator = torch.Generator().manual_seed(seed)

    def like(tensor: torch.Tensor) -> torch.Tensor:
        shape = (batch, *tensor.shape[1:])
        if tensor.dtype is torch.uint8:
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    return tuple(map(like, example))


def assert_equal_answers(given: Any, expected: Any) -> None:
    """The same structure, and leaves that agree to 1e-5."""
    assert pytree.tree_structure(given) == pytree.tree_structure(expected)
    for mine, own in zip(pytree.tree_leaves(given), pytree.tree_leaves(expected), strict=True):
        if isinstance(own, Tensor):
            torch.testing.assert_close(mine, own.detach(), rtol=1e-5, atol=1e-5)
        else:
            assert mine == own


def answer_of(captured: Captured, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return captured.net(*inputs)
