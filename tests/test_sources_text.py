"""A source as a text: its parts, its options, and one line for each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.errors import ConfigError
from rowcast.libraries import needing
from rowcast.sources.text import SourceText


def test_the_parts_of_an_address() -> None:
    text = SourceText.parse("Kafka://10.0.0.1:9092/robots/1?topic=a&topic=b%26c")
    assert (text.scheme, text.host, text.port, text.path) == ("kafka", "10.0.0.1", 9092, "robots/1")
    assert text.many("topic") == ("a", "b&c") and text.many("other") == ()
    assert SourceText.parse("mqtt://[::1]/t").host == "::1"
    assert SourceText.parse("mqtt://broker/t").port is None


def test_the_name_of_a_file_is_taken_as_it_is() -> None:
    text = SourceText.parse("a b%20.csv?rate=3")
    assert (text.scheme, text.place, text.number("rate", 1.0)) == ("", "a b%20.csv", 3.0)
    assert SourceText.parse("replay://a%3F.csv").place == "a?.csv"


def test_settings_are_options_too() -> None:
    text = SourceText.parse("a.csv", {"rate": 2.5, "follow": True, "valid": ["a:0..1", "b:0..2"]})
    assert (text.number("rate", 0.0), text.flag("follow"), text.many("valid")) == (2.5, True, ("a:0..1", "b:0..2"))
    with pytest.raises(ConfigError, match="'rate' is given twice"):
        SourceText.parse("a.csv?rate=1", {"rate": 2})


def test_options_are_taken_out_and_left() -> None:
    text = SourceText.parse("a.csv?rate=1&time=t")
    assert dict(text.only({"rate"}).options) == {"rate": ("1",)}
    assert dict(text.without({"rate"}).options) == {"time": ("t",)}
    text.check({"rate", "time"})
    assert text.flag("follow") is False and text.flag("follow", default=True) is True
    assert text.one("none", "default") == "default"


@pytest.mark.parametrize(
    ("given_text", "use", "message"),
    [
        ("a.csv?rate", str, "expected NAME=VALUE behind '?', got 'rate'"),
        ("a.csv?=3", str, "expected NAME=VALUE behind '?', got '=3'"),
        ("a.csv?rate=x", lambda text: text.number("rate", 0.0), "expected a number of 0 or more, got 'x'"),
        ("a.csv?rate=nan", lambda text: text.number("rate", 0.0), "expected a number of 0 or more, got 'nan'"),
        ("a.csv?n=9", lambda text: text.number("n", 0.0, 1.0, 5.0), "expected a number from 1 to 5, got '9'"),
        ("a.csv?follow=maybe", lambda text: text.flag("follow"), "expected 1 or 0, got 'maybe'"),
        ("a.csv?t=1&t=2", lambda text: text.one("t"), "option 't' is given 2 times"),
        ("a.csv?raet=1", lambda text: text.check({"rate", "time"}), "unknown option 'raet'; did you mean 'rate'?"),
        ("a.csv?rate=1", lambda text: text.check(()), "unknown option 'rate'; it has none"),
        ("kafka://h:x/t", lambda text: text.port, "expected a port from 1 to 65535"),
        ("kafka://h:0/t", lambda text: text.port, "expected a port from 1 to 65535"),
        ("kafka://h:70000/t", lambda text: text.port, "expected a port from 1 to 65535"),
        ("kafka://[h/t", lambda text: text.host, "expected HOST:PORT"),
    ],
)  # fmt: skip
def test_mistakes(given_text: str, use: Callable[[SourceText], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        use(SourceText.parse(given_text))
    assert message in str(caught.value)


def test_secrets_are_not_shown() -> None:
    text = SourceText.parse("kafka://h:1/t?sasl.password=hush&sasl.username=me")
    assert str(text) == "kafka://h:1/t?sasl.password=...&sasl.username=me"
    named = SourceText.parse("mqtt://me:hush@h:1/t")
    with pytest.raises(ConfigError) as caught:
        assert named.host
    assert "hush" not in str(named) + str(caught.value)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.lists(st.text(min_size=1, max_size=8), min_size=1)))
def test_options_survive_their_escapes(options: dict[str, list[str]]) -> None:
    pairs = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, values in options.items() for value in values]
    text = SourceText.parse("x://h/t" + ("?" if pairs else "") + "&".join(pairs))
    assert {name: list(values) for name, values in text.options.items()} == options


@given(st.text())
def test_any_text_is_parts_or_one_line(text: str) -> None:
    try:
        parts = SourceText.parse(text)
        assert isinstance(parts.host, str) and isinstance(parts.path, str) and parts.port != 0
        shown = str(parts)
    except ConfigError as error:
        shown = str(error)
    assert shown.isprintable()


def test_a_missing_library_is_one_line_with_the_command() -> None:
    with (
        pytest.raises(ConfigError, match=r"needs a library .*; install it: pip install 'rowcast\[mcap\]'"),
        needing("a source of an MCAP file", "mcap"),
    ):
        raise ImportError("No module named 'mcap'")
