"""Do the tests notice a fault? Draws small faults in the core, puts each into a copy of the tree, and runs the tests.

``python tools/mutate.py`` draws 60 faults with a fixed seed. A fault is killed when a test fails or hangs; one that
survives is a line of code that no test needs to be right. The checkout is never changed. Each result is written to
``mutate-out/results.jsonl`` at once: started again after an interruption, it goes on.

Of the tests, those that concern the core only are chosen, by what they import. Those in virtual time come first, of
them the files that mention the module with the fault, then the quick ones. A fault that the first half a minute does
not notice is tried with the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mutants import Mutant, draw

__all__ = ["Campaign", "main"]

#: What is measured.
PACKAGES = ("sync", "delivery", "training")
#: A test file concerns the core when it imports one of these ...
CORE = re.compile(
    r"^(?:from|import) "
    r"(?:rowcast\.(?:sync|delivery|training|session|testing|drivers\.virtual)|teams|loops|live)\b",
    re.M,
)
#: ... and none of these: whole comparisons, thousands of schedules.
BEYOND = re.compile(
    r"^(?:from|import) (?:rowcast\.(?:cli|report|tasks|experiment(?!\.audit))|rowcast$|fuzzing|faults)\b", re.M
)
#: Says that something is not as it was, and not what is wrong.
UNSPECIFIC = ("test_journal_hashes.py",)
#: Waits in real time, and where something is wrong until its limit.
REAL_TIME = re.compile(r"^(?:from|import) (?:rowcast\.drivers\.sockets|live)\b|over_sockets", re.M)
#: Not copied: what is no source.
LEFT_OUT = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*-out", "*.egg-info")
#: Test files that together take no longer than this (s) are tried first, in one process.
FIRST_S = 30.0
#: A run that takes longer than so many times what it takes without a fault hangs, and no less than LEAST_S (s).
PATIENCE = 4.0
LEAST_S = 30.0
#: So does one test that takes longer than this (s).
TEST_S = 60.0
#: Memory that a run may take (bytes): a fault may collect without end.
MEMORY_BYTES = 8 << 30
#: Loaded before the tests: a failing example is not made smaller, for which nobody waits here; and a test whose
#: examples come slowly because the machine is busy does not fail.
PLUGIN = """from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutate",
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mutate")
"""


@dataclass(frozen=True)
class Result:
    """What came of a mutant.

    Attributes:
        mutant: the mutant.
        killed: a test noticed it.
        how: the test that failed, ``timeout``, or empty.
        seconds: how long that took.
    """

    mutant: Mutant
    killed: bool
    how: str
    seconds: float


class Campaign:
    """The mutants of one tree and one seed, and what is known of them.

    Args:
        root: the repository.
        mutants: in the order in which they are tried.
        tests: test files, relative to the root.
        out: folder for the results.
    """

    def __init__(self, root: Path, mutants: list[Mutant], tests: list[str], out: Path) -> None:
        self.root = root
        self.mutants = mutants
        self.tests = tests
        self._copy = Path()
        self._results = out / "results.jsonl"
        self._durations: dict[str, float] = {}
        self.done: dict[Mutant, Result] = {}
        out.mkdir(parents=True, exist_ok=True)

    # -- results -----------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Names the drawn mutants and the files that they are drawn from."""
        digest = hashlib.sha256("\n".join(map(str, self.mutants)).encode())
        for file in sorted({one.file for one in self.mutants}):
            digest.update((self.root / file).read_bytes())
        return digest.hexdigest()[:16]

    def load(self, *, again: bool = False) -> None:
        """Take up the results of a run that was interrupted; those of other mutants are discarded.

        Args:
            again: who survived is tried anew.
        """
        lines = self._results.read_text("utf-8").splitlines() if self._results.exists() else []
        header = json.loads(lines[0]) if lines else {}
        if header.get("digest") == self.digest:
            self._durations = header["durations"]
            results = [Result(Mutant(**record.pop("mutant")), **record) for record in map(json.loads, lines[1:])]
            self.done = {result.mutant: result for result in results if result.killed or not again}
        self._save()

    def _save(self) -> None:
        header = {"digest": self.digest, "durations": self._durations}
        records = [header, *(asdict(result) for result in self.done.values())]
        whole = self._results.with_suffix(".new")
        whole.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        whole.replace(self._results)

    def report(self) -> str:
        """The survivors and the score, for people."""
        results = [self.done[one] for one in self.mutants if one in self.done]
        survivors = [result for result in results if not result.killed]
        lines = [f"survived: {result.mutant}" for result in survivors]
        killed = len(results) - len(survivors)
        share = f"{100 * killed / len(results):.0f} %" if results else "nothing"
        lines.append(f"killed {killed} of {len(results)} ({share}); {len(self.mutants) - len(results)} not tried")
        return "\n".join(lines)

    # -- runs --------------------------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """Try mutants, as long as it is before ``until`` (s, of :func:`time.monotonic`).

        Raises:
            RuntimeError: the tests fail without a fault.
        """
        if all(one in self.done for one in self.mutants):
            return
        with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
            self._copy = Path(folder) / "tree"
            shutil.copytree(self.root, self._copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
            (self._copy / "mutate_plugin.py").write_text(PLUGIN, "utf-8")
            self._run(until)

    def _run(self, until: float) -> None:
        self._measure()
        for mutant in self.mutants:
            if mutant in self.done:
                continue
            if time.monotonic() >= until:
                return
            result = self.done[mutant] = self._try(mutant)
            self._save()
            told = f"killed by {result.how}" if result.killed else "SURVIVED"
            print(f"{len(self.done)}/{len(self.mutants)} {mutant}: {told} ({result.seconds:.0f} s)", flush=True)

    def _measure(self) -> None:
        """Run every test file without a fault, unless that was done: how long it takes."""
        for file in self.tests:
            if file in self._durations:
                continue
            begun = time.monotonic()
            failed = self._pytest([file], 600.0)
            if failed is not None:
                raise RuntimeError(f"{file}: expected it to pass without a fault, got: {failed}")
            self._durations[file] = round(time.monotonic() - begun, 2)
            self._save()
            print(f"without a fault: {file} {self._durations[file]:.1f} s", flush=True)

    def _try(self, mutant: Mutant) -> Result:
        place = self._copy / mutant.file
        source = (self.root / mutant.file).read_bytes()
        begun = time.monotonic()
        place.write_bytes(mutant.apply(source))
        how = None
        try:
            for files in self.stages(mutant):
                usual_s = sum(self._durations[file] for file in files)
                how = self._pytest(files, max(PATIENCE * usual_s, LEAST_S))
                if how is not None:
                    break
        finally:
            place.write_bytes(source)
        return Result(mutant, how is not None, how or "", round(time.monotonic() - begun, 1))

    def stages(self, mutant: Mutant) -> list[list[str]]:
        """The test files in the order in which they are run, in two parts: the first one takes no longer than
        :data:`FIRST_S`, the second one is for who survives it."""
        texts = {file: (self.root / file).read_text("utf-8") for file in self.tests}
        module = re.compile(rf"\b{re.escape(Path(mutant.file).stem)}\b")

        def place(file: str) -> tuple[bool, bool, float]:
            waits = REAL_TIME.search(texts[file]) is not None
            return waits, module.search(texts[file]) is None, self._durations[file]

        order = sorted(self.tests, key=place)
        first: list[str] = []
        for file in order:
            if sum(self._durations[one] for one in [*first, file]) <= FIRST_S:
                first.append(file)
        rest = [file for file in order if file not in first]
        return [files for files in (first, rest) if files]

    def _pytest(self, files: Iterable[str], limit_s: float) -> str | None:
        """Run tests in the copy.

        Returns:
            What failed first; ``None`` when everything passed.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += ["-p", "mutate_plugin", "-m", "not system", "-o", f"timeout={min(limit_s, TEST_S):.0f}", *files]
        paths = [str(self._copy), str(self._copy / "src"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        # In a group of its own, so that what it started ends with it.
        with subprocess.Popen(
            command,
            cwd=self._copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_bound_memory,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                output = None
            finally:
                _end(process)
        if output is None or "+ Timeout +" in output:
            return "timeout"
        if process.returncode in (0, 5):  # 5: all of these tests start processes
            return None
        if process.returncode == 4:  # how pytest was called is wrong, and no test was run
            raise RuntimeError(f"pytest: {output.strip()[-2000:]}")
        named = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
        return named.group(1) if named else f"exit status {process.returncode}"


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def core_tests(root: Path) -> list[str]:
    """The test files that concern the core only, by what they import."""
    found = []
    for file in sorted((root / "tests").glob("test_*.py")):
        text = file.read_text("utf-8")
        if file.name not in UNSPECIFIC and CORE.search(text) and not BEYOND.search(text):
            found.append(file.relative_to(root).as_posix())
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; see the head of this file.

    Returns:
        0 when the score is reached or not all mutants were tried, else 1.
    """
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Put small faults into the core and see whether the tests notice.")
    parser.add_argument("paths", nargs="*", help="files or folders to put faults into (default: the core's packages)")
    parser.add_argument("--root", type=Path, default=root, help="the repository (default: this one)")
    parser.add_argument("--count", type=int, default=60, help="how many faults (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--tests", nargs="+", help="test files (default: those that concern the core only)")
    parser.add_argument(
        "--again", action="store_true", help="try anew what survived, with tests that were written since"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no fault after so long (s)")
    parser.add_argument("--least", type=float, default=90.0, help="share that must be killed, in %% (default: 90)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: mutate-out in the repository)")
    parser.add_argument("--list", action="store_true", help="show the faults and run nothing")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    core = [f"src/rowcast/{name}" for name in PACKAGES]
    mutants = draw(root, options.paths or core, options.count, options.seed)
    if options.list:
        print("\n".join(map(str, mutants)))
        return 0
    campaign = Campaign(root, mutants, options.tests or core_tests(root), options.out or root / "mutate-out")
    campaign.load(again=options.again)
    campaign.run(time.monotonic() + options.seconds)
    print(campaign.report())
    killed = sum(result.killed for result in campaign.done.values())
    unfinished = len(campaign.done) < len(mutants)
    return 0 if unfinished or killed >= options.least / 100 * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
