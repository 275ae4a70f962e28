"""Models that were trained apart, combined: each method, files, the command, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from commands import Run, running
from registries import forget_afterwards
from rowcast.combining import METHODS, CombinedModel, Combiner, TaskFamily, load_combined, load_models, parameter_mean
from rowcast.combining.models import LoadedModel, scores_of
from rowcast.drivers.kept.arrays import read_arrays, write_arrays
from rowcast.errors import ConfigError, DataError
from rowcast.tasks import Metric, Task, TaskSettings, build_task, read_model, register, save_model
from rowcast.tasks.saved import Labelled

LOCAL = ("dcs-la", "des-la", "des-la-mean")


def sure(choices: list[list[int]], classes: int = 3, confidence: float = 0.8) -> NDArray[np.float64]:
    """Scores [models, items, classes] of models that choose these classes [models, items]."""
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[np.array(choices)] > 0, confidence, rest)


def experts(items: int = 120, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Three models, each right in a third of a line of places only: scores, labels, places."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 3, (items, 1))
    labels = rng.integers(0, 4, items)
    choices = [np.where(places[:, 0] // 1 == part, labels, (labels + 1 + part) % 4) for part in range(3)]
    return sure([list(each) for each in choices], 4), labels, places


# -- each method ---------------------------------------------------------------------------------------------

#: Four validation items of classes 0, 1, 2, 0: model 0 is right on all, 1 on two, 2 on one.
FITTING = sure([[0, 1, 2, 0], [0, 1, 0, 1], [2, 2, 2, 1]])
LABELS = np.array([0, 1, 2, 0])


def support(method: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return Combiner.fit(method, FITTING, LABELS).predict(scores)


def test_the_simple_ones_are_what_they_are_called() -> None:
    new = np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4]]])
    np.testing.assert_allclose(support("best", new), [[0.5, 0.3, 0.2]])
    np.testing.assert_allclose(support("mean", new), [[0.3, 1.4 / 3, 0.7 / 3]])
    weighted = np.array([0.5 + 0.05 + 0.075, 0.3 + 0.4 + 0.075, 0.2 + 0.05 + 0.1])
    np.testing.assert_allclose(support("weighted-mean", new), [weighted / weighted.sum()])
    np.testing.assert_allclose(support("maximum", new), [np.array([0.5, 0.8, 0.4]) / 1.7])
    np.testing.assert_allclose(support("median", new), [np.array([0.3, 0.3, 0.2]) / 0.8])


def test_votes_that_are_equal_are_decided_by_who_is_right_more_often() -> None:
    assert Combiner.fit("majority", FITTING, LABELS).choose(sure([[2], [1], [1]])).tolist() == [1]
    assert Combiner.fit("majority", FITTING, LABELS).choose(sure([[2], [1], [0]])).tolist() == [2]


def test_a_weighted_vote_may_follow_the_one_that_is_right() -> None:
    assert Combiner.fit("weighted-vote", FITTING, LABELS).choose(sure([[2], [1], [1]])).tolist() == [2]


def test_a_guess_has_no_weight() -> None:
    """A model that is right on one of four items of three classes is no better than a guess; so are all here."""
    combiner = Combiner.fit("weighted-vote", sure([[0, 0, 0, 1], [2, 2, 2, 1]]), np.array([0, 1, 1, 0]))
    np.testing.assert_allclose(combiner.predict(sure([[1], [2]])), np.full((1, 3), 1 / 3))


@pytest.mark.parametrize("method", LOCAL)
def test_local_methods_follow_who_is_right_nearby(method: str) -> None:
    scores, labels, places = experts()
    fitted = Combiner.fit(method, scores[:, :80], labels[:80], places[:80], neighbours=5)
    inside = np.abs(places[80:, 0] - np.rint(places[80:, 0])) > 0.15  # not beside a border
    right = fitted.choose(scores[:, 80:], places[80:]) == labels[80:]
    assert right[inside].all() and inside.sum() >= 20
    assert (Combiner.fit("majority", scores[:, :80], labels[:80]).choose(scores[:, 80:]) == labels[80:]).mean() < 0.7


def test_local_methods_differ_in_how_many_have_a_say() -> None:
    """Near the item model 0 is right on 10 of 10, models 1 and 2 on 9 of 10: within the margin, or not."""
    choices = np.zeros((3, 10), dtype=np.int64)
    choices[1:, 0] = 1
    scores, labels, places = sure(choices.tolist()), np.zeros(10, dtype=np.int64), np.zeros((10, 1))
    new = sure([[0], [2], [2]])

    def chosen(method: str, margin: float) -> int:
        fitted = Combiner.fit(method, scores, labels, places, neighbours=10, margin=margin)
        return int(fitted.choose(new, np.zeros((1, 1)))[0])

    assert [chosen(method, 0.1) for method in LOCAL] == [0, 2, 2]
    assert [chosen(method, 0.05) for method in LOCAL] == [0, 0, 0]


def test_of_models_as_good_nearby_the_one_that_is_better_everywhere_is_taken() -> None:
    """Both are right on the two items nearby; far away only model 1 is."""
    scores = sure([[0, 0, 1, 1], [0, 0, 0, 0]])
    fitted = Combiner.fit(
        "dcs-la", scores, np.zeros(4, dtype=np.int64), np.array([[0.0], [0.1], [9.0], [9.1]]), neighbours=2
    )
    assert fitted.choose(sure([[1], [2]]), np.array([[0.0]])).tolist() == [2]


def test_distances_are_measured_in_scores_where_there_are_no_features() -> None:
    scores, labels, _ = experts()
    fitted = Combiner.fit("des-la-mean", scores, labels, neighbours=5)
    assert fitted.by_scores and fitted.places.shape == (120, 12)
    np.testing.assert_array_equal(fitted.predict(scores, np.zeros((120, 99))), fitted.predict(scores))


def test_stacking_learns_what_no_vote_can_know() -> None:
    """Two models that know one class each, and call everything else 0; and one that always errs in the same way."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    scores = sure([list(np.where(labels == 1, 1, 0)), list((labels + 1) % 3), list(np.where(labels == 2, 2, 0))])
    fitted = Combiner.fit("stacking", scores[:, :60], labels[:60])
    assert (fitted.choose(scores[:, 60:]) == labels[60:]).all()
    again = Combiner.fit("stacking", scores[:, :60], labels[:60])
    np.testing.assert_array_equal(fitted.weights, again.weights)


