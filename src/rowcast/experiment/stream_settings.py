"""Settings of the demo of streams."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.config import Checked, setting
from rowcast.errors import ConfigError
from rowcast.streams import BatchRule, TeamBatch, parse_batch, parse_buffer
from rowcast.sync import parse_policy, policy_forms

__all__ = ["StreamDemoSettings"]

#: Samples of one robot in a batch of the team, where nothing else is said.
_EACH = 64


@dataclass(frozen=True)
class StreamDemoSettings(Checked):
    """Settings of a demo of streams; in a file, the table ``[demo]``.

    Raises:
        ConfigError: a value out of its range, or rules of batches that cannot be compared.
    """

    rates: tuple[float, ...] = setting(
        (12.0, 25.0, 45.0, 75.0),
        "Samples that come to each robot in a second; there are as many robots.",
        unit="samples/s",
        low=0.1,
        high=100_000.0,
        flag="--rates",
    )
    batch: tuple[str, ...] = setting(
        (),
        "When how many samples make a batch, run one after the other: fixed:64, rate:1s, team:256, speed:256. None: "
        f"'fixed:{_EACH}', 'rate:1s', and 'team:' with {_EACH} for each robot.",
        flag="--batch",
        metavar="RULE,...",
    )
    buffer: str | None = setting(
        None,
        "What waits: persist (everything) or truncate:1s (what came last); by default persist where a batch is fixed.",
        flag="--buffer",
    )
    policy: str = setting("bsp", f"When which updates travel: {policy_forms()}.", flag="--policy")
    seconds: float = setting(20.0, "How long each rule trains.", unit="s", low=1.0, high=86_400.0, flag="--seconds")
    seed: int = setting(0, "Of data and model.", low=0, high=2**32 - 1, flag="--seed")
    task: str = setting(
        "cruda-digits",
        "Name of a task that has single samples, as 'cruda-digits' or 'drift-digits', or a class of one's own: "
        "my_file.py:MyTask.",
        flag="--task",
    )
    data: str | None = setting(None, "Folder of the data set; the digits need none.", flag="--data")
    eval_every: int = setting(
        1, "Steps between two looks at the task's metrics.", unit="steps", low=1, high=10_000, flag="--eval-every"
    )
    test_items: int = setting(
        250, "Items of the test data of such a look, where the task limits them.", unit="items", low=1, high=10_000_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.rates) <= 100:
            raise ConfigError(f"rates: expected those of 1 to 100 robots, as '12,25,45,75', got {len(self.rates)}")
        texts = [str(rule) for rule in self.rules]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"batch: {','.join(texts)} names one twice")
        if self.buffer is not None:
            parse_buffer(self.buffer)
        parse_policy(self.policy)

    @property
    def rules(self) -> list[BatchRule]:
        """The rules to compare."""
        given = self.batch or (f"fixed:{_EACH}", "rate:1s", str(TeamBatch(_EACH * len(self.rates))))
        return [parse_batch(text) for text in given]
