"""
Compare five rules in one valley
================================

Rosenbrock's function is a bent valley with steep walls and a nearly flat
floor. A step that is long enough for the floor bounces between the walls.
The path of a rule shows what it does with a gradient, and what it keeps of
earlier ones.

Paths of five rules from the same start to the minimum, each with the best
of 25 learning rates. x and y have no units; f grows tenfold from one grey
line to the next.
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
    f = 100 * a**2 + b**2
    return f, np.array([-400 * a * x[0] - 2 * b, 200 * a])


# %%
# One loop for all rules
# ----------------------
# Every rule is a class with the same ``step``, so one loop runs them all. A
# path ends early if it leaves the picture.
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
# The best learning rate of each rule
# -----------------------------------
# One learning rate for all rules would not be a fair comparison: a step of
# SGD is lr times the gradient, a step of the others is about lr. So each
# rule tries 25 of them. The best one has the lowest mean of f over the last
# 100 steps.
trials = {rule: [path(rule, lr) for lr in LRS] for rule in RULES}


def end(trial):
    """Mean f at the end of a path; NaN if it left the picture."""
    return trial[1][-100:].mean() if len(trial[1]) == STEPS else np.nan


best = {
    rule: int(np.nanargmin([end(trial) for trial in trials[rule]]))
    for rule in RULES
}
for rule, k in best.items():
    f = end(trials[rule][k])
    print(f"{rule:18} lr {LRS[k]:.1e}   f at the end {f:.0e}")

# %%
# The paths
# ---------
# - **SGD** with momentum oscillates across the valley and moves along it:
#   momentum adds up the part of the gradient that does not change sign.
# - **RMSprop** divides a gradient by the typical size of the last ones,
#   **Lion** keeps only the sign. Their steps keep the length lr, so they
#   need a small lr, move slowly, and do not converge.
# - **Adam** averages gradients before it divides. Components that alternate
#   between the walls cancel, and lr may be a hundred times as large.
# - **AMSGrad** keeps the largest mean square of the gradients seen so far,
#   so its steps stay small after one steep region.
x, y = np.meshgrid(np.linspace(-2, 2, 300), np.linspace(-1, 3, 300))
f = rosenbrock(np.stack([x, y]))[0]
LEVELS = 10.0 ** np.arange(-1, 4)

fig, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
axes.contour(x, y, f, levels=LEVELS, colors="0.75", linewidths=0.8)
for color, (rule, k) in zip(COLORS, best.items(), strict=True):
    style = {"color": color, "label": rule, "zorder": 2 + k / 100}
    points = trials[rule][k][0].T
    axes.plot(*points, ".-", ms=4, lw=1, **style)
style = {"color": "k", "ls": "", "zorder": 3}
axes.plot(-1.5, 1.8, marker="o", mfc="w", label="start", **style)
axes.plot(1, 1, marker="*", ms=11, label="minimum", **style)
axes.set(title="Paths on Rosenbrock's function", xlabel="x", ylabel="y")
axes.legend(loc="upper right", fontsize=9)
plt.show()

# %%
# The same, one rule in each panel.
fig, panels = plt.subplots(
    1, 5, figsize=(11, 3), sharex=True, sharey=True, layout="constrained"
)
for color, (rule, k), axes in zip(
    COLORS, best.items(), panels, strict=True
):
    axes.contour(x, y, f, levels=LEVELS, colors="0.75", linewidths=0.8)
    axes.plot(*trials[rule][k][0].T, ".-", color=color, ms=4, lw=1)
    axes.plot(-1.5, 1.8, "o", color="k", mfc="w")
    axes.plot(1, 1, "*", color="k", ms=11)
    axes.set_title(f"{rule}\nlr = {LRS[k]:.2g}", fontsize=10)
fig.supxlabel("x")
fig.supylabel("y")
plt.show()

# %%
# f over the iterations
# ---------------------
# Left: each rule at its best learning rate. Right: how much that choice
# matters. A curve on the right ends where the rule left the picture.
fig, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
for color, (rule, k) in zip(COLORS, best.items(), strict=True):
    left.semilogy(trials[rule][k][1], color=color, label=rule)
    ends = [end(trial) for trial in trials[rule]]
    right.loglog(LRS, ends, ".-", color=color)
left.set(title="best lr of each rule", xlabel="iteration", ylabel="f")
right.set(
    title="all learning rates",
    xlabel="learning rate (units of x)",
    ylabel="f, mean of the last 100 iterations",
)
left.legend(frameon=False)
plt.show()

# %%
# In short: compare rules only at the best learning rate of each, and
# check how wide the low part of the curve is before you trust the lowest
# point.
