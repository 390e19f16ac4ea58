"""Kernels by numba-cuda-mlir, the successor of numba-cuda, which needs no Numba.

It has no call of the class of a named tuple, which is given to it here in one line.
"""

from __future__ import annotations

import inspect


def classes_of(scope):
    """The classes of named tuples that a text or the functions that it calls may make."""
    found, left = set(), list(scope.values())
    for function in left:
        if inspect.isclass(function) and issubclass(function, tuple):
            found.add(function)
        elif inspect.isfunction(function):
            left += [
                one for one in inspect.getclosurevars(function).globals.values() if one not in left
            ]
            left += [
                one
                for one in inspect.getclosurevars(function).nonlocals.values()
                if one not in left
            ]
    return found


def ptx_of(kernel, capability):
    """PTX of a kernel, and its name there."""
    from numba_cuda_mlir import cuda, tools, types
    from numba_cuda_mlir.extending import lower_builtin, refresh_registries

    from numadam._cuda import compiler

    def made(lowering, target, args, _):
        lowering.store_var(target, tuple(map(lowering.load_var, args)))

    for kind in classes_of(kernel.scope(lambda function: function)):
        lower_builtin(kind, types.VarArg(types.Any))(made)
    refresh_registries()
    # it asks for a GPU, though a compute capability is given
    before = tools.get_gpu_compute_capability
    tools.get_gpu_compute_capability = lambda kind=tuple: capability
    try:
        return compiler.ptx_of(kernel, capability, cuda, types)
    finally:
        tools.get_gpu_compute_capability = before
