"""The calls of numadam that repeat Keras, by the names of the recorded cases."""

from __future__ import annotations

import numadam as na
from tests.golden import Runs, maker

#: p - lr*wd*p and the step are added before they meet p: one rounding. Keras subtracts them one
#: after another.
SUBTRACTED_FIRST = 5.0


def keras_rows(like):
    """Keras on TensorFlow or on JAX: the same calls under another preset."""

    def of(rule):
        return lambda **options: maker(rule)(like=like, **options)

    adam, adamw, nadam, adamax = map(of, (na.Adam, na.AdamW, na.NAdam, na.AdaMax))
    lion, rmsprop, sgd, adagrad = map(of, (na.Lion, na.RMSprop, na.SGD, na.Adagrad))
    centered = {"beta2": 0.9, "momentum": 0.9, "centered": True}
    decay = {"weight_decay": 0.1}
    rows = {
        "Adam": Runs(adam(), float32=0.0),
        "Adam epsilon=0.001": Runs(adam(eps=1e-3), float32=0.0),
        "Adam amsgrad=True": Runs(adam(amsgrad=True), float32=0.0),
        "Adam weight_decay=0.1": Runs(adam(**decay), float32=SUBTRACTED_FIRST),
        "Adam clipnorm=1.0": Runs(adam(clip_array_norm=1.0)),
        "Adam global_clipnorm=1.0": Runs(adam(clip_norm=1.0)),
        "Adam clipvalue=0.5": Runs(adam(clip_value=0.5), float32=0.0),
        "Adam use_ema=True ema_momentum=0.9": Runs(adam(ema=0.9), float32=0.0),
        "Adam use_ema=True": Runs(adam(ema=0.99), float32=0.0),
        "Adam gradient_accumulation_steps=4": Runs(adam(accumulate=4), float32=0.0),
        "Adam use_ema=True ema_momentum=0.9 gradient_accumulation_steps=4": Runs(
            adam(accumulate=4, ema=0.9), float32=0.0
        ),
        "Adam loss_scale_factor=4.0": Runs(adam(loss_scale=4.0), float32=0.0),
        "AdamW weight_decay=0.1": Runs(adamw(**decay), float32=SUBTRACTED_FIRST),
        "Nadam": Runs(nadam()),
        "Adamax": Runs(adamax()),
        "RMSprop rho=0.999": Runs(rmsprop(beta2=0.999), float32=0.0),
        "RMSprop rho=0.9 momentum=0.9 centered=True": Runs(rmsprop(**centered)),
        "SGD": Runs(sgd(), float32=0.0),
        "SGD momentum=0.9": Runs(sgd(momentum=0.9)),
        "SGD momentum=0.9 nesterov=True": Runs(sgd(momentum=0.9, nesterov=True)),
        "SGD weight_decay=0.1": Runs(sgd(**decay), float32=SUBTRACTED_FIRST),
        "Lion": Runs(lion(beta2=0.999), float32=0.0),
        "Lion weight_decay=0.1": Runs(lion(beta2=0.999, **decay), float32=SUBTRACTED_FIRST),
        "Adagrad": Runs(adagrad(), float32=0.0),
    }
    return {f"{like} {name}": row for name, row in rows.items()}
