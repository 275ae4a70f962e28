"""What the documentation says is true of the code: examples run, lists are current, names and files exist."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import pkgutil
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

import rowcast
import rowcast.split
from registries import REGISTRIES, forget_afterwards
from rowcast.config import ServerSettings
from rowcast.drivers.sockets import Server
from rowcast.errors import ConfigError
from rowcast.sync import parse_policy
from rowcast.training import ServerNode
from test_layering import CLOCKS, FLOORS, FORBIDDEN, SOCKETS, THREADS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SECRET = b"0123456789abcdef0123456789abcdef"
#: Addresses that the documentation has for its first server, and for its second one; the tests put those of their own
#: servers in their place.
ADDRESSES = (("10.0.0.1:7117", "127.0.0.1:7117"), ("127.0.0.1:7118",))
#: Has the model and the server of inferences that a block of another page marked ``asks`` needs.
SPLIT_TUTORIAL = ROOT / "docs" / "split-tutorial.md"
#: The address of that server.
ANSWERER = "127.0.0.1:7118"
LIMIT_S = 60.0


def page_names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


# -- examples ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the words behind it, its text, and its first line."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def robots(self) -> int:
        """How many robots run the block at the same time."""
        return self._number("robots")

    @property
    def servers(self) -> int:
        """How many servers it needs."""
        return self._number("servers")

    @property
    def file(self) -> str | None:
        """The name that it is to be saved under, and imported by others."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    @property
    def secret(self) -> bytes | None:
        """That of its servers: none where it is marked ``open``."""
        return None if "open" in self.words else SECRET

    def _number(self, what: str) -> int:
        return next((int(word.removeprefix(f"{what}=")) for word in self.words if word.startswith(f"{what}=")), 1)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], tuple(found[2].split()), found[3], text[: found.start(3)].count("\n") + 1)
        for found in re.finditer(r"^```(\w+)([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


RUNNABLE = [page for page in PAGES if any("runnable" in block.words for block in blocks_of(page))]


@contextlib.contextmanager
def server(workers: int, secret: bytes | None = SECRET) -> Iterator[tuple[ServerNode, str]]:
    """A real server on loopback, in a thread; gives its node and its address."""
    node = ServerNode(
        parse_policy("rog:4"), settings=ServerSettings(expected_workers=workers, gather_s=0.0), secret=secret
    )
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        running = Server(node, port=0)
        await running.start()
        ports.append(running.port)
        ready.set()
        await stop.wait()
        await running.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="docs-server")
    thread.start()
    try:
        assert ready.wait(LIMIT_S)
        yield node, f"127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT_S)
        loop.close()


@contextlib.contextmanager
def answering(page: Path, blocks: list[Block], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Block]]:
    """Run a block that answers inferences beside the others, if there is one; gives those, asking it."""
    beside = [block for block in blocks if "background" in block.words]
    if not beside:
        yield blocks
        return
    (block,) = beside
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

    def moved(block: Block) -> Block:
        return dataclasses.replace(block, text=block.text.replace(ANSWERER, address))

    space: dict[str, Any] = {"__name__": "__main__"}
    failures: list[BaseException] = []
    waits = threading.Event()
    wait = rowcast.split.Serving.wait

    def run() -> None:
        try:
            exec(padded(page, block, moved(block).text), space)
        except BaseException as error:
            failures.append(error)
        finally:
            waits.set()

    def waiting(serving: rowcast.split.Serving) -> None:
        waits.set()
        wait(serving)

    monkeypatch.setattr(rowcast.split.Serving, "wait", waiting)

    thread = threading.Thread(target=run, name="docs-answering")
    thread.start()
    try:
        assert waits.wait(LIMIT_S)
        yield [moved(other) for other in blocks if other is not block]
    finally:
        if "serving" in space:
            space["serving"].close()
        thread.join(LIMIT_S)
        assert not failures and not thread.is_alive(), failures


