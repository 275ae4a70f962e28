"""Which wheels a 64-bit ARM machine gets for each dependency of Rowcast: asks the package index through pip.

    python tools/aarch64_wheels.py                  # prints the table of docs/hardware.md
    python tools/aarch64_wheels.py --write          # puts it there

Nothing is downloaded but what describes the wheels (``pip install --dry-run --report``), and nothing is installed. For
each distribution that an extra names, and for what that needs, the newest wheel is asked for that pip would take on
Linux with glibc of the given version at most, for each Python. pip evaluates conditions of dependencies for the
machine that it runs on, so the way from one distribution to the next is gone here, for the machine that is asked about.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "hardware.md"
BEGIN, END = "<!-- aarch64 wheels: tools/aarch64_wheels.py --write -->", "<!-- end of aarch64 wheels -->"
#: JetPack 6 is Ubuntu 22.04 (Python 3.10, glibc 2.35); Raspberry Pi OS 12 is Debian 12 (3.11, 2.36), 13 has 3.13.
PYTHONS = ("3.10", "3.11", "3.13")
GLIBC_MINOR = 35
#: Releases of PyTorch of which it is said whether they want CUDA of the index: some gigabytes, and no Jetson's own.
TORCHES = ("2.8", "2.9", "2.10", "2.11", "2.12", "2.13")
#: Extras that no robot needs: what a benchmark compares with, and what develops Rowcast.
LEFT_OUT = ("dev", "peers")


@dataclass(frozen=True)
class Found:
    """What the index has of a distribution for one Python: its wheel's version and tag, and what it needs.

    ``version`` is ``None`` where it has no wheel.
    """

    version: str | None
    tag: str = ""
    needs: tuple[str, ...] = ()


def wanted(project: Mapping[str, Any]) -> dict[str, list[str]]:
    """The requirements of the core ('') and of each extra, by its name."""
    extras = {name: each for name, each in project["optional-dependencies"].items() if name not in LEFT_OUT}
    return {"": project["dependencies"], **extras}


def applying(requirements: Iterable[str], python: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Those that hold on 64-bit ARM Linux."""
    machine = {"platform_machine": "aarch64", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    about = {**machine, "python_version": python, "python_full_version": f"{python}.0"}
    about |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for text in requirements:
        each = Requirement(text)
        if each.marker is None or any(each.marker.evaluate({**about, "extra": extra}) for extra in (*extras, "")):
            yield each


def pip_arguments(python: str, report: Path, names: Sequence[str]) -> list[str]:
    """The command that asks for wheels of all of these at once."""
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1))]
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"),
        *("--only-binary=:all:", "--python-version", python, "--implementation", "cp"),
        *(word for platform in platforms for word in ("--platform", platform)),
        *("--target", str(report.parent / "nowhere"), "--report", str(report), *names),
    ]


def ask(python: str, requirements: Sequence[Requirement]) -> dict[str, Found]:
    """Each of them, by its canonical name.

    Raises:
        SystemExit: pip failed for another reason than that there is no wheel.
    """
    left = {canonicalize_name(each.name): f"{each.name}{each.specifier}" for each in requirements}
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        while left:
            done = subprocess.run(
                pip_arguments(python, report, list(left.values())), capture_output=True, text=True, timeout=600
            )
            if done.returncode == 0:
                break
            missing = [
                name for name, text in left.items() if f"No matching distribution found for {text}" in done.stderr
            ]
            if not missing:
                raise SystemExit(f"pip: expected wheels or that there are none, got: {done.stderr.strip()}")
            for name in missing:
                del left[name]
                found[name] = Found(None)
        items = json.loads(report.read_text(encoding="utf-8"))["install"] if left else []
    for item in items:
        name, version, _, tags = parse_wheel_filename(
            item["download_info"]["url"].rsplit("/", 1)[1].replace("%2B", "+")
        )
        tag = min(str(each) for each in tags)
        found[name] = Found(str(version), tag, tuple(item["metadata"].get("requires_dist", ())))
    return found


def closure(python: str, requirements: Sequence[str]) -> tuple[dict[str, Found], dict[str, str]]:
    """All that is needed, directly or not; and for each, of whom (the first that asked)."""
    found: dict[str, Found] = {}
    parents = {canonicalize_name(each.name): "" for each in applying(requirements, python)}
    extras = {canonicalize_name(each.name): tuple(each.extras) for each in applying(requirements, python)}
    level = list(applying(requirements, python))
    while level:
        answers = ask(python, level)
        found |= answers
        level = []
        for name, answer in answers.items():
            for each in applying(answer.needs, python, extras.get(name, ())):
                needed = canonicalize_name(each.name)
                if needed not in parents:
                    parents[needed], extras[needed] = name, tuple(each.extras)
                    level.append(each)
    return found, parents


def written(found: Found | None) -> str:
    """A cell of the table."""
    if found is None:
        return "-"
    if found.version is None:
        return "**no wheel**"
    kind = "any" if found.tag.endswith("-any") else found.tag.split("-", 2)[2].split(".")[0].removesuffix("_aarch64")
    return f"{found.version}, {kind}"


def table(by_python: Mapping[str, Mapping[str, Found]], parents: Mapping[str, str], extra_of: Mapping[str, str]) -> str:
    """The lines of the page."""
    # What PyTorch wants of CUDA is a table of its own.
    lines = ["| distribution | asked for by | " + " | ".join(f"Python {each}" for each in by_python) + " |"]
    lines.append("|---|---|" + "---|" * len(by_python))
    for name in sorted(parents, key=lambda each: (bool(parents[each]), extra_of.get(each, ""), each)):
        cells = [written(found.get(name)) for found in by_python.values()]
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        if parents[name] and all(cell == "-" or cell.endswith("any") for cell in cells):
            continue  # what is needed by others and runs anywhere is no question
        asks = (
            f"`{parents[name]}`" if parents[name] else f"`rowcast[{extra_of[name]}]`" if extra_of[name] else "`rowcast`"
        )
        lines.append(f"| `{name}` | {asks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def torch_table() -> str:
    """Releases of PyTorch, and what each brings along."""
    lines = [
        "| PyTorch | " + " | ".join(f"Python {each}" for each in PYTHONS) + " | packages of CUDA that it asks for |"
    ]
    lines.append("|---|" + "---|" * len(PYTHONS) + "---|")
    for release in TORCHES:
        wheels = [ask(python, [Requirement(f"torch=={release}.*")])["torch"] for python in PYTHONS]
        needs = [each.name for each in applying(wheels[0].needs, PYTHONS[0])]
        cuda = [name for name in needs if name.startswith(("nvidia-", "cuda-"))]
        lines.append(f"| {release} | " + " | ".join(map(written, wheels)) + f" | {len(cuda) or 'none'} |")
    return "\n".join(lines)


def main() -> None:
    """Ask, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    write = parser.parse_args().write
    wishes = wanted(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    extra_of: dict[str, str] = {}
    for extra, texts in wishes.items():
        for text in texts:
            extra_of.setdefault(canonicalize_name(Requirement(text).name), extra)
    by_python, parents = {}, {}
    for python in PYTHONS:
        by_python[python], above = closure(python, [text for texts in wishes.values() for text in texts])
        parents = {**above, **parents}
    day = datetime.date.today().isoformat()
    head = f"Asked on {day}, for glibc 2.{GLIBC_MINOR} at most."
    text = "\n\n".join((head, table(by_python, parents, extra_of), torch_table()))
    if not write:
        print(text)
        return
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
