"""The conformance suite of codecs."""

from __future__ import annotations

import numpy as np

from rowcast.codecs import Codec, Fitting
from rowcast.codecs.base import Vector
from rowcast.errors import RemoteProtocolError
from rowcast.rows import Layout

__all__ = ["check_codec"]


def check_codec(codec: Codec, *, seed: int = 0) -> None:
    """Check that a codec keeps its promises; raises AssertionError at the first that it breaks.

    * A payload is exactly as long as ``row_bytes`` says, for any rows in any order; that of a
      :class:`~rowcast.codecs.Fitting` code at most, also in a form that is fitted to a room.
    * Nothing is lost: decoded payload + residual = what was there (float32 rounding aside).
    * ``consume=False`` leaves the vector alone; rows that were not asked for are never touched.
    * Decoding is additive with either sign, and a row decodes the same in any company and in any layout.
    * Repeated sending delivers: the residual shrinks (a codec that expresses nothing, like ``zero``, is exempt).
    * Whatever bytes arrive, ``check`` either accepts them or raises ``RemoteProtocolError``, and what it accepts
      decodes to finite values.
    """
    random = np.random.default_rng(seed)
    layout = Layout.from_shapes([("wide", (7, 300)), ("bias", (9,)), ("one", ()), ("conv", (20, 3, 3, 7))])
    for scale in (1e-9, 1.0, 1e6):
        vector = (random.standard_normal(layout.elements) * scale).astype(np.float32)
        rows = random.permutation(layout.rows)[: layout.rows - 3].astype(np.int64)
        before = vector.copy()
        payload = codec.encode(layout, vector, rows, consume=False)
        assert np.array_equal(vector, before), "consume=False changed the vector"
        payload = codec.encode(layout, vector, rows)
        assert payload.dtype == np.uint8, "a payload is uint8"
        most = codec.row_bytes(layout)[rows].sum()
        fits = len(payload) <= most if isinstance(codec, Fitting) else len(payload) == most
        assert fits, "row_bytes does not tell the length"
        codec.check(layout, payload, rows)
        touched = np.zeros(layout.elements, dtype=bool)
        for row in rows:
            touched[layout.offsets[row] : layout.offsets[row + 1]] = True
        assert np.array_equal(vector[~touched], before[~touched]), "rows that were not asked for were touched"
        decoded = layout.zeros()
        codec.add(layout, payload, rows, decoded, 1.0)
        tolerance = 1e-6 * np.abs(before).max()
        assert np.abs(decoded + vector - before).max() <= tolerance, "decoded + residual is not what was there"
        codec.add(layout, payload, rows, decoded, -1.0)
        assert np.abs(decoded).max() <= tolerance, "adding with sign -1 does not take back"
        alone = layout.zeros()
        for row in rows:
            one = np.array([row])
            source = before.copy()
            codec.add(layout, codec.encode(layout, source, one), one, alone, 1.0)
        together = layout.zeros()
        codec.add(layout, payload, rows, together, 1.0)
        assert np.array_equal(alone, together), "a row decodes otherwise in company than alone"
        part = layout.only(rows)  # the server decodes the rows of a frame one behind the other
        packed = part.zeros()
        codec.add(part, payload, np.arange(part.rows, dtype=np.int64), packed, 1.0)
        scattered = np.concatenate([together[layout.offsets[row] : layout.offsets[row + 1]] for row in rows])
        assert np.array_equal(packed, scattered), "rows decode otherwise in a layout of their own"
        if np.abs(together).max() > 0:
            for _ in range(30):
                codec.encode(layout, vector, rows)
            left = float(np.linalg.norm(vector[touched])) / float(np.linalg.norm(before[touched]))
            assert left < 0.5, f"after 31 sends {left:.0%} of the update is still pending"
        if isinstance(codec, Fitting):
            _check_fitted(codec, layout, before)
    _check_garbage(codec, layout, random)


def _check_fitted(codec: Fitting, layout: Layout, vector: Vector) -> None:
    """A form that is fitted keeps to the room, and to its sizes whatever is added; the code itself decodes it."""
    rows = np.arange(layout.rows, dtype=np.int64)
    least = int(codec.usual_bytes(layout, 0.0).sum())
    for room in (0.5 * least, 2.0 * least, 4.0 * layout.elements):
        fitted = codec.fit(layout, vector, room)
        sizes = fitted.row_bytes(layout)
        assert sizes.sum() <= max(room, least), "a fitted form takes more than its room"
        for added in (0.0, 30.0):
            source = vector + np.float32(added) * vector[::-1]
            before = source.copy()
            for row in rows:
                payload = fitted.encode(layout, source, rows[row : row + 1])
                assert len(payload) <= sizes[row], "a row takes more than its size when something was added"
                codec.check(layout, payload, rows[row : row + 1])
                codec.add(layout, payload, rows[row : row + 1], source, 1.0)
            assert np.abs(source - before).max() <= 1e-6 * np.abs(before).max(), "a fitted form is decoded otherwise"


def _check_garbage(codec: Codec, layout: Layout, random: np.random.Generator) -> None:
    sizes = codec.row_bytes(layout)
    for _ in range(200):
        rows = np.sort(random.permutation(layout.rows)[: random.integers(1, layout.rows)]).astype(np.int64)
        right = int(sizes[rows].sum())
        length = right if random.random() < 0.7 else int(random.integers(0, 2 * right + 2))
        payload = random.integers(0, 256, length).astype(np.uint8)
        try:
            codec.check(layout, payload, rows)
        except RemoteProtocolError:
            continue
        target = layout.zeros()
        codec.add(layout, payload, rows, target, 1.0)
        assert np.isfinite(target).all(), "check accepted a payload that decodes to NaN or Inf"
