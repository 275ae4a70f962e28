"""Items as bytes: there and back for every kind, and whatever else comes is a DataError and takes no room."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rowcast.errors import DataError
from rowcast.streams import Sample
from rowcast.tasks import build_task, pack_item, unpack_item
from rowcast.tasks.items import labelled

KINDS = ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")
quick = settings(deadline=None, derandomize=True, max_examples=150)

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=20)
)
TENSORS = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
ITEMS = st.recursive(
    PLAIN | TENSORS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def same(one, other):
    """Whether an item came back as it was; arrays come back as tensors."""
    if isinstance(one, np.ndarray):
        back = other.numpy()
        return isinstance(other, torch.Tensor) and back.dtype == one.dtype and np.array_equal(back, one, equal_nan=True)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@quick
@given(ITEMS)
def test_there_and_back(item):
    assert same(item, unpack_item(pack_item(item)))


def extension(kind, shape, body, code=1, head_bytes=None):
    """A tensor as it is written, or nearly so."""
    head = msgspec.msgpack.encode((kind, shape))
    length = len(head) if head_bytes is None else head_bytes
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, length.to_bytes(2, "big") + head + body))


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (torch.arange(6).reshape(2, 3).t(), (3, 2)),
        (torch.ones(2, requires_grad=True), (2,)),
        (torch.tensor(2.5), ()),
        (torch.zeros(0, 3), (0, 3)),
    ],
    ids=["not contiguous", "with a gradient", "a number", "empty"],
)
def test_tensors_of_every_form(tensor, shape):
    back = unpack_item(pack_item(tensor))
    assert back.shape == shape and back.dtype == tensor.dtype and torch.equal(back, tensor.detach())
    assert not back.requires_grad
    back.add_(1)  # it owns its memory


def test_bytes_are_in_one_order_whatever_the_machine_has():
    values = np.array([1.5, -2.0, 3.0])
    assert (
        pack_item(values.astype(">f8"))
        == pack_item(values.astype("<f8"))
        == extension("float64", (3,), values.astype("<f8").tobytes())
    )


def test_a_tuple_comes_back_as_a_list_and_numbers_of_numpy_as_plain_ones():
    assert unpack_item(pack_item((np.float32(1.5), np.int64(7), np.True_))) == [1.5, 7, True]


def within_itself():
    item = []
    item.append(item)
    return item


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (object(), "got object"),
        (1j, "got complex"),
        (np.zeros(2, np.uint16), "got uint16"),
        (np.array(["a"]), "got <U1"),
        (torch.ones(2, dtype=torch.bfloat16), "BFloat16"),
        (torch.ones(2, dtype=torch.complex64).conj(), "conjugate"),
        (torch.eye(2).to_sparse(), "Sparse"),
        (torch.ones(2, device="meta"), "meta"),
        (2**70, "ints"),
        ("\ud800", "surrogates"),
        (within_itself(), "recursion"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else None,
)
def test_what_cannot_be_written_is_said(item, why):
    with pytest.raises(DataError, match=f"item: cannot be written: .*{why}"):
        pack_item([item])


HOSTILE = {
    "nothing": b"",
    "not all": pack_item(torch.ones(3))[:-1],
    "more": pack_item(1) + b"\x00",
    "a list in a list in a list": b"\x91" * 100_000,
    "a map in a map in a map": b"\x81\x01" * 100_000,
    "a list that says it is long": b"\xdd\xff\xff\xff\xff",
    "a map that says it is long": b"\xdf\xff\xff\xff\xff",
    "bytes that say they are long": b"\xc6\xff\xff\xff\xff",
    "a tensor that says it is long": b"\xc9\xff\xff\xff\xff\x01",
    "another extension": extension("float32", (1,), b"1234", code=5),
    "objects": extension("object", (1,), b"12345678"),
    "more than its shape": extension("float32", (1,), b"12345678"),
    "less than its shape": extension("float32", (2**40,), b"1234"),
    "empty and huge": extension("float32", (0, 2**40, 2**40), b""),
    "a negative side": extension("float32", (-1,), b"1234"),
    "many sides": extension("float32", (1,) * 100, b"1234"),
    "many huge sides": extension("float32", (2**63,) * 7000, b""),
    "a head beyond its end": extension("float32", (1,), b"1234", head_bytes=60_000),
    "no head": msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"")),
    "a head of something else": msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\x00\x01\x01")),
    "a key that cannot be one": b"\x81\x80\x01",
    "no text": b"\xa2\xff\xff",
    "no moment": b"\xd7\xff" + b"\xff" * 8,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_a_short_error_and_take_no_room(data):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"expected what rowcast.tasks.pack_item writes") as raised:
            unpack_item(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 + 4 * len(data)
    finally:
        tracemalloc.stop()
    assert len(str(raised.value)) < 400


@quick
@given(st.binary(max_size=60))
@example(extension("bool", (2,), b"\x02\xff"))
def test_any_bytes_are_an_item_or_a_data_error(data):
    try:
        item = unpack_item(data)
    except DataError:
        return
    if isinstance(item, torch.Tensor) and item.dtype == torch.bool:
        assert set(item.numpy().view(np.uint8).ravel().tolist()) <= {0, 1}


@quick
@given(ITEMS, st.data())
def test_items_that_were_damaged_are_an_item_or_a_data_error(item, data):
    written = bytearray(pack_item(item))
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack_item(bytes(written))
    except DataError as error:
        assert str(error).startswith("item: expected what")


# -- what the built-in tasks take of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cruda-digits", "drift-digits"])
def test_a_task_takes_its_own_samples(name):
    task = build_task(name)
    samples = task.samples(1, 2)
    for k in range(3):
        given_, target = next(samples)
        back = task.decode(Sample("0", k, 0.0, pack_item((given_, target)), 0))
        assert torch.equal(back[0], given_) and torch.equal(back[1], target)
        assert back[0].dtype == given_.dtype and back[1].dtype == target.dtype


IMAGE, LABEL = torch.zeros(1, 8, 8), torch.tensor(3)


@pytest.mark.parametrize(
    ("item", "got"),
    [
        ((IMAGE, torch.tensor(10)), r"\[float32 \(1, 8, 8\), int64 \(\) 10\]"),
        ((IMAGE, torch.tensor(-1)), r"int64 \(\) -1"),
        ((IMAGE, torch.tensor([3])), r"int64 \(1,\)"),
        ((IMAGE, torch.zeros(9)), r"float32 \(9,\)"),
        ((IMAGE, 3), "int"),
        ((IMAGE[0], LABEL), r"float32 \(8, 8\)"),
        ((IMAGE.to(torch.uint8), LABEL), "uint8"),
        ((IMAGE, LABEL, LABEL), "int64"),
        ({"image": IMAGE}, "dict"),
        (None, "NoneType"),
        ("a" * 999, "str"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 99 else None,
)
def test_a_sample_that_would_end_the_training_is_none(item, got):
    """Of another shape, or of a class that there is not: the first batch with it would be an error far away."""
    with pytest.raises(
        DataError, match=rf"expected an input \(1, 8, 8\) and one of 10 classes, or values, got .*{got}"
    ):
        labelled(item, (1, 8, 8), 10)


def test_values_are_a_target_as_well():
    item = (torch.zeros(2, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    assert [each.dtype for each in labelled(item, (2,), 5)] == [torch.float32] * 2
