"""The progress bar of a run: closed, full, and printed once."""

import pytest

import numadam as na
from tests.minimize.objectives import START, square


def fun(x):
    return square(x, 1.0)


@pytest.mark.parametrize(
    ("fails_at", "drawn"), [(1, False), (4, True)], ids=["before the first", "later"]
)
def test_a_bar_is_closed_on_an_exception(fails_at, drawn, capsys):
    calls = 0

    def fails(x):
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise RuntimeError("solver diverged")
        return fun(x)

    with pytest.raises(RuntimeError, match="solver diverged"):
        na.minimize(fails, START, jac=True, maxiter=10, progress=True)
    shown = capsys.readouterr().err
    assert ("it/s" in shown or "?it" in shown) is drawn
    if drawn:
        assert shown.endswith("\n")  # closed
    na.minimize(fun, START, jac=True, maxiter=3, progress=True)
    assert "3/3" in capsys.readouterr().err  # the next bar begins on a line of its own


def test_a_bar_of_a_run_that_stops_early_is_full_and_printed_once(capsys):
    res = na.minimize(fun, START, jac=True, lr=0.1, progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert f"{res.nit}/{res.nit} [" in err.split("\r")[-1]


def test_no_bar_where_the_state_is_refused(capsys):
    with pytest.raises(TypeError, match="state"):
        na.minimize(fun, START, jac=True, state=3, progress=True)
    assert capsys.readouterr().err == ""
