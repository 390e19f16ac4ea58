"""The Adam of scikit-learn's MLPClassifier and MLPRegressor."""

import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, _multilayer_perceptron
from sklearn.neural_network._stochastic_optimizers import BaseOptimizer

import numadam as na


class AdamOptimizer(BaseOptimizer):
    def __init__(
        self,
        params,
        learning_rate_init=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
    ):
        super().__init__(learning_rate_init)
        self.options = {
            "beta1": beta_1,
            "beta2": beta_2,
            "eps": epsilon,
            "like": "sklearn",
        }
        self.t = 0
        self.ms = [np.zeros_like(param) for param in params]
        self.vs = [np.zeros_like(param) for param in params]

    def update_params(self, params, grads):
        self.t += 1
        lr = self.learning_rate_init
        for p, g, m, v in zip(params, grads, self.ms, self.vs, strict=True):
            na.adam_update(p, g, m, v, self.t, lr=lr, **self.options)


def weights(optimizer):
    x, y = load_digits(return_X_y=True)
    network = MLPClassifier((16,), max_iter=10, random_state=0)
    kept = _multilayer_perceptron.AdamOptimizer
    _multilayer_perceptron.AdamOptimizer = optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations do not converge
        network.fit(x, y)
    _multilayer_perceptron.AdamOptimizer = kept
    found = network.coefs_ + network.intercepts_
    return np.concatenate([np.ravel(w) for w in found])


theirs = weights(_multilayer_perceptron.AdamOptimizer)
difference = np.max(np.abs(weights(AdamOptimizer) - theirs))
print(difference)  # 0.0
