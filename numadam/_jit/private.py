"""Names of other packages that are not public, each with its reason: no other file has any."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir as ir  # vectors in `dot` and of derivatives; `make_memory`
from llvmlite.binding import get_host_cpu_name  # as Numba's own cache knows the processor
from numba import types
from numba.core import cgutils  # the loop of `dot`, constants of a view, zeros on the stack
from numba.extending import intrinsic
from numba.misc.appdirs import user_cache_dir  # the folder in which Numba's own cache is

#: Folder of the user's caches on this platform, which need not be absolute.
USER_CACHE = str(user_cache_dir("numadam", False))
#: What compiled code depends on.
PROCESSOR = str(get_host_cpu_name())


def address(result: Any) -> int:
    """The address of a compiled function, for `numadam._jit.calls`."""
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def thread_count() -> int:
    """The number of threads of the calling thread's parallel loops; a layer has been chosen.

    Numba's own function takes locks, which a fork may find taken: one is shared by all processes.
    """
    from numba.np.ufunc import parallel  # 20 ms, which a small step does not need

    return int(parallel._get_num_threads())  # noqa: SLF001  # without locks


def can_compile(dispatcher: Any) -> bool:
    """Whether a function takes signatures that it was not made with."""
    return bool(dispatcher._can_compile)  # noqa: SLF001  # a call would tell, and compile


def inferred(function: Any, kinds: tuple[Any, ...]) -> tuple[Any, Any]:
    """The code of a Python function, and the types of its variables: nothing is compiled.

    By these rules are checked where they are made: compiling each takes a second.
    """
    from numba.core import compiler
    from numba.core.registry import cpu_target
    from numba.core.typed_passes import type_inference_stage

    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    code = compiler.run_frontend(function)
    return code, type_inference_stage(typing, target, code, kinds, None)


def approx_derivative(*given: Any, **how: Any) -> Any:
    """SciPy's derivatives by differences within bounds: the public one knows no bounds."""
    from scipy.optimize import _numdiff

    return _numdiff.approx_derivative(*given, **how)


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to numbers as `like`, an array or number, has them; for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(getattr(like, "dtype", like))(address, like), codegen


