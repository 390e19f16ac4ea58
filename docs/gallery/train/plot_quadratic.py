r"""
Repeat a tutorial of TensorFlow 1, bit for bit
==============================================

Many tutorials on Adam begin with this problem: find W and b for which
``2 W + b = 4``, by a thousand steps on the mean square error. They print
the numbers of a class of TensorFlow 1, whose formula differs from the
paper's: ``like="tf1"`` repeats its steps, bit for bit.

Mean square error after each of the 1000 steps, by the rule of TensorFlow 1.
"""

import matplotlib.pyplot as plt
import numpy as np

import numadam as na

# %%
# The loss and its gradients
# --------------------------
# With :math:`r = 2 W + b - 4` the loss is the mean of :math:`r^2`. ``b`` is
# one number, an array of shape ``()``.


def loss(W, b):
    """The mean of (2 W + b - 4)^2."""
    return np.mean((2 * W + b - 4) ** 2)


def gradients(W, b):
    """Derivatives of the loss with respect to W and b."""
    r = 2 * W + b - 4
    return {"W": 4 * r / r.size, "b": np.asarray(2 * r.mean())}


# %%
# A thousand steps
# ----------------
# ``opt.step`` changes the arrays of ``params`` in place.
STEPS = 1000


def train(steps=STEPS, **options):
    """The parameters, and the loss before the first and after each step."""
    W = np.random.default_rng(0).standard_normal(8)
    params = {"W": W, "b": np.zeros(())}
    opt = na.Adam(params, lr=0.05, **options)
    losses = [loss(**params)]
    for _ in range(steps):
        opt.step(gradients(**params))
        losses.append(loss(**params))
    return params, losses


params, losses = train(like="tf1")
print(f"loss {losses[0]:.3g} at the start, {losses[-1]:.3g} at the end")
print(f"W = {params['W'].round(4)}, b = {params['b']:.4f}")
assert losses[-1] < 1e-12

fig, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
axes.semilogy(losses, color="#2171b5")
axes.set(
    title='Adam(like="tf1")',
    xlabel="step",
    ylabel="mean square error (no unit)",
)
plt.show()

# %%
# Infinitely many W and b have a loss of 0. Adam finds one near the start.
#
# What the rule changes
# ---------------------
# TensorFlow 1 adds ``eps`` before it corrects the bias of the second
# moment, so its ``eps`` of 1e-8 has more effect in the first steps; the
# paper, and `Adam` without ``like``, add it after. With gradients of this
# size that is hard to see.
_, plain = train()
difference = np.abs(np.subtract(losses, plain)) / np.maximum(plain, 1e-12)
print(
    f"largest difference of the losses above 1e-12: {difference.max():.1g}"
)
