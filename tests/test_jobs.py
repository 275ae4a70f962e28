"""The same seed writes the same journals, in this process and in others, however many threads PyTorch has here."""

from __future__ import annotations

import pytest
import torch

from rowcast.experiment import Comparison, run_comparison
from rowcast.experiment.starting import state_file
from rowcast.tasks import build_task


@pytest.fixture
def two_threads():
    """As on a machine with two processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def journals(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.glob("cells/*/*.jsonl"))}


@pytest.mark.system
@pytest.mark.usefixtures("two_threads")
def test_jobs_in_this_process_write_what_other_processes_write(tmp_path):
    """Sums of two threads are not those of one: where PyTorch took all processors, accuracies differed in the end."""
    settings = Comparison(
        task="cruda-digits", policies=("rowcast",), seeds=1, hours=30 / 3600, eval_every_s=20.0, workers=(2,)
    )
    (tmp_path / "0" / "states").mkdir(parents=True)
    task = build_task("cruda-digits", seed=0, pretrain_epochs=0)
    task.pretrain()
    task.save_state(tmp_path / "0" / "states" / state_file(build_task("cruda-digits", seed=0)))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "states").symlink_to(tmp_path / "0" / "states")
    for jobs in (0, 1):
        run_comparison(settings, tmp_path / str(jobs), jobs=jobs)
    here, there = (journals(tmp_path / str(jobs)) for jobs in (0, 1))
    assert len(here) == 3 and here.keys() == there.keys()
    assert [str(path) for path in here if here[path] != there[path]] == []
    assert torch.get_num_threads() == 2, "what the user has set is as it was"
