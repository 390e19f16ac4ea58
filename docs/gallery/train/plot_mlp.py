r"""
Train a network to read digits: decay and bounds
================================================

The data are 1797 real digits, enlarged to 28 x 28 pixels. A network with
one hidden layer learns to read 1397 of them; the other 400 show how well it
does. The gradients are a few lines of NumPy, and every update is one
``opt.step()``. Then come the usual questions: how to keep the weights small
or in an interval, when to stop.

Share of the 400 validation digits that are read correctly, in percent,
after each epoch, for two sizes of the hidden layer.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

import numadam as na
from numadam._demos import mlp

SIDE = 28  # pixels, as in MNIST; the digits have 8 x 8


def enlarged(x):
    """The same images with 28 x 28 pixels, in rows of 784."""
    images = x.reshape(-1, 8, 8)
    large = ndimage.zoom(images, (1, SIDE / 8, SIDE / 8), order=1)
    return large.reshape(len(x), SIDE**2)


small_digits = mlp.load()
digits = mlp.Digits(
    enlarged(small_digits.x),
    small_digits.y,
    enlarged(small_digits.x_val),
    small_digits.y_val,
)


def show(axes, pixels, title):
    """An image of a digit."""
    axes.imshow(pixels.reshape(SIDE, SIDE), cmap="gray_r")
    axes.set_title(title, fontsize=8, pad=2)
    axes.set_axis_off()


fig, grid = plt.subplots(3, 12, figsize=(9, 2.6), layout="constrained")
for axes, x, y in zip(grid.flat, digits.x, digits.y, strict=False):
    show(axes, x, str(y))
fig.suptitle("Digits to learn")
plt.show()

# %%
# The gradients
# -------------
# They are those of the demo ``python -m numadam demo``: a hidden layer
# of ReLUs, and a softmax.
print(inspect.getsource(mlp.backward))

# %%
# Training is a loop
# ------------------
# The optimiser keeps a gradient buffer for each array, ``opt.grads``;
# ``backward`` writes into it. Everything else is an option of `Adam`: L2
# decay, bounds, a schedule.
#
# The loop ends after ``epochs``, or when the validation accuracy has
# reached ``goal``.
BATCHES = 20  # of an epoch


@threadpool_limits.wrap(limits=1, user_api="blas")  # the products are small
def train(hidden, epochs=20, goal=1.0, **options):
    """A trained network, and a row an epoch.

    A row holds training loss, validation loss and validation accuracy.
    """
    rng = np.random.default_rng(0)
    params = mlp.init(rng, (digits.x.shape[1], hidden, 10))
    schedule = na.schedules.Cosine(2e-3, steps=epochs * BATCHES)
    opt = na.Adam(params, lr=schedule, **options)
    history = []
    for _ in range(epochs):
        losses = []
        order = rng.permutation(len(digits.y))
        for rows in np.array_split(order, BATCHES):
            x, y = digits.x[rows], digits.y[rows]
            losses.append(mlp.backward(params, x, y, opt.grads))
            opt.step()
        validation = mlp.validate(params, digits)
        history.append([np.mean(losses), *validation])
        if history[-1][-1] >= goal:
            break
    return params, np.array(history)


# %%
# 784-64-10 and 784-128-10
# ------------------------
# The larger network reads hardly more digits.
small, large = train(64), train(128)
runs = {"784-64-10": small[1], "784-128-10": large[1]}
COLOURS = ("#2171b5", "#d94801")

# sphinx_gallery_thumbnail_number = 2
fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for (name, run), colour in zip(runs.items(), COLOURS, strict=True):
    accuracy = 100 * run[:, 2]
    epochs = np.arange(1, len(run) + 1)
    axes.plot(epochs, accuracy, "o-", color=colour, label=name)
    print(f"{name}: {accuracy[-1]:.1f} % of the validation digits")
axes.set(
    title="Handwritten digits",
    xlabel="epoch",
    xticks=range(0, 21, 5),
    ylabel="validation accuracy (%)",
)
axes.legend(frameon=False)
plt.show()

# %%
# Both end with a training loss far below their validation loss: they have
# memorised some of the digits.
fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for (name, run), colour in zip(runs.items(), COLOURS, strict=True):
    epochs = np.arange(1, len(run) + 1)
    axes.semilogy(epochs, run[:, 0], "--", color=colour)
    axes.semilogy(epochs, run[:, 1], "o-", color=colour, label=name)
axes.set(
    title="Training (dashed) and validation",
    xlabel="epoch",
    xticks=range(0, 21, 5),
    ylabel="cross-entropy (nats a digit)",
)
axes.legend(frameon=False)
plt.show()

# %%
# Small weights: L2, or a box
# ---------------------------
# ``weight_decay`` pulls every parameter towards 0: it adds
# ``weight_decay * p`` to the gradient. ``bounds`` does something else: it
# does not change parameters until they reach a bound, and no parameter ever
# exceeds it. Hardware with weights in a fixed range needs that. Neither
# costs another pass over the arrays.
BOX = 0.05
kinds = {
    "free": large,
    "L2, weight_decay=1e-3": train(128, weight_decay=1e-3),
    f"bounds=(-{BOX}, {BOX})": train(128, bounds=(-BOX, BOX)),
}

fig, panels = plt.subplots(
    1, 3, figsize=(9.5, 3.2), layout="constrained", sharey=True
)
for axes, (name, (params, run)) in zip(panels, kinds.items(), strict=True):
    # pixels that are empty in every image move nothing, and are left out
    weights = params["w1"][digits.x.any(axis=0)].ravel()
    axes.hist(
        weights, np.linspace(-0.35, 0.35, 121), color="#2171b5", log=True
    )
    accuracy, gap = 100 * run[-1, 2], run[-1, 1] - run[-1, 0]
    axes.set_title(f"{name}\n{accuracy:.1f} %, gap {gap:.3f}", fontsize=10)
    axes.set_xlabel("weight of the first layer")
    largest = abs(weights).max()
    print(f"{name:24} largest weight {largest:.3f}, {accuracy:.1f} %")
panels[0].set_ylabel("number of weights")
plt.show()

# %%
# No weight is outside the box, not even by rounding. Many are exactly on
# its bounds, as long as their gradient pushes them outwards. Both options
# bring training and validation loss closer together (the gap). Neither
# improves this small network: with the box it misreads one or two more
# digits in a hundred. So use them where you need small weights, and watch
# the validation.
#
# Stop when it is good enough
# ---------------------------
# The number of epochs limits the iterations. The goal is tested after each
# epoch. Often both are useful: stop at the goal, or give up at the limit.
params, run = train(128, epochs=50, goal=0.97)
print(f"{100 * run[-1, 2]:.1f} % after {len(run)} of 50 epochs")
assert run[-1, 2] >= 0.97

# %%
# These digits it still reads wrongly; the right answer is above each:
_, log_p = mlp.forward(params, digits.x_val)
guess = log_p.argmax(axis=1)
wrong = np.flatnonzero(guess != digits.y_val)

columns = -(-len(wrong) // 2)
fig, grid = plt.subplots(
    2, columns, figsize=(0.75 * columns, 2.3), layout="constrained"
)
for axes in grid.flat[len(wrong) :]:
    axes.set_axis_off()
for axes, k in zip(grid.flat, wrong, strict=False):
    show(axes, digits.x_val[k], f"{digits.y_val[k]}, read {guess[k]}")
fig.suptitle("Digits that are read wrongly")
plt.show()
