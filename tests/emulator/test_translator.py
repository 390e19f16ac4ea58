"""PTX by hand, run: the emulator computes what the manual of PTX says. A GPU has to agree."""

from __future__ import annotations

import numpy as np
import pytest

HEAD = ".version 8.5\n.target sm_80\n.address_size 64\n"
REGISTERS = """
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;
.reg .f64 %fd<9>;
"""
#: %r1: number of the thread in the launch; %rd2: where it has 4 bytes of the array.
BEGIN = """
ld.param.u64 %rd1, [at];
mov.u32 %r1, %tid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %ctaid.x; mad.lo.s32 %r1, %r3, %r2, %r1;
mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
"""


def launch(cp, body, array, blocks=1, threads=4, before=""):
    """What an array holds after a kernel that takes its address."""
    text = f"{HEAD}{before}.visible .entry kernel(.param .u64 at) {{ {REGISTERS} {body} ret; }}"
    module = cp.cuda.function.Module()
    module.load(text.encode())
    device = cp.asarray(array)
    module.get_function("kernel")((blocks,), (threads,), (device,))
    return cp.asnumpy(device)


# --- instructions by themselves -------------------------------------------------------------------

NAN, INF = np.nan, np.inf
#: From the manual: an instruction, what it gets, and what it gives.
MANUAL = [
    ("min.f32", (-0.0, 0.0), -0.0), ("max.f32", (-0.0, 0.0), 0.0), ("min.f64", (NAN, 2.0), 2.0),
    ("max.f32", (1.0, NAN), 1.0), ("setp.ne.f64", (NAN, 1.0), False),
    ("setp.neu.f64", (NAN, 1.0), True), ("setp.ltu.f32", (2.0, NAN), True),
    ("setp.lt.f32", (2.0, NAN), False), ("setp.num.f64", (NAN, 1.0), False),
    ("setp.nan.f32", (NAN, 1.0), True), ("setp.eq.f32", (-0.0, 0.0), True),
    ("setp.gt.u32", (2**32 - 1, 1), True), ("setp.gt.s32", (-1, 1), False),
    ("shl.b32", (1, 32), 0), ("shr.u32", (2**31, 31), 1), ("shr.u64", (2**63, 64), 0),
    ("shr.s32", (-8, 40), -1), ("shr.s64", (-8, 1), -4), ("div.s64", (-7, 2), -3),
    ("rem.s32", (-7, 2), -1), ("div.u32", (2**32 - 1, 2), 2**31 - 1),
    ("mul.wide.s32", (-2, 2**31 - 1), -(2**32 - 2)), ("mul.wide.u32", (2**32 - 1, 2), 2**33 - 2),
    ("mul.hi.s32", (-1, 5), -1),
    ("mul.hi.u64", (2**64 - 1, 2**64 - 1), 2**64 - 2), ("mul.hi.s64", (-(2**62), 5), -2),
    ("mul.lo.s32", (2**30, 4), 0), ("abs.s32", (-3,), 3), ("popc.b32", (0xF0F,), 8),
    ("clz.b32", (1,), 31), ("bfe.u32", (0xABCD, 4, 8), 0xBC),
    ("bfe.s32", (0x80, 4, 4), -8), ("bfi.b32", (0xF, 0, 4, 8), 0xF0),
    ("prmt.b32", (0x03020100, 0x07060504, 0x7531), 0x07050301),
    ("shf.l.wrap.b32", (2**31, 1, 1), 3), ("shf.r.clamp.b32", (5, 1, 32), 1),
    ("cvt.s64.s32", (-1,), -1), ("cvt.u64.u32", (2**32 - 1,), 2**32 - 1), ("neg.f32", (0.0,), -0.0),
    ("cvt.rmi.f64.f64", (-1.5,), -2.0), ("cvt.rpi.f64.f64", (-1.5,), -1.0),
    ("cvt.rzi.f64.f64", (-1.5,), -1.0), ("cvt.rni.f32.f32", (2.5,), 2.0),
    ("cvt.rzi.s32.f32", (-1.9,), -1), ("cvt.rzi.s32.f32", (3e9,), 2**31 - 1),
    ("cvt.rzi.u32.f64", (-5.0,), 0), ("cvt.rzi.s64.f64", (1e300,), 2**63 - 1),
    ("cvt.rzi.s32.f32", (NAN,), 0), ("cvt.rzi.s64.f64", (NAN,), -(2**63)),
    ("cvt.rzi.u64.f64", (2.0**63,), 2**63), ("cvt.rn.f32.f64", (1 + 2**-24,), 1.0),
    ("cvt.rn.f32.f64", (1e300,), INF), ("cvt.rn.f32.s64", (2**24 + 1,), 2.0**24),
    ("cvt.rz.f32.f64", (1 + 1.9 * 2**-23,), 1 + 2**-23), ("add.rm.f64", (1.0, -1.0), -0.0),
    ("fma.rn.f64", (1 + 2**-52, 1 - 2**-52, -1.0), -(2.0**-104)),
    ("fma.rn.f32", (1 + 2**-23, 1 - 2**-23, -1.0), -(2.0**-46)),
    ("mul.rp.f32", (1 + 2**-23, 1 + 2**-23), 1 + 3 * 2**-23), ("add.ftz.f32", (1e-40, 0.0), 0.0),
    ("div.rn.f32", (1.0, 3.0), np.float32(1 / 3)), ("sqrt.rn.f32", (2.0,), np.float32(2**0.5)),
    ("sqrt.rn.f64", (-1.0,), NAN), ("sqrt.rn.f32", (-1.0,), NAN),
    ("selp.f32", (1.0, 2.0, False), 2.0), ("not.pred", (True,), False),
    ("min.s64", (-1, 1), -1), ("max.u32", (1, 2), 2),
]  # fmt: skip
_FLOATS = {"f32": np.float32, "f64": np.float64, "pred": np.bool_}


