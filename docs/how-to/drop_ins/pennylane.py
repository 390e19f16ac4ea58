"""The Adam of PennyLane, one method of it."""

import numpy as np
import pennylane as qml

import numadam as na


class AdamOptimizer(qml.AdamOptimizer):
    def apply_grad(self, grad, args):
        args = list(args)
        trained = [
            i
            for i, arg in enumerate(args)
            if getattr(arg, "requires_grad", False)
        ]
        if self.accumulation is None:
            self.accumulation = {
                "fm": [0] * len(args),
                "sm": [0] * len(args),
                "t": 0,
            }
        m, v = self.accumulation["fm"], self.accumulation["sm"]
        self.accumulation["t"] += 1
        options = {
            "lr": self.stepsize,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "eps": self.eps,
        }
        for i, g in zip(trained, grad, strict=True):
            # a float dtype, for integers too
            dtype = np.result_type(args[i], np.float32)
            args[i] = np.array(args[i], dtype, subok=True)
            if self.t == 1:
                m[i], v[i] = np.zeros_like(args[i]), np.zeros_like(args[i])
            g = np.asarray(g, dtype)
            na.adam_update(
                args[i], g, m[i], v[i], self.t, like="sklearn", **options
            )
        return args


@qml.qnode(qml.device("default.qubit", wires=2))
def circuit(angles, scale):
    qml.RX(angles[0, 0], wires=0)
    qml.RY(angles[0, 1], wires=1)
    qml.CNOT(wires=[0, 1])
    qml.RY(scale * angles[1, 0], wires=0)
    return qml.expval(qml.PauliZ(0) @ qml.PauliX(1))


def trained(optimizer):
    angles = qml.numpy.array([[0.1, 0.2], [0.3, 0.4]], requires_grad=True)
    scale = qml.numpy.array(1.1, requires_grad=True)
    for _ in range(50):
        angles, scale = optimizer.step(circuit, angles, scale)
    return np.append(angles, scale)


theirs = trained(qml.AdamOptimizer(0.1))
difference = np.max(np.abs(trained(AdamOptimizer(0.1)) - theirs))
print(difference)  # 0.0
