"""A step of one array or many, against its own memory traffic and other implementations."""

import functools
import itertools

import numpy as np

import numadam
from numadam import nopython
from numadam._bench import peers
from numadam._core.parts import parts_of
from numadam._cpu.loop import SERIAL, compiled_step

from . import sides as own
from .common import Case, Cases, pair, size, step, under_layer, values

SIZES = {"50M": 5 * 10**7, "20M": 2 * 10**7, "10M": 10**7, "5M": 5 * 10**6, "1M": 10**6}
SIZES |= {"500k": 500_000, "100k": 100_000, "10k": 10_000, "1000": 1_000}
TORCH = ("torch",)


def _against(name, peer, title, targets, needs=()):
    """Steps of one array against a peer; `targets` by size."""
    return {
        f"{name}-{text}": Case(
            f"a step of {text} / {title}",
            target,
            pair(step(SIZES[text]), functools.partial(peer, size(SIZES[text]))),
            needs,
            memory=8.0 if text == "50M" else 0.0,
        )
        for text, target in targets.items()
    }


def deepspeed_adam(n):
    """DeepSpeed's CPUAdam, which is built when it is first used."""
    peers.need("torch", "deepspeed")
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(peers.tensors([n]), lr=peers.STEP_LR, adamw_mode=False).step
    except Exception as error:  # a compiler or ninja is missing: many kinds of error
        reason = str(error).strip().split("\n")[0]
        raise peers.Unavailable(f"DeepSpeed's CPUAdam does not build here: {reason}") from error


def bare(kind):
    """One `adam_update` of five float64 numbers, as a user's own class calls it."""
    p, g = values(5, np.float64), values(5, np.float64, 1)
    m, v, out, t = np.zeros_like(p), np.zeros_like(p), np.empty_like(p), 0
    update, compiled = numadam.adam_update, nopython.adam_update

    # written out: keywords from a dictionary would take longer than a user's
    def plain():
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=1e-3)

    def like():
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=1e-3, like="torch")

    def to_out():
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=1e-3, out=out)

    def from_python():
        nonlocal t
        t += 1
        compiled(p, g, m, v, t, lr=1e-3)

    return {"plain": plain, "like": like, "out": to_out, "nopython": from_python}[kind]


def _bare(what, kind):
    title = f"{what} of 5 float64 / ten-line NumPy Adam"
    theirs = functools.partial(peers.numpy_adam, 5, np.float64)
    return Case(title, 0.3, pair(functools.partial(bare, kind), theirs))


def step_with(name):
    """One step of five float64 numbers, with "out", "params" or "" of the call."""
    params, grads = values(5, np.float64), values(5, np.float64, 1)
    optimizer, other = numadam.Adam(params, lr=1e-3), params.copy()
    return {
        "out": lambda: optimizer.step(grads, out=other),
        "params": lambda: optimizer.step(grads, params=other),
        "": lambda: optimizer.step(grads),
    }[name]


def _step_with(option):
    sides = (functools.partial(step_with, name) for name in (option, ""))
    return Case(f"a step of 5 float64 with {option}= / without", 1.8, pair(*sides))


def many(kind):
    """A step over 1000 arrays: other objects at each ("checked"), the same ones, or `opt.grads`."""
    params = [values(1000, seed=k) for k in range(size(1000))]
    grads = [values(1000, seed=k + 1) for k in range(size(1000))]
    optimizer = numadam.Adam(params, lr=1e-3)
    if kind == "same":
        return functools.partial(optimizer.step, grads)
    if kind == "grads":
        optimizer.grads = grads
        return optimizer.step
    # made beforehand: what it costs to make them is the caller's
    rounds = itertools.cycle([[g[:] for g in grads] for _ in range(4)])
    return lambda: optimizer.step(next(rounds))


def _many(kind, what, target):
    theirs = functools.partial(peers.torch_fused, *[size(1000)] * size(1000))
    sides = pair(functools.partial(many, kind), theirs)
    return Case(f"1000 arrays of 1000, {what} / torch fused", target, sides, TORCH)


