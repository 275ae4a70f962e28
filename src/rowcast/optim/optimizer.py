"""A PyTorch optimizer whose steps go through a team.

The inner optimizer proposes a step; the proposal, in parameter units and times the averaging weight, is added
to what is pending; the parameters are put back and move only by what the team sends (algorithms.md 1.5: the
learning rate and the weight are multiplied in at the sender, so every replica moves by the same sum).

With a policy of H local steps (``localsgd:H``, ``diloco:H``) H steps make one proposal, a round: the parameters are
put back once, behind the H-th.
"""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, NonFiniteGradient, near_match
from rowcast.optim.buffers import Buffers, WithBuffers
from rowcast.optim.forks import warn_of_fork
from rowcast.optim.handwritten import Marks
from rowcast.optim.inner import Curvature, unsuited
from rowcast.optim.projection import Projection
from rowcast.optim.shared import shared_parameters
from rowcast.optim.team import TeamLike
from rowcast.optim.tensors import Proposal, first_nonfinite, read_into, write_from
from rowcast.optim.wrapper import LiveWrapper

__all__ = ["Optimizer"]


class _NoContribution(Exception):
    """Leaves a closure whose gradient cannot be used, before the inner optimizer has changed any state."""


class _BadGradient(NonFiniteGradient):
    """A bad gradient, seen before the inner optimizer did; a bad proposal is not one of these."""


