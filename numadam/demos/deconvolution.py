"""A blurred, noisy photograph gets sharp: 512 x 512 unknowns, none of which gets negative.

The lens is out of focus: each point becomes a disk. `numadam.minimize` looks for the image whose
blurred version is nearest to what was seen, and stops where the rest is no more than the noise:
to follow the data further would mean to follow their noise.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import numadam as na
from numadam.demos import common
from numadam.demos.digits import read

Array = np.ndarray[Any, Any]

EXAMPLES = """\
examples:
  python -m numadam demo deconvolution                 a few seconds
  python -m numadam demo deconvolution --image digits
      handwriting on black: there the bound helps most
  python -m numadam demo deconvolution --radius 8 --noise 0.001
      more blur, less noise
"""


class Scene(NamedTuple):
    """The true image, the photograph, and the lens as real factors of its Fourier series."""

    truth: Array
    seen: Array
    lens: Array
    noise: float

    def misfit(self, x: Array) -> tuple[float, Array]:
        """Half the sum of squares of ``blur(x) - seen``, and its gradient ``blur(off)``."""
        off = blur(x, self.lens) - self.seen
        return 0.5 * float(np.vdot(off, off)), blur(off, self.lens)

    def psnr(self, x: Array) -> float:
        """Peak signal-to-noise ratio of `x` in dB, for a peak of 1: higher is better."""
        return float(-10 * np.log10(np.mean((x - self.truth) ** 2)))


def blur(x: Array, lens: Array) -> Array:
    """Blur `x` by the lens, periodic at the edges."""
    from scipy import fft

    blurred: Array = fft.irfft2(lens * fft.rfft2(x), x.shape)
    return blurred


def photograph() -> Array:
    """A man with a camera, 512 x 512, that PyWavelets ships."""
    return np.asarray(common.pywt_data().camera() / 255, np.float32)


def handwriting() -> Array:
    """A page of 13 x 13 digits, enlarged to 520 x 520 pixels and with more contrast."""
    from scipy import ndimage

    images, _ = read()
    rows = np.random.default_rng(0).permutation(len(images))[: 13 * 13]
    tiles = np.pad(images[rows], ((0, 0), (1, 1), (1, 1))).reshape(13, 13, 10, 10)
    page = ndimage.zoom(tiles.transpose(0, 2, 1, 3).reshape(130, 130), 4, order=1)
    return np.asarray(np.clip((page - 0.3) / 0.4, 0, 1), np.float32)


IMAGES: dict[str, Callable[[], Array]] = {"camera": photograph, "digits": handwriting}


def scene(truth: Array, radius: float = 5.0, noise: float = 0.002, seed: int = 0) -> Scene:
    """Photograph `truth` through a lens out of focus, with noise of this standard deviation."""
    from scipy import fft

    if radius > min(truth.shape) / 4:
        raise ValueError(f"--radius: expected at most a quarter of the image, got {radius:g}.")
    sides = [np.minimum(np.arange(n), n - np.arange(n)) for n in truth.shape]
    disk = np.clip(radius + 0.5 - np.hypot(sides[0][:, None], sides[1]), 0, 1)
    lens = fft.rfft2(disk / disk.sum()).real.astype(np.float32)  # symmetric: real factors
    rough = np.random.default_rng(seed).standard_normal(truth.shape, np.float32)
    return Scene(truth, blur(truth, lens) + np.float32(noise) * rough, lens, noise)


def sharpen(
    what: Scene,
    *,
    bounds: tuple[float | None, float | None] | None = (0, None),
    steps: int = 150,
    each_step: Callable[[], object] = lambda: None,
) -> Any:
    """Deconvolve; return the result of `numadam.minimize`.

    Parameters
    ----------
    what : Scene
    bounds : pair, or None
        Box of the pixels: (0, None) keeps them from getting negative.
    steps : int
        At most so many; fewer where the misfit falls to that of the noise.
    each_step : callable
        Called after each step: to show progress.
    """
    noise = 0.5 * what.noise**2 * what.seen.size

    def enough(intermediate_result: Any) -> None:
        each_step()
        if intermediate_result.fun <= noise:
            raise StopIteration

    return na.minimize(
        what.misfit,
        np.maximum(what.seen, 0),
        jac=True,
        bounds=bounds,
        lr=na.schedules.Cosine(0.05, steps=steps),
        maxiter=steps,
        callback=enough,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this demo."""
    options = {
        "image": (IMAGES, "camera", "image to blur and to find"),
        "radius": (common.positive, 5.0, "radius of the blur, in pixels"),
        "noise": (common.positive, 0.002, "standard deviation of the noise; white is 1"),
        "steps": (common.whole(1), 150, "take at most so many steps"),
    }
    common.add_options(parser, "deconvolution", options)


def plot(fig: Any, what: Scene, free: Array, found: Array) -> None:
    """Draw the four images, each with its distance from the truth."""
    shown = [("what was there", what.truth), ("what was seen", what.seen)]
    shown += [("found without bounds", free), ("found, never negative", found)]
    for axes, (name, pixels) in zip(fig.axes, shown, strict=True):
        quality = "" if pixels is what.truth else f", {what.psnr(pixels):.1f} dB"
        part = pixels[60:240, 150:330]  # enlarged, so that one sees the difference
        common.image(axes, part, name + quality)
    fig.suptitle(f"A lens out of focus, undone by numadam.minimize: {what.seen.size:,} unknowns")


def main(
    output: str | os.PathLike[str] = "numadam-deconvolution.png",
    *,
    seed: int = 0,
    image: str = "camera",
    radius: float = 5.0,
    noise: float = 0.002,
    steps: int = 150,
) -> float:
    """Blur an image, sharpen it with and without the bound, print the figures and draw.

    Returns the peak signal-to-noise ratio of what was found.
    """
    fig = common.figure(output, 1, 4, (13, 3.8))
    what = scene(IMAGES[image](), radius, noise, seed)
    for bounds in (None, (0, None)):  # compiles what is timed below
        sharpen(what, bounds=bounds, steps=1)
    start = time.perf_counter()
    with common.bar(2 * steps) as bar:
        free = sharpen(what, bounds=None, steps=steps, each_step=bar.update)
        halfway = time.perf_counter()
        res = sharpen(what, steps=steps, each_step=bar.update)
    end = time.perf_counter()
    print(
        f"{res.x.size:,} pixels, a blur of radius {radius:g}, noise {noise:g}; "
        "peak signal-to-noise ratios, higher is better:\n"
        f"as it was seen:       {what.psnr(what.seen):5.2f} dB\n"
        f"found without bounds: {what.psnr(free.x):5.2f} dB, {free.nit} steps in "
        f"{halfway - start:.1f} s, lowest pixel {free.x.min():.2f}\n"
        f"found with x >= 0:    {what.psnr(res.x):5.2f} dB, {res.nit} steps in "
        f"{end - halfway:.1f} s, lowest pixel {res.x.min():.2f}"
    )
    plot(fig, what, free.x, res.x)
    common.save(fig, output)
    return what.psnr(res.x)
