"""Everything that needs a GPU, in less than 8 minutes: the tests marked ``cuda``, and the figures of one step.

    python tools/gpu_checks.py [--only WORD]

Each part runs in a process of its own, with a limit; what failed is named at the end, and the exit status is 1 then.
Without a GPU nothing is run, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Name, arguments behind the interpreter, longest time (s). Together less than 8 minutes.
PARTS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("cost of a step", ("benchmarks/step_cost.py", "--device", "cuda", "--check"), 150),
    ("tests", ("-m", "pytest", "-q", "-m", "cuda", "tests/test_gpu.py", "tests/test_placed.py"), 300),
)


def main() -> int:
    """Run the parts; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="parts whose name holds this")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("PyTorch sees no GPU here: nothing was run", file=sys.stderr)
        return 2
    versions = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
    print(f"{versions}, {os.cpu_count()} processors", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    failed = []
    for name, arguments, limit_s in PARTS:
        if options.only not in name:
            continue
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                timeout=limit_s,
                check=False,
            )
            status = f"exit status {done.returncode}"
            good = done.returncode == 0
        except subprocess.TimeoutExpired:
            status, good = f"ended after {limit_s} s", False
        print(f"== {name}: {status}, {time.monotonic() - begun:.1f} s", flush=True)
        if not good:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
