"""Hyperparameters and options of an optimiser as attributes of what holds it."""

from __future__ import annotations

from typing import Any, NoReturn

from numadam._optimizer.attributes import fixed, hyper
from numadam._optimizer.optimizer import Optimizer


class Forwarding:
    """Read and set hyperparameters of the optimiser of this rank's part, and copy nothing."""

    _shard: Optimizer

    def __getattr__(self, name: str) -> Any:
        """Hyperparameters and options of the optimiser's class."""
        if not name.startswith("_") and (
            # a property that has raised AttributeError raises it again
            hasattr(type(self), name) or _is_option(type(self._shard), name)
        ):
            return getattr(self._shard, name)
        raise AttributeError(f"Sharded has no attribute {name!r}. {_about(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif _is_option(type(self._shard), name):
            setattr(self._shard, name, value)
        else:
            raise AttributeError(f"Sharded has no attribute {name!r} to set. {_about(name)}")

    def __dir__(self) -> list[str]:
        kind = type(self._shard)
        return [*super().__dir__(), *(name for name in dir(kind) if _is_option(kind, name))]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Sharded: its parts lie on several ranks, so it cannot be copied or pickled on one. "
            "Write a checkpoint, opt.save(folder), or copy opt.params and opt.state on every rank."
        )

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()


def _is_option(kind: type[Any], name: str) -> bool:
    """Whether a class has a hyperparameter or option of this name."""
    return isinstance(getattr(kind, name, None), (fixed, hyper))


def _about(name: str) -> str:
    return f"This rank's part of the optimiser is opt.shard: is opt.shard.{name} what you need?"
