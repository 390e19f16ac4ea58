"""Pictures of a history."""

import sys

import numpy as np
import pytest

import numadam as na
from tests.history.runs import recorded


def test_a_picture():
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history, _ = recorded(30, lr=0.1)
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = history.plot(["f", "lr"], axes=figure.subplots(1, 2))
    assert [ax.get_ylabel() for ax in axes] == ["f", "lr"]
    assert axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), history["f"])
    figure.canvas.draw()


def test_a_picture_of_its_own_leaves_out_what_is_unknown():
    plt = pytest.importorskip("matplotlib.pyplot")
    before = plt.get_backend()
    plt.switch_backend("agg")
    try:
        history = na.History(norms=False)
        opt = na.Adam(np.ones(2), lr=0.0)
        opt.step(np.ones(2))
        history.record(opt, -1.0)
        axes = history.plot()
        assert [ax.get_ylabel() for ax in axes] == ["f", "lr"]
        assert axes[0].get_yscale() == "linear"
        plt.close(axes[0].figure)
    finally:
        plt.switch_backend(before)


def test_three_pictures_leave_no_empty_place_and_none_needs_matplotlib_before(monkeypatch):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    history, _ = recorded(10, lr=0.1)
    names = ["f", "lr", "grad_norm"]
    axes = history.plot(names)
    assert [ax.get_ylabel() for ax in axes] == names
    assert len(axes[0].figure.axes) == 3
    plt.close(axes[0].figure)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^plot: needs matplotlib: pip install matplotlib"):
        history.plot(names)
