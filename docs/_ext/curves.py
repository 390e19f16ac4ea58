"""The pictures on the page of the schedules: all but the one that watches f, over 1000 steps."""

from __future__ import annotations

import matplotlib.pyplot as plt

from numadam import schedules

STEPS = 1000
SHOWN = (
    schedules.Constant(1.0),
    schedules.Step(1.0, steps=300, factor=0.5),
    schedules.Exponential(1.0, steps=300, factor=0.5),
    schedules.Polynomial(1.0, steps=STEPS, power=2.0),
    schedules.Cosine(1.0, steps=STEPS),
    schedules.WarmupCosine(1.0, steps=STEPS, warmup=100),
    schedules.OneCycle(1.0, steps=STEPS),
    schedules.Piecewise([1.0, 0.5, 0.1], boundaries=[300, 700]),
)


def draw() -> None:
    """Two pictures, four schedules in each."""
    for half in (SHOWN[:4], SHOWN[4:]):
        figure, axes = plt.subplots(
            2, 2, figsize=(5, 4), sharex=True, sharey=True, layout="constrained"
        )
        for axis, schedule in zip(axes.flat, half, strict=True):
            axis.plot([schedule(t) for t in range(STEPS + 1)])
            axis.set_title(type(schedule).__name__, fontsize="medium")
        figure.supxlabel("steps taken")
        figure.supylabel("value")
