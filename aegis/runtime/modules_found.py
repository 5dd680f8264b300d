"""The modules that are there: folders of `aegis.modules`. Being there is all the registration there is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from aegis.errors import ModuleStartFailed
from aegis.runtime.settings import Option

PACKAGE = "aegis.modules"


def names(package: str = PACKAGE) -> tuple[str, ...]:
    """Folders of the package, sorted; one whose name begins with an underscore is none."""
    path = importlib.import_module(package).__path__
    return tuple(
        sorted(found.name for found in pkgutil.iter_modules(path) if found.ispkg and found.name[0] != "_")
    )


def options(name: str, package: str = PACKAGE) -> tuple[Option, ...]:
    """`OPTIONS` of the module's config.py, relative names. Raises whatever importing it raises."""
    found = importlib.import_module(f"{package}.{name}.config").OPTIONS
    if not isinstance(found, tuple) or not all(isinstance(option, Option) for option in found):
        raise ModuleStartFailed(f"{package}.{name}.config.OPTIONS is no tuple of Option")
    return found


def module_class(name: str, package: str = PACKAGE) -> Any:
    """The one class of the module's module.py whose `name` is the folder's. Raises whatever importing it raises."""
    imported = importlib.import_module(f"{package}.{name}.module")
    found = [
        member
        for _, member in inspect.getmembers(imported, inspect.isclass)
        if member.__module__ == imported.__name__ and getattr(member, "name", None) == name
    ]
    if len(found) != 1:
        raise ModuleStartFailed(
            f"{imported.__name__} has {len(found)} classes whose name is {name!r}, not one"
        )
    return found[0]
