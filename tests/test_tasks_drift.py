"""The tasks whose world drifts: their streams, test then train, and what rehearsal adds."""

from __future__ import annotations

import copy
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from live import LiveServer
from rowcast.errors import ConfigError, DataError, SourceEnded
from rowcast.experiment import Comparison, RobotSettings, run_comparison, run_robot
from rowcast.journal import read_journal
from rowcast.sources import CsvSource
from rowcast.streams import Sample
from rowcast.tasks import TASKS, build_task, pack_item
from rowcast.tasks.drift import DRIFT_TASKS, DriftTask
from rowcast.tasks.drift.digits import rotated
from rowcast.tasks.drift.recordings import standardised
from rowcast.testing import check_task

REAL = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = {"outdoor": "stream_outdoor_objects", "wall": "stream_wall_following", "rssi": "stream_robot_rssi"}
MOVES = ("Move-Forward", "Sharp-Right-Turn", "Slight-Left-Turn", "Slight-Right-Turn")
#: Positions behind the glitches that the small recordings hold.
GLITCHES = {"outdoor": [], "wall": [], "rssi": [1, 101]}
RSSI_HEAD = "t_s,x_m,y_m,qz,qw,UL_rssi_dbm,UR_rssi_dbm,LL_rssi_dbm,LR_rssi_dbm,C_rssi_dbm"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWCAST_CACHE", "off")


