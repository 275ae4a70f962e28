"""Reports of what replicas look like: pictures and plans, laid out, as tables and as figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rowcast.errors import ConfigError
from rowcast.exhibits import Cells, Exhibit, Path2d, Picture, Plan, save_exhibits
from rowcast.experiment import Cell, Comparison, run_comparison
from rowcast.report import read_experiment, write_report
from rowcast.report.exhibits_figure import draw_pictures, draw_plan
from rowcast.report.exhibits_sections import MOST_LINES, MOST_POLICIES, exhibit_parts
from rowcast.report.exhibits_tables import (
    REFERENCE,
    picture_lines,
    picture_table,
    plan_summary,
    plan_table,
    shown_plans,
    squares_of,
)
from stub_cells import run_stub

PNG = b"\x89PNG\r\n\x1a\n"
POLICIES = ("bsp", "rog:4", "asp")
SETTINGS = Comparison(policies=POLICIES, workers=(2,), hours=0.02, seeds=2, eval_every_s=20.0)
WALL = np.array([[0.0, 0.0, 4.0, 0.5]])


def depth(value: float) -> np.ndarray:
    """A picture of 2 x 4 with a hole."""
    pixels = np.full((2, 4), value, dtype=np.float32)
    pixels[0, 0] = np.nan
    return pixels


def exhibits(policy: str, robot: int, seed: int = 0) -> Sequence[Exhibit]:
    """Both robots show a depth, the second what is there, too; the first a way of 5 m and three squares, the other one
    of 3 m and two, of which they share one; what is greater with a seed is."""
    value = POLICIES.index(policy) + 10.0 * robot + 100 * seed
    true = np.array([[0.0, 0.0], [3.0, 4.0]])
    found = np.array([[0.0, 1.0], [np.nan, 0.0], [0.0, 1.0], [3.0, 1.0]])
    path = Path2d("way", found) if robot else Path2d("true way", true, true=True)
    cells = Cells(
        2.0, np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])[robot:], np.array([1.0, 1.0, 0.0])[robot:] * (1 + robot)
    )
    items: list[Exhibit] = [
        Picture("depth", "Its <depth>", depth(value), 0.0, 12.0, "m", row=1),
        Plan("map", "The map", "m", (path,), WALL, cells),
    ]
    if robot:
        items.append(Picture("truth", "The depth", depth(7.0), 0.0, 12.0, "m", reference=True, row=1))
        items.append(Picture("colours", "Seen", np.full((2, 4, 3), 9, dtype=np.uint8)))
    return items


def run_showing(cell: Cell, folder: Path, progress: Callable[[float], None]) -> None:
    """As ``run_virtual``; asp shows nothing."""
    run_stub(cell, folder, progress)
    for robot in (0, 1):
        if cell.policy != "asp":
            save_exhibits(folder / f"robot-{robot}.exhibits.npz", exhibits(cell.policy, robot, cell.seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exhibits")
    run_comparison(SETTINGS, out, jobs=0, run=run_showing)
    write_report(out)
    return out


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "report" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


SHOWN = {policy: {f"robot-{k}": exhibits(policy, k) for k in (0, 1)} for policy in POLICIES[:2]}


def test_the_page_has_the_figures_of_the_first_seed(folder: Path) -> None:
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    for name in ("exhibits-pictures", "exhibits-map"):
        assert f'<figure id="{name}">\n<img src="data:image/png;base64,' in page
        assert (folder / "report" / f"{name}.png").read_bytes().startswith(PNG)
    assert "At the end, seed 0, with what the robots have" in page and "Its &lt;depth&gt;" in page
    assert "no robot of asp shows anything" in page
    found = {(row["policy"], row["picture"]): row for row in rows(folder, "exhibits-pictures")}
    assert (found["rog:4", "depth"]["low"], found["rog:4", "depth"]["robot"]) == ("1", "robot-0")


def test_pictures_stand_in_lines(folder: Path) -> None:
    first, second = picture_lines(SHOWN)
    assert (first.row, second.row) == (0, 1) and first.references == ()
    assert [(robot, item.name) for robot, item in second.references] == [("robot-1", "truth")]
    assert {policy: [item.name for _, item in pairs] for policy, pairs in first.pictures.items()} == {
        "bsp": ["colours"],
        "rog:4": ["colours"],
    }
    # Of two robots that show a picture of one name, the first.
    assert [[robot for robot, _ in pairs] for pairs in second.pictures.values()] == [["robot-0"], ["robot-0"]]


def test_the_numbers_of_pictures_by_hand() -> None:
    table = picture_table(picture_lines({**SHOWN, "asp": {"robot-0": [Picture("depth", "", depth(np.inf), row=1)]}}))
    found = {row[:2]: row[2:] for row in table.rows}
    assert found[REFERENCE, "truth"] == (1, "The depth", "robot-1", "m", 7.0, 7.0, 7.0, 87.5)
    assert found["rog:4", "depth"] == (1, "Its <depth>", "robot-0", "m", 1.0, 1.0, 1.0, 87.5)
    assert found["bsp", "colours"] == (0, "Seen", "robot-1", "", 9.0, 9.0, 9.0, 100.0)
    assert found["asp", "depth"] == (1, "", "robot-0", "", None, None, None, 0.0)


def test_a_square_is_whose_weight_is_the_largest() -> None:
    plan = shown_plans(SHOWN)[0]
    squares = squares_of(plan.plans["bsp"])
    # (2, 0) has weight 1 and 2; nobody has one at (4, 0).
    assert {robot: own.corners.tolist() for robot, own in squares.items()} == {
        "robot-0": [[0.0, 0.0]],
        "robot-1": [[2.0, 0.0]],
    }
    even = {name: replace(item, cells=Cells(0.3, np.array([[0.1 + 0.2, k * 1e-9]]), np.ones(1))) for k, (name, item) in
            enumerate(plan.plans["bsp"].items())}  # fmt: skip
    assert {robot: len(own.corners) for robot, own in squares_of(even).items()} == {"robot-0": 1, "robot-1": 0}
    assert squares_of({"robot-0": replace(even["robot-0"], cells=None)}) == {}


def test_the_numbers_of_a_plan_by_hand(folder: Path) -> None:
    (plan,) = shown_plans(SHOWN)
    assert (plan.robots, plan.title, plan.unit) == (("robot-0", "robot-1"), "The map", "m")
    summary = plan_summary(plan)
    assert summary.columns == ("policy", "robot", "way", "points", "length (m)", "squares of the robot")
    assert summary.where(policy="bsp").rows == (
        ("bsp", "robot-0", "true way", 2, 5.0, 1),
        ("bsp", "robot-1", "way", 4, 3.0, 1),
    )
    table = plan_table(plan).where(policy="rog:4")
    assert table.columns == ("policy", "robot", "what", "number", "x (m)", "y (m)", "width (m)", "height (m)")
    assert [row[1:] for row in table.where(what="obstacle").rows] == [("robot-0", "obstacle", 0, 0.0, 0.0, 4.0, 0.5)]
    assert [row[1:] for row in table.where(what="true way").rows] == [
        ("robot-0", "true way", 0, 0.0, 0.0, None, None),
        ("robot-0", "true way", 1, 3.0, 4.0, None, None),
    ]
    assert [row[1:] for row in table.where(what="square").rows] == [
        ("robot-0", "square", 0, 0.0, 0.0, 2.0, 2.0),
        ("robot-1", "square", 0, 2.0, 0.0, 2.0, 2.0),
    ]
    assert len(rows(folder, "exhibits-map")) == 2 * len(table.rows)


def drawn(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pictures_are_drawn_in_colours_and_holes_stay_white(tmp_path: Path) -> None:
    lines = picture_lines({"bsp": {"robot-0": [Picture("a", "A", np.full((2, 2, 3), (200, 10, 90), dtype=np.uint8))]}})
    draw_pictures(lines, "Seen", tmp_path / "a.png")
    found = drawn(tmp_path / "a.png")
    assert (found == (200, 10, 90)).all(axis=-1).mean() > 0.3
    hole = picture_lines({"bsp": {"robot-0": [Picture("a", "A", np.full((2, 2), np.nan, dtype=np.float32))]}})
    draw_pictures(hole, "Seen", tmp_path / "b.png")
    high = picture_lines({"bsp": {"robot-0": [Picture("a", "A", np.full((2, 2), 2.0, dtype=np.float32))]}})
    draw_pictures(high, "Seen", tmp_path / "c.png")
    white, yellow = (255, 255, 255), (253, 231, 36)
    assert (drawn(tmp_path / "b.png") == white).all(axis=-1).mean() > 0.8
    assert (drawn(tmp_path / "c.png") == yellow).all(axis=-1).mean() > 0.3


def test_a_plan_is_drawn_in_the_colours_of_the_robots(tmp_path: Path) -> None:
    (plan,) = shown_plans(SHOWN)
    draw_plan(plan, tmp_path / "a.png")
    found = drawn(tmp_path / "a.png").astype(int)
    for colour in ((0, 114, 178), (213, 94, 0)):  # ways; the squares are a light tint
        tint = [round(255 * 0.72 + 0.28 * part) for part in colour]
        assert (abs(found - colour) < 3).all(axis=-1).any() and (abs(found - tint) < 3).all(axis=-1).sum() > 1000
    assert (found == (154, 154, 154)).all(axis=-1).sum() > 1000


def test_odd_exhibits_are_drawn(tmp_path: Path) -> None:
    """A plan without anything in it, a picture of one pixel, one very tall, and names that are a formula."""
    bare = Plan("bare", "$\\frac", "", (), np.zeros((0, 4)))
    point = replace(bare, name="point", paths=(Path2d("$x", np.array([[1.0, 1.0]])),))
    pixel, tall = np.ones((1, 1), np.float32), np.ones((400, 2), np.float32)
    items = [
        bare,
        point,
        Picture("pixel", "$y", pixel),
        Picture("tall", "t " * 90, tall),
        Picture("other", "", pixel, 3, 4),
    ]
    shown = {"rog:4?row_weights=contributors": {"robot-0": items}, "asp": {}}
    draw_pictures(picture_lines(shown), "$", tmp_path / "a.png")
    for plan in shown_plans(shown):
        draw_plan(plan, tmp_path / f"{plan.name}.png")
    assert len(list(tmp_path.glob("*.png"))) == 3
    with pytest.raises(ConfigError, match="no pictures to draw"):
        draw_pictures([], "", tmp_path / "b.png")


# -- what is left out --------------------------------------------------------------------------------------------------


def test_without_exhibits_there_is_no_figure(folder: Path) -> None:
    experiment = read_experiment(folder)
    groups = {"asp": experiment.by_policy(experiment.conditions[0])["asp"]}
    notes: list[str] = []
    assert not list(exhibit_parts(groups, "", "these", notes)) and not notes


def test_what_a_figure_has_no_room_for_is_named(folder: Path, tmp_path: Path) -> None:
    experiment = read_experiment(folder)
    run = experiment.by_policy(experiment.conditions[0])["bsp"][0]
    pixels = np.ones((1, 1), np.float32)
    groups = {}
    for k in range(MOST_POLICIES + 1):
        own = tmp_path / str(k)
        own.mkdir()
        save_exhibits(
            own / "robot-0.exhibits.npz", [Picture("a", "", pixels, row=row) for row in range(MOST_LINES + 2)]
        )
        groups[f"policy-{k}"] = [replace(run, folder=own)]
    notes: list[str] = []
    (part,) = exhibit_parts(groups, "-x", "these", notes)
    assert part.name == "exhibits-pictures-x" and len(part.numbers.rows) == MOST_POLICIES * MOST_LINES
    assert notes == [
        f"what the replicas show, these: policy-{MOST_POLICIES}",
        f"pictures of the replicas, these: 2 of {MOST_LINES + 2} lines",
    ]


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    experiment = read_experiment(folder)
    run = experiment.by_policy(experiment.conditions[0])["bsp"][0]
    (tmp_path / "robot-0.exhibits.npz").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"exhibits .*robot-0.exhibits.npz: not what 'rowcast' writes"):
        list(exhibit_parts({"bsp": [replace(run, folder=tmp_path)]}, "", "these", []))