def test_stacking_holds_weights_back_where_scores_say_nothing() -> None:
    rng = np.random.default_rng(2)
    scores = rng.dirichlet(np.ones(3), (4, 60))
    told = Combiner.fit("stacking", scores, rng.integers(0, 3, 60))
    assert np.abs(told.weights).max() < 0.6, "of four penalties the largest is the best here"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_said_are_probabilities_and_go_through_a_file(method: str, tmp_path: Path) -> None:
    scores, labels, places = experts()
    fitted = Combiner.fit(method, scores[:, :80], labels[:80], places[:80], neighbours=7, margin=0.2)
    before = fitted.predict(scores[:, 80:], places[80:])
    np.testing.assert_allclose(before.sum(axis=1), 1)
    assert before.shape == (40, 4) and before.min() >= 0
    arrays, text = fitted.as_arrays()
    write_arrays(tmp_path / "a.safetensors", arrays, text)
    again = Combiner.from_arrays(*read_arrays(tmp_path / "a.safetensors"))
    np.testing.assert_array_equal(again.predict(scores[:, 80:], places[80:]), before)
    assert fitted.predict(scores[:, :0], places[:0]).shape == (0, 4)


# -- what is refused -----------------------------------------------------------------------------------------


def nan_scores() -> NDArray[np.float64]:
    scores = FITTING.copy()
    scores[1, 2, 0] = np.nan
    return scores


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "stackin"}, "method: unknown 'stackin'; did you mean 'stacking'"),
        ({"scores": FITTING[0]}, r"scores: expected an array [models, items, classes], got the shape (4, 3)"),
        ({"scores": FITTING[:1]}, "expected two models or more and two classes or more, got 1 and 3"),
        ({"scores": FITTING[:, :, :1]}, "expected two models or more and two classes or more, got 3 and 1"),
        ({"scores": nan_scores()}, "model 1: expected finite numbers, got NaN or Inf"),
        ({"scores": FITTING * 2}, "model 0: expected probabilities, of which those of an item have the sum 1"),
        ({"scores": np.log(FITTING)}, "model 0: expected probabilities"),
        ({"labels": LABELS[:3]}, "labels: expected a whole number for each of 4 items, got int64 of the shape (3,)"),
        ({"labels": LABELS.astype(float)}, "labels: expected a whole number for each of 4 items, got float64"),
        ({"labels": LABELS + 1}, "labels: expected classes from 0 to 2, as many as the scores have, got 1 to 3"),
        ({"scores": FITTING[:, :0], "labels": LABELS[:0]}, "validation: expected labelled items, got none"),
        ({"method": "des-la"}, "neighbours: expected 1 to 4, of so many validation items, got 30"),
        ({"method": "des-la", "neighbours": 0}, "neighbours: expected 1 to 4"),
        ({"margin": 1.5}, "margin: expected a difference of accuracies from 0 to 1, got 1.5"),
        ({"margin": float("nan")}, "margin: expected a difference of accuracies from 0 to 1, got nan"),
        (
            {"method": "des-la", "neighbours": 2, "features": np.zeros((3, 1))},
            "features: expected those of 4 items, got the shape (3, 1)",
        ),
        (
            {"method": "des-la", "neighbours": 2, "features": np.full((4, 1), np.inf)},
            "features: expected finite numbers, got NaN or Inf",
        ),
        ({"method": "stacking"}, "stacking: expected 10 validation items or more, two for each of 5 folds, got 4"),
        (
            {"method": "stacking", "scores": sure([[0] * 10] * 2), "labels": np.ones(10, dtype=np.int64)},
            "stacking: expected validation items of several classes, got class 1 only",
        ),
    ],
)
def test_what_cannot_be_fitted_is_said(changes: dict[str, Any], says: str) -> None:
    arguments = {"method": "mean", "scores": FITTING, "labels": LABELS, **changes}
    with pytest.raises(ConfigError) as caught:
        Combiner.fit(**arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_others_than_it_was_fitted_with_are_refused() -> None:
    scores, labels, places = experts()
    local = Combiner.fit("dcs-la", scores, labels, places)
    for given, of, says in [
        (scores[:2], places, "expected those of 3 models, with which the combiner was fitted, got 2 models"),
        (sure([[0] * 120] * 3, 5), places, "expected those of 4 classes, with which the combiner was fitted, got 5"),
        (scores, None, "method 'dcs-la' was fitted with features of the items; give theirs"),
        (scores, np.zeros((120, 2)), "features: expected 1 numbers of an item, as those that the combiner"),
    ]:
        with pytest.raises(ConfigError, match=says):
            local.predict(given, of)


def test_arrays_of_something_else_are_no_combiner() -> None:
    scores, labels, places = experts()
    arrays, text = Combiner.fit("des-la", scores, labels, places).as_arrays()
    told = json.loads(text)
    for changed, said in [
        ({key: value for key, value in arrays.items() if key != "right"}, text),
        ({**arrays, "right": arrays["right"][:, :5]}, text),
        (arrays, "no JSON"),
        (arrays, json.dumps({**told, "method": "magic"})),
        (arrays, "[]"),
    ]:
        with pytest.raises(DataError, match=r"^combiner: expected "):
            Combiner.from_arrays(changed, said)


# -- models of a task ----------------------------------------------------------------------------------------


class Blobs(Task):
    """Points of three classes; each of three robots is far better at one of them."""

    metrics = (Metric("accuracy", "%", "higher"),)

    @dataclass(frozen=True)
    class Settings(TaskSettings):
        hidden: int = 0

    def make_model(self) -> torch.nn.Module:
        if self.settings.hidden:
            return torch.nn.Sequential(
                torch.nn.Linear(2, self.settings.hidden), torch.nn.Linear(self.settings.hidden, 3)
            )
        return torch.nn.Linear(2, 3)

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def batches(self, index: int, workers: int) -> Iterator[Any]:
        yield from ()

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return model(batch).sum()

    def evaluate(self, worker: Any) -> dict[str, float]:
        return {"accuracy": 0.0}

    def class_names(self) -> tuple[str, ...]:
        return ("left", "middle", "right")

    def labelled_tests(self) -> Labelled:
        rng = self.rng(0)
        labels = rng.integers(0, 3, 120)
        points = np.stack([labels - 1.0, np.zeros(120)], axis=1) + rng.normal(0, 0.2, (120, 2))
        return Labelled(torch.tensor(points, dtype=torch.float32), torch.tensor(labels), self.class_names())


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered task."""
    forget_afterwards(monkeypatch)
    register("blobs-of-the-test", Blobs)
    return "blobs-of-the-test"


def weights_of(model: torch.nn.Module, values: list[list[float]], bias: list[float]) -> torch.nn.Module:
    with torch.no_grad():
        model.weight.copy_(torch.tensor(values))  # type: ignore[operator]
        model.bias.copy_(torch.tensor(bias))  # type: ignore[operator]
    return model


#: Of three models: one that tells the left from the others, one that tells the right, one that knows both a little.
KNOWN = [
    ([[-8, 0], [4, 0], [4, 0]], [-4, 2, 2]),
    ([[-4, 0], [-4, 0], [8, 0]], [2, 2, -4]),
    ([[-1, 0], [0, 0], [1, 0]], [0, 0, 0]),
]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The models of the task, in the three kinds of files."""
    models = [weights_of(torch.nn.Linear(2, 3), values, bias) for values, bias in KNOWN]
    paths = [tmp_path / name for name in ("a.safetensors", "b.npz", "c.pt")]
    save_model(paths[0], models[0], Blobs.build().class_names())
    task = Blobs.build()
    task.keep_state(models[1])
    task.save_state(paths[1])
    torch.save(models[2].state_dict(), paths[2])
    return paths


@pytest.fixture
def combine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blobs: str) -> Iterator[Run]:
    threads = torch.get_num_threads()
    with running(monkeypatch, capsys, "combine") as run:
        yield lambda *words: run(*words, "--task", blobs, "--validation", 40, "--neighbours", 9)
    torch.set_num_threads(threads)


