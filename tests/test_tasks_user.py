"""A user's own job: found by file, by module and by name; compared, trained, and checked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from live import LIMIT_S, LiveServer, python
from rowcast.errors import ConfigError, LocalProtocolError, SourceEnded
from rowcast.experiment import Comparison, DemoSettings, plan_cells, run_comparison, run_demo
from rowcast.experiment.starting import CACHE_VARIABLE, keep_starting_state
from rowcast.journal import read_journal
from rowcast.metric import Metric, check_metrics, metrics_from_json, metrics_to_json
from rowcast.tasks import TASKS, Task, build_task, find_task, load_task, register
from rowcast.testing import check_task

EXAMPLE = Path(__file__).parents[1] / "examples" / "diabetes_task.py"
OWN = f"{EXAMPLE}:Diabetes"
SMALL = Comparison(
    task=OWN, policies=("bsp", "rowcast"), seeds=1, hours=120 / 3600, eval_every_s=10.0, workers=(2,), batch=(16,)
)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in the same order each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The example with some texts replaced, in a file of its own."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "changed.py"
    path.write_text(text)
    return path


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_a_metric_has_a_direction() -> None:
    error, share = Metric("trajectory_error", "m", "lower"), Metric("accuracy", "%")
    assert error.is_better(0.1, than=0.2) and not error.is_better(0.2, than=0.2) and share.is_better(2, than=1)
    assert error.reaches(0.2, target=0.2) and error.reaches(0.1, target=0.2) and not error.reaches(0.3, target=0.2)
    assert (error.best([3, 1, 2]), share.best([3, 1, 2])) == (1, 3)
    assert error.label == "trajectory error (m)" and (error.sign, share.sign) == (-1, 1)
    assert (error.written(0.123456), share.written(84.26), error.written(None)) == ("0.1235 m", "84.3 %", "-")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Test error",), "expected a name of small letters"),
        (("error", "m\n"), "unit: expected a short text"),
        (("error", "m", "less"), "better: expected 'higher' or 'lower', got 'less'"),
    ],
)
def test_a_metric_that_no_report_could_show_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Metric(*arguments)


def test_metrics_are_written_with_what_a_report_needs() -> None:
    metrics = (Metric("error", "m", "lower"), Metric("accuracy", "%"))
    entries = metrics_to_json(metrics)
    assert entries[0] == {"name": "error", "unit": "m", "better": "lower", "primary": True}
    assert metrics_from_json(json.loads(json.dumps(entries[::-1])), "done.json") == metrics
    for wrong in ({}, [3], [{"name": "error"}], []):
        with pytest.raises(ConfigError):
            metrics_from_json(wrong, "done.json")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ((), "expected one or more"),
        ("error", "expected one or more"),
        ((Metric("a"), Metric("a")), "two are named 'a'"),
        ((Metric("loss"),), "take another name, as in 'test_loss'"),
    ],
)
def test_a_task_needs_metrics_of_different_names(metrics: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"task mine: metrics: .*{says}"):
        check_metrics(metrics, "task mine")


# -- finding a task ----------------------------------------------------------------------------------------------------


def test_a_file_is_found_by_its_path_with_and_without_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    found = find_task("diabetes_task.py:Diabetes")
    assert found.name == OWN and re.fullmatch("[0-9a-f]{16}", found.code)
    assert find_task("diabetes_task.py") == find_task(OWN) == found
    assert found.kind is load_task(OWN) and issubclass(found.kind, Task)


def test_a_module_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_task("changed:Diabetes").metrics[0].name == "test_error"
    sys.modules.pop("changed")


def test_a_name_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    kind = register("diabetes", load_task(OWN))
    assert find_task("diabetes").kind is kind and build_task("diabetes", batch=8).settings.batch == 8
    with pytest.raises(ConfigError, match="this name is taken"):
        register("diabetes", kind)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nowhere.py:Mine", "nowhere.py: cannot be read: No such file"),
        (f"{EXAMPLE}:Diabetis", "has no 'Diabetis'; did you mean 'Diabetes'"),
        (f"{EXAMPLE}:load_diabetes", "expected a class derived from rowcast.tasks.Task, got <function load_diabetes"),
        (f"{EXAMPLE}:Task", "does not define batches, evaluate, loss, make_model, make_optimizer"),
        ("rowcast.nothing:Mine", "the module rowcast.nothing cannot be imported: ModuleNotFoundError"),
        ("rowcast.tasks:Mine", "the module rowcast.tasks has no 'Mine'"),
        ("cruda digits:4", "expected a registered name (cruda-digits"),
        ("diabetes", "unknown task 'diabetes'"),
    ],
)
def test_what_is_no_task_is_told_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        find_task(text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("import torch\n", "import torch\nimport nothing_of_this_name\n", "line 13: ModuleNotFoundError"),
        ("import torch\n", "import torch\nraise SystemExit(2)\n", "line 13: SystemExit: 2"),
        ("import torch\n", "import torch (\n", "line 12: invalid syntax"),
        ("    @dataclass(frozen=True)\n", "", "with @dataclass(frozen=True) above it"),
        ('"lower"),)', '"lower"), Metric("loss"))', "take another name, as in 'test_loss'"),
        ("class Diabetes(Task)", "class Diabetes", "Diabetes: expected a class derived from"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = changed(tmp_path, (old, new))
    with pytest.raises(ConfigError) as caught:
        find_task(f"{path}:Diabetes")
    assert says in str(caught.value) and str(path) in str(caught.value)


# -- options -----------------------------------------------------------------------------------------------------------


def test_the_settings_of_a_task_are_its_options() -> None:
    cell = plan_cells(Comparison(**{**vars(SMALL), "task_options": ("lr=0.02",)}))[0]
    assert cell.options() == {"lr": 0.02, "batch": 16} and cell.task == OWN
    task = cell.build_task()
    assert (task.settings.lr, task.settings.batch, task.settings.seed) == (0.02, 16, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task_options": ("lrr=1",)}, "DiabetesOptions: unknown setting 'lrr'; did you mean 'lr'"),
        ({"task_options": ("lr=fast",)}, "DiabetesOptions.lr: expected a number in 0.0 .. 10.0, got 'fast'"),
        ({"task_options": ("lr=11",)}, "lr: expected a number in 0.0 .. 10.0, got 11.0"),
        ({"task_options": ("seed=1",)}, "unknown setting 'seed'"),
        ({"batch": (101,)}, "batch: expected a number in 1 .. 100, got 101"),
    ],
)
def test_an_option_that_does_not_fit_is_said_before_anything_runs(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        plan_cells(Comparison(**{**vars(SMALL), **changes}))


def test_a_task_without_a_batch_says_so(tmp_path: Path) -> None:
    path = changed(tmp_path, ("        batch: int = setting(32", "        patients: int = setting(32"))
    with pytest.raises(ConfigError, match="batch: task Diabetes has no option of this name"):
        plan_cells(Comparison(**{**vars(SMALL), "task": str(path)}))


# -- running -----------------------------------------------------------------------------------------------------------


def values_of(journal: Path, name: str) -> list[float]:
    return [
        record["value"] for record in read_journal(journal) if record["event"] == "metric" and record["name"] == name
    ]


@pytest.mark.system
def test_policies_are_compared_with_a_job_of_ones_own(tmp_path: Path) -> None:
    """In this process and in another one, with the same journals; the error falls."""
    cells = run_comparison(SMALL, tmp_path / "here", jobs=0)
    run_comparison(SMALL, tmp_path / "there", jobs=1)
    for cell in cells:
        folders = [tmp_path / where / "cells" / cell.name for where in ("here", "there")]
        for name in ("robot-0.jsonl", "robot-1.jsonl", "server.jsonl"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        errors = values_of(folders[0] / "robot-1.jsonl", "test_error")
        assert len(errors) >= 4 and errors[-1] < errors[0]
        done = json.loads((folders[0] / "done.json").read_text())
        assert metrics_from_json(done["metrics"], "done.json") == (Metric("test_error", "points", "lower"),)
    plan = json.loads((tmp_path / "here" / "compare.json").read_text())
    assert plan["metrics"] == done["metrics"]


def test_a_file_that_was_changed_does_not_mix_with_what_ran_before(tmp_path: Path) -> None:
    path = changed(tmp_path)
    settings = Comparison(**{**vars(SMALL), "task": f"{path}:Diabetes", "policies": ("bsp",), "hours": 9 / 3600})
    (planned,) = plan_cells(settings)
    run_comparison(settings, tmp_path / "out", jobs=0)
    changed(tmp_path, ("nn.Tanh", "nn.ReLU"))
    with pytest.raises(ConfigError, match=re.escape("was run with other settings (task_code = ")):
        run_comparison(settings, tmp_path / "out", jobs=0)
    with pytest.raises(ConfigError, match="the file was changed since the comparison was planned"):
        planned.build_task()


@pytest.mark.system
def test_a_robot_trains_a_job_of_ones_own(tmp_path: Path) -> None:
    with LiveServer("bsp", expected_workers=1) as server:
        words = ("train", "--connect", f"127.0.0.1:{server.port}", "--task", OWN, "--steps=30", "--set", "lr=0.02")
        robot = python("-m", "rowcast", *words, "--journal", tmp_path / "robot.jsonl")
        out, err = robot.communicate(timeout=3 * LIMIT_S)
    assert robot.returncode == 0, err
    assert re.search(r"finished after 30 steps, test_error \d+\.\d+ points", out)
    errors = values_of(tmp_path / "robot.jsonl", "test_error")
    assert len(errors) == 6 and errors[-1] < errors[0]


class Said:
    """Keeps what a demo says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def says(self, text: str) -> None:
        self.texts.append(text)

    def shows(self, *told: Any) -> None:
        pass


