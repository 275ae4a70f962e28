"""The part of a wrapper that makes it an optimizer like any other: live views of the inner one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NoReturn

import torch
from torch import Tensor

from rowcast.errors import LocalProtocolError

__all__ = ["LiveWrapper"]


class LiveWrapper(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` whose groups, state, defaults and state dict are those of an inner optimizer.

    Whatever a scheduler, a user or ``load_state_dict`` changes through either object, both see. Hooks registered
    here run here; those of the inner optimizer keep running there.

    Args:
        inner: the optimizer to wrap.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self._inner = inner
        self._constructing = True  # the base class fills groups, state and defaults: they are filled already
        super().__init__(inner.param_groups, inner.defaults)
        self._constructing = False

    @property
    def inner(self) -> torch.optim.Optimizer:
        """The wrapped optimizer."""
        return self._inner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's parameter groups themselves."""
        return self._inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if not self._constructing:
            self._inner.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The inner optimizer's state itself."""
        return self._inner.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        if not self._constructing:
            self._inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimizer's defaults themselves."""
        return self._inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        if not self._constructing:
            self._inner.defaults = defaults

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict: it loads into the bare optimizer. Hooks of both run."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = {**self._inner.state_dict(), **self._own_state()}
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this or of a bare optimizer of the inner one's kind. Hooks of both run."""
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        self._inner.load_state_dict(state_dict)
        self._load_own_state(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _own_state(self) -> dict[str, Any]:
        """What a wrapper adds to the state dict of the inner optimizer, which ignores it when it is loaded."""
        return {}

    def _load_own_state(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`_own_state` added, where it is there."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as the inner optimizer does it."""
        self._inner.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the team has agreed on its parameters.

        Raises:
            LocalProtocolError: always.
        """
        if not self._constructing:
            raise LocalProtocolError(
                "add_param_group: the team has agreed on the layout of the model and cannot change it; give the inner "
                "optimizer all parameter groups first, then make the Optimizer"
            )

    def __getstate__(self) -> NoReturn:
        raise LocalProtocolError(
            "an Optimizer holds its place in a team and can be neither copied nor pickled; save state_dict() and "
            "model.state_dict(), and make a new Optimizer where you load them"
        )
