"""The PTX machine itself: it computes what the manual says, and refuses what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.machine.ptx_machine import Launch
from tests.cuda.machine.ptx_parse import PtxError, parse

REGISTERS = """
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;
.reg .f64 %fd<9>;
"""
#: Where thread i of the launch has 4 bytes of its own, behind the first parameter.
OWN = """
ld.param.u64 %rd1, [at];
mov.u32 %r1, %tid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %ctaid.x; mul.lo.s32 %r3, %r3, %r2;
add.s32 %r1, %r1, %r3; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
"""


def launch(body, array, blocks=1, threads=4, values=None, before="", **more):
    """Run a kernel that takes the address of an array."""
    text = f"{before} .visible .entry kernel(.param .u64 at) {{ {REGISTERS} {body} }}"
    given = [array.ctypes.data] if values is None else values
    memory = [(array.ctypes.data, array.nbytes)]
    return Launch(parse(text, "kernel"), blocks, threads, given, memory, **more).run()


def room(n, dtype=np.uint32):
    """An array that begins at a multiple of 16 bytes."""
    held = np.zeros(16 * n + 16, np.uint8)
    begin = -held.ctypes.data % 16
    return held[begin : begin + n * np.dtype(dtype).itemsize].view(dtype)


def test_each_thread_has_its_own_numbers():
    a = room(8)
    launch(OWN + "st.global.u32 [%rd2], %r1; ret;", a, blocks=2)
    np.testing.assert_array_equal(a, np.arange(8))


def test_threads_part_at_a_branch_and_meet_again():
    a = room(8)
    loop = """
    mov.u32 %r4, 0; mov.u32 %r5, 0;
    $again: setp.ge.s32 %p1, %r4, %r1; @%p1 bra $done;
    add.s32 %r4, %r4, 1; mad.lo.s32 %r5, %r4, 2, %r5; bra.uni $again;
    $done: st.global.u32 [%rd2], %r5; ret;
    """
    steps = launch(OWN + loop, a, threads=8)
    np.testing.assert_array_equal(a, [n * (n + 1) for n in range(8)])
    assert steps < 60  # the longest way, once


def test_a_guard_may_be_negated():
    a = room(4)
    launch(OWN + "setp.eq.u32 %p1, %r1, 2; @!%p1 st.global.u32 [%rd2], 7; ret;", a)
    np.testing.assert_array_equal(a, [7, 7, 0, 7])


def test_vectors_of_16_bytes():
    a, body = room(8, np.float32), "ld.param.u64 %rd1, [at];"
    a[:4] = [1, 2, 3, 4]
    body += "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1]; add.f32 %f4, %f4, 0f3F800000;"
    launch(body + "st.global.v4.f32 [%rd1+16], {%f4, %f3, %f2, %f1}; ret;", a, threads=1)
    np.testing.assert_array_equal(a[4:], [5, 3, 2, 1])


def test_a_function_returns_to_each_of_its_callers():
    function = """
    .func (.param .b32 out) twice(.param .b32 x) ;
    .func (.param .b32 out) twice(.param .b32 x) {
    .reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.u32 [out+0], %r2; ret;
    }
    """
    call = "{{ .param .b32 a; st.param.b32 [a+0], {0}; .param .b32 b; call.uni (b), twice, (a); "
    call += "ld.param.b32 %r4, [b+0]; }}"
    body = "setp.lt.u32 %p1, %r1, 2; @%p1 bra $few; " + call.format("%r1")
    body += " bra.uni $end; $few: add.u32 %r5, %r1, 100; " + call.format("%r5")
    a = room(4)
    launch(OWN + body + "$end: st.global.u32 [%rd2], %r4; ret;", a, before=function)
    np.testing.assert_array_equal(a, [200, 202, 4, 6])


SHARED = ".shared .align 8 .b8 room[32];"
NEIGHBOUR = (
    OWN
    + """