def test_the_command_shows_all_methods_and_writes_one(combine: Run, files: list[Path], tmp_path: Path) -> None:
    out, figures = tmp_path / "all.safetensors", tmp_path / "figures.json"
    code, shown, err = combine(*files, "--out", out, "--json", figures)
    assert (code, err) == (0, "")
    assert all(method in shown for method in [*METHODS, "parameter-mean"])
    assert "fitted to 40 labelled items, judged by 80 others" in shown
    assert "b.npz" in shown.split("so not checked")[1] and "a.safetensors" not in shown.split("so not checked")[1]
    found = json.loads(figures.read_text())
    methods = {each["name"]: each["accuracy"] for each in found["methods"]}
    assert [each["name"] for each in found["models"]] == [str(path) for path in files]
    assert methods["stacking"] > 0.9
    family = TaskFamily(Blobs, {}, None, 0)
    model = load_combined(out, family)
    tests = family.task.labelled_tests()
    judging = np.random.default_rng([0, 2**20]).permutation(120)[40:]
    right = model(tests.inputs[judging]).argmax(dim=1) == tests.labels[judging]
    assert float(right.float().mean()) == pytest.approx(methods["stacking"])
    assert oct(out.stat().st_mode & 0o777) == "0o644"


@pytest.mark.parametrize("method", LOCAL)
def test_a_local_method_is_written_with_its_items(combine: Run, files: list[Path], tmp_path: Path, method: str) -> None:
    out, figures = tmp_path / "all.safetensors", tmp_path / "figures.json"
    assert combine(*files, "--method", method, "--out", out, "--json", figures)[0] == 0
    accuracy = {each["name"]: each["accuracy"] for each in json.loads(figures.read_text())["methods"]}[method]
    family = TaskFamily(Blobs, {}, None, 0)
    tests = family.task.labelled_tests()
    judging = np.random.default_rng([0, 2**20]).permutation(120)[40:]
    right = load_combined(out, family)(tests.inputs[judging]).argmax(dim=1) == tests.labels[judging]
    assert float(right.float().mean()) == pytest.approx(accuracy)


