"""Hides the modules that a Python zygote imported ahead, until the code of a forked kernel imports them.

A forked kernel's ``sys.modules`` has the modules of a cold kernel. The first import of a package that was imported ahead puts it there,
with all modules that it needs, if an ordinary import would find the same files. After ``pip install`` of another version, or with a file
of that name in the work directory, the import is an ordinary one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from cloister_zygote.libraries import after_import, may_be_given

__all__ = ["HiddenModules"]


class HiddenModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The hidden modules by name, with the modules that each refers to. A module that was given to the kernel is no longer here."""

    def __init__(self, visible: Iterable[str], batches: Mapping[str, tuple[Sequence[str], Sequence[Any]]]) -> None:
        """Take every module except those of ``visible`` out of ``sys.modules``.

        ``batches`` has, for each import that was made, the modules and the warning filters that it brought.
        """
        keep = set(visible)
        self._modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name not in keep}
        self._needs = {name: _needs(name, module) & self._modules.keys() for name, module in self._modules.items()}
        for name, (brought, _) in batches.items():
            if name in self._needs:
                self._needs[name] |= {one for one in brought if one in self._modules}
        self._filters = {name: list(filters) for name, (_, filters) in batches.items() if filters}
        self._specs: dict[str, Any] = {}
        self._files: dict[str, list[tuple[str, Any]]] = {}
        for name, module in self._modules.items():
            spec = getattr(module, "__spec__", None)
            if spec is not None and spec.has_location and spec.origin:
                self._files.setdefault(_top(name), []).append((spec.origin, _stamp(spec.origin)))
                if name == _top(name) and _found(name) == (spec.origin, _places(spec)):
                    self._specs[name] = (spec.origin, _places(spec))
        self._places = {path: _stamp(path) for path in sys.path if path}
        self._given: dict[str, Any] = {}
        if self._modules:
            sys.meta_path.insert(0, self)

    def get(self, name: str) -> Any:
        """A hidden module, or None."""
        return self._modules.get(name)

    def is_stale(self) -> bool:
        """Whether a package has changed since it was imported ahead, or another one now has its name. Cheap if nothing was installed."""
        if all(self._places.get(path) == _stamp(path) for path in sys.path if path):
            return False
        return not all(self._is_same(top) for top in {*map(_top, self._modules)})

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """Give the module that was imported ahead, or leave the import to the other finders."""
        if name not in self._given:  # it is there if a caller asked before and did not import it
            if name not in self._modules or not self._take_out(name):
                return None
            module = sys.modules.pop(name)  # importlib puts it back; found here, it would be executed again with its old spec
            self._given[name] = (module, getattr(module, "__spec__", None))
        is_package = hasattr(self._given[name][0], "__path__")
        return importlib.machinery.ModuleSpec(name, self, is_package=is_package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        """The module itself."""
        return self._given[spec.name][0]

    def exec_module(self, module: ModuleType) -> None:
        """Put its own spec back; the zygote has executed it."""
        assert module.__spec__ is not None
        _, module.__spec__ = self._given.pop(module.__spec__.name)

    def _take_out(self, name: str) -> bool:
        """Make a module visible, with all that it needs. If a file has changed, drop it and all that need it, and give False."""
        wanted = self._closure(name)
        given = {one: self._modules[one] for one in wanted}
        changed = {top for top in {*map(_top, wanted)} if not self._is_same(top)}
        if not may_be_given(given):
            changed.add("matplotlib")
        if changed:
            for one in [one for one in self._modules if changed & {*map(_top, self._closure(one))}]:
                del self._modules[one]
        if name not in self._modules:
            return False
        for one in wanted:
            sys.modules.setdefault(one, self._modules.pop(one))
        self._add_filters([one for name in wanted for one in self._filters.pop(name, ())])
        after_import(given)
        return True

    def _closure(self, name: str) -> set[str]:
        found: set[str] = set()
        left = [name]
        while left:
            one = left.pop()
            if one not in found and one in self._modules:
                found.add(one)
                left += self._needs[one]
        return found

    def _is_same(self, top: str) -> bool:
        """Whether an import would find the same files, unchanged."""
        if top in self._specs and top not in sys.modules and _found(top) != self._specs[top]:
            return False
        return all(_stamp(path) == stamp for path, stamp in self._files.get(top, ()))

    def _add_filters(self, added: list[Any]) -> None:
        if added:
            filters = [*added, *warnings.filters]
            warnings.resetwarnings()  # it also tells the C half that the list has changed
            warnings.filters[:] = filters  # type: ignore[index]  # typeshed knows no assignment to it


def _top(name: str) -> str:
    return name.partition(".")[0]


def _needs(name: str, module: Any) -> set[str]:
    """Its package, and the modules whose names, classes and functions it holds; not submodules that an import has set in it."""
    found = {name.rpartition(".")[0]}
    for key, value in list(getattr(module, "__dict__", {}).items()):
        if isinstance(value, ModuleType):
            if value.__name__ != f"{name}.{key}":
                found.add(value.__name__)
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)) and isinstance(value.__module__, str):
            found.add(value.__module__)
    return found - {name}


def _found(top: str) -> tuple[str | None, list[str]] | None:
    """Where an import would find a package or module."""
    spec = importlib.machinery.PathFinder.find_spec(top)
    return None if spec is None else (spec.origin, _places(spec))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _places(spec: importlib.machinery.ModuleSpec) -> list[str]:
    return list(spec.submodule_search_locations or [])
