"""Compiled kernels in all surroundings: forked processes, several threads, no place to keep them, threads of others."""

from __future__ import annotations

import errno
import os
import sys
import threading

import numba
import numpy as np
import pytest

from live import LIMIT_S, python
from rowcast.codecs import REGISTRY
from rowcast.drivers import crew
from rowcast.rows import Layout, kept, kernels
from rowcast.training.proposal.outer import Outer

#: Long enough for several parts of each kernel.
LAYOUT = Layout.from_shapes([("weight", (1200, 1000)), ("bias", (1001,))])


def run_all(layout=LAYOUT):
    """What every kernel makes of the same numbers, one after the other."""
    vector = np.random.default_rng(0).standard_normal(layout.elements).astype(np.float32)
    rows = np.arange(layout.rows, dtype=np.int64)
    found = []
    for codec in REGISTRY.values():
        if codec.name in ("timing", "zero"):
            continue
        pending, target = vector.copy(), layout.zeros()
        payload = codec.encode(layout, pending, rows)
        codec.check(layout, payload, rows)
        codec.add(layout, payload, rows, target, -1.0)
        found += [pending, target, payload.copy()]
    outer = Outer(layout, lr=0.7, momentum=0.5)
    outer.begin(first=True)
    for add in (kernels.accumulate, outer.accumulate):
        pending, sums, computed = layout.zeros(), np.empty(layout.rows, np.float32), np.zeros(layout.rows)
        weights = np.linspace(0, 1, layout.rows, dtype=np.float32)
        moved = add(pending, vector, vector * vector, weights, 0, layout.offsets, sums, computed)
        found += [np.array([moved]), pending, sums, computed]
    found.append(np.array([kernels.nonfinite(vector)]))
    sums = np.empty(layout.rows, np.float32)
    kernels.row_abs_sums(vector, layout.offsets, sums)
    return [*found, sums]


def same(ones, others):
    return len(ones) == len(others) and all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.fixture
