"""An LSTM and a dense layer, in NumPy: forward, and back-propagation through time by hand.

One layer of `n` memory cells reads a number at a time and says one number after each
(Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997; with the forget
gate of Gers, Schmidhuber and Cummins, 2000)::

    z = [x_t, h_{t-1}] W + b               four gates in one product: i, f, o and g
    c_t = sigm(f) c_{t-1} + sigm(i) tanh(g)
    h_t = sigm(o) tanh(c_t)
    y_t = h_t w + d                        the dense layer
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Params = dict[str, Array]


class Trace(NamedTuple):
    """Values that the backward pass needs: shapes (time, batch, ...)."""

    joined: Array  # [x_t, h_{t-1}]
    gates: Array  # i, f, o and g after their sigmoid or tanh
    cells: Array  # c, one more in time: the first is 0
    hidden: Array  # h_t
    outputs: Array  # y_t


def init(rng: np.random.Generator, cells: int, scale: float = 1.0, dtype: Any = "f4") -> Params:
    """Random weights; `scale` multiplies those of the recurrence. Forget gates begin open."""
    w = rng.standard_normal((1 + cells, 4 * cells)) / np.sqrt(1 + cells)
    w[1:] *= scale
    b = np.zeros(4 * cells)
    b[cells : 2 * cells] = 1
    v = rng.standard_normal(cells) / np.sqrt(cells)
    params = {"w": w, "b": b, "v": v, "d": np.zeros(())}
    return {key: value.astype(dtype) for key, value in params.items()}


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def forward(params: Params, x: Array) -> Trace:
    """Read the series `x`, of shape (time, batch), from a state of zeros."""
    w, b, n = params["w"], params["b"], params["v"].size
    steps, batch = x.shape
    joined = np.empty((steps, batch, 1 + n), x.dtype)
    gates = np.empty((steps, batch, 4 * n), x.dtype)
    cells = np.zeros((steps + 1, batch, n), x.dtype)
    hidden = np.zeros((steps + 1, batch, n), x.dtype)
    for t in range(steps):
        joined[t, :, 0], joined[t, :, 1:] = x[t], hidden[t]
        z = joined[t] @ w + b
        gates[t, :, : 3 * n] = sigmoid(z[:, : 3 * n])
        gates[t, :, 3 * n :] = np.tanh(z[:, 3 * n :])
        i, f, o, g = np.split(gates[t], 4, axis=1)
        cells[t + 1] = f * cells[t] + i * g
        hidden[t + 1] = o * np.tanh(cells[t + 1])
    return Trace(joined, gates, cells, hidden[1:], hidden[1:] @ params["v"] + params["d"])


def backward(
    params: Params,
    trace: Trace,
    error: Array,
    grads: Params,
) -> None:
    """Write into `grads` the gradients of a loss.

    `error` is its derivative by the outputs.
    """
    w, v, n = params["w"], params["v"], params["v"].size
    dz = np.empty_like(trace.gates)
    dh = dc = np.zeros_like(trace.hidden[0])  # derivatives by h_t and c_t
    for t in reversed(range(len(error))):
        i, f, o, g = np.split(trace.gates[t], 4, axis=1)
        tanh_c = np.tanh(trace.cells[t + 1])
        dh = dh + error[t, :, None] * v
        dc = dc + dh * o * (1 - tanh_c**2)
        dz[t, :, :n] = dc * g * i * (1 - i)
        dz[t, :, n : 2 * n] = dc * trace.cells[t] * f * (1 - f)
        dz[t, :, 2 * n : 3 * n] = dh * tanh_c * o * (1 - o)
        dz[t, :, 3 * n :] = dc * i * (1 - g**2)
        dh, dc = dz[t] @ w[1:].T, dc * f
    flat = dz.reshape(-1, 4 * n)
    np.matmul(trace.joined.reshape(-1, 1 + n).T, flat, out=grads["w"])
    np.sum(flat, axis=0, out=grads["b"])
    np.matmul(trace.hidden.reshape(-1, n).T, error.ravel(), out=grads["v"])
    np.sum(error, out=grads["d"])
