"""The distribution for servers: without PyTorch and numba, like the whole one otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
#: Resident memory of a server that nobody has joined, in MB.
MOST_MB = 120
HEAVY = ("torch", "numba")


def project(path):
    return tomllib.loads(path.read_text())["project"]


def test_the_server_is_the_whole_without_what_it_does_not_need():
    whole, server = project(ROOT / "pyproject.toml"), project(ROOT / "packaging/server/pyproject.toml")
    for key in ("version", "license", "requires-python", "authors", "scripts"):
        assert server[key] == whole[key]
    assert server["dependencies"] == [each for each in whole["dependencies"] if not each.startswith(HEAVY)]
    assert server["optional-dependencies"]["numba"] == [
        each for each in whole["dependencies"] if each.startswith("numba")
    ]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with nothing but the server and what it depends on."""
    folder = tmp_path_factory.mktemp("server")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True, timeout=120)
    python = folder / "env/bin/python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--retries", "0", str(ROOT / "packaging/server")],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=folder,
    )
    if done.returncode != 0:
        reasons = [line for line in done.stderr.splitlines() if "No matching distribution" in line]
        if reasons or "Connection" in done.stderr:
            pytest.skip("no package registry at hand")
        pytest.fail(done.stderr)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ROWCAST"))}
    return folder, environment


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_server_runs_without_pytorch_and_is_small(installed):
    folder, environment = installed
    names = {each.name.lower() for each in (folder / "env").glob("lib/python*/site-packages/*")}
    assert "numpy" in names
    assert not names & set(HEAVY)
    command = [folder / "env/bin/rowcast", "serve", "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
    )
    try:
        first = server.stdout.readline()
        assert "127.0.0.1" in first
        status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        resident_mb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
        assert resident_mb < MOST_MB
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", [["train", "--connect", "127.0.0.1:1"], ["split", "serve", "model.py:build"]])
def test_what_needs_pytorch_says_how_to_get_it(installed, command):
    folder, environment = installed
    done = subprocess.run(
        [folder / "env/bin/rowcast", *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "rowcast: torch: expected it to be installed for this command, got none; pip install torch"
    ]