@pytest.mark.system
def test_a_demo_runs_a_job_of_ones_own(tmp_path: Path) -> None:
    observer = Said()
    settings = DemoSettings(task=OWN, policies=("bsp",), seconds=2.0, workers=2, pace_s=0.05, trace="constant:10")
    (run,) = run_demo(settings, tmp_path, observer)
    assert run.audit.clean and run.metrics[0].better == "lower"
    assert any(re.match(r"starting model: test_error \d", text) for text in observer.texts)
    errors = values_of(run.journals[0], "test_error")
    assert run.drained["test_error"] < errors[0]


# -- what a task may do ------------------------------------------------------------------------------------------------


def test_an_evaluation_measures_what_was_announced(tmp_path: Path) -> None:
    for value, says in (
        ('{"test_eror": 1.0}', "'test_eror' is not one of the task's metrics; did you mean 'test_error'"),
        ('{"test_error": torch.ones(2)}', "test_error: expected one number"),
        ("1.0", "expected a number for each metric by name"),
    ):
        path = changed(tmp_path, ("return {", f"return {value}\n        return {{"))
        with pytest.raises(ConfigError, match=re.escape(says)):
            build_task(str(path)).worker(0, 2).evaluate()


def test_batches_that_end_are_said(tmp_path: Path) -> None:
    path = changed(
        tmp_path, ("        while True:\n            yield", "        for _ in range(2):\n            yield")
    )
    worker = build_task(str(path)).worker(1, 2)
    worker.compute(), worker.compute()
    with pytest.raises(ConfigError, match="worker 1 of 2 has no more of them; expected batches without an end"):
        worker.compute()


