"""What is beside the package: units of systemd, the Dockerfile, and what both start."""

from __future__ import annotations

import configparser
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from rowcast.cli.app import app
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings, load_tables
from rowcast.config.secret import read_secret

PACKAGING = Path(__file__).parent.parent / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
#: Exposure that systemd-analyze may find at most, of 100: below 20 is what it calls OK.
MOST_EXPOSED = 20


def settings_of(unit: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text().replace("\\\n", " "))
    return dict(parser["Service"])


def options_of(command: str) -> set[str]:
    """The options that a command of ours has."""
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_there_is(unit: Path) -> None:
    settings = settings_of(unit)
    for line in (settings["ExecStartPre"], settings["ExecStart"]):
        program, command, *words = shlex.split(line)
        assert program == "/opt/rowcast/bin/rowcast"
        assert {word for word in words if word.startswith("--")} <= options_of(command)
    assert settings["RestartPreventExitStatus"].split() == ["2", "4"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_unprivileged_and_hardened(unit: Path, tmp_path: Path) -> None:
    settings = settings_of(unit)
    assert settings["DynamicUser"] == settings["NoNewPrivileges"] == "yes" and settings["ProtectSystem"] == "strict"
    assert settings["Restart"] == "on-failure" and settings["LoadCredential"].startswith("team.secret:")
    assert "${CREDENTIALS_DIRECTORY}/team.secret" in settings["ExecStart"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # What a unit starts has to be there.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/rowcast/bin/rowcast", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", copy]
    judged = subprocess.run(security, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze judges no unit that is not installed")
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_settings_files_can_be_read() -> None:
    from rowcast.cli.serve import ServeSettings
    from rowcast.experiment import RobotSettings

    folder = PACKAGING / "systemd"
    server = load_tables(
        {"serve": ServeSettings, "server": ServerSettings, "link": LinkSettings}, folder / "server.toml"
    )
    worker = load_tables(
        {"robot": RobotSettings, "worker": WorkerSettings, "link": LinkSettings}, folder / "worker.toml"
    )
    assert server["serve"].host == "0.0.0.0" and server["server"].expected_workers == worker["robot"].workers


def instructions() -> Iterator[tuple[str, str]]:
    """Each of the Dockerfile, with what stands behind it."""
    text = (PACKAGING / "docker" / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    for line in filter(str.strip, lines.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, " ".join(rest.split())


def test_the_dockerfile_copies_what_there_is_and_ends_without_rights() -> None:
    """It is not built here: parsed, and its parts are looked at."""
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "USER", "VOLUME", "WORKDIR"}
    root = PACKAGING.parent
    allowed = (PACKAGING / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    stages: dict[str, dict[str, str]] = {}
    current = ""
    for name, rest in instructions():
        assert name in known, name
        if name == "FROM":
            base, _, current = rest.partition(" AS ")
            assert base in stages or base == "python:${PYTHON}-slim"
            stages[current] = dict(stages.get(base, {}))
        elif name == "COPY":
            *sources, _ = rest.split()
            if sources[0].startswith("--from="):
                assert sources.pop(0).removeprefix("--from=") in stages
            else:
                assert all((root / source).exists() and f"!{source}" in allowed for source in sources)
        elif current:
            stages[current][name] = rest
    for target in ("server", "worker"):
        assert stages[target]["USER"] == "10001:10001"
        assert stages[target]["ENTRYPOINT"] == '["rowcast"]'
        assert stages[target]["WORKDIR"] == stages[target]["VOLUME"] == "/var/lib/rowcast"
        command, *words = re.findall(r'"([^"]+)"', stages[target]["CMD"])
        assert {word for word in words if word.startswith("--")} - {"--help"} <= options_of(command)


def test_a_credential_of_systemd_is_not_said_to_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its mode shows the group that an access list is for; the same file elsewhere is warned of."""
    secret = tmp_path / "team.secret"
    secret.write_bytes(b"x" * 32)
    secret.chmod(0o440)
    monkeypatch.setattr(logging.getLogger("rowcast"), "propagate", True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(secret) == b"x" * 32
    assert not caplog.records
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    read_secret(secret)
    assert "other users of this machine can read or change it" in caplog.text
