"""Modules that are loaded when they are first used, though a library imports them at once."""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class _Deferred(types.ModuleType):
    """Stands for a module until an attribute is asked for.

    Not `importlib.util.LazyLoader`, which loads a module that is imported a second time.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def defer(*names: str) -> None:
    """Lets ``import name`` cost nothing until the module is used; modules that are loaded already stay as they are."""
    for name in names:
        # Not the spec of a module within a package: to find it would import the package.
        if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]) is not None:
            sys.modules[name] = _Deferred(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
