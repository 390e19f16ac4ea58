"""Schedules beside those of torch, for as long as both are defined."""

import numpy as np
import pytest

from numadam.schedules import (
    Cosine,
    Exponential,
    OneCycle,
    Piecewise,
    Polynomial,
    ReduceOnPlateau,
    Step,
)
from tests.schedules.cases import close, run

pytestmark = pytest.mark.peers("torch")


def of_torch(name, lr, count, momenta=None, **options):
    """The learning rates that torch's scheduler gives, step by step; beta1 goes into `momenta`."""
    import torch

    opt = torch.optim.Adam([torch.zeros(1)], lr=lr)
    scheduler = getattr(torch.optim.lr_scheduler, name)(opt, **options)
    rates = []
    for _ in range(count):
        rates.append(opt.param_groups[0]["lr"])
        if momenta is not None:
            momenta.append(opt.param_groups[0]["betas"][0])
        opt.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "name", "options"),
    [
        (Step(0.3, steps=7), "StepLR", {"step_size": 7}),
        (Step(0.3, steps=1, factor=0.7), "StepLR", {"step_size": 1, "gamma": 0.7}),
        (Exponential(0.3, factor=0.93), "ExponentialLR", {"gamma": 0.93}),
        (Exponential(0.3, factor=1.1, end=1e9), "ExponentialLR", {"gamma": 1.1}),
        (Cosine(0.3, steps=59, end=0.01), "CosineAnnealingLR", {"T_max": 59, "eta_min": 0.01}),
        (
            Cosine(0.3, steps=7, end=0.01, restart_mult=1),
            "CosineAnnealingWarmRestarts",
            {"T_0": 7, "eta_min": 0.01},
        ),
        (
            Cosine(0.3, steps=3, restart_mult=3),
            "CosineAnnealingWarmRestarts",
            {"T_0": 3, "T_mult": 3},
        ),
        (Polynomial(0.3, steps=40), "PolynomialLR", {"total_iters": 40}),
        (Polynomial(0.3, steps=40, power=0.9), "PolynomialLR", {"total_iters": 40, "power": 0.9}),
        (
            Polynomial(0.1, steps=20, end=0.3),
            "LinearLR",
            {"start_factor": 1 / 3, "total_iters": 20},
        ),
        (
            Piecewise([0.3, 0.06, 0.012], boundaries=[10, 25]),
            "MultiStepLR",
            {"milestones": [10, 25], "gamma": 0.2},
        ),
    ],
)
def test_as_torch(schedule, name, options):
    assert run(schedule, 60) == pytest.approx(of_torch(name, 0.3, 60, **options), rel=1e-10)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_cycle_as_torch(share):
    """Torch counts values, not steps between them: both its peak and its end are one earlier."""
    steps, momenta = 60, []
    options = {"max_lr": 0.3, "total_steps": steps, "pct_start": share}
    expected = of_torch("OneCycleLR", 1.0, steps, momenta, **options)
    warmup = round(share * steps) - 1
    assert run(OneCycle(0.3, steps=steps - 1, warmup=warmup), steps) == close(expected)
    cycle = OneCycle(0.85, steps=steps - 1, warmup=warmup, start=0.95, end=0.95)
    assert run(cycle, steps) == close(momenta)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (0, 2), (2, 0), (3, 4)])
def test_plateau_as_torch(mode, threshold_mode, patience, cooldown):
    import torch

    shared = {
        "mode": mode,
        "factor": 0.6,
        "patience": patience,
        "threshold": 0.01,
        "threshold_mode": threshold_mode,
        "cooldown": cooldown,
    }
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, min_lr=0.004, eps=0.0, **shared)
    ours = ReduceOnPlateau(0.3, end=0.004, **shared)
    seen = np.random.default_rng(0).uniform(1.0, 2.0, 60)  # f > 0: see the test of negative f
    seen *= np.linspace(2.0, 1.0, 60) if mode == "min" else np.linspace(1.0, 2.0, 60)
    seen[[5, 17, 18, 40]] = [np.nan, np.inf, np.nan, np.nan] if mode == "min" else np.nan
    rates = []
    for f in seen:
        theirs.step(f)
        ours.observe(f)
        rates.append(opt.param_groups[0]["lr"])
        assert ours(0) == close(rates[-1])
        assert ours.best == theirs.best
    assert len(set(rates)) > 3  # the series has plateaus