class Optimizer(LiveWrapper):
    """Wrap any ``torch.optim`` optimizer so that a team trains the model together.

    ``step()`` takes in what arrived, lets the inner optimizer propose a step, adds the proposal to what is
    pending, and exchanges rows with the team; it blocks only in that exchange. A step without a usable gradient
    (``GradScaler`` found Inf, or a gradient holds NaN or Inf) leaves the inner optimizer's state alone, counts as
    "no contribution", and still finishes the iteration, so that nobody waits for it.

    It is a ``torch.optim.Optimizer``: hooks, learning-rate schedulers, ``GradScaler``, closures (LBFGS),
    ``zero_grad(set_to_none)`` and ``state_dict`` work as ever. ``param_groups``, ``state`` and ``defaults`` *are*
    those of the inner optimizer, and a state dict loads into the bare inner optimizer and back. Momentum and
    other inner state stay local. Hooks of all optimizers (``register_optimizer_step_post_hook``) run for the
    wrapper and for the inner optimizer.

    A team trains the parameters that are in the model, in the optimizer, and trainable when this object is made.
    From then on the replica is the only source of truth for them: load a checkpoint into the model before, since
    what is written into the parameters by hand is overwritten (a warning says so once); ``project`` keeps them in
    bounds. What is in the model between two steps may be ahead of the replica: see :meth:`evaluating`.

    Floating-point buffers travel as ``buffers`` has it. What training moves them by here is contributed with each step,
    with the averaging weight. Between two steps they hold what this worker has made of them since something arrived.
    A buffer that stays here and moves is named in a warning. Whole numbers (``num_batches_tracked``) are each worker's.

    The team's policy may ask for H local steps. Then H calls of ``step()`` make one iteration, a round: all but the
    last only run the inner optimizer, on parameters that are this worker's own until the round ends. A step that is
    skipped counts as one of the H, so that the workers stay in step. Parameters that a step has made NaN or Inf are
    refused when the round ends: all of its steps are lost, and the replica is back. ``state_dict()`` then also holds
    ``"local_step"``, how many steps of the round were done, and what is loaded goes on in that place of a round, so
    that this worker exchanges when the others do; what those steps did is in the model's parameters, not there.

    Args:
        inner: the optimizer to wrap, built from the model's parameters.
        model: the model; parameters take their names and order from ``model.named_parameters()``.
        team: joined here; this blocks until the team has let us in and its values are in the model.
        weight: averaging weight of each step, > 0; None is 1 / (active workers).
        nonfinite: what follows a gradient with NaN or Inf, once the iteration is finished: "raise" raises
            :class:`~rowcast.errors.NonFiniteGradient`, "skip" warns the first time and goes on.
        buffers: what becomes of the model's persistent floating-point buffers; the same at every worker. "average":
            the team's value is the average of what the workers make of them. "first": it is what the worker makes of
            them that is in the team for the longest time. "local": they stay with their worker. ``None``: running
            statistics of normalisation layers (``running_mean``, ``running_var``) are averaged, others stay.
        project: takes the model and writes its parameters, in place, so that they obey a constraint (``clamp_``, a
            largest norm); called without gradients whenever parameters were written. See :meth:`step`. Give the same
            to every robot. It depends on the parameters alone, and changes nothing that obeys already.

    Raises:
        ConfigError: an argument cannot be used; the message names the parameter or the argument.

    Example::

        inner = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with rowcast.optim.Optimizer(inner, model, team) as optimizer:
            for batch, target in loader:
                optimizer.zero_grad()
                loss_of(model(batch), target).backward()
                optimizer.step()
    """

    #: GradScaler then calls step() also when it found Inf, and leaves unscaling to us.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        model: nn.Module,
        team: TeamLike,
        *,
        weight: float | None = None,
        nonfinite: str = "raise",
        buffers: str | None = None,
        project: Callable[[nn.Module], object] | None = None,
    ) -> None:
        if not isinstance(inner, torch.optim.Optimizer) or isinstance(inner, Optimizer):
            raise ConfigError(
                f"inner: expected a bare torch.optim optimizer, got {type(inner).__name__}; "
                "pass for example torch.optim.SGD(model.parameters(), lr=0.1)"
            )
        if weight is not None and not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
            raise ConfigError(f"weight: expected a finite number above 0, or None for 1 / members; got {weight!r}")
        if nonfinite not in ("raise", "skip"):
            raise ConfigError(f"nonfinite: {nonfinite!r} is unknown; {near_match(str(nonfinite), ('raise', 'skip'))}")
        warn_of_fork(stacklevel=3)
        projection = Projection(model, project)
        super().__init__(inner)
        self._shared = shared_parameters(model, inner)
        self._buffers = Buffers(model, buffers)
        self._layout = self._buffers.join(self._shared)
        self._team = team
        self._weight = weight
        self._nonfinite = nonfinite
        self._exchanging = True
        self._local_step = 0  # steps of this round that are done
        self._deviates = False  # the parameters hold steps that the team has not been told
        self._closed = False
        self._skipped_steps = 0
        self._warned_of_skip = False
        self._curvature = Curvature(inner)
        self._projection = projection
        self._round_base: npt.NDArray[np.float32] | None = None
        self._marks: Marks | None = Marks(self._shared.names, self._shared.tensors)
        self._warned_of_code = False
        projection.apply()
        vector = np.empty(self._layout.elements, dtype=np.float32)
        read_into(vector, self._layout, [*self._shared.tensors, *self._buffers.tensors()])
        team.start(self._layout, vector)
        try:
            self._take_view()
        except BaseException:
            team.leave()
            raise
        self._abandon = weakref.finalize(self, team.abandon)
        self._abandon.atexit = False  # then the connection ends by itself

    # ---- the step -----------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Propose a step, exchange with the team, and take what arrived into the parameters.

        With local steps only the last step of a round exchanges, and returns with the replica in the parameters.

        With a closure the gradients are computed while arriving rows wait, because the closure must see
        parameters that stand still; without one, rows arrive during forward and backward.

        With ``project`` the gradient is computed from projected parameters, the step is made from them and projected,
        and what travels is the way from the one to the other. Rows that are on their way, or that a lossy code has
        rounded, may take the team's sum beyond the constraint all the same; it is led back, and what is put into the
        model is projected in any case. So the model obeys after each step, after :meth:`evaluating` has begun and
        after :meth:`close`, and the models of all robots are equal where their replicas are.

        Args:
            closure: evaluates the model again and returns the loss (LBFGS needs it).

        Returns:
            The closure's loss, or None without a closure.

        Raises:
            NonFiniteGradient: a gradient holds NaN or Inf (``nonfinite="raise"``), or the proposed parameters do.
                The iteration is finished, without a contribution; a bad gradient did not reach the inner state.
            LocalProtocolError: the optimizer is closed, or moves a parameter that the team does not share.
            LinkLost: the team is gone; the parameters hold what the next step would have begun from.
        """
        try:
            self._check_usable()
            self._warn_of_buffers()
            self._warn_of_code(stacklevel=4)
            if self._deviates or self._team.local_steps > 1:
                loss, problem = self._step_locally(closure)
            else:
                self._warn_of_handwriting(self._handwritten(), stacklevel=4)
                loss, problem = self._step_together(closure)
            self._answer(problem)
        except BaseException:
            # GradScaler takes these back only after a step that returned; left here, they would scale the next.
            self.__dict__.pop("grad_scale", None)
            self.__dict__.pop("found_inf", None)
            raise
        return loss

    def _step_together(self, closure: Callable[[], float] | None) -> tuple[float | None, NonFiniteGradient | None]:
        """One step is one proposal, made from the replica as it is now."""
        base: list[npt.NDArray[np.float32] | None] = []
        try:
            with contextlib.ExitStack() as held:

                def hold() -> None:
                    held.enter_context(self._team.hold())
                    base.append(self._begin_step(ahead=closure is not None))

                loss, problem, stepped = self._contribute(closure, hold)
                if stepped:
                    self._projection.apply()
                    problem = self._accumulate(base[0])
            if self._exchanging:
                self._team.exchange()
        finally:
            self._take_view()
        return loss, problem

    def _step_locally(self, closure: Callable[[], float] | None) -> tuple[float | None, NonFiniteGradient | None]:
        """One step of a round, on parameters that deviate from the replica; the last one proposes their sum.

        ``weight * (replica - parameters)`` is that sum because the replica stands still between two exchanges. Should
        it move all the same (a server that restarted sends other parameters), the round ends with what federated
        averaging means: the average of the workers' parameters.
        """
        if not self._deviates:
            self._round_base = self._projection.base(self._team.replica, self._read()) if self._projection else None
        loss, problem, stepped = self._contribute(closure, lambda: None)
        self._deviates = self._deviates or stepped
        if stepped:
            self._projection.apply()
        if not self._exchanging:
            return loss, problem
        self._local_step += 1
        if self._local_step < self._team.local_steps:
            return loss, problem
        try:
            problem = self._end_round() or problem
            self._team.exchange()
        finally:
            self._take_view()
        return loss, problem

    def _end_round(self) -> NonFiniteGradient | None:
        """Propose what the local steps did, if anything; what was wrong with it."""
        self._local_step = 0
        deviates, self._deviates = self._deviates, False
        if not deviates:
            return None
        with self._team.hold():
            return self._accumulate(self._round_base)

    def _contribute(
        self, closure: Callable[[], float] | None, before: Callable[[], None]
    ) -> tuple[float | None, NonFiniteGradient | None, bool]:
        """Step the inner optimizer if the gradients are usable.

        Args:
            closure: that of the step.
            before: called right before the inner optimizer steps.

        Returns:
            The loss, what was wrong with a gradient, and whether the inner optimizer has stepped.
        """
        if float(self.__dict__.get("found_inf", 0.0)) > 0.0:
            self._skipped_steps += 1
            return None, None, False
        self._unscale()
        bad = None if closure is not None else self._bad_gradient()
        loss: float | None = None
        if bad is None:
            before()
            loss, bad = self._inner_step(closure)
        if bad is None:
            return loss, None, True
        self._skipped_steps += 1
        problem = _BadGradient(
            f"gradient of {bad!r}: expected finite numbers, found NaN or Inf; the step counts as no contribution "
            "and the optimizer's state is as before; lower the learning rate, clip gradients, look at the batch, "
            "or pass nonfinite='skip' to go on with a warning"
        )
        return loss, problem, False

    def _inner_step(self, closure: Callable[[], float] | None) -> tuple[float | None, str | None]:
        """Step the inner optimizer; the loss, and the name of a bad gradient if that kept it from stepping."""
        if closure is None:
            self._inner.step()
            return None, None
        first_loss: list[float] = []
        bad: list[str] = []

        def checked() -> float:
            loss = closure()
            if not first_loss:
                # Only the first evaluation: no torch optimizer touches its state before it has one, and the later
                # ones are trial points of a line search.
                first_loss.append(loss)
                self._check_known()
                name = self._bad_gradient()
                if name is not None:
                    bad.append(name)
                    raise _NoContribution
                self._curvature.before()
            return loss

        try:
            loss = self._inner.step(checked)
            self._curvature.after()
            return loss, None
        except _NoContribution:
            return first_loss[0], bad[0]

    def _begin_step(self, *, ahead: bool) -> npt.NDArray[np.float32] | None:
        """Fill the parameters with what the inner optimizer steps from, while the replica is held.

        Args:
            ahead: from where the next gradient is computed, not from the replica: a closure computes it now. A step
                whose gradient is there already is made from the replica.

        Returns:
            What they hold, float32 [layout.elements]; ``None``: the replica.
        """
        if not self._projection and (not ahead or self._team.anticipated is None):
            self._fill_parameters()
            return None
        self._fill_view(held=True)
        view = self._read()
        if not self._projection:
            return view
        self._projection.apply()
        return self._projection.base(view, self._read())

    def _read(self) -> npt.NDArray[np.float32]:
        """A copy of what the parameters hold, float32 [layout.elements]."""
        vector = np.empty(self._shared.layout.elements, dtype=np.float32)
        read_into(vector, self._shared.layout, self._shared.tensors)
        return vector

    def _accumulate(self, base: npt.NDArray[np.float32] | None = None) -> NonFiniteGradient | None:
        """Add what the inner optimizer proposes to what is pending, or say why the team refused it.

        Args:
            base: what it stepped from, if not from the replica.
        """
        weight = self._weight if self._weight is not None else 1.0 / max(1, self._team.members)
        replica = self._team.replica
        buffers = self._buffers.proposal(replica, weight, leads=self._leads)
        try:
            proposal = Proposal(self._layout, self._shared.tensors, replica, base)
            self._team.accumulate(WithBuffers(proposal, buffers), weight)
        except NonFiniteGradient as error:
            self._skipped_steps += 1
            return NonFiniteGradient(
                f"{error}; the gradients were finite, so the inner optimizer's own arithmetic overflowed and its state "
                "may hold NaN or Inf: lower the learning rate and load an earlier state_dict before going on"
            )
        self._buffers.proposed()
        return None

    def _answer(self, problem: NonFiniteGradient | None) -> None:
        """Say what was wrong with a step, now that the iteration is finished."""
        if problem is None:
            return
        if self._nonfinite == "raise" or not isinstance(problem, _BadGradient):
            raise NonFiniteGradient(*problem.args)
        if not self._warned_of_skip:
            self._warned_of_skip = True
            warnings.warn(f"{problem} (said once; Optimizer.skipped_steps counts)", UserWarning, stacklevel=4)

    def _take_view(self, *, ahead: bool = True) -> None:
        """Fill the parameters for the next gradient, and project them; ``ahead``: see :meth:`_fill_view`."""
        self._fill_view(ahead=ahead, buffers=ahead)
        self._projection.apply()
        if self._marks is not None and self._team.local_steps == 1:
            self._marks.set()

    def _fill_view(self, *, ahead: bool = True, held: bool = False, buffers: bool = False) -> None:
        """Fill the parameters with the replica, moved as far as the policy has it.

        Args:
            ahead: otherwise with the replica itself.
            held: the replica is held, and only what is ahead of it may change.
            buffers: fill the buffers too, as far as something arrived for them.
        """
        with contextlib.nullcontext() if held and self._team.anticipated is None else self._team.still():
            beyond = self._team.anticipated if ahead else None
            self._fill_parameters(beyond)
            if buffers:
                self._buffers.fill(self._team.replica, beyond, leads=self._leads, everything=self._closed)

    @property
    def _leads(self) -> bool:
        return self._layout.buffer_rule == "first" and self._team.leads

    def _fill_parameters(self, beyond: tuple[npt.NDArray[np.float32], float] | None = None) -> None:
        minus, times = (None, 1.0) if beyond is None else beyond
        write_from(self._team.replica, self._layout, self._shared.tensors, minus, times)

    # ---- gradients ----------------------------------------------------------------------------------------

    def _bad_gradient(self) -> str | None:
        return first_nonfinite(
            (name, tensor.grad)
            for name, tensor in zip(self._shared.names, self._shared.tensors, strict=True)
            if tensor.grad is not None
        )

    def _unscale(self) -> None:
        """Divide the gradients by GradScaler's scale, unless ``scaler.unscale_`` did so already."""
        scale = self.__dict__.get("grad_scale")
        if scale is None:
            return
        factor = 1.0 / float(scale)
        with torch.no_grad():
            for group in self._inner.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)

    # ---- what this process may not do -----------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._closed:
            raise LocalProtocolError("step: the optimizer is closed; make a new team and a new Optimizer to go on")
        self._check_known()

    def _check_known(self) -> None:
        """Refuse a gradient that the inner optimizer would apply here and nowhere else in the team."""
        for g, group in enumerate(self._inner.param_groups):
            for i, parameter in enumerate(group["params"]):
                if parameter.grad is not None and id(parameter) not in self._shared.known:
                    raise LocalProtocolError(
                        f"step: param_groups[{g}]['params'][{i}] of shape {tuple(parameter.shape)} has a gradient, but "
                        "was frozen or absent when the team agreed on its parameters; unfreeze and add parameters "
                        "before the Optimizer is made"
                    )

    def _warn_of_buffers(self) -> None:
        moving = self._buffers.moving()
        if moving:
            warnings.warn(
                f"{len(moving)} buffers move in training and stay with this worker, so replicas differ in them: "
                f"{', '.join(map(repr, moving))}; pass buffers='average' or 'first' to rowcast.Optimizer at every "
                "worker (a buffer that is not persistent never travels), or keep them still",
                UserWarning,
                stacklevel=4,
            )

    def _handwritten(self) -> list[str]:
        """Names of parameters that hold something else than what was put into them last."""
        return [] if self._marks is None else self._marks.changed()

    def _warn_of_handwriting(self, names: list[str], stacklevel: int) -> None:
        if not names or self._marks is None:
            return
        self._marks = None  # said once; from now on nobody looks
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        warnings.warn(
            f"parameter {names[0]!r}{more}: written by something else than step() since the last one (by hand, or by "
            "the model as it ran); that is undone now and whenever it is done, because parameters move only by what "
            "the team sends, so that they are the same everywhere. To keep them in bounds pass project=... to the "
            "Optimizer; load or set values before it is made; put what you write for an evaluation back afterwards",
            UserWarning,
            stacklevel=stacklevel,
        )

    def _warn_of_code(self, stacklevel: int) -> None:
        if self._warned_of_code:
            return
        self._warned_of_code = True
        warning = unsuited(self._inner, getattr(self._team, "policy", None))
        if warning is not None:
            warnings.warn(warning, UserWarning, stacklevel=stacklevel)

    # ---- the optimizer's face -------------------------------------------------------------------------------

    @property
    def skipped_steps(self) -> int:
        """How many steps made no contribution, for NaN or Inf in gradient or proposal.

        A round of local steps whose proposal is refused counts once.
        """
        return self._skipped_steps

    def __repr__(self) -> str:
        weight = "1/members" if self._weight is None else f"{self._weight:g}"
        return f"rowcast.optim.Optimizer({self._layout}, weight {weight}, inner {self._inner!r})"

    def _own_state(self) -> dict[str, Any]:
        return {"local_step": self._local_step} if self._team.local_steps > 1 else {}

    def _load_own_state(self, state_dict: dict[str, Any]) -> None:
        done = state_dict.get("local_step", self._local_step)
        if not isinstance(done, int) or done < 0:
            raise ConfigError(f"state dict: expected a number of local steps done, 0 or more, got {done!r}")
        self._local_step = min(done, self._team.local_steps - 1)

    # ---- the team's face ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Steps in this block add to what is pending but finish no iteration: gradient accumulation.

        The parameters do not move by these steps, unless the policy has gradients computed from what is pending too
        (``rowcast``); the first ``step()`` after the block sends their sum along with its own. Each proposal keeps the
        full averaging weight, as several steps would.

        With local steps the parameters are this worker's own and do move; a step in this block is a further local
        step, which the round does not count.
        """
        before, self._exchanging = self._exchanging, False
        try:
            yield
        finally:
            self._exchanging = before

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """While entered, the model holds the team's parameters, as far as they have arrived here.

        Most policies have them in the model at all times. With ``rowcast`` the model is ahead of them between two
        steps, where this worker expects the team to go, judging by its own data. Measure accuracy and save models in
        this block; what is in the model otherwise fits this worker's own data better and the others' less. On leaving,
        the model is as the next gradient needs it. Local steps of a round are left as they are.

        Example::

            with optimizer.evaluating():
                accuracy = accuracy_of(model)
        """
        ahead = self._team.anticipated is not None and not self._deviates
        if ahead:
            self._warn_of_handwriting(self._handwritten(), stacklevel=4)
            self._take_view(ahead=False)
        if not self._deviates:
            with self._team.still():
                self._buffers.show(self._team.replica)
        names: list[str] = []
        try:
            yield
        finally:
            self._buffers.restore()
            if ahead:
                names = self._handwritten()
                self._take_view()
        self._warn_of_handwriting(names, stacklevel=4)

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop (loss, accuracy) into the team's journal."""
        self._team.report(**metrics)

    def close(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Finish with the team and take its last values into the parameters; a second call does nothing.

        Local steps of a round that has not ended are contributed as they are.

        Args:
            wait: also wait until all replicas agree.
            timeout_s: longest wait in seconds; None waits without limit.

        Raises:
            NonFiniteGradient: those steps have made parameters NaN or Inf; everything else is done.
        """
        if self._closed:
            return
        if not self._deviates:
            self._warn_of_handwriting(self._handwritten(), stacklevel=3)
        problem = None
        try:
            problem = self._end_round()
            self._team.finish(wait=wait, timeout_s=timeout_s)
            self._end()
        finally:
            self._take_view()
        self._answer(problem)

    def _end(self) -> None:
        self._closed = True
        self._abandon.detach()

    def __enter__(self) -> Optimizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            # The block failed: go at once, so that nobody waits for us. Its error matters more than a dead link.
            self._end()
            with contextlib.suppress(LinkLost):
                self._team.leave()
