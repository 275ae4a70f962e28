"""Buffers: what travels, what is made of it, and what is said of the rest."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rowcast.codecs import codec_by_id, codec_by_name, codec_for
from rowcast.config import ServerSettings
from rowcast.errors import ConfigError, LayoutMismatch, LocalProtocolError, NonFiniteGradient, RemoteProtocolError
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.rows.outline import Outline
from rowcast.rows.select import usual_buffers
from rowcast.testing import VirtualTeam
from teams import Books, finished, replicas_agree, start_of, worker
from test_optim_fakes import EchoTeam, Hub, HubTeam, small_model


def norm_model(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, **options), nn.Tanh(), nn.Linear(6, 2))


def forward(model: nn.Module, step: int, shift: float = 0.0, scale: float = 1.0) -> None:
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)) * scale + shift
    nn.functional.mse_loss(model(features), features[:, :2]).backward()


def sgd(model: nn.Module, lr: float = 0.01) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def statistics(model: nn.Sequential) -> list[Tensor]:
    return [model[1].running_mean.detach().clone(), model[1].running_var.detach().clone()]


class Codebook(nn.Module):
    """Quantises with a code book that follows the data, past autograd, as such code does."""

    def __init__(self, assign: bool = False, persistent: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("codes", torch.zeros(3, 2), persistent=persistent)
        self.register_buffer("size", torch.zeros(3))
        self.register_buffer("uses", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("table", torch.arange(5.0))
        self.assign = assign

    def forward(self, features: Tensor) -> Tensor:
        found = self.linear(features)
        self.uses += 1
        if self.assign:
            self.codes = self.codes * 0.9 + 0.1 * found.detach().mean(0)
            self.size = self.size + 1
        else:
            self.codes.data.mul_(0.9).add_(0.1 * found.detach().mean(0))
            self.size.data.add_(1)
        return found


# -- what travels ----------------------------------------------------------------------------------------------


def test_running_statistics_are_the_last_rows_and_a_model_without_buffers_is_laid_out_as_ever() -> None:
    team = EchoTeam()
    Optimizer(sgd(model := norm_model()), model, team)
    assert [spec.name for spec in team.layout.tensors][-2:] == ["1.running_mean", "1.running_var"]
    assert team.layout.buffers == 2 and team.layout.parameter_rows == team.layout.rows - 2
    assert Layout.from_outline(Outline.read(team.layout.to_table())).digest == team.layout.digest
    assert team.layout.timing_only().buffers == 2 and "2 buffers in 8 tensors" in repr(team.layout)
    Optimizer(sgd(model := small_model()), model, plain := EchoTeam())
    assert plain.layout.buffers == 0
    table = b'{"small_tensor":1000,"max_row":65536,"tensors":[["0.weight",[6,4]],["0.bias",[6]],'
    assert plain.layout.to_table() == table + b'["2.weight",[2,6]],["2.bias",[2]]]}'


def test_other_buffers_travel_when_it_is_asked_for() -> None:
    expected = {
        None: [],
        "average": ["codes", "size", "table"],
        "first": ["codes", "size", "table"],
        "local": [],
    }
    for rule, names in expected.items():
        team, model = EchoTeam(), Codebook()
        Optimizer(sgd(model), model, team, buffers=rule)
        assert [spec.name for spec in team.layout.tensors[2:]] == names
    team, model = EchoTeam(), Codebook(persistent=False)
    Optimizer(sgd(model), model, team, buffers="average")
    assert [spec.name for spec in team.layout.tensors[2:]] == ["size", "table"]


def test_who_shares_other_buffers_is_told_so() -> None:
    def layout_of(model: nn.Module, rule: str | None) -> Layout:
        Optimizer(sgd(model), model, team := EchoTeam(), buffers=rule)
        return team.layout

    average, first, none = (layout_of(norm_model(), rule) for rule in ("average", "first", "local"))
    assert average.digest == layout_of(norm_model(), None).digest
    for other, words in ((none, "no buffers"), (first, "rule 'first'")):
        with pytest.raises(LayoutMismatch, match=rf"2 buffers \(first '1.running_mean'.*{words}.* the same buffers="):
            average.check_equal(other, ours="worker a", theirs="the team")
    for table in (b'"buffers":[9,"average"]', b'"buffers":[2,"mean"]', b'"buffers":[-1,"first"]', b'"buffers":true'):
        with pytest.raises(RemoteProtocolError, match="layout table"):
            Layout.from_outline(Outline.read(average.to_table().replace(b'"buffers":[2,"average"]', table)))


def test_what_cannot_travel_is_refused_by_name() -> None:
    model = small_model()
    with pytest.raises(ConfigError, match="buffers: 'avg' is unknown; did you mean 'average'"):
        Optimizer(sgd(model), model, EchoTeam(), buffers="avg")
    lazy = nn.Sequential(nn.Linear(4, 2), nn.LazyBatchNorm1d(affine=False))
    with pytest.raises(ConfigError, match=r"'1.running_mean' has no shape yet; run the model once"):
        Optimizer(torch.optim.SGD(lazy[0].parameters(), lr=0.1), lazy, EchoTeam())
    Optimizer(torch.optim.SGD(lazy[0].parameters(), lr=0.1), lazy, EchoTeam(), buffers="local")
    model = norm_model()
    model[1].running_var = model[1].running_var.to("meta")
    with pytest.raises(ConfigError, match=r"'1.running_var' is on the meta device"):
        Optimizer(sgd(model), model, EchoTeam())
    model = norm_model()
    model[1].running_var = model[1].running_var.to_sparse()
    with pytest.raises(ConfigError, match=r"'1.running_var' is torch.sparse_coo; only dense"):
        Optimizer(sgd(model), model, EchoTeam())


def test_a_buffer_that_is_another_one_later_is_refused_by_name() -> None:
    for value, words in ((torch.zeros(7), r"shape \(6,\), the model has .* \(7,\)"), (None, "none there any more")):
        model = norm_model()
        optimizer = Optimizer(sgd(model), model, EchoTeam())
        forward(model, 0)
        model[1].running_mean = value
        with pytest.raises(LocalProtocolError, match=f"'1.running_mean'.*{words}"):
            optimizer.step()


# -- what is made of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.1, None, 1.0])
def test_running_statistics_move_by_the_average_of_what_the_workers_move_them_by(
    momentum: float | None, kind: torch.dtype
) -> None:
    hub = Hub(2)
    models = [norm_model(momentum=momentum).to(kind) for _ in range(2)]
    teams = [hub.member() for _ in models]
    optimizers = [Optimizer(sgd(m, 0.0), m, t) for m, t in zip(models, teams, strict=True)]
    team = [value.double() for value in statistics(models[0])]
    mine = [team, team]
    for step in range(4):
        for i, model in enumerate(models):
            features = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).to(kind) * (1 + i) + i
            model(features).sum().backward()
            optimizers[i].step()
            outputs = model[0](features).detach().double()
            batch = [outputs.mean(0), outputs.var(0)]
            share = momentum or 1 / (step + 1)
            team = [value + 0.5 * share * (new - old) for value, new, old in zip(team, batch, mine[i], strict=True)]
            mine[i] = team
    for member, optimizer in zip(teams, optimizers, strict=True):
        member.deliver()
        optimizer.close()
    np.testing.assert_allclose(teams[0].replica, teams[1].replica, atol=1e-6)
    within = 0.1 if kind is torch.bfloat16 else 1e-5
    for model in models:
        for found, value in zip(statistics(model), team, strict=True):
            assert found.dtype is kind
            torch.testing.assert_close(found.double(), value, rtol=within, atol=within)


def test_the_first_worker_s_buffers_are_the_team_s() -> None:
    hub = Hub(2)
    models = [Codebook(), Codebook(assign=True)]
    teams = [hub.member() for _ in models]
    optimizers = [Optimizer(sgd(m), m, t, buffers="first") for m, t in zip(models, teams, strict=True)]
    teams[1].leads = True

    def step() -> list[Tensor]:
        made = []
        for i, model in enumerate(models):
            model(torch.full((2, 4), float(i + 1))).sum().backward()
            made.append(model.codes.clone())
            optimizers[i].step()
        for member, optimizer in zip(teams, optimizers, strict=True):
            member.exchange()
            optimizer._take_view()
        return made

    for leader in (1, 1, 0):
        teams[leader].leads, teams[1 - leader].leads = True, False
        made = step()
        assert not torch.allclose(made[0], made[1])
        for model in models:
            torch.testing.assert_close(model.codes, made[leader])


def test_a_buffer_may_be_another_tensor_each_time() -> None:
    for assign in (False, True):
        model = Codebook(assign=assign)
        with Optimizer(sgd(model), model, team := EchoTeam(), buffers="average") as optimizer:
            for _ in range(3):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
        assert team.replica[-8:-5].tolist() == [3, 3, 3] and model.size.tolist() == [3, 3, 3]


def test_a_step_that_is_refused_leaves_no_trace_in_buffers_that_became_nan() -> None:
    model, team = norm_model(), EchoTeam()
    optimizer = Optimizer(sgd(model), model, team, nonfinite="skip")
    before = statistics(model)
    nn.functional.mse_loss(model(torch.full((8, 4), torch.nan)), torch.zeros(8, 2)).backward()
    assert model[1].running_mean.isnan().all()
    with pytest.warns(UserWarning, match="NaN or Inf"):
        optimizer.step()
    assert all(map(torch.equal, statistics(model), before)) and np.isfinite(team.replica).all()
    optimizer.zero_grad()
    model[1].running_mean.fill_(torch.inf)
    optimizer.step()  # no gradient at all, and a buffer that cannot be contributed
    assert all(map(torch.equal, statistics(model), before)) and np.isfinite(team.replica).all()


def test_a_variance_is_never_written_below_zero_and_comes_back() -> None:
    model, team = norm_model(), EchoTeam()
    optimizer = Optimizer(sgd(model), model, team)
    team.owed[-6:] = 1.5  # the others have seen 1 fall to nothing, all at once
    optimizer.step()
    assert (team.replica[-6:] < 0).all() and not model[1].running_var.any()
    forward(model, 1)
    optimizer.step()
    assert (model[1].running_var > 0).all()
    np.testing.assert_allclose(team.replica[-6:], model[1].running_var, atol=1e-6)


def test_between_two_steps_buffers_are_this_worker_s_until_something_arrives() -> None:
    model, team = norm_model(), EchoTeam()
    optimizer = Optimizer(sgd(model), model, team)
    start = statistics(model)
    with optimizer.no_sync():
        for step in range(3):
            forward(model, step)
            optimizer.step()
    mine = statistics(model)
    assert not torch.equal(mine[0], start[0])
    np.testing.assert_allclose(start[1] - mine[1], team.pending[-6:], atol=1e-6)  # each move told once
    with optimizer.evaluating():
        assert all(map(torch.equal, statistics(model), start))
        with optimizer.evaluating():
            assert all(map(torch.equal, statistics(model), start))
    assert all(map(torch.equal, statistics(model), mine))
    optimizer.close()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(statistics(model), mine, strict=True))


def test_a_round_of_local_steps_proposes_its_sum() -> None:
    model, team = norm_model(), EchoTeam()
    team.local_steps = 3
    optimizer = Optimizer(sgd(model), model, team)
    for step in range(3):
        assert team.contributions == 0
        forward(model, step)
        made = statistics(model)
        optimizer.step()
    assert team.contributions == 1
    np.testing.assert_allclose(team.replica[-6:], made[1], atol=1e-6)
    optimizer.step()
    forward(model, 4)
    before = statistics(model)
    with optimizer.evaluating():  # in the middle of a round everything is left as it is
        assert all(map(torch.equal, statistics(model), before))


def test_what_is_pending_is_in_the_view_once_more_than_the_replica() -> None:
    model, team = norm_model(), EchoTeam()
    optimizer = Optimizer(sgd(model), model, team)
    team.anticipated = (team.layout.zeros(), np.full(team.layout.rows, 2.0, dtype=np.float32))
    team.anticipated[0][-12:] = -0.25
    optimizer._model.buffers._bases = []  # as at the beginning: everything is written
    optimizer._take_view()
    torch.testing.assert_close(model[1].running_mean, torch.full((6,), 0.5))
    team.replica[-12:] += 1  # arrives: running statistics approach it
    optimizer._take_view()
    torch.testing.assert_close(model[1].running_mean, torch.full((6,), 0.6))
    with optimizer.evaluating():
        torch.testing.assert_close(model[1].running_mean, torch.ones(6))


# -- what is said of the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
def test_every_buffer_that_moves_and_stays_is_named_once(assign: bool) -> None:
    torch.manual_seed(0)  # of some weights a power iteration has converged, and its vectors stand still
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), Codebook(assign=assign)
    )
    optimizer = Optimizer(sgd(model), model, EchoTeam(), buffers="local")
    model(torch.randn(8, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"buffers move in training and stay.*buffers='average'") as caught:
        optimizer.step()
    assert len(caught) == 1 and caught[0].filename == __file__
    for name in ("_u", "_v", "1.running_mean", "1.running_var", "2.codes", "2.size"):
        assert f"{name}'" in str(caught[0].message)
    for name in ("num_batches_tracked", "uses", "table"):  # counters, and what stands still
        assert name not in str(caught[0].message)
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()


def test_running_statistics_need_no_warning_and_others_still_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Codebook(persistent=False))
    optimizer = Optimizer(sgd(model), model, EchoTeam())
    model(torch.randn(8, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"^2 buffers .*: '2.codes', '2.size'; "):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), Codebook().eval())
        optimizer = Optimizer(sgd(model), model, EchoTeam(), buffers="local")
        model[0](torch.randn(8, 4)).sum().backward()
        model[1](torch.randn(8, 4))
        for _ in range(4):
            optimizer.step()
    model[1].train()(torch.randn(8, 4))  # in the step in which it happens, whether or not all values are looked at
    with pytest.warns(UserWarning, match=r"^2 buffers .*'1.running_mean', '1.running_var'"):
        optimizer.step()


# -- on their way ----------------------------------------------------------------------------------------------

#: 25 rows of parameters, then 3 of buffers.
LAYOUT = Layout.from_shapes(
    [("weight", (24, 2)), ("bias", (14,)), ("mean", (40,)), ("var", (40,)), ("u", (5,))], small_tensor=1, buffers=3
)
FIRST = int(LAYOUT.offsets[LAYOUT.parameter_rows])


def test_a_sign_code_is_not_for_buffers() -> None:
    random = np.random.default_rng(0)
    sizes = np.geomspace(1e-4, 1.0, LAYOUT.elements)
    for name in ("onebit", "sparse", "topk64", "dct128"):
        codec = codec_for(LAYOUT, codec_by_name(name))
        assert codec_by_id(codec.wire_id) is codec and codec.row_bytes(LAYOUT)[-1] == 11
        for rows in (np.arange(LAYOUT.rows), np.array([27, 3, 25]), np.array([3, 4]), np.array([26])):
            vector = (random.standard_normal(LAYOUT.elements) * sizes).astype(np.float32)
            before, decoded = vector.copy(), LAYOUT.zeros()
            payload = codec.encode(LAYOUT, vector, rows)
            assert len(payload) == codec.row_bytes(LAYOUT)[rows].sum()
            codec.check(LAYOUT, payload, rows)
            codec.add(LAYOUT, payload, rows, decoded, 1.0)
            np.testing.assert_allclose(decoded + vector, before, atol=1e-6)
            for row in rows[rows >= LAYOUT.parameter_rows]:
                part = slice(LAYOUT.offsets[row], LAYOUT.offsets[row + 1])
                np.testing.assert_allclose(decoded[part], before[part], rtol=2e-3)
            for bad in (payload[:-1], np.append(payload, np.uint8(0))):
                with pytest.raises(RemoteProtocolError):
                    codec.check(LAYOUT, bad, rows)
    for name in ("raw", "half", "zero"):
        assert codec_for(LAYOUT, codec_by_name(name)) is codec_by_name(name)


def test_buffers_are_worth_what_a_usual_row_is() -> None:
    sums = np.ones(LAYOUT.rows, dtype=np.float32)
    sums[-3:] = 1000, 0, 1000
    taken = usual_buffers(LAYOUT, sums)
    usual = 25 / FIRST
    np.testing.assert_allclose(taken[-3:], [40 * usual, 0, 5 * usual], rtol=1e-6)
    assert sums[-1] == 1000 and (taken[:-3] == 1).all()
    plain = Layout.from_shapes([("a", (3,))])
    assert usual_buffers(plain, sums) is sums


@pytest.mark.parametrize(
    "policy", ["bsp", "ssp:2", "rog:4", "rowcast", "rowcast:3?pulls=common", "diloco:1", "rog:4?outer_lr=0.5"]
)
def test_buffers_keep_the_books_and_no_momentum_is_put_on_them(policy: str) -> None:
    scripts = [worker(f"robot{i}", layout=LAYOUT, iterations=8, rate_bps=2e4 * (1 + i), weight=0.5) for i in range(3)]
    team = VirtualTeam(LAYOUT, policy, scripts, seed=3)
    books = Books(team, start_of(LAYOUT))
    for at, name, down_s in ((0.4, "robot0", 0.2), (0.9, "robot2", 0.0), (1.3, "robot0", 0.3)):
        team.at(at, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(0.5, 1.0, 1.5)
    finished(team)
    books.check()
    replicas_agree(team)
    moved = sum(0.5 * script.gradient(n, start_of(LAYOUT)) for script in scripts for n in range(8))
    found = start_of(LAYOUT) - team.server.parameters
    np.testing.assert_allclose(found[FIRST:], moved[FIRST:], atol=1e-5)


def test_a_model_s_first_worker_is_told_and_the_next_one_when_it_goes() -> None:
    layout = Layout.from_shapes([("weight", (3,)), ("u", (2,))], buffers=1, buffer_rule="first")
    for policy in ("bsp", "rog:4", "rowcast"):
        scripts = [worker(f"robot{i}", layout=layout, iterations=30 * (i + 1)) for i in range(3)]
        settings = ServerSettings(expected_workers=3, absence_limit_s=1.0)
        team = VirtualTeam(layout, policy, scripts, server_settings=settings)

        def leads(team=team) -> str:
            return "".join(str(int(one.node.leads and not one.killed)) for one in team.workers.values())

        team.run(1.0)
        assert leads() == "100"
        team.cut("robot0", 0.2)
        team.run(1.5)  # a link that is back changes nothing
        assert leads() == "100"
        team.kill("robot0")
        team.run(4.0)
        assert leads() == "010"
        finished(team)
        assert team.workers["robot2"].node.leads
        team = VirtualTeam(LAYOUT, policy, [worker("robot0", layout=LAYOUT)])
        finished(team)
        assert not team.workers["robot0"].node.leads  # nobody asked


def test_a_proposal_that_is_refused_is_not_counted_as_told() -> None:
    class Refusing(EchoTeam):
        refuses = True

        def accumulate(self, sources, weight, origin=None):  # type: ignore[no-untyped-def]
            if self.refuses:
                raise NonFiniteGradient("no")
            HubTeam.accumulate(self, sources, weight, origin)

    model, team = norm_model(), Refusing()
    optimizer = Optimizer(sgd(model), model, team)
    forward(model, 0)
    made = statistics(model)
    with pytest.raises(NonFiniteGradient):
        optimizer.step()
    team.refuses = False
    optimizer.zero_grad()
    optimizer.step()
    np.testing.assert_allclose(team.replica[-6:], made[1], atol=1e-6)
