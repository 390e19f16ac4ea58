"""65,536 exponential decays, one a pixel, fitted at once: a lifetime image.

Every pixel of a 256 x 256 image flashes and decays as ``amplitude exp(-rate t)``; 32 noisy samples
of it are known. The true lifetimes are a photograph, so that one sees what the fit makes of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, NamedTuple

import numba
import numpy as np

import numadam as na
from numadam import _demos as demos

Array = np.ndarray[Any, Any]

EXAMPLES = """\
examples:
  python -m numadam demo decays              256 x 256 fits, a few seconds
  python -m numadam demo decays --noise 0.1  noise: a tenth of the amplitude
  python -m numadam demo decays --side 64    4096 fits
"""
LONGEST = 20.0  # no lifetime above this is looked for, in ns


class Decays(NamedTuple):
    """Samples of the decays, one a row, at the moments `t` in ns, and the true lifetimes."""

    t: Array
    samples: Array
    lifetimes: Array


def simulate(side: int = 256, noise: float = 0.03, seed: int = 0) -> Decays:
    """Decays with lifetimes of 0.5 to 4 ns, amplitude 1 and noise of this standard deviation."""
    if 512 % side:
        raise ValueError(f"--side: expected a divisor of 512, got {side}.")
    try:
        import pywt.data
    except ImportError as error:
        raise demos.MissingExtra("PyWavelets") from error
    blocks = pywt.data.camera().reshape(side, 512 // side, side, 512 // side)
    lifetimes = 0.5 + 3.5 * blocks.mean(axis=(1, 3)) / 255
    t = np.linspace(0.1, 10, 32)
    clean = np.exp(-t / lifetimes.reshape(-1, 1))
    rough = np.random.default_rng(seed).standard_normal(clean.shape)
    return Decays(t, clean + noise * rough, lifetimes)


@numba.njit
def misfit(x, g, i, t, samples):  # type: ignore[no-untyped-def]  # Numba types it
    """Half the sum of squares of fit `i`; x is (amplitude, rate)."""
    f = 0.0
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        off = x[0] * e - samples[i, k]
        f += 0.5 * off * off
        g[0] += off * e
        g[1] -= off * x[0] * e * t[k]
    return f


def fit(what: Decays, *, iterations: int = 1000, progress: bool = False) -> Any:
    """Fit all decays, in so many iterations at most; the result of `numadam.minimize_many`."""
    return na.minimize_many(
        misfit,
        np.tile([1.0, 0.7], (len(what.samples), 1)),
        (what.t, what.samples),
        bounds=[(0, None), (1 / LONGEST, None)],
        lr=0.02,
        gtol=1e-4,
        maxiter=iterations,
        progress=progress,
    )


def log_linear(what: Decays) -> Array:
    """Lifetimes by straight lines through the logarithms, weighted by the samples squared.

    The quick method. Samples that are not positive have no logarithm and are left out.
    """
    weight = np.maximum(what.samples, 0) ** 2
    logs = np.log(np.maximum(what.samples, 1e-300))
    total = weight.sum(axis=1)
    mean_t = weight @ what.t / total
    mean_log = (weight * logs).sum(axis=1) / total
    away = what.t - mean_t[:, None]
    slope = (weight * away * (logs - mean_log[:, None])).sum(axis=1)
    slope /= (weight * away**2).sum(axis=1)
    return np.reshape(1 / np.maximum(-slope, 1 / LONGEST), what.lifetimes.shape)


def rmse(lifetimes: Array, what: Decays) -> float:
    """Root mean square distance from the true lifetimes, in ns."""
    return float(np.sqrt(np.mean((lifetimes - what.lifetimes) ** 2)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this demo."""
    options = {
        "side": (demos.whole(1), 256, "pixels along a side, a divisor of 512"),
        "noise": (demos.positive, 0.03, "standard deviation of the noise; the amplitude is 1"),
    }
    demos.add_options(parser, "decays", options)


def plot(fig: Any, what: Decays, quick: Array, fitted: Array) -> None:
    """Draw true and fitted lifetimes as maps, and against each other."""
    true, by_line, by_fit, cloud = fig.axes
    for axes, title, lifetimes in (
        (true, "true lifetimes", what.lifetimes),
        (by_line, f"log-linear, rmse {rmse(quick, what):.3f} ns", quick),
        (by_fit, f"fitted, rmse {rmse(fitted, what):.3f} ns", fitted),
    ):
        shown = axes.imshow(lifetimes, cmap="viridis", vmin=0.5, vmax=4)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    fig.colorbar(shown, ax=by_fit, label="ns", shrink=0.75)
    for lifetimes, name, colour in ((quick, "log-linear", "#9ecae1"), (fitted, "fit", "#d94801")):
        some = np.random.default_rng(0).permutation(fitted.size)[:4000]
        x, y = what.lifetimes.ravel()[some], lifetimes.ravel()[some]
        cloud.plot(x, y, ".", ms=2, color=colour, label=name, rasterized=True)
    cloud.plot([0.5, 4], [0.5, 4], "k", lw=0.8)
    cloud.set(xlabel="true (ns)", ylabel="found (ns)", ylim=(0, 6))
    cloud.legend(frameon=False, markerscale=5)
    demos.tidy(cloud)
    fig.suptitle(f"{fitted.size:,} exponential decays, one call of numadam.minimize_many")


def main(
    output: str | os.PathLike[str] = "numadam-decays.png",
    *,
    seed: int = 0,
    side: int = 256,
    noise: float = 0.03,
) -> float:
    """Fit the decays, print the figures and draw the maps; return the rmse of the lifetimes."""
    fig = demos.figure(output, 4, (15, 3.8))
    what = simulate(side, noise, seed)
    fit(what, iterations=1)  # compiles what is timed below
    start = time.perf_counter()
    res = fit(what, progress=bool(sys.stderr and sys.stderr.isatty()))
    seconds = time.perf_counter() - start
    fitted, quick = (1 / res.x[:, 1]).reshape(what.lifetimes.shape), log_linear(what)
    print(
        f"{len(res.x):,} fits of 2 parameters to 32 samples in {seconds:.1f} s: "
        f"{len(res.x) / seconds:,.0f} fits a second, {res.nit.mean():.0f} iterations a fit\n"
        f"converged: {100 * res.success.mean():.2f} %\n"
        f"lifetimes by log-linear regression: rmse {rmse(quick, what):.3f} ns\n"
        f"lifetimes by the fit:               rmse {rmse(fitted, what):.3f} ns"
    )
    plot(fig, what, quick, fitted)
    demos.save(fig, output)
    return rmse(fitted, what)
