"""Public codes with numadam in the place of their own Adam."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import numadam as na


def _sklearn_adam():
    stochastic = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")

    class AdamOptimizer(stochastic.BaseOptimizer):
        """scikit-learn's Adam, on numadam."""

        def __init__(
            self, params, learning_rate_init=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8
        ):
            super().__init__(learning_rate_init)
            self.options = {"beta1": beta_1, "beta2": beta_2, "eps": epsilon, "like": "sklearn"}
            self.t = 0
            self.ms = [np.zeros_like(param) for param in params]
            self.vs = [np.zeros_like(param) for param in params]

        def update_params(self, params, grads):
            self.t += 1
            lr = self.learning_rate_init
            for p, g, m, v in zip(params, grads, self.ms, self.vs, strict=True):
                na.adam_update(p, g, m, v, self.t, lr=lr, **self.options)

    return AdamOptimizer


def _sklearn_tests():
    module = pytest.importorskip("sklearn.neural_network.tests.test_stochastic_optimizers")
    return module, [name for name in vars(module) if name.startswith("test_")]


def test_scikit_learns_own_tests(monkeypatch):
    module, names = _sklearn_tests()
    assert len(names) == 6
    monkeypatch.setattr(module, "AdamOptimizer", _sklearn_adam())
    for name in names:
        getattr(module, name)()


def test_scikit_learn_ends_in_the_same_weights(monkeypatch):
    perceptron = pytest.importorskip("sklearn.neural_network._multilayer_perceptron")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)

    def train():
        network = perceptron.MLPClassifier((32,), max_iter=20, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 20 iterations are not meant to converge
            network.fit(x, y)
        return [*network.coefs_, *network.intercepts_]

    theirs = train()
    monkeypatch.setattr(perceptron, "AdamOptimizer", _sklearn_adam())
    ours = train()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_pacmap_ends_in_the_same_embedding(monkeypatch):
    pacmap = pytest.importorskip("pacmap.pacmap", reason='needs pip install "numadam[dropins]"')
    from sklearn.datasets import load_digits

    x = load_digits().data[:500].astype(np.float32)

    def update(Y, grad, m, v, beta1, beta2, lr, itr):
        # Its gradient has one row more than Y: the loss. As TensorFlow 1 it writes moments as
        # m + (1 - beta)(g - m) and holds betas in float32. With lr = 1 a last digit of the scalars
        # grows to 3e-3 in 10 iterations.
        betas = {"beta1": beta1, "beta2": beta2}
        na.adam_update(Y, grad[: len(Y)], m, v, itr + 1, lr=lr, eps=1e-7, like="tf1", **betas)

    def embed():
        return pacmap.PaCMAP(n_components=2, num_iters=(10, 0, 0), random_state=0).fit_transform(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed was set
        theirs = embed()
        monkeypatch.setattr(pacmap, "update_embedding_adam", update)
        ours = embed()
    assert ours.shape == (500, 2)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
