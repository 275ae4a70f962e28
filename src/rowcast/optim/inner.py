"""What an inner optimizer takes for granted about its own steps, and what becomes of it in a team.

Most optimizers of ``torch.optim`` keep statistics of gradients; those hold wherever the parameters go. Two keep what
they learned from how the gradient *answered* to their own step, and take for granted that the parameters moved by just
that step. In a team they move by the sum of what all robots proposed, as far as it has arrived.

- LBFGS keeps pairs (s, y): its step, and the difference of the gradients at both ends. Between two calls of ``step()``
  the parameters go elsewhere, so s and y do not belong together, and what the pairs say of the curvature is wrong by
  any factor: the next step may be a thousand times too long. :class:`Curvature` mends that.
- Rprop lets the step size of an element grow while the sign of its gradient stays. A coarse code moves every element
  of a row by the same amount, whatever its step size was. Nothing mends that; :func:`unsuited` says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rowcast.optim.team import TeamLike
from rowcast.sync import Policy

__all__ = ["Curvature", "momentum_of", "rate_of", "tell_settings", "unsuited"]

#: Codes that carry every element to within a thousandth of it.
_FINE = ("raw", "half")
#: LBFGS was left where it is when the parameters are off by less than this part of its last step: rounding, of float32
#: or of the code ``half``.
_SAME_PLACE = 0.01


class Curvature:
    """What LBFGS knows of the curvature, made to fit where the team has taken the parameters.

    Call :meth:`before` right before the inner optimizer steps, when the parameters are those that it steps from, and
    :meth:`after` right after it.

    What was learned on the way to another place is dropped, and the next step begins with the gradient, as the first
    of all does; with several iterations in a step (``max_iter``, 20 by default) LBFGS learns the curvature anew within
    the step. With ``max_iter=1`` it would never learn any: there the pair of the last step is kept, with the way that
    the parameters really went. A team of one in a fine code moves them where LBFGS left them: then nothing is dropped.

    Args:
        inner: any optimizer; all but LBFGS are left alone.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self._inner = inner if isinstance(inner, torch.optim.LBFGS) else None
        self._from: Tensor | None = None
        self._left: Tensor | None = None

    def before(self) -> None:
        """The parameters hold what the inner optimizer steps from."""
        if self._inner is None:
            return
        now = self._place(self._inner)
        self._adapt(self._inner, now)
        self._from = now

    def after(self) -> None:
        """The parameters hold what it has made of them."""
        if self._inner is not None:
            self._left = self._place(self._inner)

    def _adapt(self, inner: torch.optim.LBFGS, now: Tensor) -> None:
        group = inner.param_groups[0]
        state = inner.state[group["params"][0]]
        if state.get("d") is None:
            return
        if self._from is not None and self._left is not None:
            away = now - self._left
            if float(away.norm()) <= _SAME_PLACE * float((self._left - self._from).norm()):
                return
            if group["max_iter"] == 1:
                state["d"] = state["d"] * state["t"] + away
                state["t"] = 1.0
                for pairs in (state["old_dirs"], state["old_stps"], state["ro"]):
                    pairs.clear()
                state["H_diag"] = 1.0
                return
        # Without "d" it begins as at its first iteration; how often the model was evaluated is counted on.
        evaluated = state["func_evals"]
        state.clear()
        state.update(func_evals=evaluated, n_iter=0)

    @staticmethod
    def _place(inner: torch.optim.LBFGS) -> Tensor:
        """The parameters in the order of LBFGS's own vectors, one behind the other (a copy)."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in inner.param_groups[0]["params"]])


def momentum_of(inner: torch.optim.Optimizer) -> float:
    """Decay of the average of gradients that an inner optimizer steps by: the largest of its groups, 0 where none."""
    found = 0.0
    for group in inner.param_groups:
        momentum, betas = group.get("momentum", 0.0), group.get("betas", (0.0,))
        found = max(found, float(momentum), float(betas[0]))
    return min(max(found, 0.0), 1.0)


def tell_settings(inner: torch.optim.Optimizer, team: TeamLike) -> None:
    """Tell a team that wants to know it with what momentum and learning rate the next step is made."""
    if hasattr(team, "inner_momentum"):
        team.inner_momentum = momentum_of(inner)
    if hasattr(team, "inner_lr"):
        team.inner_lr = rate_of(inner)


def rate_of(inner: torch.optim.Optimizer) -> float:
    """Learning rate of an inner optimizer: the largest of its groups, 0 where they have none."""
    return max((float(group.get("lr", 0.0)) for group in inner.param_groups), default=0.0)


def unsuited(inner: torch.optim.Optimizer, policy: Policy | None) -> str | None:
    """Why an inner optimizer does not go with the team's policy, and which to choose; ``None``: it does.

    Args:
        inner: the optimizer.
        policy: the team's; ``None`` where nobody knows.
    """
    if policy is None:
        return None
    used = (policy.codec, policy.pull_codec or policy.codec, "elements" if policy.adapt else policy.codec)
    code = next((name for name in used if name not in _FINE), None)
    coarse = code is not None
    reasons, options = [], []
    if coarse:
        options.append("codec=raw&adapt=off" if policy.adapt else "codec=raw")
        options += [] if policy.pull_codec is None else ["pull_codec=raw"]
    if isinstance(inner, torch.optim.LBFGS):
        if coarse:
            reasons.append(f"what the coarse code {code!r} holds back of a step is proposed again, and comes on top")
        if policy.outer_momentum > 0:
            reasons.append("outer momentum makes each step longer")
            options.append("outer_momentum=0")
        if policy.auto_lr:
            reasons.append("an outer learning rate that rises makes each step longer")
            options.append("auto_lr=off")
        why = f"LBFGS goes all the way to a minimum in a step, but {' and '.join(reasons)}"
    elif isinstance(inner, torch.optim.Rprop) and coarse:
        reasons.append("coarse")
        why = (
            "Rprop lets the step size of an element grow while the sign of its gradient stays, but the coarse code "
            f"{code!r} moves an element by another amount, such as the mean of its row, whatever its step size was"
        )
    if not reasons:
        return None
    return (
        f"{type(inner).__name__} does not go well with the team's policy {policy.name!r}: {why}. Serve the policy "
        f"'{policy.name.partition('?')[0]}?{'&'.join(options)}', or take an optimizer that keeps statistics of "
        "gradients only, such as SGD or Adam (docs/benchmarks.md has a table)"
    )
