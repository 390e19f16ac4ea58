"""
A heartbeat, exploding gradients, and the cure
==============================================

A recurrent network, LSTM(128) and Dense(1), forecasts an electrocardiogram one sample ahead. Its
gradients go back through 64 samples, by hand, in NumPy. If the recurrent weights are too large,
every sample on the way back multiplies the error: the gradient explodes. ``clip_norm`` is the cure,
and ``opt.grad_norm`` shows the disease.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import numadam as na
from numadam.demos import lstm, lstm_network

# %%
# The recording, and what has to be beaten
# ----------------------------------------
# 1024 samples that PyWavelets ships, three beats. Two are learnt, the third one is forecast: each
# sample from those before it. Two simple forecasts set the mark: "as the sample before", and the
# best linear combination of the last four samples.
series = lstm.load()
marks = {"as the sample before": lstm.persistence(series), "linear": lstm.autoregression(series)}
for name, ahead in marks.items():
    print(f"{name:20} root mean square error {series.rmse(ahead):.2f}")

t = np.arange(len(series.values))
fig, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
axes.plot(t[: series.learnt], series.values[: series.learnt], color="0.3", label="learnt")
axes.plot(t[series.learnt :], series.values[series.learnt :], color="#2171b5", label="to forecast")
axes.set(xlabel="sample", title="an electrocardiogram")
axes.legend(frameon=False)
plt.show()

# %%
# Back-propagation through time
# -----------------------------
# The whole network is two short functions. This is the way back: from the last sample to the first,
# ``dh`` and ``dc`` carry what later samples have to say about the state.
print(inspect.getsource(lstm_network.backward))

# %%
# The training
# ------------
# The network reads differences between samples and says the next one. 16 windows of 64 samples make
# a step. ``clip_norm=np.inf`` clips nothing, but asks for the norm, which the compiled step then
# measures on its way; it costs one read of the gradients.
u = series.differences[: series.learnt - 1]


@threadpool_limits.wrap(limits=1, user_api="blas")  # small products are faster on one thread
def train(start, clip_norm, steps=150, window=64, batch=16, seed=0):
    """Weights, and the loss and the norm of the gradient at every step."""
    rng = np.random.default_rng(seed)
    params = lstm_network.init(rng, cells=128, scale=start)
    schedule = na.schedules.Cosine(1e-2, steps=steps)
    opt = na.Adam(params, lr=schedule, clip_norm=clip_norm)
    losses, norms = [], []
    for _ in range(steps):
        at = rng.integers(0, len(u) - window, batch) + np.arange(window + 1)[:, None]
        trace = lstm_network.forward(params, u[at[:-1]])
        error = trace.outputs - u[at[1:]]
        error[:8] = 0  # it has to see some samples first
        lstm_network.backward(params, trace, 2 * error / error[8:].size, opt.grads)
        opt.step()
        losses.append((error[8:] ** 2).mean())
        norms.append(opt.grad_norm)
    return params, losses, norms


# %%
# Three runs: recurrent weights of the usual size, weights that are 4.5 times larger, and the same
# large weights with all gradients together clipped to a norm of 0.1.
kinds = {
    "usual start": (1.0, np.inf, "#238b45"),
    "large start": (4.5, np.inf, "#d94801"),
    "large start, clip_norm=0.1": (4.5, 0.1, "#2171b5"),
}
runs = {name: train(start, clip) for name, (start, clip, _) in kinds.items()}

# sphinx_gallery_thumbnail_number = 2
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
for name, (_, losses, norms) in runs.items():
    left.semilogy(norms, color=kinds[name][2], lw=1, label=name)
    right.semilogy(losses, color=kinds[name][2], lw=1)
    print(f"{name:28} norm: median {np.median(norms):.2g}, largest {max(norms):.2g}")
left.axhline(0.1, color="k", ls=":", lw=0.8)
left.set(xlabel="step", title="norm of the gradient, before the clip")
right.set(xlabel="step", title="training loss")
left.legend(frameon=False, fontsize=8)
plt.show()

# %%
# With the large start, the norm jumps over five orders of magnitude. Adam divides by the root of an
# average of squared gradients, which forgets over a thousand steps: after one gradient of 10,000
# the next ones count for nothing, and hardly anything is learnt. Clipping shortens the few huge
# gradients and keeps their direction. The average never sees them.
#
# The forecast
# ------------
forecasts = {name: lstm.forecast(run[0], series) for name, run in runs.items()}
for name, ahead in {**marks, **forecasts}.items():
    print(f"{name:28} root mean square error {series.rmse(ahead):5.2f}")
assert series.rmse(forecasts["large start, clip_norm=0.1"]) < 0.9 * series.rmse(marks["linear"])
assert series.rmse(forecasts["large start"]) > series.rmse(marks["linear"])

fig, (top, bottom) = plt.subplots(2, 1, figsize=(9, 4.6), layout="constrained", sharex=True)
fresh = t[series.learnt :]
top.plot(fresh, series.values[fresh], color="0.8", lw=4, label="recording")
best = forecasts["large start, clip_norm=0.1"]
top.plot(fresh, best[-len(fresh) :], color="#2171b5", lw=1, label="LSTM, clipped")
for name, colour in (("linear", "k"), *((name, kind[2]) for name, kind in kinds.items())):
    error = {**marks, **forecasts}[name][-len(fresh) :] - series.values[fresh]
    bottom.plot(fresh, error, color=colour, lw=1, label=name)
top.set_title("the third beat, one sample ahead")
bottom.set(xlabel="sample", title="errors of the forecasts")
top.legend(frameon=False)
bottom.legend(frameon=False, fontsize=8, ncols=2)
plt.show()

# %%
# The weights of the usual size have no such gradients and need no clip. They learn the two beats
# fastest; how well they forecast the third depends on the seed, with errors between 3.4 and 4.5 in
# three tries. The clipped run stays between 3.2 and 3.5. The norm costs little to watch, and a
# clip well above its usual values changes nothing.
