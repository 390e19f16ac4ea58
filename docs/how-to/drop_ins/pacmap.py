"""The compiled update of PaCMAP's embedding."""

import warnings

import numpy as np
import pacmap.pacmap
from sklearn.datasets import load_digits

import numadam as na


def update_embedding_adam(Y, grad, m, v, beta1, beta2, lr, itr):
    g, t = grad[: len(Y)], itr + 1
    options = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": 1e-7}
    na.adam_update(Y, g, m, v, t, like="tf1", **options)


def embedding(update):
    kept = pacmap.pacmap.update_embedding_adam
    pacmap.pacmap.update_embedding_adam = update
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed was set
        x = load_digits().data[:500].astype(np.float32)
        options = {"num_iters": (10, 0, 0), "random_state": 0}
        Y = pacmap.PaCMAP(n_components=2, **options).fit_transform(x)
    pacmap.pacmap.update_embedding_adam = kept
    return Y


theirs = embedding(pacmap.pacmap.update_embedding_adam)
difference = np.max(np.abs(embedding(update_embedding_adam) - theirs))
print(difference)  # below 1e-4: lr = 1 amplifies rounding of float32
