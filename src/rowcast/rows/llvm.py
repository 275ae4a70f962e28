"""What numba cannot say by itself, for use in kernels: each is one instruction, a loop of vectors, or nothing.

Imported only where numba is there; kernels import :mod:`rowcast.rows.intrinsics`.
"""

from __future__ import annotations

from typing import Any, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["array_at", "dot_lanes", "float_of_bits", "pointer", "prefetch", "sign_bits", "size_lanes"]


def _prefetch_code(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        declare: Any = cgutils.get_or_insert_function
        function = declare(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [place, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


#: Ask the processor to bring the cache line of ``array[index]`` near, for writing.
prefetch: Any = intrinsic(_prefetch_code)


def _float_code(typing_context: Any, pattern: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


#: The float32 whose bits are those of a uint32; for use in kernels, where it costs nothing.
float_of_bits: Any = intrinsic(_float_code)


def _signs_code(typing_context: Any, patterns: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        eight = ir.VectorType(ir.IntType(32), 8)
        loaded = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), eight.as_pointer()), align=4)
        return builder.bitcast(builder.icmp_signed("<", loaded, ir.Constant(eight, [0] * 8)), ir.IntType(8))

    return types.uint8(patterns, types.intp), generate


#: The highest bits of ``patterns[index : index + 8]`` (uint32) as a byte, the first in bit 0; one instruction on most
#: processors.
sign_bits: Any = intrinsic(_signs_code)


def _pointer_code(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    kinds: Any = types
    return kinds.CPointer(kinds.float32)(kinds.int64), generate


#: The memory at an address (int64), as float32.
pointer: Any = intrinsic(_pointer_code)
#: A flat array there, of so many elements.
array_at: Any = cast(Any, numba).carray


_FLOAT = ir.FloatType()


def _part(builder: Any, vector: Any, first: int, width: int) -> Any:
    """``width`` lanes of a vector, from lane ``first`` on."""
    places = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)


def _folded(builder: Any, vector: Any, width: int) -> Any:
    """The sum of a vector of ``width`` lanes: the upper half added to the lower one until there is one lane."""
    while width > 1:
        width //= 2
        vector = builder.fadd(_part(builder, vector, 0, width), _part(builder, vector, width, width))
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _add_lanes(builder: Any, total: Any, items: Any, span: tuple[Any, Any], width: int) -> None:
    """Add ``items(place, width)`` to the lanes at ``total`` for each whole group of ``width`` places in ``span``."""
    index = span[0].type
    with cgutils.for_range_slice(builder, span[0], span[1], ir.Constant(index, width), index) as (place, _):
        builder.store(builder.fadd(builder.load(total), items(place, width)), total)


def _sum_lanes(builder: Any, items: Any, length: Any) -> Any:
    """The sum of ``items`` in the order of :mod:`rowcast.rows.lanes`."""

    def slot(kind: Any, content: Any) -> Any:
        allocate: Any = cgutils.alloca_once
        place = allocate(builder, kind)
        builder.store(content, place)
        return place

    def until(width: int) -> Any:
        return builder.and_(length, ir.Constant(length.type, -width))

    zero, first_lane = ir.Constant(length.type, 0), ir.Constant(ir.IntType(32), 0)
    wide, narrow = ir.VectorType(_FLOAT, 32), ir.VectorType(_FLOAT, 4)
    lanes, four = slot(wide, ir.Constant(wide, [0.0] * 32)), slot(narrow, ir.Constant(narrow, [0.0] * 4))
    with builder.if_then(builder.icmp_signed(">=", length, ir.Constant(length.type, 32))):
        _add_lanes(builder, lanes, items, (zero, until(32)), 32)
        filled = builder.load(lanes)
        eight = _part(builder, filled, 0, 8)
        for first in (8, 16, 24):
            eight = builder.fadd(eight, _part(builder, filled, first, 8))
        # Where there is no block of 4, folding adds zeros to this sum: no bit changes, since it is never -0.
        builder.store(builder.insert_element(builder.load(four), _folded(builder, eight, 8), first_lane), four)
    _add_lanes(builder, four, items, (until(32), until(4)), 4)
    one = slot(_FLOAT, _folded(builder, builder.load(four), 4))
    _add_lanes(builder, one, items, (until(4), length), 1)
    return builder.load(one)


def _loader(builder: Any, data: Any) -> Any:
    """What loads ``width`` floats from a place of an array."""

    def load(place: Any, width: int) -> Any:
        at = builder.gep(data, [place])
        if width == 1:
            return builder.load(at)
        return builder.load(builder.bitcast(at, ir.VectorType(_FLOAT, width).as_pointer()), align=4)

    return load


def _length_of(builder: Any, view: Any) -> Any:
    unpack: Any = cgutils.unpack_tuple
    return unpack(builder, view.shape)[0]


def _size_code(typing_context: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        load = _loader(builder, view.data)

        def sizes(place: Any, width: int) -> Any:
            loaded = load(place, width)
            declare: Any = cgutils.get_or_insert_function
            name = "llvm.fabs.f32" if width == 1 else f"llvm.fabs.v{width}f32"
            return builder.call(declare(builder.module, ir.FunctionType(loaded.type, [loaded.type]), name), [loaded])

        return _sum_lanes(builder, sizes, _length_of(builder, view))

    return types.float32(array), generate


#: The sum of the sizes of a contiguous float32 array, in the order of :mod:`rowcast.rows.lanes`.
size_lanes: Any = intrinsic(_size_code)


def _dot_code(typing_context: Any, one: Any, other: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        views = [
            context.make_array(kind)(context, builder, a) for kind, a in zip(signature.args, arguments, strict=True)
        ]
        first, second = (_loader(builder, view.data) for view in views)

        def products(place: Any, width: int) -> Any:
            return builder.fmul(first(place, width), second(place, width))

        return _sum_lanes(builder, products, _length_of(builder, views[0]))

    return types.float32(one, other), generate


#: The sum of the products of two contiguous float32 arrays of the same length, in the same order.
dot_lanes: Any = intrinsic(_dot_code)