def types_of(instruction, count):
    """The type of the result, and those of `count` operands."""
    name, *words = instruction.split(".")
    kind = words[-1]
    operands = [kind] * count
    if name in ("shl", "shr"):
        operands[1] = "u32"
    if name in ("bfe", "bfi"):
        operands[-2:] = ["u32", "u32"]
    if name == "selp":
        operands[2] = "pred"
    if "wide" in words:
        return f"{kind[0]}{2 * int(kind[1:])}", operands
    results = {"setp": "pred", "popc": "u32", "clz": "u32", "cvt": words[-2] if words[1:] else ""}
    return results.get(name, kind), operands


def dtype_of(kind):
    return np.dtype(_FLOATS.get(kind) or f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")


def kernel_of(instruction, operands, result):
    """PTX that reads operands of 8 bytes each from `at`, and writes the result behind them."""
    registers, code = [], ["ld.param.u64 %rd1, [at];"]
    for place, kind in enumerate([*operands, result]):
        bits = f"b{8 * dtype_of(kind).itemsize}"
        register = f".f{bits[1:]}" if kind in ("f32", "f64") else f".{bits}"
        registers.append(
            f".reg .pred %x{place};" if kind == "pred" else f".reg {register} %x{place};"
        )
    for place, kind in enumerate(operands):
        at = f"[%rd1+{8 * place}]"
        if kind == "pred":
            code.append(f"ld.global.u32 %r1, {at}; setp.ne.u32 %x{place}, %r1, 0;")
        else:
            code.append(f"ld.global.{kind} %x{place}, {at};")
    last = len(operands)
    names = ", ".join(f"%x{place}" for place in (last, *range(last)))
    code.append(f"{instruction} {names};")
    if result == "pred":
        code.append(f"selp.u32 %r2, 1, 0, %x{last}; st.global.u32 [%rd1+{8 * last}], %r2;")
    else:
        code.append(f"st.global.{result} [%rd1+{8 * last}], %x{last};")
    return "".join(registers) + "\n".join(code)


@pytest.mark.parametrize(("instruction", "given", "wanted"), MANUAL)
def test_what_the_manual_says(cp, instruction, given, wanted):
    result, operands = types_of(instruction, len(given))
    memory = np.zeros(len(given) + 1, np.uint64)
    for place, (value, kind) in enumerate(zip(given, operands, strict=True)):
        memory[place : place + 1].view(dtype_of(kind))[0] = value
    memory = launch(cp, kernel_of(instruction, operands, result), memory, threads=1)
    got = memory[-1:].view(dtype_of(result))[0]
    np.testing.assert_array_equal(got, dtype_of(result).type(wanted))
    if got.dtype.kind == "f" and wanted == 0:
        assert np.signbit(got) == np.signbit(wanted)
    if result == "f32" and wanted != wanted:
        assert got.view(np.uint32) == 0x7FFF_FFFF


def test_an_approximation_is_right_to_20_bits_and_no_better(cp):
    x = np.random.default_rng(5).uniform(1e-9, 1e9, 100)
    body = """
    ld.param.u64 %rd1, [at]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 8;
    add.s64 %rd2, %rd1, %rd2; ld.global.f64 %fd1, [%rd2]; rcp.approx.ftz.f64 %fd2, %fd1;
    st.global.f64 [%rd2], %fd2;
    """
    got = launch(cp, body, x, threads=100)
    np.testing.assert_allclose(got, 1 / x, rtol=2.0**-19)
    assert not (got.view(np.uint64) & np.uint64(0xFFFF_FFFF)).any()


# --- control, memory, threads ---------------------------------------------------------------------

LOOP = """
mov.u32 %r4, 0; mov.u32 %r5, 0;
$again: setp.ge.s32 %p1, %r4, %r1; @%p1 bra $done;
add.s32 %r4, %r4, 1; mad.lo.s32 %r5, %r4, 2, %r5; bra.uni $again;
$done: st.global.u32 [%rd2], %r5;
"""
TWICE = """
.func (.param .b32 out) twice(.param .b32 x) ;
.func (.param .b32 out) twice(.param .b32 x) {
.reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.u32 [out+0], %r2; ret;
}
"""
CALL = """{{ .param .b32 a; st.param.b32 [a+0], {0}; .param .b32 b; call.uni (b), twice, (a);
ld.param.b32 %r4, [b+0]; }}"""
CALLS = f"""
setp.lt.u32 %p1, %r1, 2; @%p1 bra $few; {CALL.format("%r1")} bra.uni $end;
$few: add.u32 %r5, %r1, 100; {CALL.format("%r5")} $end: st.global.u32 [%rd2], %r4;
"""
NEIGHBOUR = """
mov.u64 %rd3, room; mov.u32 %r4, %tid.x; mul.wide.u32 %rd4, %r4, 4; add.u64 %rd3, %rd3, %rd4;
st.shared.u32 [%rd3], %r1; bar.sync 0;
xor.b32 %r5, %r4, 1; mov.u64 %rd5, room; mul.wide.u32 %rd4, %r5, 4; add.u64 %rd5, %rd5, %rd4;
ld.shared.u32 %r6, [%rd5]; st.global.u32 [%rd2], %r6;
"""
LOCAL = """
.local .align 4 .b8 room[8]; mov.u64 %rd3, room; cvta.local.u64 %rd4, %rd3;
st.local.u32 [%rd3], 3; st.u32 [%rd4+4], %r1; ld.local.u32 %r4, [%rd3+4]; ld.u32 %r5, [%rd4];
add.u32 %r4, %r4, %r5; st.global.u32 [%rd2], %r4;
"""
VECTORS = """
setp.eq.u32 %p1, %r1, 0; @!%p1 bra $done;
ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1]; st.global.v4.b32 [%rd1+16], {%r7, %r6, %r5, %r4};
$done:
"""
ODD = "and.b32 %r4, %r1, 1; setp.ne.u32 %p1, %r4, 0;"
STORE = "st.global.u32 [%rd2], %r5;"
LANES = np.arange(8)
#: By name: a body for 8 threads, what comes before the kernel, and what they write.
KERNELS = {
    "numbers": ("st.global.u32 [%rd2], %r1;", "", LANES),
    "loop": (LOOP, "", LANES * (LANES + 1)),
    "guard": ("setp.eq.u32 %p1, %r1, 2; @!%p1 st.global.u32 [%rd2], 7;", "", 7 * (LANES != 2)),
    "function": (CALLS, TWICE, 2 * (LANES + 100 * (LANES < 2))),
    "shared memory": (NEIGHBOUR, ".shared .align 8 .b8 room[32];", LANES ^ 1),
    "local memory": (LOCAL, "", LANES + 3),
    "vectors": (VECTORS, "", np.zeros(8)),
    "shfl.bfly": (f"shfl.sync.bfly.b32 %r5, %r1, 3, 31, 255; {STORE}", "", LANES ^ 3),
    "shfl.down": (
        f"shfl.sync.down.b32 %r5, %r1, 2, 6175, 255; {STORE}",  # segments of 8 lanes
        "",
        [2, 3, 4, 5, 6, 7, 6, 7],
    ),
    "lanes of a branch": (
        f"{ODD} mov.u32 %r5, 9; @%p1 bra $out; shfl.sync.idx.b32 %r5, %r1, 4, 31, 85;"
        f" $out: {STORE}",
        "",
        [4, 9] * 4,
    ),
    "atomics": ("atom.global.add.u32 %r5, [%rd1], 1;", "", [8, *[0] * 7]),
    "constants": (
        f"mov.u64 %rd3, table; mul.wide.u32 %rd4, %r1, 2; add.u64 %rd3, %rd3, %rd4;"
        f" ld.global.u16 %r5, [%rd3]; {STORE}",
        ".global .align 2 .u16 table[8] = {1, 2, 3, 4, 5, 6, 7, 65535};",
        [1, 2, 3, 4, 5, 6, 7, 65535],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(cp, name):
    body, before, wanted = KERNELS[name]
    got = launch(cp, BEGIN + body, np.zeros(8, np.uint32), threads=8, before=before)
    np.testing.assert_array_equal(got, wanted)


def test_blocks_have_shared_memory_of_their_own(cp):
    before = ".shared .align 8 .b8 room[32];"
    got = launch(cp, BEGIN + NEIGHBOUR, np.zeros(16, np.uint32), 2, 8, before)
    np.testing.assert_array_equal(got, np.arange(16) ^ 1)
