"""Write the generated parts of docs/ and README.md: settings, policies, codecs, messages, journal events, errors.

A page marks where a part goes with a pair of comments; everything else in the page is written by hand::

    <!-- generated: ServerSettings -->
    ...
    <!-- end -->

Run ``.venv/bin/python docs/generate.py`` after a change of a setting, a policy option, a codec, a message or a
journal event. ``tests/test_docs.py`` fails while a page is out of date.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np

from rowcast import codecs, config, errors, journal, sync, wire
from rowcast.rows import Layout
from rowcast.sync import Policy, RowsToSend

DOCS = Path(__file__).resolve().parent
COMMAND = ".venv/bin/python docs/generate.py"
WIDTH = 118

#: What each option means; an option that is missing here fails the test.
OPTIONS = {
    "codec": "How rows are encoded: `onebit`, `sparse`, `elements`, `topk64`, `topk16`, `dct128`, `dct32`, `half` or "
    "`raw`; with 'twostep' `elements`, or another code that takes a threshold.",
    "granularity": "What travels only as a whole: 'row', 'tensor' or 'model'.",
    "order": "How rows beyond the quota follow while the MTA time lasts: by ROG's 'importance', or by 'age', the "
    "oldest first. Used by 'rog'; with 'sparta' always 'random'.",
    "share": "Share of the encoded bytes that must travel in each push and each pull, 1e-06 .. 1. With 'sparta' the "
    "share of the rows that is averaged.",
    "pull_share": "The same for pulls, where it shall be another.",
    "f1": "Weight of magnitude in the order of the rows beyond the quota, 0 or more. Used by 'rog'.",
    "f2": "Weight of age (iterations since the row last travelled) in the same order, 0 or more. Used by 'rog'.",
    "outer_lr": "Factor on everything that is contributed, above 0; 0.7 for 'diloco'.",
    "outer_momentum": "Nesterov momentum over the contributions, 0 .. below 1; 0.9 for 'diloco'. "
    "Above 0 a worker holds one more vector of the model's size.",
    "trust": "So many times the median of its last 32 an update of a worker counts at most, 1 or more. "
    "2 for 'rowcast', 0 (no bound) for all others.",
    "elastic": "'on' or 'off': a robot in an outage leaves the gate. Used by 'rowcast'.",
    "ahead": "Iterations beyond the slack that a robot in an outage computes, 0 or more. Used by 'rowcast'.",
    "anticipate": "From where a robot computes: 'off', from its parameters; 'own', moved by what it has not sent; "
    "'team', as far as if the others had the same to send. Used by 'rowcast'.",
    "adapt": "'on' or 'off': a link that cannot carry the quota in the time of a step gets rows in the codec "
    "`elements`. Used by 'rowcast'.",
    "auto": "'on' or 'off': the slack adapts to stalls and to the progress of the training; where nobody stalls it "
    "is that of the name at most. Used by 'rowcast'.",
    "most_slack": "The slack to begin with where it adapts (`auto`), and what stalls may raise it to, if that is more "
    "than that of the name. Used by 'rowcast'.",
    "auto_lr": "'on' or 'off': the outer learning rate rises, to twice `outer_lr` at most, while successive movements "
    "of the team agree. Used by 'rowcast'.",
    "refine": "'on' or 'off': an idle link carries what the codec left, in the codec `half`. Used by 'rowcast'.",
    "pulls": "'own' or 'common': each worker is sent rows of its own, or all of them one stream, so that the server "
    "holds no copy of the model for each. Used by 'rowcast'.",
    "row_weights": "'members' or 'contributors': a row counts among all workers, or among those who have sent "
    "something of it lately. For models of which each robot touches other rows, such as embeddings and maps.",
    "feedback": "Share of what a worker has pending that is kept when the next iteration adds to it, above 0 .. 1; "
    "0.95 for 'sparseloco', 0.999 for 'demo'. Below 1 the residual of the codec decays, and what is left of it at the "
    "end is dropped. Not with 'sparta'.",
    "pull_codec": "How rows to the workers are encoded, where it shall be otherwise; `topk16` for 'sparseloco', "
    "`dct32` for 'demo'. Not with 'flown' and 'rowcast'.",
    "budget_s": "Seconds of the link that a push or a pull may take, at the measured rate; 0: as long as the worker's "
    "gradient takes. Used by 'twostep'.",
    "smooth": "Part of a threshold that is kept when the next one is measured, 0 .. below 1; 0.9 for 'twostep'. With 0 "
    "every push takes all that the link gives. Used by 'twostep'.",
    "mta": "Whose rules: 'measured' are ours; 'artifact' are those of the published software, see 'compat'.",
    "counts": "What the shares are shares of with 'compat=artifact': 'groups' of 1000 rows as in the published "
    "software, or 'bytes'.",
    "race": "With 'compat=artifact': of those that lead by one iteration and were held, the share that goes on with "
    "the minimum only, 0 .. 1; in the published software threads race for it, see [simulator.md](simulator.md).",
    "compat": "'artifact': order, MTA time and minimum share of the published software of ROG, to replay its measured "
    "runs. For `rog:S` only.",
}


#: Values that are tried of each option, to see what each family makes of it; they cover every family's default.
TRIED = {
    "codec": ("raw", "half"),
    "granularity": ("row", "tensor", "model"),
    "order": ("age",),
    "share": ("0.5",),
    "pull_share": ("0.4",),
    "f1": ("0",),
    "f2": ("0",),
    "outer_lr": ("0.5",),
    "outer_momentum": ("0.25",),
    "trust": ("3",),
    "elastic": ("on", "off"),
    "ahead": ("7",),
    "anticipate": ("own",),
    "adapt": ("on", "off"),
    "auto": ("on", "off"),
    "most_slack": ("24",),
    "auto_lr": ("on", "off"),
    "refine": ("on", "off"),
    "pulls": ("common",),
    "row_weights": ("contributors",),
    "feedback": ("0.5",),
    "pull_codec": ("raw",),
    "budget_s": ("0.5",),
    "smooth": ("0.5",),
    "mta": ("artifact",),
    "counts": ("groups", "bytes"),
    "race": ("0.5",),
    "compat": ("artifact",),
}
#: With one of these an option may be taken that is refused alone.
COMPANIONS = {"with tensor": "granularity=tensor", "with compat": "compat=artifact"}


def bullet(head: str, text: str) -> str:
    """A list item of wrapped lines."""
    return textwrap.fill(f"- {head} {text}".rstrip(), WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def settings(kind: type, without: type | None = None) -> str:
    """The fields of a settings class, without those of another."""
    left_out = set() if without is None else {field.name for field in dataclasses.fields(without)}
    lines = []
    for entry in config.describe(kind):
        if entry["name"] in left_out:
            continue
        facts = f"{entry['default']} {entry['unit']}".rstrip()
        if entry["range"]:
            facts += f"; range {entry['range']}"
        if entry["flag"]:
            facts += f"; option `{entry['flag']}`"
        lines.append(bullet(f"**`{entry['name']}`** ({facts}):", entry["doc"]))
    return "\n".join(lines)


def late(module: str, name: str) -> Callable[[], str]:
    """The settings of a class whose module is loaded when they are written: it loads PyTorch, or takes long."""
    return lambda: settings(getattr(importlib.import_module(module), name))


def drift_options(name: str) -> str:
    """What may be set of the tasks whose world drifts: of all of them, or more of one."""
    from rowcast.tasks import TaskSettings, drift  # late: it loads PyTorch

    common = drift.DriftSettings
    return settings(common, TaskSettings) if name == "" else settings(drift.DRIFT_TASKS[name].Settings, common)


def motion_options() -> str:
    """What may be set of the task of short clips."""
    from rowcast.tasks import TaskSettings, motion  # late: it loads PyTorch

    return settings(motion.MotionSettings, TaskSettings)


def mapping_options(name: str) -> str:
    """What may be set of the tasks that map a place: of all of them, or more of one."""
    from rowcast.tasks import TaskSettings, crimp  # late: it loads PyTorch

    common = crimp.CrimpSettings
    return settings(common, TaskSettings) if name == "CrimpSettings" else settings(getattr(crimp, name), common)


def policies() -> str:
    """The policy families with what they are made of, and the options."""
    heads = ["policy", "slack", "share of bytes that must travel", "unit", "beyond the quota", "local steps", "codec"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for family in sync.REGISTRY.values():
        text, policy = family.form, sync.parse_policy(family.example)
        steps = "H" if "H" in text else str(policy.local_steps)
        slack = "none: the gate is open" if policy.slack is None else "S" if "S" in text else str(policy.slack)
        share = "1" if policy.share == 1 else f"root of (1 - P)^(S - 1) = P; {policy.share:.3f} for S = 4"
        beyond = "until the MTA time" if policy.speculative else "nothing"
        if policy.selects_pushed:
            share, beyond = "as `rog:S`, of rows, by an element each", "what is above the threshold"
        if policy.sampled:
            share = f"{policy.share:g} of the rows, at random; in pulls 1"
        if policy.streaming:
            share, beyond = f"about 2 / (S + 2); {policy.share:.3f} for S = 4", "all the time"
        lines.append(f"| `{text}` | {slack} | {share} | {policy.granularity} | {beyond} | {steps} | `{policy.codec}` |")
    lines.append("")
    lines += [bullet(f"`{family.form}`:", family.meaning) for family in sync.REGISTRY.values()]
    return "\n".join(lines)


def options() -> str:
    """What may stand behind the question mark of a policy."""
    example = sync.parse_policy("rog:4")
    lines = []
    for name, meaning in OPTIONS.items():
        default = getattr(example, name, None)
        shown = f"{default:.3f}" if isinstance(default, float) else "none" if default is None else f"`{default}`"
        lines.append(bullet(f"**`{name}`** (for `rog:4`: {shown}):", meaning))
    return "\n".join(lines)


def parsed(text: str) -> Policy | None:
    """The policy that a text stands for; ``None`` where it is refused."""
    try:
        return sync.parse_policy(text)
    except errors.ConfigError:
        return None


def orders_rows_alike(one: Policy, other: Policy) -> bool:
    """Whether two policies choose the same rows in the same order, whatever there is to send: tried on a few cases."""
    random = np.random.default_rng(0)
    layout = Layout.from_shapes([("wide", (40, 60)), ("bias", (40,)), ("deep", (30, 50))])
    row_bytes = one.row_codec.row_bytes(layout)
    for travelled in (0, int(row_bytes.sum()) // 4):
        view = RowsToSend(
            eligible=np.flatnonzero(random.random(layout.rows) < 0.8),
            stamps=random.integers(7, 10, layout.rows, dtype=np.int32),
            abs_sums=random.random(layout.rows, dtype=np.float32),
            row_bytes=row_bytes,
            total_bytes=int(row_bytes.sum()),
            largest_bytes=int(row_bytes.max()),
            iteration=10,
            travelled_bytes=travelled,
        )
        for choose in ("choose_push", "choose_pull"):
            first, second = (getattr(policy, choose)(layout, view) for policy in (one, other))
            if first.quota != second.quota or first.order.tolist() != second.order.tolist():
                return False
    return True


def verdict(family: sync.Family, option: str) -> str:
    """What a family makes of an option: 'yes', 'no effect', what it needs beside it, or 'refused'; found by trying."""
    text = family.example
    plain = parsed(text)
    assert plain is not None
    answers = {"refused"}
    for value in TRIED[option]:
        policy = parsed(f"{text}?{option}={value}")
        if policy is not None:
            changed = {f.name for f in dataclasses.fields(Policy) if getattr(policy, f.name) != getattr(plain, f.name)}
            orders = changed <= {"name", "f1", "f2", "order"} and orders_rows_alike(policy, plain)
            answers.add("same" if changed <= {"name"} else "no effect" if orders else "yes")
        for word, companion in COMPANIONS.items() if policy is None else ():
            if parsed(f"{text}?{companion}") and parsed(f"{text}?{companion}&{option}={value}"):
                answers.add(word)
    return next(answer for answer in ("yes", "no effect", *COMPANIONS, "refused") if answer in answers)


def option_table() -> str:
    """Which family takes which option; families that take the same share a column, most of them the last one."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, family in sync.REGISTRY.items():
        column = ("-" if (word := verdict(family, option)) == "refused" else word for option in OPTIONS)
        columns.setdefault(tuple(column), []).append(f"`{name}`")
    *few, most = sorted(columns, key=lambda column: len(columns[column]))
    heads = [*(", ".join(columns[column]) for column in few), "all others"]
    lines = [f"| option | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    rows = zip(OPTIONS, *few, most, strict=True)
    lines += [f"| `{option}` | {' | '.join(verdicts)} |" for option, *verdicts in rows]
    return "\n".join(lines)


def option_names() -> str:
    """The names of the options, in a sentence."""
    *names, last = (f"`{name}`" for name in OPTIONS)
    text = f"There are {len(OPTIONS)} options: {', '.join(names)} and {last}. Which family takes which:"
    return textwrap.fill(f"{text} [docs/settings.md](docs/settings.md#policies).", WIDTH, break_on_hyphens=False)


def codec_list() -> str:
    """The codecs and their numbers in a row frame."""
    lines = ["| codec | number | meaning |", "|---|---|---|"]
    for name, codec in codecs.REGISTRY.items():
        lines.append(f"| `{name}` | {codec.wire_id} | {sentence(inspect.getdoc(type(codec)))} |")
    return "\n".join(lines)


def messages() -> str:
    """The messages with their numbers and fields."""
    kinds: dict[int, Any] = {**wire.messages.CONTROL, wire.Rows.KIND: wire.Rows}
    lines = []
    for kind in sorted(kinds):
        message = kinds[kind]
        text = sentence(inspect.getdoc(message))
        direction, _, meaning = text.partition(" ")
        sender = {"w>": "worker", "s>": "server", "p>": "standby", "<>": "both"}[direction]
        hints = get_type_hints(message)
        if message is wire.Rows:
            names = "see [the row frame](#the-row-frame)"
        else:
            names = ", ".join(
                f"`{field.name}`{'' if field.required else '?'} {type_name(hints[field.name])}"
                for field in msgspec.structs.fields(message)
            )
        lines.append(bullet(f"**{kind} `{message.__name__}`** ({sender}).", f"{meaning} Fields: {names or 'none'}."))
    return "\n".join(lines)


def events() -> str:
    """The events of the journal and their fields."""
    lines = []
    for event, fields in journal.EVENTS.items():
        lines += [f"### {event}", ""]
        lines += [bullet(f"`{name}`:", meaning) for name, meaning in fields.items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def exits() -> str:
    """The exit codes of the command."""
    from rowcast.cli.exits import MEANINGS  # late: the other parts need no command

    return "\n".join(
        ["| code | meaning |", "|---|---|", *(f"| {code:d} | {text} |" for code, text in MEANINGS.items())]
    )


def error_tree() -> str:
    """The tree of errors, as the module draws it."""
    tree = (errors.__doc__ or "").split("::", 1)[1].split("Each message")[0]
    return "```text\n" + textwrap.dedent(tree).strip("\n").rstrip() + "\n```"


def type_name(hint: Any) -> str:
    return "dict" if str(hint).startswith("dict") else hint.__name__


def sentence(text: str | None) -> str:
    """The first paragraph of a docstring, as Markdown, without pointers into our design notes."""
    first = " ".join((text or "").split("\n\n")[0].split()).replace("``", "`")
    return re.sub(r" \(algorithms\.md [^)]*\)", "", first)


PARTS: dict[str, Callable[[], str]] = {
    "ServerSettings": lambda: settings(config.ServerSettings),
    "WorkerSettings": lambda: settings(config.WorkerSettings),
    "LinkSettings": lambda: settings(config.LinkSettings),
    "AskerSettings": lambda: settings(config.AskerSettings),
    "AnswererSettings": lambda: settings(config.AnswererSettings),
    "ServeSettings": late("rowcast.cli.serve", "ServeSettings"),
    "RelaySettings": late("rowcast.cli.relay", "RelaySettings"),
    "WatchSettings": late("rowcast.cli.watch", "WatchSettings"),
    "WarmupSettings": late("rowcast.cli.warmup", "WarmupSettings"),
    "RobotSettings": late("rowcast.experiment", "RobotSettings"),
    "DemoSettings": late("rowcast.experiment", "DemoSettings"),
    "StreamDemoSettings": late("rowcast.experiment.stream_settings", "StreamDemoSettings"),
    "EmulationSettings": late("rowcast.experiment.emulation_settings", "EmulationSettings"),
    "MediumSettings": late("rowcast.experiment.medium_settings", "MediumSettings"),
    "Comparison": late("rowcast.experiment", "Comparison"),
    "RunSettings": late("rowcast.experiment", "RunSettings"),
    "SplitServeSettings": late("rowcast.experiment.inference.settings", "SplitServeSettings"),
    "CameraSettings": late("rowcast.experiment.inference.settings", "CameraSettings"),
    "MethodSettings": late("rowcast.experiment.inference.settings", "MethodSettings"),
    "SplitDemoSettings": late("rowcast.experiment.inference.settings", "SplitDemoSettings"),
    "CombineSettings": late("rowcast.combining", "CombineSettings"),
    "CrudaOptions": late("rowcast.tasks.cruda", "CrudaOptions"),
    "DriftSettings": lambda: drift_options(""),
    "RssiSettings": lambda: drift_options("rssi"),
    "DigitsSettings": lambda: drift_options("drift-digits"),
    "MotionSettings": motion_options,
    **{name: partial(mapping_options, name) for name in ("CrimpSettings", "RoomSettings", "RecordedSettings")},
    "policies": policies,
    "options": options,
    "option_table": option_table,
    "option_names": option_names,
    "codecs": codec_list,
    "messages": messages,
    "events": events,
    "exits": exits,
    "errors": error_tree,
}

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """A page with its generated parts as the code would have them now."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def pages() -> Iterable[Path]:
    """The pages that have generated parts."""
    candidates = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    return (page for page in candidates if _PART.search(page.read_text(encoding="utf-8")))


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        current = render(text)
        if current != text:
            page.write_text(current, encoding="utf-8")
            print(f"written: {page.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
