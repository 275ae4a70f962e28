"""Kernels compiled before the clock runs: what is warmed up, where it is kept, and that nothing is left to compile."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rowcast as package
from rowcast import warming
from rowcast.errors import ConfigError
from rowcast.rows import kept

SOURCE = Path(__file__).parents[1] / "src"
#: Kernels that no server, robot or camera runs: simulated time; a job, which is warmed up by ``--task``.
ELSEWHERE = ("rowcast.codecs.timing_only", "rowcast.tasks.crimp")


def environment(cache: Path | None, **more: str) -> dict[str, str]:
    """Of a process that keeps kernels in a folder of its own."""
    others = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "ROWCAST", "XDG"))}
    own = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    return {**others, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **own, **more}


def rowcast(*words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rowcast", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=170)


def kept_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.nbc")}


def kernels() -> set[str]:
    """Files of all kernels of the package that are kept, as numba names them, up to the number of the line."""
    for part in pkgutil.walk_packages(package.__path__, "rowcast."):
        if part.name.startswith(
            tuple(f"rowcast.{each}" for each in ("codecs", "delivery", "planning", "rows", "sync"))
        ):
            importlib.import_module(part.name)
    caches = [each._name for each in gc.get_objects() if type(each) is kept._Forgiving]
    ours = [name for name in caches if name.startswith("rowcast.") and not name.startswith(ELSEWHERE)]
    return {".".join(name.rsplit(".", 2)[1:]) for name in ours}


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with what ``rowcast warmup`` compiled, and what it said."""
    folder = tmp_path_factory.mktemp("warmed")
    cache = folder / "kernels"
    cache.mkdir()
    done = rowcast("warmup", env=environment(cache), cwd=folder)
    assert done.returncode == 0, done.stderr
    return cache, done.stdout


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_warmup_compiles_every_kernel_and_says_which(warmed: tuple[Path, str]) -> None:
    cache, said = warmed
    *lines, last = said.splitlines()
    found = re.fullmatch(r"compiled (\d+) kernels, found 0, in [\d.]+ s; they are kept in (.+)", last)
    assert found is not None, last
    assert int(found[1]) == len(lines) and Path(found[2]) == cache
    assert all(re.fullmatch(r" *\d+\.\d\d s  [\w.]+", line) for line in lines)
    everything = kernels()
    assert len(everything) > 100
    assert {name.rsplit("-", 1)[0] for name in kept_in(cache)} >= everything
    assert {".".join(line.split()[-1].rsplit(".", 2)[-2:]) for line in lines} >= everything


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("serves", "trains"),
    [
        ((), ()),
        (("--policy=rowcast", "--guard=clip", "--state=state"), ("--state-dir=kept", "--memory-mb=13")),
    ],
    ids=["usual", "with all that is kept"],
)
def test_after_a_warmup_a_team_compiles_nothing(
    warmed: tuple[Path, str], tmp_path: Path, serves: tuple[str, ...], trains: tuple[str, ...]
) -> None:
    """A server and a worker, as processes of their own, on sockets."""
    cache, _ = warmed
    env, before = environment(cache), kept_in(cache)
    serve = [sys.executable, "-m", "rowcast", "serve", "--host=127.0.0.1", "--port=0", "--workers=1", "--quiet"]
    server = subprocess.Popen(
        [*serve, *serves], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=tmp_path
    )
    try:
        assert server.stdout is not None
        address = next(filter(None, (re.search(r"127\.0\.0\.1:\d+", line) for line in server.stdout)))
        words = ("--connect", address[0], "--steps=6", "--set", "pretrain_epochs=1", *trains)
        trained = rowcast("train", *words, env=env, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        assert "finished after 6 steps" in trained.stdout
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert kept_in(cache) == before


#: Runs a command (from the second word on) with the whole file system read-only but a folder (the first word).
READ_ONLY = (
    'mount --rbind "$1" "$1" && awk \'$5 != d {print $5}\' d="$1" /proc/self/mountinfo | while read -r where; do '
    'mount -o remount,bind,ro "$where" 2>/dev/null; done; cd "$1"; shift; exec "$@"'
)


def read_only(writable: Path, *command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command where only a folder can be written, in a mount namespace of a user of our own."""
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh", str(writable)]
    return subprocess.run([*prefix, *command], capture_output=True, text=True, env=env, cwd=writable, timeout=170)


@pytest.mark.system
@pytest.mark.timeout(400)
def test_kernels_are_found_where_they_can_only_be_read(warmed: tuple[Path, str], tmp_path: Path) -> None:
    """As in an image whose root is read-only: nothing is compiled, nothing is written."""
    cache, said = warmed
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed: no read-only file system at hand")
    tried = read_only(tmp_path, "sh", "-c", f"touch here && ! touch {cache}/there", env=dict(os.environ))
    if tried.returncode != 0:
        pytest.skip(f"no read-only file system at hand: {tried.stderr.strip()}")
    before = kept_in(cache)
    done = read_only(tmp_path, sys.executable, "-m", "rowcast", "warmup", env=environment(cache))
    assert (done.returncode, done.stderr) == (0, "")
    count = re.search(r"compiled (\d+) kernels", said)
    assert count is not None
    found = re.fullmatch(r"compiled 0 kernels, found (\d+), in [\d.]+ s; they are kept in (.+)\n", done.stdout)
    assert found is not None, done.stdout
    assert int(count[1]) >= int(found[1]) > 50 and Path(found[2]) == cache
    assert kept_in(cache) == before


@pytest.mark.system
def test_without_numba_there_is_nothing_to_compile(tmp_path: Path) -> None:
    done = rowcast("warmup", env=environment(tmp_path, ROWCAST_NUMBA="0"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to compile: numba is not here, or ROWCAST_NUMBA=0 says to do without")
    assert not list(tmp_path.iterdir())


@pytest.mark.system
def test_where_nothing_can_be_kept_it_says_what_to_do(tmp_path: Path) -> None:
    """As on a read-only root without a home: numba has nowhere to write. A warm-up that warms nothing fails."""
    lines = (
        "import errno, os",
        "from numba.core.caching import CacheImpl",
        "def refuse(self, function): raise OSError(errno.EROFS, os.strerror(errno.EROFS))",
        "CacheImpl.__init__ = refuse",
        "from rowcast import warming",
        "warming.warm_up = lambda policy, half: None",
        "warming.warm_rest = lambda: None",
        "from rowcast.cli import main",
        "main(['warmup'])",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(None), cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "rowcast: warmup: expected a folder in which compiled kernels can be kept, got none (Read-only file system), "
        "so that each start compiles all kernels again; set NUMBA_CACHE_DIR to a folder that can be written"
    )


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown policy 'rogue:4'"):
        warming.warm_up("rogue:4")


def test_times_are_each_kernel_s_own() -> None:
    """A kernel that calls two others took what is left of its time without theirs."""
    ticks = iter([0.0, 1.0, 3.0, 10.0])  # outer begins, inner begins, inner ends, outer ends
    shown: list[warming.Kernel] = []
    with warming.watched(lambda: next(ticks), shown.append) as warmed:
        kept._tell("missing", "rowcast.codecs.outer")
        kept._tell("missing", "rowcast.codecs.inner")
        kept._tell("kept", "rowcast.codecs.inner")
        kept._tell("found", "rowcast.rows.other")
        kept._tell("lost", "rowcast.codecs.outer")
    kept._tell("found", "rowcast.rows.nobody")
    assert [(kernel.name, kernel.seconds) for kernel in warmed.kernels] == [
        ("codecs.inner", 2.0),
        ("rows.other", 0.0),
        ("codecs.outer", 8.0),
    ]
    assert shown == warmed.kernels
    assert [kernel.name for kernel in warmed.compiled] == ["codecs.inner", "codecs.outer"]
    assert [kernel.name for kernel in warmed.lost] == ["codecs.outer"]