def threads(monkeypatch):
    """As many threads as parts, also where there is one processor."""
    monkeypatch.setattr(kernels, "_threads", 4)
    monkeypatch.setattr(kernels, "_crew", None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    lent = crew._Threads()
    yield lambda: kernels.set_crew(lent)
    if lent._pool is not None:
        lent._pool.shutdown()


def test_results_do_not_depend_on_the_threads(threads):
    """To the bit: sums are made over the same parts, whoever works on them."""
    alone = run_all()
    threads()
    assert same(run_all(), alone)


def test_the_parts_are_all_there_and_follow_from_the_size():
    for rows, elements, parts in [
        (0, 0, 1),
        (5, kernels.PARALLEL_ELEMENTS - 1, 1),
        (1, kernels.PARALLEL_ELEMENTS, 1),
        (7, kernels.PARALLEL_ELEMENTS, 2),
        (3, 10 * kernels.PARALLEL_ELEMENTS, 3),
        (1000, 1000 * kernels.PARALLEL_ELEMENTS, kernels.MOST_PARTS),
    ]:
        seen = kernels.in_parts(lambda part, edges: (part, edges), rows, elements)
        assert len(seen) == parts
        assert [row for part, _ in seen for row in range(part.start, part.stop)] == list(range(rows))
        assert all((edges.start, edges.stop) == (part.start, part.stop + 1) for part, edges in seen)


def test_a_failure_in_a_part_reaches_the_caller(threads):
    threads()

    def work(part, _):
        raise ValueError(part)

    with pytest.raises(ValueError):
        kernels.in_parts(work, 100, kernels.PARALLEL_ELEMENTS)


def test_threads_are_used_where_there_is_enough_to_do(threads):
    """All four meet, which one thread alone never could."""
    threads()
    meeting = threading.Barrier(4)
    kernels.in_parts(lambda part, _: meeting.wait(LIMIT_S), 100, 2 * kernels.PARALLEL_ELEMENTS)
    assert len(kernels.in_parts(lambda part, _: None, 100, 2 * kernels.PARALLEL_ELEMENTS)) == 4


def test_kernels_start_no_threads_of_numba():
    """Those kill forked children (omp), abort two teams in one process (workqueue), and change PyTorch's threads."""
    run_all()
    with pytest.raises(ValueError, match="not initialized"):
        numba.threading_layer()


def script(*lines, **variables):
    """A process that runs these lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "NUMBA_"))}
    return python("-c", "\n".join(lines), env={**environment, **variables, "PYTHONPATH": os.pathsep.join(sys.path)})


def ended(process):
    out, err = process.communicate(timeout=3 * LIMIT_S)
    assert process.returncode == 0, (process.returncode, out, err)
    return out


@pytest.mark.system
def test_a_forked_child_computes_what_its_parent_does():
    """Forked after kernels have run on several threads; the child used to be killed at its first kernel."""
    lines = (
        "import os, test_kernels",
        "from rowcast.drivers.crew import lend_threads",
        "from rowcast.rows import kernels",
        "kernels._threads = 2",
        "lend_threads()",
        "mine = test_kernels.run_all()",
        "child = os.fork()",
        "if child == 0:",
        "    os._exit(0 if test_kernels.same(mine, test_kernels.run_all()) else 7)",
        "_, status = os.waitpid(child, 0)",
        "assert status == 0, f'the child ended with {status}'",
    )
    ended(script(*lines))


@pytest.mark.system
def test_two_teams_in_one_process_with_the_workqueue_layer():
    """numba's ``workqueue`` aborts the process when two threads run parallel kernels at once."""
    lines = (
        "import test_kernels, threading",
        "from rowcast.drivers.crew import lend_threads",
        "lend_threads()",
        "found = []",
        "def team():",
        "    for _ in range(3):",
        "        found.append(test_kernels.run_all())",
        "threads = [threading.Thread(target=team) for _ in range(2)]",
        "[thread.start() for thread in threads]",
        "[thread.join() for thread in threads]",
        "assert len(found) == 6 and all(test_kernels.same(found[0], other) for other in found)",
    )
    ended(script(*lines, NUMBA_THREADING_LAYER="workqueue"))


# -- where compiled kernels are kept -------------------------------------------------------------------------------


@pytest.mark.system
def test_kernels_run_where_nothing_can_be_kept():
    """As in a container: read-only, and no home. Importing a kernel used to fail there, in whatever module it is."""
    lines = (
        "import errno, logging, os",
        "from numba.core.caching import _CacheLocator",
        "def refuse(self): raise OSError(errno.EROFS, os.strerror(errno.EROFS))",
        "_CacheLocator.ensure_cache_path = refuse",
        "said = []",
        "log = logging.getLogger('rowcast')",
        "log.setLevel('INFO')",
        "log.addFilter(lambda record: said.append(record.getMessage()))",
        "import numpy as np, rowcast.drivers.sockets",
        "from rowcast.rows import Layout, kernels",
        "from rowcast.rows.select import oldest_first",
        "assert not kernels.nonfinite(np.ones(9, np.float32))",
        "assert list(oldest_first(np.arange(3), np.array([2, 0, 1], np.int32))) == [1, 2, 0]",
        "assert len(said) == 1 and 'NUMBA_CACHE_DIR' in said[0], said",
    )
    ended(script(*lines, NUMBA_OPT="0"))


def twice(x):
    return 2 * x


@pytest.fixture
def compile_twice(tmp_path, monkeypatch):
    """Compiles :func:`twice` anew, kept in a folder of the test."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kept, "_said", False)
    return lambda: kept.keep(numba.njit(twice))


def test_a_kernel_is_kept_and_found_again(compile_twice, tmp_path):
    assert compile_twice()(4) == 8
    assert list(tmp_path.rglob("*.nbi")) and list(tmp_path.rglob("*.nbc"))
    again = compile_twice()
    assert again(4) == 8
    assert sum(again.stats.cache_hits.values()) == 1


def test_damaged_files_are_compiled_over(compile_twice, tmp_path):
    compile_twice()(4)
    for path in [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]:
        path.write_bytes(path.read_bytes()[:20])
    again = compile_twice()
    assert again(4) == 8
    assert not again.stats.cache_hits


def test_a_full_disk_keeps_no_kernel_from_running(compile_twice, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", refuse)
    with caplog.at_level("INFO", "rowcast"):
        compiled = compile_twice()
        assert (compiled(4), compiled(0.5)) == (8, 1.0)
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] == [
        record.getMessage() for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_no_folder_named_tilde_is_made_without_a_home(compile_twice, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert compile_twice()(4) == 8
    assert list(tmp_path.iterdir()) == []
