"""The network of the demo mlp: its data, its gradient, and where its training stops."""

import numpy as np
import pytest

from numadam.demos import network
from numadam.demos.network import Digits, Training, read_digits


@pytest.fixture(scope="module")
def digits():
    return network.load()


def test_digits_are_split_without_overlap(digits):
    assert digits.x.shape == (1397, 64)
    assert digits.x_val.shape == (400, 64)
    assert digits.x.dtype == np.float32
    assert 0 <= digits.x.min() < digits.x.max() == 1
    both = np.concatenate([digits.x, digits.x_val])
    assert len(both) == 1797
    assert set(digits.y) == set(digits.y_val) == set(range(10))


def test_digits_are_those_of_scikit_learn():
    """The same images in the same order, and so the same source and licence."""
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    theirs = load_digits()
    np.testing.assert_array_equal(images, theirs.images / 16)
    np.testing.assert_array_equal(labels, theirs.target)


def few(digits, train=500, validation=200):
    """Some of the digits: a test has little time."""
    x, y = digits.x[:train], digits.y[:train]
    return Digits(x, y, digits.x_val[:validation], digits.y_val[:validation])


@pytest.mark.parametrize("loss", network.LOSSES)
def test_backward_is_the_gradient_of_the_loss(digits, loss):
    rng = np.random.default_rng(3)
    params = {k: v.astype(np.float64) for k, v in network.init(rng, (64, 5, 10)).items()}
    x, y = digits.x[:7].astype(np.float64), digits.y[:7]
    grads = {key: np.empty_like(value) for key, value in params.items()}
    network.backward(params, x, y, grads, loss)
    for key, value in params.items():
        direction = rng.standard_normal(value.shape)
        ends = []
        for sign in (1, -1):
            moved = {**params, key: value + sign * 1e-6 * direction}
            ends.append(network.LOSSES[loss](network.forward(moved, x)[1], y)[0])
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.sum(grads[key] * direction), slope, rtol=1e-6)


def test_squared_error_by_hand():
    log_p = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    value, _ = network.squared_error(log_p, np.array([0, 2]))
    assert value == pytest.approx(0.5 * (0.25 + 0.09 + 0.04 + 0.01 + 0.01 + 0.04))


def test_a_short_run_lowers_the_loss(digits):
    seen = []
    how = Training(epochs=4, batch=50, hidden=16)
    result = network.train(few(digits), how, each_epoch=seen.append)
    assert len(result.batch_losses) == 40
    assert result.epochs == seen
    assert result.epochs[-1].loss < 0.7 * result.epochs[0].loss
    assert result.params["w1"].shape == (64, 16)
    assert result.stopped == "40 steps"


def test_runs_repeat_bit_for_bit(digits):
    one, two = (network.train(few(digits), Training(epochs=1, seed=5)).params for _ in range(2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"stop_accuracy": 0.5}, "validation accuracy reached 0.5"),
        ({"stop_loss": 2.0}, "validation loss reached 2"),
        ({"max_steps": 13}, "13 steps"),
    ],
)
def test_training_stops_where_told(digits, goal, said):
    result = network.train(few(digits), Training(epochs=40, batch=50, hidden=16, **goal))
    assert result.stopped == said
    last = result.epochs[-1]
    before = result.epochs[:-1]
    if "stop_accuracy" in goal:
        assert last.accuracy >= 0.5
        assert all(epoch.accuracy < 0.5 for epoch in before)
    elif "stop_loss" in goal:
        assert last.val_loss <= 2
        assert all(epoch.val_loss > 2 for epoch in before)
    else:
        assert len(result.batch_losses) == 13
        assert len(result.epochs) == 2


def test_l2_pulls_and_bounds_hold(digits):
    base = {"epochs": 3, "batch": 50, "hidden": 16}
    plain = network.train(few(digits), Training(**base)).params
    held = network.train(few(digits), Training(**base, l2=1e-2, bounds=(-0.1, 0.1))).params
    assert max(abs(value).max() for value in plain.values()) > 0.1
    for value in held.values():
        assert abs(value).max() <= np.float32(0.1)
    # a pixel that is 0 in all images has no gradient but that of L2
    dead = ~few(digits).x.any(axis=0)
    assert dead.any()
    pulled = network.train(few(digits), Training(**base, l2=1e-2)).params
    assert abs(pulled["w1"][dead]).mean() < 0.9 * abs(plain["w1"][dead]).mean()