def padded(page: Path, block: Block, text: str) -> CodeType:
    """The code of a block; a traceback shows the line of the page."""
    return compile("\n" * (block.line - 1) + text, str(page), "exec")


def run_block(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run one block; with several robots, once for each, each in a thread with its own name."""
    failures: list[BaseException] = []

    def run(robot: int, own: dict[str, Any]) -> None:
        text = block.text.replace('"robot-1"', f'"robot-{robot}"')
        for named, (_, address) in zip(ADDRESSES, running, strict=False):
            for each in named:
                text = text.replace(each, address)
        code = padded(page, block, text)
        try:
            exec(code, own)
        except BaseException as error:
            failures.append(error)

    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(server(block.robots, block.secret)) for _ in range(block.servers)]
        if block.robots == 1:
            run(1, names)
        else:
            spaces = [dict(names) for _ in range(block.robots)]
            threads = [threading.Thread(target=run, args=(k, space)) for k, space in enumerate(spaces, start=1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT_S)
            assert not failures, failures
            agree(spaces)
            names.update(spaces[0])
        if failures:
            raise failures[0]
        assert not any(node.members for node, _ in running), "a robot of the example did not say goodbye"


def agree(spaces: list[dict[str, Any]]) -> None:
    """All robots end with the same model."""
    import torch

    first, *others = [torch.cat([p.detach().flatten() for p in space["model"].parameters()]) for space in spaces]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-5)


# rowcast.join(journal_file=...) leaves closing the file to the end of the process.
@pytest.mark.parametrize("page", RUNNABLE, ids=page_names(RUNNABLE))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one name space, in a folder that holds the secret."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["robot.py"])
    Path("team.secret").write_bytes(SECRET + b"\n")
    Path("team.secret").chmod(0o600)
    forget_afterwards(monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = [block for block in blocks_of(page) if "runnable" in block.words]
    if any("asks" in block.words for block in blocks):
        blocks += [block for block in blocks_of(SPLIT_TUTORIAL) if block.file or "background" in block.words]
    for block in blocks:
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, Path(block.file).stem, raising=False)
    try:
        with answering(page, blocks, monkeypatch) as asking:
            for block in asking:
                if block.file is None:
                    run_block(page, block, names)
    finally:
        names.clear()
        gc.collect()


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_python_blocks_parse(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def test_the_adoption_examples_are_about_ten_lines() -> None:
    blocks = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    lengths = [len([line for line in block.text.splitlines() if line.strip()]) for block in blocks]
    assert [max(length, 12) for length in lengths] == [12, 12, 12]


# -- generated pages -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generate: ModuleType) -> None:
    stale = [
        page.name
        for page in generate.pages()
        if generate.render(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")
    ]
    assert not stale, f"out of date: {', '.join(stale)}; run: {generate.COMMAND}"


def test_every_generated_part_stands_somewhere(generate: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in generate.pages())
    assert {part for part in generate.PARTS if f"<!-- generated: {part} -->" not in text} == set()


def test_every_policy_option_is_described(generate: ModuleType) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy("bsp?nothing=1")
    known = str(caught.value).split("known: ")[1].rstrip(")").split(", ")
    assert set(generate.OPTIONS) == set(known)


# -- what pages refer to -------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"(?<![\w/])((?:src|docs|tests|benchmarks|examples)/[\w./-]+\w)", page.read_text("utf-8")):
        assert (ROOT / name).exists(), f"{page.name}: {name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", page.read_text("utf-8"), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_names_of_the_package_exist(page: Path) -> None:
    groups = {registry.group for registry in REGISTRIES}  # of entry points, not modules
    for dotted in set(re.findall(r"`(rowcast(?:\.\w+)+)", prose(page))) - groups:
        resolve(dotted)


def resolve(dotted: str) -> object:
    """The object that a dotted name stands for."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(parts[0])
    for k, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            found = importlib.import_module(".".join(parts[:k]))
        else:
            found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_command_lines_are_accepted(page: Path) -> None:
    """Every option that a page gives to ``rowcast`` is one of that command."""
    from typer.main import get_command

    from rowcast.cli.app import app

    commands: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        parts = getattr(command, "commands", {"": command})
        commands.update({f"{name} {part}".strip(): parts[part] for part in parts})
    for command, rest in re.findall(rf"rowcast ({'|'.join(commands)})\b([^`\n#]*)", page.read_text("utf-8")):
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert set(re.findall(r"(--[\w-]+)", rest)) <= known, f"{page.name}: rowcast {command}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=page_names(PAGES))
def test_pages_are_tidy(page: Path) -> None:
    """Lines of at most 120 characters, no address of this machine."""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        assert len(line) <= 120, f"{page.name}:{number} has {len(line)} characters"
        assert not re.search(r"/(?:work|root|home)/", line), f"{page.name}:{number}: {line}"


#: The page of rules as a comment or docstring names it, and the sections named behind it, as in "1.8, 2.1 and 2.2".
RULES = re.compile(r"algorithms\.md((?:(?:,| and| sections?|\s)*\d+(?:\.\d+)*(?!\w))*)")


def python_files() -> list[Path]:
    """All of ours, but this one."""
    found = [
        path for folder in ("src", "tests", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*.py")
    ]
    return sorted(path for path in found if path != Path(__file__).resolve())


def sections_of_rules() -> set[str]:
    """The numbers of the headings of the page of rules."""
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", prose(ROOT / "docs" / "algorithms.md"), re.MULTILINE))


def test_sections_of_the_rules_that_code_names_exist() -> None:
    """ "algorithms.md 1.4" leads somewhere, also where several sections are named."""
    known, named = sections_of_rules(), 0
    for path in python_files():
        for found in RULES.finditer(path.read_text("utf-8")):
            sections = re.findall(r"\d+(?:\.\d+)*", found[1])
            here = f"{path.relative_to(ROOT)}: {found[0]!r}"
            assert sections or path.name == "generate.py", f"{here} names no section"
            assert set(sections) <= known, f"{here}: docs/algorithms.md has no section {set(sections) - known}"
            named += len(sections)
    assert named >= 25


def test_the_page_of_rules_names_its_own_sections() -> None:
    """Numbers alone in brackets, as in "(8.6)" or "(5.2 to 5.4, 5.7)", are sections of the page."""
    text = prose(ROOT / "docs" / "algorithms.md")
    brackets = re.findall(r"\((\d+\.\d+(?:(?:, | and | to )\d+\.\d+)*)\)", text)
    named = {section for bracket in brackets for section in re.findall(r"\d+\.\d+", bracket)}
    assert len(named) >= 12 and named <= sections_of_rules(), named - sections_of_rules()


def test_the_glossary_has_each_word_once() -> None:
    text = prose(ROOT / "docs" / "glossary.md")
    words = re.findall(r"(?:^- |\. |, )\*\*([^*]+)\*\*", text, re.MULTILINE)
    assert len(words) >= 60
    assert sorted(words) == sorted(set(words))


def test_no_file_refers_to_a_page_that_is_not_in_the_repository() -> None:
    naming = [path for path in [*PAGES, *python_files()] if "DESIGN.md" in path.read_text("utf-8")]
    assert not naming, naming


# -- what CONTRIBUTING counts --------------------------------------------------------------------------------


def table_rows(page: Path, head: str) -> list[list[str]]:
    """The cells of the table whose head line begins so, without head and rule."""
    lines = page.read_text("utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(head)) + 2
    end = next(number for number in range(at, len(lines)) if not lines[number].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[at:end]]


def test_the_table_of_floors_is_that_of_the_layering_test() -> None:
    rows = table_rows(ROOT / "CONTRIBUTING.md", "| floor |")
    floors = {part: int(row[0]) for row in rows for part in re.findall(r"`rowcast\.(\w+)`", row[1])}
    assert floors == FLOORS
    kinds = {"sockets": SOCKETS, "clocks": CLOCKS, "threads": THREADS, "torch": {"torch"}}
    words = {row[0]: row[3] for row in rows}
    for row in rows:
        other = row[3].removeprefix("as floor ")
        named = words[other] if other in words else row[3]
        may_not = set().union(*(kinds[word] for word in named.split(", ") if word))
        for part in re.findall(r"`rowcast\.(\w+)`", row[1]):
            assert may_not == FORBIDDEN.get(part, set()), f"{part}: {row[3]!r}"


def test_the_benchmarks_that_are_counted_are_those_that_there_are() -> None:
    scripts = {
        path.name
        for path in (ROOT / "benchmarks").glob("*.py")
        # those that peers.py starts are none
        if '__name__ == "__main__"' in path.read_text("utf-8") and not path.name.startswith("peers_")
    }
    run = set(re.findall(r"benchmarks/(\w+\.py) --check", (ROOT / "Makefile").read_text("utf-8")))
    (text,) = (row[1] for row in table_rows(ROOT / "CONTRIBUTING.md", "| command |") if row[0] == "`make bench`")
    assert [int(number) for number in re.findall(r"\d+", text)] == [len(run), len(scripts)]
    assert set(re.findall(r"`(\w+\.py)`", text)) == scripts - run
    described = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert [script for script in sorted(scripts) if f"benchmarks/{script}" not in described] == []


# -- exported names ------------------------------------------------------------------------------------------

EXPORTED: dict[str, str] = {
    "rowcast.bags": """
        DamagedChunk McapFile Message Segment in_order open_rosbag2 packs_messages read_topic
    """,
    "rowcast": "LinkSettings Optimizer RowcastError StreamLoader Team WorkerSettings __version__ join",
    "rowcast.cli": "ExitCode main",
    "rowcast.cli.split": "app",
    "rowcast.combining": """
        CombineSettings CombinedModel Combiner LoadedModel METHODS MethodResult TaskFamily Trial load_combined
        load_models parameter_mean save_combined try_methods
    """,
    "rowcast.codecs": """
        Above Codec Dct Elements Fitting Half INDEX_BYTES OneBit REGISTRY Raw Sparse Thresholded TimingOnly TopK Zero
        codec_by_id codec_by_name codec_for register
    """,
    "rowcast.codecs.tensors": """
        DeflateTensor HalfTensor Int8Tensor REGISTRY RawTensor TensorCodec TensorType register tensor_codec_by_id
        tensor_codec_by_name
    """,
    "rowcast.config": """
        AnswererSettings AskerSettings StateSettings StrangerSettings
        Checked LinkSettings Secret ServerSettings WorkerSettings as_number describe from_table load load_tables
        load_values read_file read_secret same_as save_tables setting
    """,
    "rowcast.drivers": "",
    "rowcast.drivers.kept": "Keeper Kept",
    "rowcast.drivers.netns": "",
    "rowcast.drivers.sockets": """
        DurableServer Endpoint InferenceServer InferenceThread LeadingServer Security Server Shaper Standby Team Uplink
    """,
    "rowcast.drivers.state": """
        Disk Found GroupStore JetStreamAddress LogWriter Mirror OpenFile RealDisk RelaySpec RowLog ServerKeeper TeamSpec
        Warm state_at
    """,
    "rowcast.drivers.virtual": """
        Clock Device Gifts InferenceSimulation ProfileEngine ServerCosts Simulation TimeOver TreeSimulation
        VirtualRobot VirtualStream VirtualWorker
    """,
    "rowcast.drivers.virtual.tcp": "",
    "rowcast.durability": """
        Appendix Drawn Leadership Record RecordedServer Recovery Replay Standing State capture decode recover restore
    """,
    "rowcast.energy": """
        CHOICES CensoredValue CounterMeter Energy Ina3221 JetsonStats Meter MeterLog Model Nvml NvmlPower OpenedMeter
        PowerMeter PowerStates REGISTRY Rapl StateSeconds WorkerEnergy any_censored change_load check_alive
        energy_to_metric open_meter register smoothed time_to_metric total_energy worker_energy
    """,
    "rowcast.experiment": """
        AuditReport Bounds Cell Comparison ComparisonProgress DemoObserver DemoSettings MeasuredRun PolicyRun Progress
        Replay RobotSettings RunSettings ServerAudit ShapeSettings WorkerAudit pending_cells plan_cells prove
        read_run read_runs run_comparison run_demo run_robot run_settings run_some_cells shaped_trace validate_run
    """,
    "rowcast.experiment.doctor": "Check as_json local_checks remote_checks",
    "rowcast.experiment.faults": "FaultScript Report Verdict load_script play_sockets play_virtual",
    "rowcast.experiment.runners": "RUNNERS RunCell run_cell",
    "rowcast.experiment.inference": "",
    "rowcast.export": "Moment Moments TARGETS Target Value Written export_run",
    "rowcast.graphs": """
        Barrier Graph Identity Op Profile RULES Resize RowRule RunningSum Transposed Window load_profile save_profile
    """,
    "rowcast.inference": """
        AnswererNode AskerNode Engine Made ModelSpec Outcome Piece Planning Side Spent Work
    """,
    "rowcast.journal": """
        EVENTS Event FileSink Journal Record forget open_journal read_journal session_count write_to
    """,
    "rowcast.links": """
        CHANNELS Channel EqualThroughput Independent LinkState MarkovProfile PROFILES SharedAirtime Trace TraceStats
        WideArea differences fit load_team load_trace named_trace outdoor parse_wide_area save_csv synthesise
    """,
    "rowcast.page": "Curve Live PageAddress Recording Robot Team Totals Watch page_server",
    "rowcast.planning": """
        Always Answers ByRate Chooser CostModel Decision ENERGY Job LATENCY LateStart LinkCosts Objective PIECES PLACES
        PLANNERS Plan PlanTable RateEstimate RateEstimator SLABS Span TensorCosts carried chain course data follow
        heavy_load local offload overlap_bound_s pipeline plan_table replay replay_newest streamed streamed_plan tensor
        undivided
    """,
    "rowcast.session": "JoinRequest Link record_start",
    "rowcast.training": "ServerNode WorkerNode WorkerState",
    "rowcast.training.guard": "GUARDS Guard Incident",
    "rowcast.training.kept": """
        Acknowledged Extras Finished Finishing Joined Note Notebook Picture Received Recovery Replay Resumed
        SESSION_NOTES Sent
        Started
    """,
    "rowcast.training.relay": "RelayNode check_relayed",
    "rowcast.training.proposal": "",
    "rowcast.training.rules": "ServerRule WorkerRule register server_rule worker_rule",
    "rowcast.delivery": "",
    "rowcast.optim": "Optimizer TeamLike",
    "rowcast.optim.device": "DeviceHome home_for",
    "rowcast.report": """
        ACCURACY Conditions Curve CurvePanel Experiment Interval JOULES Robot Run RunSummary SECONDS Series Table
        Timeline composition_table curve_table draw_bars draw_curves draw_timeline interval joules_at
        metric_at_equal_steps metric_over read_experiment read_run state_shares summarise terminal_table
        timeline_table worker_journals write_report write_results
    """,
    "rowcast.rows": "Layout Selection TensorSpec select",
    "rowcast.split": "Answer CaptureError Captured Part Remote RemoteOptions RowStream Serving capture serve",
    "rowcast.sync": """
        ArtifactTime Family MinimumTracker MtaTime OuterRateChange OuterRateTuner Policy REGISTRY RateMeter RowsToSend
        SlackChange SlackTuner Threshold UsualInterval VersionTable minimum_share parse_policy policy_forms register
    """,
    "rowcast.sync.families": """
        ASP BSP DEMO DILOCO FLOWN LOCALSGD POWERSGD REGISTRY ROG ROWCAST SPARSELOCO SPARTA SSP TWOSTEP
    """,
    "rowcast.tasks": """
        FoundTask Labelled Metric SavedModel State TASKS Task TaskOptions TaskSettings TaskWorker build_task find_task
        load_task pack_item read_model register save_model unpack_item
    """,
    "rowcast.tasks.cruda": """
        CRUDA_TASKS ConvMLP ConvMLPConfig CrudaOptions CrudaSettings CrudaTask CrudaWorker DATASETS Dataset
        DomainShift PRESETS SEVERITIES Severity brightness count_parameters dirichlet_shards fog freeze_batch_norm
        load_dataset
    """,
    "rowcast.tasks.crimp": """
        Bounds CRIMP_TASKS CrimpSettings CrimpTask CrimpWorker RecordedSettings RecordedTask RedKitchenTask RoomSettings
        RoomTask SevenScenesTask View
    """,
    "rowcast.tasks.crimp.readers": "Camera LAYOUTS Layout Recording find_sequences",
    "rowcast.tasks.drift": """
        DRIFT_TASKS DigitsSettings DriftDigitsTask DriftSettings DriftTask DriftWorker OutdoorTask RecordedTask
        RssiSettings RssiTask WallTask
    """,
    "rowcast.tasks.motion": """
        DIRECTIONS FrameByFrame MODELS MOTION_TASKS MotionNet MotionSettings MotionTask moving
    """,
    "rowcast.testing": """
        DriverTeam DurableTeam ScriptedWorker VirtualTeam check_codec check_driver check_source check_task
        check_tensor_codec
    """,
    "rowcast.testing.zoo": """
        Camera FULL Model SMALL camera convnext densenet detector mobilenet recurrent resnet unet unusual vgg vit
    """,
    "rowcast.loader": "StreamLoader",
    "rowcast.sources": """
        CsvRow CsvSource DirectorySource KafkaSource McapSource MqttSource PulledSource REGISTRY ReplaySource
        RosbagSource SourceKind SourceText StillFilter ValidRange join_sources make_source number_payload register
    """,
    "rowcast.streams": """
        AdaptiveTopK BatchRule Buffer BufferRule Feed FeedBatch FixedBatch Held Importance Injection MOST_PARTITIONS
        MOST_REHEARSED Positions RateBatch RateMeter RateTrace Rehearsal Reservoir Sample Source SpeedBatch
        StreamPattern TeamBatch TopK compresses parse_batch parse_buffer parse_injection parse_rehearsal parse_streams
        parse_topk read_rates share
    """,
    "rowcast.wire": """
        Ack Answer Ask Ballot Busy Cancel Challenge Computed Drop Echo Farewell Finish Follow Followed FrameDecoder
        FrameEncoder Go Grant HEADER_BYTES Heartbeat Hello Horizon LayoutTable Lead Leave Message NewTerm Notice
        PROTOCOL_VERSION Peer Piece Probe Proof PullEnd PushEnd Refusal Request Returned RowLimits Rows Served Share
        Start StateEnd Stored Subtree Supply Through Vote Waiting Welcome Withdrawal encode
    """,
}


def packages() -> list[str]:
    """The package and its packages."""
    found = pkgutil.walk_packages(rowcast.__path__, "rowcast.")
    return ["rowcast", *(module.name for module in found if module.ispkg)]


def exported(package: str) -> list[str]:
    return list(getattr(importlib.import_module(package), "__all__", ()))


def test_exported_names_are_pinned() -> None:
    """Who adds or takes away a public name says so here, and in the changelog."""
    assert set(packages()) == set(EXPORTED)
    for package, names in EXPORTED.items():
        assert sorted(exported(package)) == sorted(names.split()), package


@pytest.mark.parametrize("package", sorted(EXPORTED))
def test_exported_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in exported(package) if not hasattr(module, name)] == []