def test_models_of_different_layouts_have_no_mean_of_parameters(
    combine: Run, files: list[Path], tmp_path: Path
) -> None:
    wide = Blobs.build({"hidden": 5})
    wide.pretrain()
    save_model(tmp_path / "wide.safetensors", wide.model(), wide.class_names())
    out = tmp_path / "all.safetensors"
    code, shown, _ = combine(files[0], f"{tmp_path / 'wide.safetensors'}?hidden=5", "--out", out)
    assert code == 0
    assert "no parameter-mean: the models have different layouts" in shown
    model = load_combined(out, TaskFamily(Blobs, {}, None, 0))
    assert [type(each).__name__ for each in model.models] == ["Linear", "Sequential"]


def test_the_mean_of_parameters_is_their_mean(files: list[Path]) -> None:
    family = TaskFamily(Blobs, {}, None, 0)
    models = load_models(family, map(str, files), family.task.labelled_tests())
    mean = parameter_mean(family, models)
    assert mean is not None
    wanted = np.mean([values for values, _ in KNOWN], axis=0)
    np.testing.assert_allclose(mean.state_dict()["weight"].numpy(), wanted, atol=1e-6)


def test_what_is_counted_has_no_mean() -> None:
    class Normed(Blobs):
        def make_model(self) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3))

    family = TaskFamily(Normed, {}, None, 0)
    models = [LoadedModel(str(number), family.new_model({})) for number in range(2)]
    models[0].model.state_dict()["0.num_batches_tracked"].fill_(7)
    mean = parameter_mean(family, models)
    assert mean is not None and int(mean.state_dict()["0.num_batches_tracked"]) == 7


