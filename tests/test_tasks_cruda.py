"""The task: clean training, the fall in the fog, adaptation by a team; determinism; saved states; faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rowcast.errors import ConfigError, DataError, LocalProtocolError
from rowcast.experiment.preparing import now_and_then
from rowcast.tasks import TASKS, build_task
from rowcast.tasks.cruda import ConvMLPConfig, CrudaSettings, CrudaTask

TINY = ConvMLPConfig(in_channels=1, tokens=8, stem_stride=1, conv_blocks=1, widths=(16,), depths=(1,), mlp_ratio=2)
REAL = Path(__file__).parents[2] / "shared" / "data"


def tiny(**changes: object) -> CrudaTask:
    return build_task("cruda-digits", **({"model": TINY, "pretrain_epochs": 1, "train_images": 300} | changes))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two threads for a model this small wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pretrained(one_thread: None) -> CrudaTask:
    task = build_task("cruda-digits")
    task.pretrain()
    return task


def test_the_team_recovers_what_the_fog_takes(pretrained: CrudaTask) -> None:
    team = [pretrained.worker(index, 4) for index in range(4)]
    clean, foggy = pretrained.clean_accuracy(team[0].model), team[0].accuracy()
    assert clean >= 95
    assert foggy <= clean - 15
    for _ in range(20):  # synchronous: everybody takes the mean of the four updates
        before = [p.detach().clone() for p in team[0].model.parameters()]
        for worker in team:
            worker.compute()
            worker.optimizer.step()
        with torch.no_grad():
            for start, *replicas in zip(before, *(worker.model.parameters() for worker in team), strict=True):
                mean = start + sum(replica - start for replica in replicas) / len(team)
                for replica in replicas:
                    replica.copy_(mean)
    adapted = team[3].accuracy()
    assert adapted == team[0].accuracy(pretrained_copy(pretrained, team[3].model))
    assert adapted >= foggy + 10
    assert adapted >= 80
    frozen = {name: value for name, value in team[0].model.state_dict().items() if "running" in name}
    assert frozen and all(np.array_equal(value.numpy(), pretrained.state[name]) for name, value in frozen.items())


def pretrained_copy(task: CrudaTask, model: torch.nn.Module) -> torch.nn.Module:
    copy = task.model()
    copy.load_state_dict(model.state_dict())
    return copy


def test_an_evaluation_leaves_the_mode_of_the_model(pretrained: CrudaTask) -> None:
    model = pretrained.model()
    modes = [module.training for module in model.modules()]
    assert True in modes and False in modes
    pretrained.accuracy(model)
    assert [module.training for module in model.modules()] == modes


def test_the_default_model_is_small_and_the_optimizer_plain(pretrained: CrudaTask) -> None:
    worker = pretrained.worker(1, 2)
    assert 300_000 <= sum(p.numel() for p in worker.model.parameters()) <= 800_000
    assert type(worker.optimizer) is torch.optim.SGD
    group = worker.optimizer.param_groups[0]
    assert group["nesterov"] and group["momentum"] == 0.7 and group["lr"] == 0.006


def test_a_loss_step_leaves_the_parameters_and_freezes_batch_norm(pretrained: CrudaTask) -> None:
    worker = pretrained.worker(0, 4)
    before = {name: value.clone() for name, value in worker.model.state_dict().items()}
    worker.model.train()
    first, second = worker.compute(), worker.compute()
    assert isinstance(first, float) and first > 0 and first != second
    assert all(torch.equal(before[name], value) for name, value in worker.model.state_dict().items())
    assert all(p.grad is not None for p in worker.model.parameters())


def test_everything_follows_the_seed() -> None:
    one, same, other = tiny(seed=5), tiny(seed=5), tiny(seed=6)
    states = [task.pretrain() for task in (one, same, other)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not np.array_equal(states[0]["head.weight"], states[2]["head.weight"])
    robots = [task.worker(1, 3) for task in (one, same, other)]
    for _ in range(6):
        (a, a_labels), (b, b_labels), (c, _) = (robot.batch() for robot in robots)
        assert a.shape == (32, 1, 8, 8) and a_labels.shape == (32,)
        assert torch.equal(a, b) and torch.equal(a_labels, b_labels) and not torch.equal(a, c)
    losses = [robot.compute() for robot in robots]
    assert losses[0] == losses[1] != losses[2]


def test_workers_start_alike_and_see_their_own_shards() -> None:
    task = tiny()
    task.pretrain()
    shards = task.shards(3)
    robots = [task.worker(index, 3) for index in range(3)]
    assert [len(robot.labels) for robot in robots] == [len(shard) for shard in shards]
    np.testing.assert_array_equal(robots[2].labels.numpy(), task.dataset.train_labels[shards[2]])
    for name, value in robots[0].model.state_dict().items():
        assert all(torch.equal(value, robot.model.state_dict()[name]) for robot in robots)
    robots[0].compute()
    robots[0].optimizer.step()
    np.testing.assert_array_equal(robots[1].model.state_dict()["head.weight"].numpy(), task.state["head.weight"])


def test_one_pass_shows_each_image_of_the_shard_once() -> None:
    task = tiny(batch=10)
    task.pretrain()
    robot = task.worker(0, 2)
    seen = torch.cat([robot.batch()[0] for _ in range(len(robot.labels) // 10)])
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen)


def test_a_saved_state_comes_back_without_pickles(tmp_path: Path) -> None:
    task, fresh = tiny(), tiny()
    task.pretrain()
    path = tmp_path / "start.npz"
    task.save_state(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["start.npz"]
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == set(task.state)
    loaded = fresh.load_state(path)
    assert all(np.array_equal(loaded[name], task.state[name]) for name in task.state)
    assert fresh.worker(0, 2).compute() == task.worker(0, 2).compute()


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    task = tiny(pretrain_epochs=0)
    with pytest.raises(DataError, match=r"none\.npz: expected a saved model state, found no file"):
        task.load_state(tmp_path / "none.npz")
    path = tmp_path / "start.npz"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match=r"expected a whole \.npz archive"):
        task.load_state(path)
    np.savez(path, other=np.zeros(2))
    with pytest.raises(DataError, match="lacks tokenizer"):
        task.load_state(path)
    wider = tiny(pretrain_epochs=0, model=ConvMLPConfig(in_channels=1, stem_stride=1, widths=(16,), depths=(1,)))
    wider.pretrain()
    wider.save_state(path)
    with pytest.raises(DataError, match=r"expected tokenizer.* as float32 .*, found float32 .*other model settings"):
        tiny(pretrain_epochs=0, model=TINY).load_state(path)
    with pytest.raises(DataError, match="cannot be written"):
        wider.save_state(tmp_path / "no folder" / "start.npz")


def test_a_task_without_a_starting_model_says_what_to_call() -> None:
    task = tiny()
    for use in (lambda: task.state, task.model, lambda: task.worker(0, 2), lambda: task.save_state("x.npz")):
        with pytest.raises(LocalProtocolError, match=r"call pretrain\(\) or load_state\(path\) first"):
            use()


def test_names_and_settings_are_checked() -> None:
    own = {"cruda-idx", "cruda-npz", "cruda-images"}
    assert set(TASKS) >= {"cruda-digits", "cruda-fashion-mnist", "cruda-cifar10", "cruda"} | own
    with pytest.raises(ConfigError, match="unknown task 'cruda-digit'; did you mean 'cruda-digits'"):
        build_task("cruda-digit")
    with pytest.raises(ConfigError, match="unknown setting 'severety'; did you mean 'severity'"):
        build_task("cruda-digits", severety=2)
    with pytest.raises(ConfigError, match="data set 'mnist'"):
        build_task("cruda-digits", dataset="mnist")
    with pytest.raises(ConfigError, match="digits has 1 channels and 10 classes, but the model is made for 3 and 10"):
        build_task("cruda-digits", model=ConvMLPConfig())
    with pytest.raises(DataError, match="no data folder given"):
        build_task("cruda-fashion-mnist")
    with pytest.raises(DataError, match="is not a folder"):
        build_task("cruda-cifar10", "/nowhere/at/all")


@pytest.mark.parametrize(
    ("name", "value"),
    [("severity", 6), ("severity", 2.5), ("alpha", 0.0), ("batch", 0), ("batch", 8.5), ("lr", -1.0), ("momentum", 1.0)],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        CrudaSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nowhere", "cpu:-1:2", "meta", "cuda:99"])
def test_a_device_that_cannot_compute_is_refused_in_one_line(name: str) -> None:
    for build in (lambda: tiny(device=name), lambda: CrudaTask.check({"device": name})):
        with pytest.raises(ConfigError, match=rf"^device: '{name}' cannot be used here \(.*\); take 'cpu'") as refused:
            build()
        assert "\n" not in str(refused.value)


def test_the_device_does_not_change_what_a_starting_model_depends_on() -> None:
    assert tiny(device="cpu:0").starting_key() == tiny().starting_key()


def test_worker_numbers_are_checked() -> None:
    task = tiny(pretrain_epochs=0)
    task.pretrain()
    with pytest.raises(ConfigError, match=r"worker index: expected 0\.\.1, got 2"):
        task.worker(2, 2)
    with pytest.raises(ConfigError, match="too few for 10 workers"):
        task.worker(0, 10)
    with pytest.raises(ConfigError, match="model: expected ConvMLPConfig"):
        CrudaSettings(model="big")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "folder"), [("cruda-fashion-mnist", "fashion_mnist"), ("cruda-cifar10", "cifar10")])
def test_the_larger_tasks_start_on_the_real_folders(name: str, folder: str) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"no data in {REAL / folder}")
    task = build_task(name, REAL / folder, train_images=256, test_images=100, pretrain_epochs=1)
    task.pretrain()
    robot = task.worker(3, 4)
    assert np.isfinite(robot.compute())
    robot.optimizer.step()
    assert 0 <= robot.accuracy() <= 100


def test_the_accuracy_on_a_robots_own_classes_is_weighted_by_its_shard() -> None:
    """A model that knows one class only is as good as the shard has of that class."""
    task = build_task("cruda-digits", seed=0)

    class Always(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(images),), 3), 10).float()

    labels = torch.tensor([3, 3, 3, 5], dtype=torch.int64)
    overall, own = task.both_accuracies(Always(), labels)
    assert own == pytest.approx(75.0)
    assert overall == pytest.approx(100.0 * (task.dataset.test_labels == 3).mean())
    assert overall == task.accuracy(Always())


def test_clean_training_tells_how_far_it_is(one_thread: None) -> None:
    shares: list[float] = []
    tiny(train_images=128, pretrain_batch=32, pretrain_epochs=2).pretrain(shares.append)
    assert shares == [step / 8 for step in range(1, 9)]


def test_a_long_clean_training_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rowcast.experiment.preparing.time.monotonic", lambda: now)
    said: list[str] = []
    tell = now_and_then(said.append)
    for step in range(1, 25):
        now += 0.5
        tell(step / 24)
    assert said == [
        "training the starting model: 42 %, about 7 s left",
        "training the starting model: 83 %, about 2 s left",
    ]


def test_single_samples_are_those_of_the_batches() -> None:
    """One after the other in the order of the batches; a batch of them is what the loss takes."""
    task = tiny(pretrain_epochs=0)
    task.pretrain()
    samples = task.samples(1, 3)
    size = task.settings.batch
    images, labels = task.collate([next(samples) for _ in range(size)])
    wanted = next(task.batches(1, 3))
    assert torch.equal(images, wanted[0]) and torch.equal(labels, wanted[1])
    robot = task.worker(1, 3)
    given = robot.compute_on((images, labels))
    assert given == task.worker(1, 3).compute()
    one = task.collate([next(samples)])
    assert one[0].shape == (1, *images.shape[1:]) and np.isfinite(robot.compute_on(one))
    with pytest.raises(ConfigError, match="worker index"):
        task.samples(3, 3)
