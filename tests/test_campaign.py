"""The campaign over optimagic's problems counts right; the problems themselves need optimagic."""

import math

import numpy as np
import pytest

from tests.campaigns.problems import (
    COLLECTIONS,
    PEER,
    SETTINGS,
    TAUS,
    Job,
    Outcome,
    load,
    minimize,
    run,
    shares,
    unsolved,
)

JOB = Job("more_wild", "rosenbrock_good_start", "adam-0.01", 50)


def outcome(f, f_opt=2.0):
    return Outcome(JOB, size=2, f0=12.0, f_opt=f_opt, f=f, nit=1, nfev=2, status=1, seconds=0.0)


def test_solved_is_the_share_that_is_left():
    assert outcome(2.001).left == pytest.approx(1e-4)
    assert outcome(2.0009).solved(1e-4)
    assert not outcome(2.0011).solved(1e-4)
    assert outcome(1.0).solved(1e-7)  # better than the optimum that is given
    assert not outcome(math.nan).solved(1e-1)
    assert not outcome(2.0, f_opt=math.nan).solved(1e-1)


def test_problems_without_a_known_optimum_do_not_count():
    group = [outcome(2.0), outcome(2.5), outcome(2.0, f_opt=math.nan), outcome(math.nan)]
    assert shares(group) == "| 3 | 2 | 1 | 1 | 1 | 1 |"
    assert unsolved(group, 1e-1) == "rosenbrock_good_start (nan)"
    assert len(TAUS) == 5


@pytest.mark.parametrize("setting", [*SETTINGS, PEER])
def test_a_run_ends_at_its_target(setting):
    def fun(x):
        return float(np.sum((x - 3.3) ** 2))

    found, f = minimize(fun, np.zeros(3), setting, 1000, 0.5)
    assert f <= 0.5 < fun(np.zeros(3))
    assert found.nit < 1000
    assert found.status == 99
    assert f == fun(found.x)


def test_optimagic_has_these_problems():
    pytest.importorskip("optimagic")
    assert [len(load(name)) for name in COLLECTIONS] == [54, 60]
    done = run(JOB)
    assert (done.size, done.f0, done.nit, done.status) == (2, pytest.approx(24.2), 50, 1)
    assert 0.0 < done.left < 1.0
