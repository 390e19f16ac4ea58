# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa: E501
"""Every rule as mypy and pyright see it: tests/test_typing.py runs it."""

from __future__ import annotations

import numpy as np

import numadam as na

x, g = np.ones(3), np.full(3, 0.5)


def every_rule() -> None:
    """Every option that a rule declares."""
    na.Adam(x, beta1=0.9, beta2=0.999, eps=1e-08, eps_root=0.0, eps_form="paper", bias_correction=True, amsgrad=False, nesterov=False)
    na.adam_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, eps_root=0.0, eps_form="paper", bias_correction=True, amsgrad=False, nesterov=False)
    na.AdamW(x, weight_decay=0.01, beta1=0.9, beta2=0.999, eps=1e-08, eps_root=0.0, eps_form="paper", bias_correction=True, amsgrad=False, nesterov=False)
    na.adamw_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.001, weight_decay=0.01, beta1=0.9, beta2=0.999, eps=1e-08, eps_root=0.0, eps_form="paper", bias_correction=True, amsgrad=False, nesterov=False)
    na.NAdam(x, beta1=0.9, beta2=0.999, eps=1e-08, momentum_decay=0.004)
    na.nadam_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-08, momentum_decay=0.004)
    na.RAdam(x, beta1=0.9, beta2=0.999, eps=1e-08, eps_form="hat")
    na.radam_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, eps_form="hat")
    na.AdaMax(x, beta1=0.9, beta2=0.999, eps=1e-08, eps_form="norm")
    na.adamax_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-08, eps_form="norm")
    na.AdaBelief(x, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16)
    na.adabelief_update(x, g, np.zeros(3), np.zeros(3), 1, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16)
    na.Lion(x, beta1=0.9, beta2=0.99)
    na.lion_update(x, g, np.zeros(3), lr=0.0001, beta1=0.9, beta2=0.99)
    na.RMSprop(x, beta2=0.99, eps=1e-08, eps_root=0.0, momentum=0.0, centered=False)
    na.rmsprop_update(x, g, np.zeros(3), lr=0.01, beta2=0.99, eps=1e-08, eps_root=0.0, momentum=0.0)
    na.SGD(x, momentum=0.0, dampening=0.0, nesterov=False)
    na.sgd_update(x, g, lr=0.01, momentum=0.0, dampening=0.0, nesterov=False)
    na.Adagrad(x, eps=1e-10, eps_root=0.0, initial_accumulator=0.0)
    na.adagrad_update(x, g, np.zeros(3), lr=0.01, eps=1e-10, eps_root=0.0)


def refused() -> None:
    """An option that no rule has: they see it, or an ignore is one too many."""
    na.Adam(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.adam_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.AdamW(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.adamw_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.NAdam(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.nadam_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.RAdam(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.radam_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.AdaMax(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.adamax_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.AdaBelief(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.adabelief_update(x, g, np.zeros(3), np.zeros(3), 1, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.Lion(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.lion_update(x, g, np.zeros(3), unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.RMSprop(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.rmsprop_update(x, g, np.zeros(3), unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.SGD(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.sgd_update(x, g, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.Adagrad(x, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    na.adagrad_update(x, g, np.zeros(3), unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
