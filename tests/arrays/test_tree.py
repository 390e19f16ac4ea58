"""Containers of arrays: whether they hold the objects that they held."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._arrays.tree import same_objects


@pytest.mark.parametrize("count", [0, 1, 63, 64, 1_000])
def test_the_same_objects_are_known_among_few_and_many(count):
    one = [np.zeros(2) for _ in range(count)]
    assert same_objects(one, list(one))
    assert same_objects(tuple(one), one)
    assert not same_objects(one, [*one, np.zeros(2)])
    assert not same_objects([*one, np.zeros(2)], one)
    for k in {0, count // 2, count - 1} & set(range(count)):
        other = list(one)
        other[k] = one[k].copy()  # equal, and another object
        assert not same_objects(one, other)
        assert not same_objects(tuple(other), one)
    assert (count < 2) == same_objects(one, one[::-1])


def test_a_replaced_array_is_refused_among_many():
    params = {f"w{k}": np.zeros(2) for k in range(100)}
    opt = na.SGD(params, lr=1.0)
    grads = {name: np.ones(2) for name in params}
    opt.step(grads)
    params["w70"] = params["w70"].copy()
    with pytest.raises(ValueError, match=r"w70.*was replaced by another object"):
        opt.step(grads)
    assert opt.t == 1


def test_nothing_in_the_place_of_a_container_is_called_so():
    opt = na.SGD({"w": [np.zeros(2)]})
    with pytest.raises(ValueError, match=r"^grads\['w'\]: expected a list, got None"):
        opt.step({"w": None})
