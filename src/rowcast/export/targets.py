"""What a run can be exported to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rowcast.errors import ConfigError, near_match
from rowcast.export.mcap_file import write_mcap
from rowcast.export.moments import Moment, Moments
from rowcast.export.tables import write_csv, write_parquet
from rowcast.export.tensorboard_files import write_tensorboard
from rowcast.export.wandb_run import write_wandb

__all__ = ["TARGETS", "Target", "Written", "export_run"]


@dataclass(frozen=True)
class Target:
    """A kind of export.

    Attributes:
        suffix: how the name of the file or folder ends, where none is given.
        write: writes it; the path is not there yet.
    """

    suffix: str
    write: Callable[[Iterable[Moment], Path], None]


#: By the name that ``--to`` has for it.
TARGETS: Mapping[str, Target] = {
    "mcap": Target(".mcap", write_mcap),
    "tensorboard": Target(".tensorboard", write_tensorboard),
    "csv": Target(".csv", write_csv),
    "parquet": Target(".parquet", write_parquet),
    "wandb-offline": Target(".wandb", write_wandb),
}


@dataclass(frozen=True)
class Written:
    """What was exported.

    Attributes:
        path: the file or folder.
        records: of the journals, that were read.
        robots: names of those that they tell of.
    """

    path: Path
    records: int
    robots: list[str]


def export_run(run: str | Path, to: str, out: str | Path | None = None, session: int = -1) -> Written:
    """Write what the journals of a run say to a file or folder of another program.

    Whatever ends it early, nothing is left at ``out``. The journals are read once, and never held in memory.

    Args:
        run: a journal, or a folder of journals of one clock.
        to: one of :data:`TARGETS`.
        out: file or folder to write; by default the name of the run, in the current folder, with the target's suffix.
        session: which session of each journal to begin with: 0 is the first, -1 the last.

    Raises:
        ConfigError: an unknown target, no journals there, ``out`` is there already or cannot be written, or a library
            is not installed.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to: unknown target {to!r}; {near_match(to, TARGETS)}")
    target = TARGETS[to]
    run = Path(run)
    moments = Moments(run, session)
    out = (
        Path((run.resolve() if run.is_dir() else run.with_suffix("")).name + target.suffix)
        if out is None
        else Path(out)
    )
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out {out}: is there already; remove it, or give another --out")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            made = Path(beside, out.name)
            target.write(moments, made)
            shutil.move(made, out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    return Written(out, moments.records, sorted(moments.team.robots))
