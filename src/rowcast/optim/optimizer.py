"""A PyTorch optimizer whose steps go through a team.

The inner optimizer proposes a step; the proposal, in parameter units and times the averaging weight, is added
to what is pending; the parameters are put back and move only by what the team sends (algorithms.md 1.5: the
learning rate and the weight are multiplied in at the sender, so every replica moves by the same sum).

With a policy of H local steps (``localsgd:H``, ``diloco:H``, ``sparseloco:H``) H steps make one proposal, a round: the
parameters are put back once, behind the H-th.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, overload

import torch
from torch import nn

from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, NonFiniteGradient, near_match
from rowcast.optim.forks import warn_of_fork
from rowcast.optim.inner import tell_settings
from rowcast.optim.remarks import Remarks
from rowcast.optim.shared_model import SharedModel
from rowcast.optim.stepping import BadGradient, Stepping
from rowcast.optim.team import NoStopwatch, Stopwatch, TeamLike
from rowcast.optim.team_optimizer import TeamOptimizer
from rowcast.optim.weights import StepWeights

__all__ = ["Optimizer"]


class Optimizer(TeamOptimizer):
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
        weights = StepWeights(weight)
        if nonfinite not in ("raise", "skip"):
            raise ConfigError(f"nonfinite: {nonfinite!r} is unknown; {near_match(str(nonfinite), ('raise', 'skip'))}")
        warn_of_fork(stacklevel=3)
        shared = SharedModel(model, inner, team, buffers=buffers, project=project)
        super().__init__(inner, team, weights)
        self._model = shared
        self._nonfinite = nonfinite
        self._exchanging, self._local_step = True, 0  # the latter: steps of this round that are done
        self._deviates = False  # the parameters hold steps that the team has not been told
        self._closed = False
        self._skipped_steps = 0
        self._own_time: Stopwatch = getattr(team, "own_time", NoStopwatch())
        self._stepping = Stepping(inner, shared.shared, self._own_time, shared.finite)
        self._remarks = Remarks()
        shared.join()
        try:
            self._keep(model)
            self._take_view()
        except BaseException:
            team.leave()
            raise
        self._abandon = weakref.finalize(self, team.abandon)
        self._abandon.atexit = False  # then the connection ends by itself

    # ---- the step -----------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None, *, samples: int | None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float], *, samples: int | None = None) -> float: ...

    def step(self, closure: Callable[[], float] | None = None, *, samples: int | None = None) -> float | None:
        """Propose a step, exchange with the team, and take what arrived into the parameters.

        With local steps only the last step of a round exchanges, and returns with the replica in the parameters.

        The step is made from what is in the model, where its gradient was computed; rows may arrive meanwhile. A
        closure computes from what has arrived until then.

        With ``project`` the gradient is computed from projected parameters, the step is made from them and projected,
        and what travels is the way from the one to the other. Rows that are on their way, or that a lossy code has
        rounded, may take the team's sum beyond the constraint all the same; it is led back, and what is put into the
        model is projected in any case. So the model obeys after each step, after :meth:`evaluating` has begun and
        after :meth:`close`, and the models of all robots are equal where their replicas are.

        Args:
            closure: evaluates the model again and returns the loss (LBFGS needs it).
            samples: of which the gradient is the mean, where batches differ: the step weighs as :attr:`batch` has it,
                and ``weight`` does not count. Of the steps of a round the mean weight counts.

        Returns:
            The closure's loss, or None without a closure.

        Raises:
            NonFiniteGradient: a gradient holds NaN or Inf (``nonfinite="raise"``), or the proposed parameters do.
                The iteration is finished, without a contribution; a bad gradient did not reach the inner state.
            LocalProtocolError: the optimizer is closed, or moves a parameter that the team does not share.
            LinkLost: the team is gone; the parameters hold what the next step would have begun from.
        """
        with self._own_time.ours():
            try:
                self._check_usable()
                self._weights.expect(samples, self._team.members)
                self._remarks.buffers(self._model.buffers.moving(), stacklevel=4)
                self._remarks.code(self._inner, self._team, stacklevel=4)
                tell_settings(self._inner, self._team)
                if self._deviates or self._team.local_steps > 1:
                    loss, problem = self._step_locally(closure)
                else:
                    self._remarks.handwriting(self._model.handwritten(), stacklevel=4)
                    loss, problem = self._step_together(closure)
                self._remarks.growth(self._inner, self._team, stacklevel=4)
                self._answer(problem, stacklevel=5)
            except BaseException:
                # GradScaler takes these back only after a step that returned; left here, they would scale the next.
                self.__dict__.pop("grad_scale", None)
                self.__dict__.pop("found_inf", None)
                raise
        return loss

    def _step_together(self, closure: Callable[[], float] | None) -> tuple[float | None, NonFiniteGradient | None]:
        """One step is one proposal, made from what is in the model: where its gradient was computed."""
        try:
            loss, problem, stepped = self._attempt(closure, self._model.refresh)
            problem = self._hand_in(stepped, finish=self._exchanging) or problem
        finally:
            self._take_view()
        return loss, problem

    def _step_locally(self, closure: Callable[[], float] | None) -> tuple[float | None, NonFiniteGradient | None]:
        """One step of a round, on parameters that deviate from the replica; the last one proposes their sum.

        Should the replica move within a round (a server that restarted sends other parameters), the sum of the steps
        is added to what it is then.
        """
        loss, problem, stepped = self._attempt(closure, None)
        self._deviates = self._deviates or stepped
        if not self._exchanging:
            return loss, problem
        self._local_step += 1
        if self._local_step < self._team.local_steps:
            return loss, problem
        try:
            problem = self._end_round(finish=True) or problem
        finally:
            self._take_view()
        return loss, problem

    def _end_round(self, *, finish: bool) -> NonFiniteGradient | None:
        """Propose what the local steps did, if anything; what was wrong with it."""
        self._local_step = 0
        deviates, self._deviates = self._deviates, False
        return self._hand_in(deviates, finish=finish)

    def _attempt(
        self, closure: Callable[[], float] | None, refresh: Callable[[], None] | None
    ) -> tuple[float | None, NonFiniteGradient | None, bool]:
        """Step the inner optimizer if the gradients are usable, and project what it made.

        Args:
            closure: that of the step.
            refresh: called before a closure is.

        Returns:
            The loss, what was wrong with a gradient, and whether the inner optimizer has stepped.
        """
        if float(self.__dict__.get("found_inf", 0.0)) > 0.0:
            self._skipped_steps += 1
            return None, None, False
        scale = self.__dict__.get("grad_scale")
        outcome = self._stepping.attempt(closure, None if scale is None else float(scale), refresh)
        if outcome.stepped:
            self._weights.stepped()
            self._model.project()
        else:
            self._skipped_steps += 1
        return outcome.loss, outcome.problem, outcome.stepped

    def _hand_in(self, made: bool, *, finish: bool) -> NonFiniteGradient | None:
        """Give the team what was made of the parameters, if it was, and finish the iteration, if asked to.

        Returns:
            Why the team refused what was made: it holds NaN or Inf.
        """
        weight = self._weights.take()
        if not made:
            if finish:
                self._team.exchange()
            return None
        try:
            self._model.give(weight, finish=finish)
        except NonFiniteGradient as error:
            self._skipped_steps += 1
            return NonFiniteGradient(
                f"{error}; the gradients were finite, so the inner optimizer's own arithmetic overflowed and its state "
                "may hold NaN or Inf: lower the learning rate and load an earlier state_dict before going on"
            )
        return None

    def _answer(self, problem: NonFiniteGradient | None, stacklevel: int) -> None:
        """Say what was wrong with a step, now that the iteration is finished."""
        if problem is None:
            return
        if self._nonfinite == "raise" or not isinstance(problem, BadGradient):
            raise NonFiniteGradient(*problem.args)
        self._remarks.skip(problem, stacklevel)

    def _check_usable(self) -> None:
        if self._closed:
            raise LocalProtocolError("step: the optimizer is closed; make a new team and a new Optimizer to go on")
        self._stepping.check_known()

    def _take_view(self) -> None:
        self._model.take(everything=self._closed)

    # ---- the optimizer's face -------------------------------------------------------------------------------

    @property
    def skipped_steps(self) -> int:
        """How many steps made no contribution, for NaN or Inf in gradient or proposal.

        A round of local steps whose proposal is refused counts once.
        """
        return self._skipped_steps

    def __repr__(self) -> str:
        return f"rowcast.optim.Optimizer({self._model.layout}, weight {self._weights}, inner {self.inner!r})"

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
        (``rowcast``, ``sparta``); the first ``step()`` after the block sends their sum along with its own. Each
        proposal keeps the full averaging weight, as several steps would.

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
        the model is as the next gradient needs it. Local steps of a round are left as they are, and so is the model
        that each worker has of its own with ``sparta``: the team's lacks what has not been averaged yet.

        Example::

            with optimizer.evaluating():
                accuracy = accuracy_of(model)
        """
        own = self._deviates or self._model.own
        ahead = self._team.anticipated is not None and not own
        if ahead:
            self._remarks.handwriting(self._model.handwritten(), stacklevel=4)
            self._model.take(ahead=False)
        names: list[str] = []
        try:
            with contextlib.nullcontext() if own else self._model.team_buffers():
                yield
        finally:
            if ahead:
                names = self._model.handwritten()
                self._take_view()
        self._remarks.handwriting(names, stacklevel=4)

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
        names = [] if self._deviates else self._model.handwritten()
        try:
            problem = self._end_round(finish=False)
            self._team.finish(wait=wait, timeout_s=timeout_s)
            self._end()
        finally:
            self._take_view()
        try:
            self._remarks.handwriting(names, stacklevel=3)
        finally:  # also where that warning is an error
            self._answer(problem, stacklevel=4)

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
