"""
Handwritten digits: two networks, two losses, weights in a box
==============================================================

1797 real digits, 8 x 8 pixels each. A network with one hidden layer learns to read 1397 of them;
the other 400 say how well it does. The gradients are a few lines of NumPy, and every update is one
``opt.step()``. Then the usual questions, an option each: which loss, how to keep the weights small,
how to hold them in an interval, when to stop.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import numadam as na
from numadam.demos import network

digits = network.load(validation=400)

fig, grid = plt.subplots(3, 12, figsize=(9, 2.4), layout="constrained")
for axes, x, y in zip(grid.flat, digits.x, digits.y, strict=False):
    axes.imshow(x.reshape(8, 8), cmap="gray_r")
    axes.set_title(str(y), fontsize=8, pad=2)
    axes.set_axis_off()
plt.show()

# %%
# The gradients
# -------------
# They are those of the demo ``python -m numadam demo mlp``: a hidden layer of ReLUs, and a softmax.
print(inspect.getsource(network.backward))

# %%
# Training is a loop
# ------------------
# The optimiser keeps a gradient buffer for each array, ``opt.grads``; ``backward`` writes into it.
# What else will be asked for is an option of `Adam`: L2 decay, bounds, a schedule.
#
# The loop ends after so many epochs, or where the validation accuracy has reached ``goal``.


@threadpool_limits.wrap(limits=1, user_api="blas")  # small products are faster on one thread
def train(hidden, loss="cross-entropy", epochs=20, goal=1.0, **options):
    """A trained network, and a row an epoch: training loss, validation loss, accuracy."""
    rng = np.random.default_rng(0)
    params = network.init(rng, (64, hidden, 10))
    schedule = na.schedules.Cosine(1e-2, steps=epochs * 20)
    opt = na.Adam(params, lr=schedule, **options)
    history = []
    for _ in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(1397), 20):
            losses.append(network.backward(params, digits.x[rows], digits.y[rows], opt.grads, loss))
            opt.step()
        history.append([np.mean(losses), *network.validate(params, digits, loss)])
        if history[-1][-1] >= goal:
            break
    return params, np.array(history)


# %%
# 64-64-10 and 64-128-10
# ----------------------
# The larger network reads hardly more digits. Both end with a training loss well below their
# validation loss: they know some of the 1397 by heart.
small, large = train(64), train(128)
runs = {"64-64-10": small[1], "64-128-10": large[1]}

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (name, run), colour in zip(runs.items(), ("#2171b5", "#d94801"), strict=True):
    epochs = np.arange(1, len(run) + 1)
    left.semilogy(epochs, run[:, 0], "--", color=colour)
    left.semilogy(epochs, run[:, 1], "o-", color=colour, label=name)
    right.plot(epochs, 100 * run[:, 2], "o-", color=colour)
    print(f"{name}: {100 * run[-1, 2]:.1f} % of the validation digits")
left.set(xlabel="epoch", title="cross-entropy: training (dashed), validation")
right.set(xlabel="epoch", title="validation accuracy (%)")
left.legend(frameon=False)
plt.show()

# %%
# Cross-entropy or mean squared error
# -----------------------------------
# The squared distance between the probabilities and (0, .., 1, .., 0) never gets large, so a digit
# that is read wrongly with confidence pulls little. The loss curves have other units and cannot be
# compared; the accuracies can.
runs = {"cross-entropy": large[1], "mse": train(128, "mse")[1]}

fig, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (loss, run), colour in zip(runs.items(), ("#d94801", "#238b45"), strict=True):
    axes.plot(np.arange(1, len(run) + 1), 100 * run[:, 2], "o-", color=colour, label=loss)
    print(f"{loss}: {100 * run[-1, 2]:.1f} % after {len(run)} epochs")
axes.set(xlabel="epoch", title="validation accuracy (%), 64-128-10")
axes.legend(frameon=False)
plt.show()

# %%
# Small weights: L2, or a box
# ---------------------------
# ``weight_decay`` pulls every parameter towards 0: it adds ``weight_decay * p`` to the gradient.
# ``bounds`` does something else: it leaves parameters alone until they reach a wall, and none ever
# gets beyond. Hardware with weights in a fixed range asks for that. Both cost no second pass over
# the arrays.
BOX = 0.2
kinds = {
    "free": large,
    "L2, weight_decay=1e-3": train(128, weight_decay=1e-3),
    f"bounds=(-{BOX}, {BOX})": train(128, bounds=(-BOX, BOX)),
}

# sphinx_gallery_thumbnail_number = 4
fig, panels = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained", sharey=True)
for axes, (name, (params, run)) in zip(panels, kinds.items(), strict=True):
    # pixels that are empty in every image move nothing, and are left out
    weights = params["w1"][digits.x.any(axis=0)]
    axes.hist(weights.ravel(), np.linspace(-1, 1, 121), color="#2171b5", log=True)
    axes.set_title(
        f"{name}\n{100 * run[-1, 2]:.1f} %, gap {run[-1, 1] - run[-1, 0]:.3f}", fontsize=10
    )
    axes.set_xlabel("weights of the first layer")
    print(f"{name:24} largest weight {abs(weights).max():.3f}, {100 * run[-1, 2]:.1f} %")
plt.show()

# %%
# No weight is outside the box, not even by a last digit. Many lie on its walls, as long as their
# gradient pushes outwards. Both ways bring training and validation loss a little closer together
# (the gap). Neither makes this small network read better: the box costs it a digit in a hundred. So
# use them where you need small weights, and look at the validation.
#
# Stop when it is good enough
# ---------------------------
# An iteration limit is the number of epochs. A precision is a test after each of them. More than
# one often wants both: as good as this, or give up after so long.
params, run = train(128, epochs=50, goal=0.975)
print(f"{100 * run[-1, 2]:.1f} % after {len(run)} of 50 epochs")
assert run[-1, 2] >= 0.975

# %%
# The digits that it still reads wrongly, with the right answer above:
_, log_p = network.forward(params, digits.x_val)
wrong = np.flatnonzero(log_p.argmax(axis=1) != digits.y_val)

fig, row = plt.subplots(1, 10, figsize=(9, 1.2), layout="constrained")
for axes, k in zip(row.flat, wrong, strict=False):
    axes.imshow(digits.x_val[k].reshape(8, 8), cmap="gray_r")
    axes.set_title(f"{digits.y_val[k]}, read {log_p[k].argmax()}", fontsize=7, pad=2)
    axes.set_axis_off()
plt.show()