def test_the_methods_are_not_judged_by_what_they_were_fitted_to(
    combine: Run, files: list[Path], tmp_path: Path
) -> None:
    """With other labels in the judging part the figures differ; with others in the fitting part the models' do not."""
    figures = tmp_path / "figures.json"
    assert combine(*files, "--json", figures)[0] == 0
    before = json.loads(figures.read_text())
    judging = np.random.default_rng([0, 2**20]).permutation(120)[40:]
    family = TaskFamily(Blobs, {}, None, 0)
    tests = family.task.labelled_tests()
    models = load_models(family, map(str, files), tests)
    for model, told in zip(models, before["models"], strict=True):
        scores = scores_of(model.model, tests.inputs[judging], 3, model.name)
        assert told["accuracy"] == pytest.approx((scores.argmax(axis=1) == tests.labels[judging].numpy()).mean())


def saved(path: Path, model: torch.nn.Module, classes: tuple[str, ...] | None = None) -> Path:
    save_model(path, model, classes)
    return path


def test_what_cannot_be_combined_is_one_line(combine: Run, files: list[Path], tmp_path: Path) -> None:
    nan = weights_of(torch.nn.Linear(2, 3), [[float("nan"), 0], [0, 0], [0, 0]], [0, 0, 0])
    linear = torch.nn.Linear(2, 3)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(files[0].read_bytes()[:-9])
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    torch.save([linear], tmp_path / "list.pt", pickle_protocol=4)
    first = files[0]
    cases: list[tuple[tuple[object, ...], str]] = [
        ((first,), "models: expected two or more to combine, got 1"),
        ((first, tmp_path / "no.npz"), "expected a saved model, found no file; rowcast train --save FILE"),
        ((first, tmp_path / "no.onnx"), "expected a model's file (.safetensors, .npz, .pt, .pth), got '.onnx'"),
        ((first, torn), "expected a whole .safetensors file of plain tensors, found none"),
        (
            (first, tmp_path / "evil.pt"),
            "expected a whole .pt file of plain tensors, found none (it holds more than tensors",
        ),
        (
            (first, tmp_path / "list.pt"),
            "expected a whole .pt file of plain tensors, found none (it holds more than tensors",
        ),
        (
            (first, saved(tmp_path / "four.safetensors", torch.nn.Linear(2, 4))),
            "expected the layout that the task makes, got another one: it has weight of (4, 2), expected (3, 2)",
        ),
        ((first, saved(tmp_path / "bare.safetensors", torch.nn.Linear(2, 3, bias=False))), "it lacks bias"),
        ((first, saved(tmp_path / "more.safetensors", torch.nn.Bilinear(2, 2, 3))), "it has weight of (3, 2, 2)"),
        ((first, f"{first}?hidden=4"), "it lacks 0.weight"),
        ((first, f"{first}?hiden=4"), "hidden"),
        (
            (first, saved(tmp_path / "order.safetensors", linear, ("right", "middle", "left"))),
            "expected the 3 classes of the task in its order (left, middle, right), got the same ones in another order",
        ),
        ((first, saved(tmp_path / "other.safetensors", linear, ("a", "b"))), "got other ones: a, b"),
        ((first, saved(tmp_path / "nan.safetensors", nan)), "expected finite scores, got NaN or Inf"),
        ((*files, "--method", "magic"), "magic"),
        ((*files, "--out", tmp_path / "x.bin"), "expected a name that ends in .safetensors, got '.bin'"),
        ((*files, "--out", tmp_path / "no" / "x.safetensors"), "expected a folder that is there"),
    ]
    for words, says in cases:
        code, _, err = combine(*words)
        assert (code, err.count("\n")) == (2, 1), (words, err)
        assert says in err, (says, err)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--validation", "120"), "validation: expected fewer than the 120 labelled tests of the task"),
        (("--validation", "6", "--neighbours", "3"), "stacking: expected 10 validation items or more"),
        (("--validation", "20"), "neighbours: expected 1 to 20, of so many validation items, got 30"),
        (("--margin", "2"), "margin"),
    ],
)
def test_numbers_that_do_not_fit_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    blobs: str,
    files: list[Path],
    words: tuple[str, ...],
    says: str,
) -> None:
    with running(monkeypatch, capsys, "combine") as run:
        code, _, err = run(*files, "--task", blobs, *words)
    assert code == 2 and says in err and err.count("\n") == 1, err