def matmuls(n_in, n_out, serial):
    """A layer's forward and backward product for a batch of 128, and a step of its weights."""
    n_in, n_out = size(n_in), size(n_out)
    x, w = peers.values(128 * n_in).reshape(128, n_in), peers.values(n_in * n_out)
    w = w.reshape(n_in, n_out)
    y, g = np.empty((128, n_out), np.float32), np.empty_like(w)
    optimizer = numadam.Adam(w, lr=0.0)  # the weights stay, so that every round is alike
    if serial:
        backend = parts_of(optimizer).backend
        backend.compiled.kernel().step = compiled_step(backend.memory.plan, False, SERIAL)

    def layer():
        np.matmul(x, w, out=y)
        np.matmul(x.T, y, out=g)
        optimizer.step(g)

    return layer


def _matmuls(text, n_in, n_out):
    sides = (functools.partial(matmuls, n_in, n_out, serial) for serial in (False, True))
    return Case(f"two matmuls + a step of {text} / the same, step serial", 1.1, pair(*sides))


def usual_of_torch(tensor):
    """A clip of the gradient in place, a fused step, and a lerp."""
    import torch

    optimizer = torch.optim.AdamW([tensor], lr=peers.STEP_LR, fused=True)
    average = tensor.detach().clone()
    clip = torch.nn.utils.clip_grad_norm_

    def step():
        clip([tensor], 1.0)
        optimizer.step()
        with torch.no_grad():
            average.lerp_(tensor, 1e-3)

    return step


def _usual(text, target):
    what = f"clip by norm, AdamW and EMA of {text} / torch: clip_grad_norm_, fused AdamW, lerp_"
    ours = step(SIZES[text], rule="AdamW", clip_norm=1.0, ema=0.999)
    sides = pair(ours, lambda: usual_of_torch(*peers.tensors([size(SIZES[text])])))
    return Case(what, target, sides, TORCH)


def _workqueue(text, target):
    what = f"a step of {text} under Numba's workqueue layer / torch fused"
    return Case(what, target, under_layer("workqueue", "step", f"torch-{text}"), TORCH)


_ROOFLINES = {"50M": 1.05, "10M": 1.05, "5M": 1.05, "1M": 1.1, "500k": 1.1, "100k": 1.1}
_TO_TORCH = {"50M": 1.0, "10M": 1.0, "1M": 0.65, "100k": 0.35, "10k": 0.12, "1000": 0.05}


class Roofline(Cases):
    cases = {
        **_against("roofline", own.Roofline, "4R3W roofline", _ROOFLINES),
        "roofline-10M-float64": Case(
            "a step of 10M float64 / its roofline",
            1.1,
            pair(
                step(10**7, np.float64),
                functools.partial(own.Roofline, size(10**7), np.float64),
            ),
        ),
    }
    track_ratio = Cases.value


class Peers(Cases):
    cases = {
        **_against("torch", peers.torch_fused, "torch fused", _TO_TORCH, TORCH),
        **_against(
            "deepspeed",
            deepspeed_adam,
            "DeepSpeed CPUAdam",
            {"1M": 0.8, "100k": 0.8},
            ("torch", "deepspeed"),
        ),
        **_against("numpy", peers.numpy_adam, "ten-line NumPy Adam", {"1000": 0.2}),
        "bare-5": _bare("adam_update", "plain"),
        "bare-like-5": _bare("adam_update with like='torch'", "like"),
        "bare-out-5": _bare("adam_update with out=", "out"),
        "bare-nopython-5": _bare("nopython.adam_update, called from Python,", "nopython"),
        "usual-20M": _usual("20M", 0.8),
        "usual-1M": _usual("1M", 0.45),
        "usual-10k": _usual("10k", 0.15),
        "workqueue-10M": _workqueue("10M", 1.0),
        "workqueue-1M": _workqueue("1M", 0.8),
    }
    track_ratio = Cases.value


class ArraysOfTheCall(Cases):
    cases = {"step-out-5": _step_with("out"), "step-params-5": _step_with("params")}
    track_ratio = Cases.value


class ManyArrays(Cases):
    cases = {
        "many-checked": _many("checked", "other objects each step", 0.15),
        "many-same": _many("same", "the same objects", 0.08),
        "many-grads": _many("grads", "opt.grads", 0.06),
    }
    track_ratio = Cases.value


class BesideMatmuls(Cases):
    cases = {
        "matmul-50k": _matmuls("50k", 784, 64),
        "matmul-1M": _matmuls("1M", 1000, 1000),
        "matmul-4M": _matmuls("4M", 2000, 2000),
    }
    track_ratio = Cases.value