mov.u64 %rd3, room; mov.u32 %r4, %tid.x; mul.wide.u32 %rd4, %r4, 4; add.u64 %rd3, %rd3, %rd4;
st.shared.u32 [%rd3], %r1; {0}
xor.b32 %r5, %r4, 1; mov.u64 %rd5, room; mul.wide.u32 %rd4, %r5, 4; add.u64 %rd5, %rd5, %rd4;
ld.shared.u32 %r6, [%rd5]; st.global.u32 [%rd2], %r6; ret;
"""
)


def test_each_block_has_its_own_shared_memory():
    a = room(16)
    launch(NEIGHBOUR.format("bar.sync 0;"), a, blocks=2, threads=8, before=SHARED)
    np.testing.assert_array_equal(a, np.arange(16) ^ 1)


# --- what is refused ------------------------------------------------------------------------------

WRONG = {
    "16 bytes not aligned": "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+4];",
    "4 bytes not aligned": "st.global.u32 [%rd1+2], %r1;",
    r"4 bytes outside of all arrays.*0x": OWN + "st.global.u32 [%rd2+4], %r1;",
    "4 bytes outside": "st.global.u32 [%rd1+-4], %r1;",
    "16 bytes outside": "st.global.v4.u32 [%rd1+16], {%r1, %r1, %r1, %r1};",
    "8 bytes outside": "mov.u64 %rd1, -8; ld.global.u64 %rd2, [%rd1];",  # its end is 2**64
    "thread 3 of block 0 .*outside": OWN + "ld.global.u32 %r4, [%rd2+4];",
    "unknown instruction": "frobnicate.b32 %r1, %r2;",
    "an unknown instruction": "add.rz.f32 %f1, %f2, %f3;",
    "instruction 1 .*unknown instruction": "ld.global.cs.u32 %r1, [%rd1];",
    "nowhere": "bra nowhere;",
    "unknown operand": "mov.u64 %rd2, nowhere;",
    "in a register of 4 bytes": "add.f64 %fd1, %r1, %r2;",
    "into a register of 8 bytes": "add.s32 %rd1, %r1, %r2;",
    "64 bits as float32": "add.f32 %f1, %f2, 0d3FF0000000000000;",
    "division of integers by zero": "mov.u32 %r1, 0; div.u32 %r2, %r1, %r1;",
    "does not end": "$L: bra.uni $L;",
    "races with thread": "st.global.u32 [%rd1], %r1;",
    "a barrier of some threads": "bar.sync 1;",
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_refused(message):
    body = "ld.param.u64 %rd1, [at];" + WRONG[message]
    with pytest.raises(PtxError, match=f"kernel: .*{message}"):
        launch(body + "ret;", room(4), limit=1_000)


def test_a_program_ends_with_all_its_threads():
    with pytest.raises(PtxError, match=r"thread 1 of block 0 .*runs beyond the end"):
        launch(OWN + "setp.eq.u32 %p1, %r1, 0; @%p1 ret;", room(4))


@pytest.mark.parametrize(
    ("barrier", "blocks"), [("", 1), ("bar.sync 0;", 2)], ids=["no barrier", "two blocks"]
)
def test_who_reads_what_another_writes_waits_at_a_barrier_of_both(barrier, blocks):
    """All threads write their number, and read that of the one beside them in the launch."""
    a = room(9)
    body = f"st.global.u32 [%rd2], %r1; {barrier} xor.b32 %r4, %r1, {{}};"
    body += "mul.wide.u32 %rd3, %r4, 4; add.u64 %rd3, %rd1, %rd3; ld.global.u32 %r5, [%rd3]; ret;"
    with pytest.raises(PtxError, match="races with thread"):
        launch(OWN + body.format(4 if blocks == 2 else 1), a, blocks)
    launch(OWN + body.format(0), a, blocks)  # each its own
    if barrier:
        launch(OWN + body.format(1), a, blocks)  # another of the block


def test_parts_of_one_number_race_too():
    body = "mul.wide.u32 %rd3, %r1, 8; add.u64 %rd3, %rd1, %rd3; mov.u64 %rd4, 0;"
    body += "setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u64 [%rd1], %rd4;"
    body += "setp.eq.u32 %p1, %r1, 1; @%p1 ld.global.u16 %rs1, [%rd1+6]; ret;"
    with pytest.raises(PtxError, match=r"thread 0 .*st\.global\.u64.* races .*thread 1 .*ld\."):
        launch(OWN + body, room(8))


def test_shared_memory_without_a_barrier_between():
    with pytest.raises(PtxError, match=r"st\.shared.* races .*ld\.shared"):
        launch(NEIGHBOUR.format(""), room(8), threads=8, before=SHARED)


def test_threads_may_write_one_number_into_shared_memory():
    body = "mov.u32 %r4, {}; st.shared.u32 [room], %r4; ret;"
    launch(OWN + body.format("5"), room(4), before=SHARED)
    with pytest.raises(PtxError, match="races with thread"):
        launch(OWN + body.format("%tid.x"), room(4), before=SHARED)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.shared.u32 %r1, [room];", "reads what nobody wrote"),
        ("st.shared.u64 [room+28], %rd1;", "8 bytes not aligned"),
        ("st.shared.u32 [room+32], %r1;", "4 bytes outside of all arrays"),
    ],
)
def test_wrong_use_of_shared_memory(body, message):
    with pytest.raises(PtxError, match=message):
        launch(body + "ret;", room(4), before=SHARED)


def test_each_thread_has_memory_of_its_own():
    own = ".local .align 8 .b8 depot[8]; mov.u64 %rd5, depot; cvta.local.u64 %rd6, %rd5;"
    own += "add.u64 %rd7, %rd5, 4; bar.sync 0;"
    a = room(8)
    launch(OWN + own + "st.local.u32 [%rd7], %r1; ld.local.u32 %r4, [depot+4];"
           "st.global.u32 [%rd2], %r4; ret;", a, blocks=2)  # fmt: skip
    np.testing.assert_array_equal(a, np.arange(8))
    with pytest.raises(PtxError, match="reads what nobody wrote"):
        launch(OWN + own + "ld.local.u32 %r4, [depot]; ret;", a)
    with pytest.raises(PtxError, match="4 bytes outside of all arrays"):  # no global address
        launch(OWN + own + "st.u32 [%rd6], %r1; ret;", a)


def test_a_block_waits_at_one_barrier():
    two = "setp.eq.u32 %p1, %r1, 0; @%p1 bra $other; bar.sync 0; ret; $other: bar.sync 0; ret;"
    with pytest.raises(PtxError, match="waits at 2 barriers"):
        launch(OWN + two, room(4))
    ended = "setp.eq.u32 %p1, %r1, 0; @%p1 ret; bar.sync 0; st.global.u32 [%rd2], 1; ret;"
    a = room(4)
    launch(OWN + ended, a)
    np.testing.assert_array_equal(a, [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "takes 1 numbers, got 0"),
        ([1, 2], "takes 1 numbers, got 2"),
        ([1.0], r"number 0 is a \.u64, got float64"),
        ([True], r"number 0 is a \.u64, got bool"),
        ([np.int32(1)], r"number 0 is a \.u64, got int32"),
        (["x"], "takes numbers, got str"),
    ],
)
def test_what_is_passed_fits_the_parameters(values, message):
    with pytest.raises(PtxError, match=message):
        launch("ret;", room(4), values=values)


def test_what_is_no_launch():
    for blocks, threads in ((0, 4), (1, 0), (1, 2048)):
        with pytest.raises(PtxError, match="blocks of"):
            launch("ret;", room(4), blocks, threads)


@pytest.mark.parametrize(
    "text",
    [
        ".visible .entry kernel(.param .align 8 .b8 a[16]) { ret; }",
        ".visible .entry kernel() .maxntid 4 { ret; }",
        ".visible .entry kernel() { .const .align 8 .b8 table[8]; ret; }",
        ".visible .entry kernel() { add.s32 %r1, %r1, 1; ret",
        ".visible .entry other() { ret; }",
        ".func kernel() { ret; }",
    ],
)
def test_what_the_parser_does_not_know(text):
    with pytest.raises(PtxError):
        parse(text, "kernel")