def test_a_task_without_classes_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: list[Path]
) -> None:
    with running(monkeypatch, capsys, "combine") as run:
        code, _, err = run(*files, "--task", "crimp-room")
    assert code == 2 and "its models cannot be combined; define labelled_tests()" in err


def test_outputs_that_are_no_scores_are_said() -> None:
    for model in (torch.nn.Linear(2, 4), torch.nn.Identity(), torch.nn.LSTM(2, 3)):
        with pytest.raises(ConfigError, match=r"model m: expected a score for each of 3 classes \(items, 3\), got "):
            scores_of(model, torch.zeros(5, 2), 3, "m")


def test_another_file_is_no_combined_model(tmp_path: Path, files: list[Path]) -> None:
    family = TaskFamily(Blobs, {}, None, 0)
    with pytest.raises(DataError, match="cannot be read"):
        load_combined(tmp_path / "no.safetensors", family)
    with pytest.raises(DataError, match="expected what rowcast combine --out writes"):
        load_combined(files[0], family)
    with pytest.raises(ConfigError, match="models: expected 3, as fitted, got 1"):
        CombinedModel([torch.nn.Linear(2, 3)], Combiner.fit("mean", FITTING, LABELS))


# -- files and tasks -----------------------------------------------------------------------------------------


def test_a_model_goes_through_its_file(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3))
    save_model(tmp_path / "m.safetensors", model, ("a", "b", "ü"))
    found = read_model(tmp_path / "m.safetensors")
    assert found.classes == ("a", "b", "ü")
    assert {name: value.tolist() for name, value in found.state.items()} == {
        name: value.tolist() for name, value in model.state_dict().items()
    }
    save_model(tmp_path / "m.safetensors", model)
    assert read_model(tmp_path / "m.safetensors").classes is None


@pytest.mark.parametrize("name", ["cruda-digits", "drift-digits"])
def test_built_in_tasks_have_labelled_tests(name: str) -> None:
    task = build_task(name)
    tests = task.labelled_tests()
    assert tests.classes == task.class_names() and len(tests.classes) == 10
    assert len(tests.inputs) == len(tests.labels) == 500
    with torch.inference_mode():
        assert task.make_model().eval()(tests.inputs[:3]).shape == (3, 10)
