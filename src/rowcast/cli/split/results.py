"""What a comparison of methods shows on its way, and what it ends with."""

from __future__ import annotations

from pathlib import Path

from rowcast.cli.split.live import LiveLine, camera_line
from rowcast.experiment.inference.camera import Tally
from rowcast.report.inference_sections import write_inference_files
from rowcast.report.inferences import Comparison, exactness_lines, methods_notes, methods_table, read_comparison
from rowcast.report.plans import table_lines

__all__ = ["Observer", "finish"]


class Observer:
    """Puts what a comparison tells on a line."""

    def __init__(self, line: LiveLine) -> None:
        self._line = line

    def says(self, text: str) -> None:
        self._line.says(text)

    def shows(self, method: str, tally: Tally, left_s: float, rate_bps: float) -> None:
        self._line.shows(f"{method}: {camera_line(tally, left_s, rate_bps)}")


def finish(out: Path, line: LiveLine) -> Comparison:
    """Print the table, and write figures and tables."""
    comparison = read_comparison(out)
    table = [*table_lines(methods_table(comparison.runs)), *methods_notes(comparison.power)]
    for text in ["", *table, "", *exactness_lines(comparison)]:
        line.says(text)
    names = write_inference_files(comparison, out)
    line.says(f"written to {out}: {', '.join(names)}")
    return comparison
