"""Making one optimiser on all ranks: on all or on none, with the same options."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numadam._mpi.decomposition import Decomposition, ranks
from numadam._mpi.errors import RankError
from numadam._mpi.exchange import StepExchange
from numadam._settings.settings import Settings, names_of_same

#: Options that belong to the block of a rank, as its parameters do.
_OF_BLOCK = ("bounds", "comm")


class Construction:
    """One optimiser that all ranks make together.

    Parameters
    ----------
    comm : Decomposition
    title : str
        The name of its class.
    """

    def __init__(self, comm: Decomposition, title: str) -> None:
        self._ranks, self._what = ranks(comm), f"making {title}"
        self._agreed = False

    def join(self, settings: Settings, names: Sequence[str]) -> None:
        """Give the settings what they need to work with those of the other ranks."""
        if settings.plan.norm:
            settings.exchange = StepExchange(self._ranks, names_of_same(settings.rule))
        settings.together = lambda home: self._agree(settings, names, home)

    def _agree(self, settings: Settings, names: Sequence[str], home: str) -> None:
        """Go on where all ranks have come so far, with the same of everything. Collective."""
        self._agreed = True
        self._ranks.agree(None, self._what)
        self._compare(dict(_of_arrays(settings, names, home)))
        self._compare(dict(_of_options(settings)))

    def fail(self, error: BaseException) -> None:
        """Raise an error of this rank, after the other ranks are told, where they wait for it."""
        if not self._agreed:
            self._agreed = True
            self._ranks.agree(error, self._what)

    def _compare(self, texts: Mapping[str, str]) -> None:
        rows = self._ranks.gather(np.array([_digest(text) for text in texts.values()], np.int64))
        unlike = rows != rows[0]
        if not unlike.any():
            return
        column = int(np.flatnonzero(unlike.any(axis=0))[0])
        rank = int(np.flatnonzero(unlike[:, column])[0])
        name = list(texts)[column]
        shown = self._ranks.texts(texts[name])
        raise RankError(
            f"{name}: is {shown[0]} on rank 0 and {shown[rank]} on rank {rank}. Make the optimiser "
            "with the same structure, dtypes and options on all ranks; only shapes may differ."
        )


def _digest(text: str) -> int:
    data = text.encode(errors="backslashreplace")  # a name may have surrogates
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


def _of_arrays(settings: Settings, names: Sequence[str], home: str) -> Iterator[tuple[str, str]]:
    """Rule and arrays as texts by name: as many for every optimiser."""
    yield "rule", settings.rule.name
    yield "library of params", home
    yield "number of arrays", str(len(names))
    yield "names of params", ", ".join(names)
    yield "dtype", settings.plan.dtype.name
    yield "options", ", ".join(settings.options)


def _of_options(settings: Settings) -> Iterator[tuple[str, str]]:
    """Learning rate and options as texts by name."""
    for name, value in {"lr": settings.lr, **settings.options}.items():
        if name not in _OF_BLOCK:
            yield name, _described(value)


def _described(value: Any) -> str:
    """A value as a text that is the same on all ranks: arrays may differ, functions have names."""
    if isinstance(value, Mapping):
        entries = [f"{key!r}: {_described(one)}" for key, one in value.items()]
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_described, value)) + ")"
    if getattr(value, "ndim", 0) or hasattr(value, "__cuda_array_interface__"):
        return "an array"
    if hasattr(value, "item"):
        return repr(value.item())
    if value is None or isinstance(value, (bool, int, float, str, np.dtype)):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))
