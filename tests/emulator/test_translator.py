"""PTX by hand, run: the emulator computes what the manual of PTX says. A GPU has to agree."""

from __future__ import annotations

import numpy as np
import pytest

HEAD = ".version 8.5\n.target sm_80\n.address_size 64\n"

NAN, INF = np.nan, np.inf
#: From the manual: an instruction, what it gets, and what it gives.
MANUAL = [
    ("min.f32", (-0.0, 0.0), -0.0), ("max.f32", (-0.0, 0.0), 0.0), ("min.f64", (NAN, 2.0), 2.0),
    ("max.f32", (1.0, NAN), 1.0), ("setp.ne.f64", (NAN, 1.0), False),
    ("setp.neu.f64", (NAN, 1.0), True), ("setp.ltu.f32", (2.0, NAN), True),
    ("setp.nan.f32", (NAN, 1.0), True), ("setp.eq.f32", (-0.0, 0.0), True),
    ("shl.b32", (1, 32), 0), ("shr.u64", (2**63, 64), 0), ("shr.s32", (-8, 40), -1),
    ("div.s64", (-7, 2), -3), ("rem.s32", (-7, 2), -1),
    ("mul.wide.s32", (-2, 2**31 - 1), -(2**32 - 2)), ("mul.wide.u32", (2**32 - 1, 2), 2**33 - 2),
    ("mul.hi.u64", (2**64 - 1, 2**64 - 1), 2**64 - 2), ("abs.s32", (-3,), 3),
    ("popc.b32", (0xF0F,), 8), ("clz.b32", (1,), 31), ("bfi.b32", (0xF, 0, 4, 8), 0xF0),
    ("neg.f32", (0.0,), -0.0), ("cvt.rmi.f64.f64", (-1.5,), -2.0),
    ("cvt.rpi.f64.f64", (-1.5,), -1.0), ("cvt.rzi.f64.f64", (-1.5,), -1.0),
    ("cvt.rni.f32.f32", (2.5,), 2.0), ("cvt.rzi.s32.f32", (-1.9,), -1),
    ("cvt.rzi.s32.f32", (3e9,), 2**31 - 1), ("cvt.rzi.u32.f64", (-5.0,), 0),
    ("cvt.rzi.s64.f64", (1e300,), 2**63 - 1), ("cvt.rzi.s32.f32", (NAN,), 0),
    ("cvt.rzi.s64.f64", (NAN,), -(2**63)), ("cvt.rzi.u64.f64", (2.0**63,), 2**63),
    ("cvt.rn.f32.f64", (1 + 2**-24,), 1.0), ("cvt.rn.f32.f64", (1e300,), INF),
    ("cvt.rn.f32.s64", (2**24 + 1,), 2.0**24), ("add.rm.f64", (1.0, -1.0), -0.0),
    ("fma.rn.f64", (1 + 2**-52, 1 - 2**-52, -1.0), -(2.0**-104)),
    ("fma.rn.f32", (1 + 2**-23, 1 - 2**-23, -1.0), -(2.0**-46)),
    ("add.ftz.f32", (1e-40, 0.0), 0.0), ("div.rn.f32", (1.0, 3.0), np.float32(1 / 3)),
    ("sqrt.rn.f32", (2.0,), np.float32(2**0.5)), ("sqrt.rn.f64", (-1.0,), NAN),
    ("sqrt.rn.f32", (-1.0,), NAN), ("selp.f32", (1.0, 2.0, False), 2.0),
]  # fmt: skip
_FLOATS = {"f32": np.float32, "f64": np.float64, "pred": np.bool_}


def types_of(instruction, count):
    """The type of the result, and those of `count` operands."""
    name, *words = instruction.split(".")
    kind = words[-1]
    operands = [kind] * count
    if name in ("shl", "shr"):
        operands[1] = "u32"
    if name == "bfi":
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
    body = "".join(registers) + ".reg .b32 %r<9>; .reg .b64 %rd<9>;" + "\n".join(code)
    return f"{HEAD}.visible .entry kernel(.param .u64 at) {{ {body} ret; }}"


@pytest.mark.parametrize(("instruction", "given", "wanted"), MANUAL)
def test_what_the_manual_says(cp, instruction, given, wanted):
    result, operands = types_of(instruction, len(given))
    memory = np.zeros(len(given) + 1, np.uint64)
    for place, (value, kind) in enumerate(zip(given, operands, strict=True)):
        memory[place : place + 1].view(dtype_of(kind))[0] = value
    module, device = cp.cuda.function.Module(), cp.asarray(memory)
    module.load(kernel_of(instruction, operands, result).encode())
    module.get_function("kernel")((1,), (1,), (device,))
    got = cp.asnumpy(device)[-1:].view(dtype_of(result))[0]
    np.testing.assert_array_equal(got, dtype_of(result).type(wanted))
    if got.dtype.kind == "f" and wanted == 0:
        assert np.signbit(got) == np.signbit(wanted)
    if result == "f32" and wanted != wanted:
        assert got.view(np.uint32) == 0x7FFF_FFFF
