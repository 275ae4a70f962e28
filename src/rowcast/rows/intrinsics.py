"""What numba cannot say by itself, for use in kernels: each is one instruction, or none."""

from __future__ import annotations

from typing import Any, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["array_at", "blocks_abs_sum", "float_of_bits", "pointer", "prefetch", "sign_bits"]


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


def _blocks_code(typing_context: Any, array: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        lanes, integers = ir.VectorType(ir.FloatType(), 32), ir.VectorType(ir.IntType(32), 32)
        hold: Any = cgutils.alloca_once_value
        place = hold(builder, ir.Constant(lanes, [0.0] * 32))
        word = arguments[1].type
        blocks = builder.sdiv(arguments[1], word(32))
        span: Any = cgutils.for_range
        with span(builder, blocks) as loop:
            start = builder.gep(data, [builder.mul(loop.index, word(32))])
            patterns = builder.load(builder.bitcast(start, integers.as_pointer()), align=4)
            sizes = builder.bitcast(builder.and_(patterns, ir.Constant(integers, [0x7FFFFFFF] * 32)), lanes)
            builder.store(builder.fadd(builder.load(place), sizes), place)
        total = _folded(builder, builder.load(place))
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(array, types.intp), generate


def _folded(builder: Any, lanes: Any) -> Any:
    """The four eighths of 32 lanes added one after the other, then halves onto halves."""

    def part(vector: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    total = part(lanes, list(range(8)))
    for first in (8, 16, 24):
        total = builder.fadd(total, part(lanes, list(range(first, first + 8))))
    for half in (4, 2, 1):
        total = builder.fadd(part(total, list(range(half))), part(total, list(range(half, 2 * half))))
    return total


#: Sum |.| of the first elements of a float32 array, as many as whole blocks of 32 hold. Lane j of 32 adds up the
#: elements j, j + 32, ...; the lanes are then added in one fixed order, whatever vectors the processor has.
blocks_abs_sum: Any = intrinsic(_blocks_code)