def write(path: Path, head: str, rows: list[str]) -> None:
    path.write_bytes(gzip.compress("\n".join([head, *rows, ""]).encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small recordings of the three kinds, with the columns of the published ones, in one folder."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    middles = rng.uniform(0, 1, (40, 21))
    rows = []
    for label in rng.permutation(np.repeat(np.arange(6), 10)):  # runs of ten images of one of six objects
        seen = np.abs(middles[label] + 0.05 * rng.normal(size=(10, 21)))
        rows += [",".join(f"{value:.6f}" for value in one / one.sum()) + f",{label}" for one in seen]
    write(folder / "outdoor_stream.csv.gz", ",".join([*(f"f{n}" for n in range(21)), "label"]), rows)
    distances = rng.uniform(0.3, 5, (720, 24)).round(3)
    rows = [",".join(map(str, one)) + f",{MOVES[int(one[0] // 1.25)]}" for one in distances]
    write(folder / "sensor_readings_24.csv.gz", ",".join([*(f"S{n}" for n in range(1, 25)), "OUTPUT"]), rows)
    for number, count in ((1, 200), (3, 240), (5, 280)):
        x = rng.uniform(-3, 6, count)
        y = rng.uniform(-4, 4, count)
        levels = np.rint(-20 - 3 * np.hypot(x - 9, y)[:, None] + rng.normal(size=(count, 5)))
        if number != 5:
            levels[100, 4] = 102
            levels[0, 0] = -116
        rows = [
            f"{i * 0.2:.3f},{x[i]:.5f},{y[i]:.5f},0.0,1.0," + ",".join(f"{v:.0f}" for v in levels[i])
            for i in range(count)
        ]
        write(folder / f"dataset{number}.csv.gz", RSSI_HEAD, rows)
    return folder


def made(name: str, data: Path, **options: Any) -> DriftTask:
    task = build_task(name, None if name == "drift-digits" else data, **options)
    assert isinstance(task, DriftTask)
    task.pretrain()
    return task


# -- conformance -------------------------------------------------------------------------------------------------------

#: A rate that classes in runs bear, so that a few steps lower the loss of what came before; digits not in runs.
CALM: dict[str, dict[str, Any]] = {name: {"lr": 0.01} for name in DRIFT_TASKS} | {"drift-digits": {"run": 1}}


@pytest.mark.parametrize("rehearsal", ["off", "reservoir:50", "importance:50"])
@pytest.mark.parametrize("name", sorted(DRIFT_TASKS))
def test_conformance(name: str, rehearsal: str, data: Path) -> None:
    assert TASKS.find(name) is DRIFT_TASKS[name]
    folder = None if name == "drift-digits" else str(data)
    options = {"rehearsal": rehearsal, "batch": 5, **CALM[name]}
    check_task(DRIFT_TASKS[name], options, data_dir=folder, workers=2, steps=40)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_conformance_with_what_was_recorded(name: str) -> None:
    """With the usual settings; of the radio map it takes more steps until the error is lower than at the start, where
    the robot does not move yet.
    """
    folder = REAL / FOLDERS[name]
    if not folder.exists():
        pytest.skip(f"the recorded stream is not here: no folder {folder.name}")
    options = {"rehearsal": "reservoir:200"}
    check_task(DRIFT_TASKS[name], options, data_dir=str(folder), workers=3, steps=150 if name == "rssi" else 60)


# -- test, then train --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DRIFT_TASKS))
def test_each_batch_is_predicted_before_it_is_trained_on(name: str, data: Path) -> None:
    task = made(name, data, rehearsal="reservoir:30")
    worker, scores = task.worker(1, 3), []
    for (inputs, targets), _ in zip(task.batches(1, 3), range(6), strict=False):
        with torch.no_grad():
            scores.append(task.scores(worker.model(inputs), targets))
        worker.compute()
        worker.optimizer.step()
        assert worker.prequential() == pytest.approx(float(torch.cat(scores).mean()), rel=1e-5)
    assert worker.tested == 60
    found = worker.evaluate()
    inputs, targets = task.whole(3)
    whole = task.scores(worker.model(inputs), targets).mean().item()
    assert list(found.values()) == pytest.approx([worker.prequential(), whole])


def test_scores_are_percents_of_right_ones_and_decibels(data: Path) -> None:
    outputs = torch.eye(4)
    assert made("wall", data).scores(outputs, torch.tensor([0, 1, 2, 0])).tolist() == [100, 100, 100, 0]
    wanted = torch.tensor([[-0.4, 0.1, 0.0, 0.0, 0.0]])  # 4 and 1 dB off in two of five antennas
    assert made("rssi", data).scores(torch.zeros(1, 5), wanted).tolist() == pytest.approx([1.0])


def test_a_look_before_the_first_step_takes_nothing_from_the_stream(data: Path) -> None:
    task = made("wall", data)
    looked, other = task.worker(0, 2), task.worker(0, 2)
    inputs, targets = next(task.batches(0, 2))
    first = task.scores(looked.model(inputs), targets).mean().item()
    for _ in range(3):
        assert looked.evaluate()["prequential_accuracy"] == pytest.approx(first)
    assert looked.tested == 0
    assert [looked.compute() for _ in range(5)] == [other.compute() for _ in range(5)]


def test_batches_of_any_size_can_be_given(data: Path) -> None:
    """Fed from a stream, batches are as large as came in; test, training and rehearsal are the same."""
    task = made("outdoor", data, rehearsal="reservoir:40", rehearsed=15)
    fed, own = task.worker(0, 4), task.worker(0, 4)
    samples = task.samples(0, 4)
    given = []
    for size in (10, 10, 10):
        given.append(fed.compute_on(task.collate([next(samples) for _ in range(size)])))
        fed.optimizer.step()
    for loss in given:
        assert own.compute() == loss
        own.optimizer.step()
    for size in (1, 7, 30):
        fed.compute_on(task.collate([next(samples) for _ in range(size)]))
        fed.optimizer.step()
    assert fed.tested == 68 and fed.rehearsal is not None and fed.rehearsal.seen == 68 and len(fed.rehearsal) == 40


def test_old_samples_are_trained_beside_the_new_ones(data: Path) -> None:
    """None in the first step; then as many as are kept, at most those that are asked for. They are not tested again."""
    task = made("wall", data, rehearsal="reservoir:25", rehearsed=20)
    worker = task.worker(0, 2)
    seen: list[torch.Tensor] = []
    worker.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for _ in range(4):
        worker.compute()
    assert [len(inputs) for inputs in seen] == [10, 20, 30, 30]
    new = [inputs[:10] for inputs in seen]
    past = {tuple(row.tolist()) for inputs in new[:3] for row in inputs}
    assert {tuple(row.tolist()) for row in seen[3][10:]} <= past
    assert torch.equal(torch.cat(new), torch.cat([batch[0] for batch, _ in zip(task.batches(0, 2), range(4))]))  # noqa: B905
    assert worker.tested == 40


def test_a_rehearsal_is_told_what_each_sample_cost(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old ones in the order in which they were drawn, the new ones as they are added."""
    task = made("wall", data, rehearsal="importance:100", rehearsed=15)
    worker = task.worker(0, 2)
    rehearsal = worker.rehearsal
    drawn, told, added = [], [], []
    draw, tell, add = rehearsal.draw, rehearsal.told, rehearsal.add
    monkeypatch.setattr(rehearsal, "draw", lambda count: drawn.append(draw(count)) or drawn[-1])
    monkeypatch.setattr(rehearsal, "told", lambda losses: told.append(losses) or tell(losses))
    monkeypatch.setattr(
        rehearsal, "add", lambda items, losses: added.append((items := list(items), losses)) or add(items, losses)
    )
    for step in range(3):
        before = copy.deepcopy(worker.model)
        worker.compute()
        worker.optimizer.step()
        for samples, losses in [added[step], *([(drawn[step], told[step - 1])] if step else [])]:
            inputs, targets = task.collate(samples)
            assert losses == pytest.approx(task.losses(before(inputs), targets).tolist(), rel=1e-4)
    assert [len(samples) for samples in drawn] == [0, 10, 15] and len(told) == 2


def test_several_steps_for_a_batch(data: Path) -> None:
    """The batch is tested before the first of them, and enters the reservoir once."""
    task = made("wall", data, steps=3, rehearsal="reservoir:100")
    worker = task.worker(0, 2)
    seen: list[torch.Tensor] = []
    worker.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:10]))
    for _ in range(6):
        worker.compute()
        worker.optimizer.step()
    assert all(torch.equal(seen[step], seen[0]) for step in (1, 2)) and not torch.equal(seen[3], seen[0])
    assert all(torch.equal(seen[step], seen[3]) for step in (4, 5))
    assert worker.tested == worker.rehearsal.seen == 20


def test_rehearsal_pays_where_classes_come_back() -> None:
    found = {}
    for rehearsal in ("off", "reservoir:200"):
        task = build_task("drift-digits", length=1500, period=1500, rehearsal=rehearsal)
        task.pretrain()
        worker = task.worker(0, 1)
        with pytest.raises(SourceEnded):
            while True:
                worker.compute()
                worker.optimizer.step()
        found[rehearsal] = worker.evaluate()
    for metric in ("prequential_accuracy", "stream_accuracy"):
        assert found["reservoir:200"][metric] > found["off"][metric] + 10


# -- recorded streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FOLDERS))
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
def test_each_row_is_seen_by_one_robot_in_order_of_time(name: str, workers: int, data: Path) -> None:
    task = made(name, data)
    rows = [
        {tuple(row): place for place, row in enumerate(each.targets.reshape(len(each.targets), -1).tolist())}
        for each in task.recordings
    ]
    streams = [list(task.samples(index, workers)) for index in range(workers)]
    assert sum(map(len, streams)) == sum(len(each.targets) for each in task.recordings) == len(task.whole(workers)[1])
    if name == "rssi":
        for index, stream in enumerate(streams):
            own = rows[index % 3]
            firsts = [own.get(tuple(target.tolist())) for _, target in stream[:5]]
            assert None not in firsts
    else:  # at the same moment of the recording, each of the team at another row
        for index, stream in enumerate(streams):
            assert [int(target) for _, target in stream] == task.recordings[0].targets[index::workers].tolist()


@pytest.mark.parametrize("name", sorted(DRIFT_TASKS))
def test_a_stream_that_is_over_says_so(name: str, data: Path) -> None:
    """The last batch is as small as what is left; nothing is lost."""
    task = made(name, data, batch=64, **({"length": 150} if name == "drift-digits" else {}))
    samples = len(list(task.samples(0, 4)))
    worker = task.worker(0, 4)
    for _ in range(-(-samples // 64)):
        worker.compute()
    assert worker.tested == samples
    for _ in range(2):
        with pytest.raises(
            SourceEnded, match=f"task {name}: robot 0 of 4: its stream is over, after {samples} samples"
        ):
            worker.compute()
    assert np.isfinite(list(worker.evaluate().values())).all()


def test_scaling_does_not_look_ahead() -> None:
    rows = np.random.default_rng(0).normal(3, [0.01, 1, 100], (200, 3)).astype(np.float32)
    whole = standardised(rows)
    for count in (1, 2, 50):
        assert np.array_equal(standardised(rows[:count]), whole[:count])
    assert not whole[0].any() and np.abs(whole).max() <= 3
    assert whole[100:].mean(axis=0) == pytest.approx([0, 0, 0], abs=0.3)
    assert whole[100:].std(axis=0) == pytest.approx([1, 1, 1], abs=0.2)
    for moment in (57, 199):
        before = rows[: moment + 1].astype(float)
        expected = (before[-1] - before.mean(axis=0)) / before.std(axis=0)
        assert whole[moment] == pytest.approx(np.clip(expected, -3, 3), abs=1e-3)


def test_a_column_that_never_changes_is_zero() -> None:
    assert not standardised(np.full((50, 2), 0.3, dtype=np.float32)).any()


def test_glitches_are_dropped_and_counted(data: Path) -> None:
    reason = "a level above 0 or below -100 dBm"
    task, kept = made("rssi", data), made("rssi", data, glitches="keep")
    assert [len(each.targets) for each in task.recordings] == [198, 238, 280]
    assert task.dropped == {reason: 4}
    assert task.describe_start().startswith(f"716 rows, 4 dropped: {reason}; prequential_mae ")
    assert [len(each.targets) for each in kept.recordings] == [200, 240, 280]
    assert kept.dropped == {} and kept.describe_start().startswith("720 rows; ")
    assert np.abs(kept.recordings[0].targets).max() == pytest.approx(15.2)


def test_the_loss_of_levels_is_robust(data: Path) -> None:
    """Ten times as far off is ten times as much beyond 10 dB, not a hundred times."""
    task = made("rssi", data)
    near, far = task.losses(torch.zeros(2, 5), torch.tensor([[2.0] * 5, [20.0] * 5])).tolist()
    assert near == pytest.approx(1.5) and far == pytest.approx(19.5)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["x,y,f0", "1,2,3"], "line 1: expected the columns f0, f1"),
        ([], "expected rows below the first, found none"),
        (["1,2", "3"], "line 2: expected 22 columns, found 2"),
        ([",".join(["0.1"] * 20 + ["far", "3"])], "line 2: f20: expected a finite number, found 'far'"),
        (
            [",".join(["0.1"] * 21 + ["3"])] * 2 + [",".join(["nan"] * 21 + ["3"])],
            "line 4: f0: expected a finite number",
        ),
        ([",".join(["0.1"] * 21 + ["40"])], "row 1: expected a class (0, 1, 2, 3 ...), found '40'"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said_with_its_place(tmp_path: Path, rows: list[str], says: str) -> None:
    head = ",".join([*(f"f{n}" for n in range(21)), "label"])
    path = tmp_path / "outdoor_stream.csv.gz"
    write(path, rows[0] if rows and rows[0].startswith("x") else head, rows)
    with pytest.raises(DataError, match=re.escape(f"{path}: {says}")):
        build_task("outdoor", tmp_path)


def test_a_recording_that_is_cut_off_or_none_at_all(tmp_path: Path, data: Path) -> None:
    whole = (data / "outdoor_stream.csv.gz").read_bytes()
    path = tmp_path / "outdoor_stream.csv.gz"
    for content in (whole[: len(whole) // 2], b"f0,label\n", gzip.compress(b"\xff\xfe\n")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="expected a whole gzip'd CSV file, found one that is missing, cut off or"):
            build_task("outdoor", tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wall: no data folder given; name the folder that holds sensor_readings_24"):
        build_task("wall")
    (tmp_path / "dataset1.csv.gz").touch()
    with pytest.raises(
        DataError, match=r"rssi: .* lacks dataset3\.csv\.gz, dataset5\.csv\.gz; found dataset1\.csv\.gz"
    ):
        build_task("rssi", tmp_path)


def test_recordings_of_glitches_only(tmp_path: Path) -> None:
    for number in (1, 3, 5):
        write(tmp_path / f"dataset{number}.csv.gz", RSSI_HEAD, ["0,0,0,0,1,102,-30,-30,-30,-30"])
    with pytest.raises(
        DataError, match=r"dataset1\.csv\.gz: expected some rows that are valid, found a level above 0 or below"
    ):
        build_task("rssi", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("wall", {"rehearsal": "reservoir"}, "rehearsal reservoir: expected 1..1000000 samples, as in reservoir:200"),
        ("wall", {"hidden": (0,)}, "hidden: expected"),
        ("wall", {"glitches": "keep"}, "unknown option 'glitches'"),
        ("rssi", {"glitches": "keeps"}, "unknown glitches 'keeps'; did you mean 'keep'"),
        ("drift-digits", {"period": 1}, "period: expected a number in 2 .. 1000000000 samples, got 1"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], says: str, data: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        made(name, data, **options)


def test_more_robots_than_rows(tmp_path: Path) -> None:
    write(tmp_path / "sensor_readings_24.csv.gz", ",".join([*(f"S{n}" for n in range(1, 25)), "OUTPUT"]),
          [",".join(["1.0"] * 24 + [MOVES[0]])] * 3)  # fmt: skip
    task = made("wall", tmp_path)
    with pytest.raises(ConfigError, match="a recording of 3 rows is too short for 4 robots; take fewer"):
        task.worker(0, 4).compute()
    with pytest.raises(ConfigError, match="a recording of 3 rows is too short for 4 robots; take fewer"):
        DRIFT_TASKS["wall"].check({}, data_dir=tmp_path, workers=4)
    with pytest.raises(ConfigError, match="worker index"):
        task.samples(3, 3)


# -- rows that a source delivers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_rows_of_a_source_are_what_the_task_reads_itself(name: str, data: Path) -> None:
    """The same inputs and targets, scaled as they come; glitches are refused, so that whoever decodes counts them."""
    task = made(name, data)
    source = CsvSource(data / task.files[0])
    source.open()
    rows: list[Sample] = []
    while len(rows) < 150:
        more = source.take(150 - len(rows), 1.0)
        assert more, "the file holds more"
        rows += more
    source.close()
    found, refused = [], []
    for row in rows:
        try:
            found.append(task.decode(row))
        except DataError as error:
            refused.append(str(error))
    assert refused == [f"{task.files[0]}: position {at}: a level above 0 or below -100 dBm" for at in GLITCHES[name]]
    wanted = task.samples(0, len(task.files))
    for (inputs, target), (own_inputs, own_target) in zip(found, wanted, strict=False):
        assert torch.allclose(inputs, own_inputs, atol=1e-3) and torch.equal(target, own_target)
    inputs, targets = task.collate(found)
    assert inputs.shape == (150 - len(refused), task.features)
    assert task.worker(0, 3).compute_on((inputs, targets)) > 0


def test_items_in_messages_and_rows_of_something_else(data: Path) -> None:
    task = made("wall", data)
    item = next(task.samples(0, 2))
    inputs, target = task.decode(Sample("0", 1, 0.0, pack_item(item), 0))
    assert torch.equal(inputs, item[0]) and torch.equal(target, item[1])
    for row, says in (
        ({"S1": "0.5"}, "file: position 7: expected the columns of task wall; lacks S2, S3"),
        (dict.fromkeys(task.columns, "far") | {"OUTPUT": MOVES[0]}, "S1: expected a finite number, found 'far'"),
        (dict.fromkeys(task.columns, "1") | {"OUTPUT": "Stop"}, "expected a class (Move-Forward"),
    ):
        with pytest.raises(DataError, match=re.escape(says)):
            task.decode(Sample("file", 7, 0.0, row, 0))


# -- the digits --------------------------------------------------------------------------------------------------------


def test_rotation() -> None:
    images = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
    still, quarter, half = (rotated(images, np.full(3, angle)) for angle in (0, np.pi / 2, np.pi))
    assert still == pytest.approx(images, abs=1e-6)
    assert quarter == pytest.approx(np.rot90(images, axes=(1, 2)), abs=1e-5)
    assert half == pytest.approx(images[:, ::-1, ::-1], abs=1e-5)
    turned = rotated(images, np.full(3, np.pi / 4))
    assert turned[:, 0, 0] == pytest.approx([0, 0, 0]), "corners come from outside"
    assert turned.min() >= 0 and turned.max() <= images.max()


def test_digits_come_in_runs_and_come_back() -> None:
    task = build_task("drift-digits", run=7, length=7 * 10 * 5)
    labels = np.array([int(label) for _, label in task.samples(1, 4)]).reshape(5, 10, 7)
    assert (labels == labels[:, :, :1]).all()
    assert (np.sort(labels[:, :, 0], axis=1) == np.arange(10)).all(), "each digit once in each ten runs"
    assert len({tuple(order) for order in labels[:, :, 0].tolist()}) > 1


def test_the_same_images_are_turned_and_faded_by_the_place_in_the_stream() -> None:
    options = {"length": 400, "noise": 0.0}
    plain = build_task("drift-digits", **options, turn=0.0, fade=0.0)
    faded = build_task("drift-digits", **options, turn=0.0, fade=0.5, period=400)
    turned = build_task("drift-digits", **options, turn=90.0, fade=0.0, period=400)
    seen = [np.stack([image.numpy() for image, _ in task.samples(0, 2)]) for task in (plain, faded, turned)]
    plainly, fadedly, turnedly = (images.reshape(-1, 8, 8) * 0.375 + 0.3 for images in seen)
    assert fadedly[0] == pytest.approx(plainly[0], abs=1e-6)
    assert fadedly[200] == pytest.approx(plainly[200] * 0.5, abs=1e-5)
    assert turnedly[[0, 200]] == pytest.approx(plainly[[0, 200]], abs=1e-5)
    assert turnedly[100] == pytest.approx(np.rot90(plainly[100]), abs=1e-5)
    assert turnedly[300] == pytest.approx(np.rot90(plainly[300], -1), abs=1e-5)


def test_each_robot_and_each_seed_has_a_stream_of_its_own() -> None:
    def first(seed: int, index: int) -> list[float]:
        samples = build_task("drift-digits", seed=seed).samples(index, 4)
        return [value for _ in range(50) for value in next(samples)[0].tolist()]

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1) and first(0, 0) != first(1, 0)


# -- teams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rowcast"])
def test_robots_finish_when_their_recordings_are_over(policy: str, data: Path, tmp_path: Path) -> None:
    """One after the other: theirs are of different lengths, and those that are left go on."""
    settings = Comparison(
        task="rssi",
        data=str(data),
        policies=(policy,),
        links=("constant:1000",),
        devices=("1",),
        workers=(3,),
        seeds=1,
        hours=1.0,
        eval_every_s=10.0,
    )
    (cell,) = run_comparison(settings, tmp_path, jobs=0)
    task = made("rssi", data)
    for index, steps in enumerate((20, 24, 28)):
        records = list(read_journal(tmp_path / "cells" / cell.name / f"robot-{index}.jsonl"))
        assert sum(record["event"] == "step" for record in records) == steps
        assert [record["event"] for record in records[-2:]] == ["metric", "metric"]
        assert [record["name"] for record in records[-2:]] == [metric.name for metric in task.metrics]
        assert "drained" in [record["event"] for record in records]
        assert records[-1]["t"] < 100


def test_a_robot_over_sockets_finishes_when_its_data_are_over(tmp_path: Path) -> None:
    with LiveServer("bsp?codec=raw", expected_workers=1) as server:
        settings = RobotSettings(
            server=f"127.0.0.1:{server.port}",
            task="drift-digits",
            task_options={"length": 45},
            journal=tmp_path / "robot.jsonl",
        )
        audit = run_robot(settings)
    assert audit.metrics.keys() == {"prequential_accuracy", "stream_accuracy"}
    steps = [record for record in read_journal(tmp_path / "robot.jsonl") if record["event"] == "step"]
    assert len(steps) == 5


def test_a_task_is_not_changed_by_its_workers(data: Path) -> None:
    task = made("wall", data, rehearsal="reservoir:20")
    before = copy.deepcopy(task.whole(2))
    worker = task.worker(0, 2)
    for _ in range(5):
        worker.compute()
        worker.optimizer.step()
    after = task.whole(2)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
