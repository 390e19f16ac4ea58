"""
Five rules in one valley
========================

Rosenbrock's function is a bent valley: steep walls, and a floor that hardly falls. A rule whose
steps are long enough for the floor is thrown from wall to wall. Its path shows what it does with
a gradient, and what it remembers of the earlier ones.
"""

import matplotlib.pyplot as plt
import numpy as np

import numadam as na

STEPS = 1500
LRS = np.geomspace(1e-5, 10, 25)
COLORS = ["#009E73", "#E69F00", "#0072B2", "#D55E00", "#CC79A7"]


def rosenbrock(x):
    """f and its gradient; the minimum is 0 at (1, 1)."""
    a, b = x[1] - x[0] ** 2, 1 - x[0]
    return 100 * a**2 + b**2, np.array([-400 * a * x[0] - 2 * b, 200 * a])


# %%
# One loop for all rules
# ----------------------
# Every rule is a class with the same ``step``, so one loop runs them all. A path ends early where
# it leaves the picture.
RULES = {
    "SGD, momentum 0.9": lambda x, lr: na.SGD(x, lr, momentum=0.9),
    "RMSprop": na.RMSprop,
    "Adam": na.Adam,
    "AMSGrad": lambda x, lr: na.Adam(x, lr, amsgrad=True),
    "Lion": na.Lion,
}


def path(rule, lr):
    """All points, and f at each of them."""
    x = np.array([-1.5, 1.8])
    opt = RULES[rule](x, lr)
    points, values = [], []
    while len(points) < STEPS and abs(x[0]) < 2 and -1 < x[1] < 3:
        f, g = rosenbrock(x)
        points.append(x.copy())
        values.append(f)
        opt.step(g)
    return np.array(points), np.array(values)


# %%
# The best learning rate of each
# ------------------------------
# All rules at one learning rate would be no comparison: a step of SGD is lr times the gradient, a
# step of the others is about lr itself. So each rule tries 25 of them. The best one has the lowest
# f over its last 100 steps, on average: a single low point may be luck.
trials = {rule: [path(rule, lr) for lr in LRS] for rule in RULES}


def end(trial):
    """How low f is at the end; a path that left the picture has none."""
    return trial[1][-100:].mean() if len(trial[1]) == STEPS else np.nan


best = {rule: int(np.nanargmin([end(trial) for trial in trials[rule]])) for rule in RULES}
for rule, k in best.items():
    print(f"{rule:18} lr {LRS[k]:.1e}   f at the end {end(trials[rule][k]):.0e}")

# %%
# The paths
# ---------
# SGD swings across the valley and rolls along it: momentum adds up what stays the same. RMSprop
# divides a gradient by the mean size of the last ones, Lion keeps only a sign. So their steps have
# the size of lr to the end: they need a small one, creep, and do not come to rest. Adam averages
# before it divides. What alternates between the walls cancels, and its lr may be a hundred times
# as large. AMSGrad never forgets the steepest wall, and behaves as Adam with a smaller lr.
x, y = np.meshgrid(np.linspace(-2, 2, 300), np.linspace(-1, 3, 300))
f = rosenbrock(np.stack([x, y]))[0]
fig, axes = plt.subplots(2, 3, figsize=(10, 6.8), sharex=True, sharey=True, layout="constrained")
for color, (rule, k), axis in zip(COLORS, best.items(), axes.flat[:5], strict=True):
    axis.contour(x, y, f, levels=10.0 ** np.arange(-1, 4), colors="0.75", linewidths=0.8)
    axis.plot(*trials[rule][k][0].T, ".-", color=color, ms=4, lw=1)
    (start,) = axis.plot(-1.5, 1.8, "o", color="k", mfc="w")
    (minimum,) = axis.plot(1, 1, "*", color="k", ms=11)
    axis.set_title(f"{rule}, lr = {LRS[k]:.2g}", fontsize=11)
axes[1, 2].legend([start, minimum], ["start", "minimum"], loc="center", frameon=False)
axes[1, 2].set_title("f grows tenfold from line to line", y=0.3, fontsize=10, color="0.4")
axes[1, 2].set_axis_off()
fig.supxlabel("x")
fig.supylabel("y")

# %%
# f along the way
# ---------------
# Left: each rule at its best learning rate. Right: how much that choice matters. Where a curve
# ends on the right, the rule was thrown out of the picture.
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for color, (rule, k) in zip(COLORS, best.items(), strict=True):
    left.semilogy(trials[rule][k][1], color=color, label=rule)
    right.loglog(LRS, [end(trial) for trial in trials[rule]], ".-", color=color)
left.set(xlabel="iteration", ylabel="f")
right.set(xlabel="learning rate", ylabel="f, mean of the last 100 iterations")
left.legend(frameon=False)
plt.show()

# %%
# Take away: compare rules only at the best learning rate of each, and look at how narrow the low
# part of the curve is before you trust the lowest point.