def test_a_stream_that_is_over_ends_the_worker(tmp_path: Path) -> None:
    """It is no error of the task, warming up takes nothing from it, and who asks again is told again."""
    path = changed(
        tmp_path,
        ("        while True:\n            yield", "        for _ in range(2):\n            yield"),
        ("    def loss(", "        raise rowcast.errors.SourceEnded('over')\n\n    def loss("),
        ("import torch\n", "import rowcast.errors\nimport torch\n"),
    )
    worker = build_task(str(path)).worker(1, 2)
    worker.warm_up()
    worker.compute(), worker.compute()
    for _ in range(2):
        with pytest.raises(SourceEnded, match=r"^over$"):
            worker.compute()
    worker.warm_up()


def test_a_task_without_single_samples_says_so() -> None:
    with pytest.raises(ConfigError, match="task Diabetes: gives whole batches and no single samples"):
        build_task(OWN).samples(0, 2)


def test_a_batch_can_be_given() -> None:
    """Of any number of samples, by default as PyTorch's data loader makes it."""
    task = build_task(OWN)
    worker = task.worker(0, 2)
    patients = list(next(iter(task.batches(0, 2))))
    for count in (1, 3, len(patients)):
        batch = task.collate(patients[:count])
        assert torch.equal(batch, torch.stack(patients[:count]))
        assert worker.compute_on(batch) == task.loss(worker.model, batch).item()