@intrinsic
def read_only_array(typingctx: Any, pointer: Any, count: Any) -> Any:
    """So many numbers at a pointer, as an array; for GPUs there is no `carray`."""
    kind = types.Array(pointer.dtype, 1, "C", readonly=True)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        item = cgutils.intp_t(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        array = context.make_array(kind)(context, builder)
        context.populate_array(
            array, data=args[0], shape=[args[1]], strides=[item], itemsize=item, meminfo=None
        )
        return array._getvalue()

    return kind(pointer, types.intp), codegen


@intrinsic
def view(typingctx: Any, address: Any, like: Any, shape: Any) -> Any:
    """The contiguous array of this shape at an address, of numbers as `like` has them.

    As ``carray(pointer(address, like), shape)``, which takes four times as long to compile.
    """
    axes = len(shape) if isinstance(shape, types.BaseTuple) else 1
    number = getattr(like, "dtype", like)
    kind = types.Array(number, axes, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        item = cgutils.intp_t(context.get_abi_sizeof(context.get_data_type(number)))
        sizes = cgutils.unpack_tuple(builder, args[2]) if axes > 1 else [args[2]]
        steps = [item]
        for size in reversed(sizes[1:]):
            steps.insert(0, builder.mul(steps[0], size))
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(args[0], context.get_data_type(number).as_pointer())
        context.populate_array(
            array, data=data, shape=sizes, strides=steps, itemsize=item, meminfo=None
        )
        return array._getvalue()

    return kind(address, like, shape), codegen


@intrinsic
def words(typingctx: Any, address: Any, count: Any) -> Any:
    """So many int64 at an address, a literal number, as a tuple: an array is slower to compile."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    kind = types.UniTuple(types.int64, count.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
        return builder.load(place, align=8)

    return kind(address, count), codegen


@intrinsic
def lane_memory(typingctx: Any) -> Any:
    """Memory for 64 numbers of float64 on the stack: an array would be allocated at every call."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(context.get_value_type(types.float64), 64)
            memory.align = 64  # a cache line
        return memory

    return types.CPointer(types.float64)(), codegen


def borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The same value with arrays whose references are not counted.

    An exception in the caller would lose the count.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = array.meminfo.type(None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for k, item in enumerate(kind.types):
            part = borrowed(context, builder, item, builder.extract_value(value, k))
            value = builder.insert_value(value, part, k)
        return value
    context.nrt.incref(builder, kind, value)
    return value


def make_lane_view(x_type: Any, shape: tuple[int, ...], lanes: int) -> Any:
    """``view(pointer, lane)``: one problem of a packet, in which neighbours are `lanes` apart.

    Shape and strides are constants, which no array of NumPy has: see `_minimize.lanes.objective`.
    """

    @intrinsic
    def view(typingctx: Any, pointer: Any, lane: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            item = context.get_abi_sizeof(context.get_data_type(x_type.dtype))
            steps = [lanes * item * math.prod(shape[k + 1 :]) for k in range(len(shape))]
            array = context.make_array(x_type)(context, builder)
            context.populate_array(
                array,
                data=builder.gep(args[0], [args[1]]),
                shape=[cgutils.intp_t(n) for n in shape],
                strides=[cgutils.intp_t(step) for step in steps],
                itemsize=cgutils.intp_t(item),
                meminfo=None,
            )
            return array._getvalue()

        return x_type(types.CPointer(x_type.dtype), types.int64), codegen

    return view


def make_memory(kind: Any, size: int) -> tuple[Any, Any]:
    """``memory()``: so many zeros on the stack; ``write(address, memory)``: copy them there.

    Aligned to a cache line. As loops over arrays both would take 0.1 s more to compile.
    """
    to_numbers = types.CPointer(kind)

    @intrinsic
    def memory(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = context.get_data_type(kind)
            length = cgutils.intp_t(size * context.get_abi_sizeof(number))
            with builder.goto_entry_block():
                block = builder.alloca(ir.ArrayType(number, size))
                block.align = 64
            cgutils.memset(builder, builder.bitcast(block, cgutils.voidptr_t), length, 0)
            return builder.bitcast(block, number.as_pointer())

        return to_numbers(), codegen

    @intrinsic
    def write(typingctx: Any, address: Any, memory: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = context.get_data_type(kind)
            item = context.get_abi_sizeof(number)
            to = builder.inttoptr(args[0], number.as_pointer())
            cgutils.raw_memcpy(builder, to, args[1], cgutils.intp_t(size), item)
            return context.get_dummy_value()

        return types.void(types.int64, to_numbers), codegen

    return memory, write


def uncounted(context: Any, builder: Any, kind: Any, result: Any, array: Any) -> Any:
    """Code for the array as type `result` has it: flat, or as it is; others stay.

    Without its reference count: a loop that counts references is not vectorised. The caller keeps
    the array alive.
    """
    if not isinstance(kind, types.Array):
        return array
    old = context.make_array(kind)(context, builder, array)
    new = context.make_array(result)(context, builder)
    new.nitems, new.itemsize, new.data = old.nitems, old.itemsize, old.data
    if result == kind:
        new.shape, new.strides = old.shape, old.strides
    else:
        new.shape = builder.insert_value(new.shape, old.nitems, 0)
        new.strides = builder.insert_value(new.strides, old.itemsize, 0)
    new.meminfo, new.parent = new.meminfo.type(None), new.parent.type(None)
    return new._getvalue()


#: Numbers in one turn of a sum.
POINTS = 16


@intrinsic
def dot(typingctx: Any, a: Any, b: Any) -> Any:
    """Sum of a * b, of a multiple of `POINTS`: in so many lanes, whatever the processor has."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = [context.make_array(a)(context, builder, value) for value in args]
        wide = ir.VectorType(ir.DoubleType(), POINTS)
        given = ir.VectorType(context.get_data_type(a.dtype), POINTS)
        sums = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * POINTS))
        begin, step = cgutils.intp_t(0), cgutils.intp_t(POINTS)
        end = arrays[0].nitems
        with cgutils.for_range_slice(builder, begin, end, step, inc=True) as (k, _):
            values = []
            for array in arrays:
                place = builder.bitcast(builder.gep(array.data, [k]), given.as_pointer())
                value = builder.load(place)
                value.align = 4
                values.append(value if given == wide else builder.fpext(value, wide))
            product = builder.fmul(*values)
            builder.store(builder.fadd(builder.load(sums), product), sums)
        total, lanes = builder.load(sums), POINTS
        while lanes > 1:  # add the upper half of the lanes to the lower one
            lanes //= 2
            halves = [
                builder.shuffle_vector(
                    total, total, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(places))
                )
                for places in (range(lanes), range(lanes, 2 * lanes))
            ]
            total = builder.fadd(*halves)
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float64(a, b), codegen
