"""Every rule as functions for compiled code of the user's own: ``@njit`` solvers, CUDA kernels.

For each rule there are ``NAME_update``, one step on arrays in place, ``NAME_element``, one step of
one number, and ``NAME_scalars``, what the elements of a step share. They work in the rule's
default form and give the same bits as its optimiser. See docs/how-to/own-solver.md.

`VERSION` changes where a formula may have changed. Numba keeps the formula in the cache of the
user's module (``cache=True``) and does not see such a change.
"""

from importlib import import_module

from numadam.nopython.core import VERSION
from numadam.rules import CLASSES

__all__ = ["VERSION"]
for _file in CLASSES:
    _functions = vars(import_module(f"{__name__}.{_file}"))
    _public = [name for name in _functions if name.startswith(f"{_file}_")]
    globals().update({name: _functions[name] for name in _public})
    __all__ += _public