def test_a_trained_start_is_kept_by_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that trains its starting model once, and a worker that asks for it too early."""
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    trains = """    def pretrain(self, progress=None):
        model = self.make_model()
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.25)
        return self.keep_state(model)

    def starting_key(self):
        return "quarter"

    def loss("""
    path = changed(tmp_path, ("    def loss(", trains))
    first, second = build_task(str(path)), build_task(str(path))
    with pytest.raises(LocalProtocolError, match=r"call pretrain\(\) or load_state"):
        first.worker(0, 2)
    kept = [keep_starting_state(task, tmp_path / "states", code="1") for task in (first, second)]
    assert kept[0] == kept[1] and list((tmp_path / "states").iterdir()) == [kept[0]]
    assert keep_starting_state(second, tmp_path / "states", code="2") != kept[0]
    for parameter in second.worker(1, 2).model.parameters():
        assert torch.equal(parameter, torch.full_like(parameter, 0.25))


# -- the conformance suite ---------------------------------------------------------------------------------------------


def test_the_example_and_the_built_in_task_conform() -> None:
    check_task(load_task(OWN), {"batch": 16}, workers=3)
    options = {"train_images": 400, "pretrain_epochs": 1, "test_images": 100, "widths": (16, 16, 16)}
    check_task(load_task("cruda-digits"), options, steps=30)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("self.rng(1, index)", "np.random.default_rng()", "two tasks of one seed gave other losses"),
        (
            "100 + index, len(self.points), workers), self.rng(1, index)",
            "100, 400), self.rng(1)",
            "have the same losses",
        ),
        ("lr=self.settings.lr", "lr=0.0", "first 20 batches did not fall in 60 steps"),
        ('"lower"),)', '"higher"),)', "test_error got worse while the loss fell"),
        ('return {"test_error": (', 'return {"test_error": float("nan") * (', "test_error: expected a finite number"),
        (
            "        predicted =",
            "        worker.model[0].bias.zero_().add_(1)\n        predicted =",
            "changed the model",
        ),
        ("        predicted =", "        next(worker._batches)\n        predicted =", "changed the batches"),
    ],
)
def test_the_suite_finds_what_is_wrong(tmp_path: Path, old: str, new: str, says: str) -> None:
    kind = load_task(str(changed(tmp_path, (old, new), ("import torch\n", "import numpy as np\nimport torch\n"))))
    with pytest.raises(AssertionError, match=re.escape(says)):
        check_task(kind)


def test_a_task_is_the_same_in_another_process() -> None:
    """The order of a set of texts is another one in each process, for instance; here nothing depends on it."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from rowcast.tasks import build_task\n"
        f"worker = build_task({OWN!r}, seed=3).worker(1, 2)\n"
        "print([worker.compute() for _ in range(3)])"
    )
    words = [sys.executable, "-c", code]
    there = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S * 3, check=True).stdout
    worker = build_task(OWN, seed=3).worker(1, 2)
    assert json.loads(there) == [worker.compute() for _ in range(3)]
    assert isinstance(worker.model.state_dict()["0.bias"].numpy(), np.ndarray)


def test_the_readme_shows_the_example() -> None:
    (shown,) = re.findall(r"```py\n(.*?)```", (EXAMPLE.parents[1] / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.endswith(shown)
    assert len([line for line in shown.splitlines() if line.strip()]) <= 35
