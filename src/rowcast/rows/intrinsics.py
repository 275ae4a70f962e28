"""What numba cannot say by itself, for use in kernels: each is one instruction, or none."""

from __future__ import annotations

from typing import Any, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["array_at", "float_of_bits", "pointer", "prefetch", "sign_bits"]


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
