"""Packages: whose code a module is: the user's own, an installed package's, the standard library's, or ours.

Nothing is imported to find out. The user's own code counts by what it says, an installed package by its version.
"""

from __future__ import annotations

import os
import re
import sys
from enum import Enum
from importlib.machinery import ModuleSpec
from typing import Any

_OURS = __name__.partition(".")[0]
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Origin(Enum):
    """Whose code it is."""

    USER = "user"
    INSTALLED = "installed"
    LIBRARY = "library"  # the standard one
    OURS = "ours"


_origins: dict[tuple[str, str], Origin] = {}
_versions: dict[str, str] = {}


def origin_of(module: str, path: str) -> Origin:
    """Return whose a module is, by its name and the path of its file.

    >>> origin_of("json.decoder", os.__file__), origin_of("__main__", "train.py")
    (<Origin.LIBRARY: 'library'>, <Origin.USER: 'user'>)
    """
    found = _origins.get((module, path))
    if found is None:
        if len(_origins) > 10_000:
            _origins.clear()
        found = _origins[module, path] = _origin(module.partition(".")[0], path)
    return found


def _origin(top: str, path: str) -> Origin:
    if top == _OURS:
        return Origin.OURS
    if any(part in path for part in _INSTALLED):
        return Origin.INSTALLED
    if top != "__main__" and top in sys.stdlib_module_names:
        if not path or path.startswith((_LIBRARY, "<frozen")) or path in ("built-in", "frozen"):
            return Origin.LIBRARY
    elif path.startswith((_LIBRARY, "<frozen")):
        return Origin.LIBRARY
    return Origin.USER


def origin_of_module(name: str) -> Origin:
    """Return whose an imported module is.

    >>> origin_of_module("os.path"), origin_of_module("builtins"), origin_of_module(__name__)
    (<Origin.LIBRARY: 'library'>, <Origin.LIBRARY: 'library'>, <Origin.OURS: 'ours'>)
    """
    if name == "__main__":  # in a worker that is a file of others, and what comes from ours says so still
        return Origin.USER
    return origin_of(name, path_of(sys.modules.get(name)))


def path_of(module: Any) -> str:
    """Return the path of an imported module's file, or nothing."""
    path = getattr(module, "__file__", None)
    return path if isinstance(path, str) else ""


def found_module(name: str) -> tuple[str, Origin] | None:
    """Return the path and the origin of a module that may not have been imported yet; None where there is none.

    >>> found_module("json.decoder")[1], found_module("no_such_module")
    (<Origin.LIBRARY: 'library'>, None)
    """
    module = sys.modules.get(name)
    if module is not None and name != "__main__":
        path = path_of(module) or str(next(iter(getattr(module, "__path__", ())), ""))
        return path, origin_of(name, path)
    if name.partition(".")[0] in sys.builtin_module_names:
        return "", Origin.LIBRARY
    spec = _spec_of(name)
    if spec is None:
        return None
    path = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    return path, origin_of(name, path)


def _spec_of(name: str) -> ModuleSpec | None:
    """Find a module as an import would, but without importing what is around it."""
    above, _, _ = name.rpartition(".")
    where = None
    if above:
        module: Any = sys.modules.get(above)
        if module is not None:
            where = getattr(module, "__path__", None)
        else:
            spec = _spec_of(above)
            where = None if spec is None else spec.submodule_search_locations
        if where is None:
            return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            found: ModuleSpec | None = None if find is None else find(name, where, None)
        except Exception:  # a finder of somebody's, which fails at an import, too
            continue
        if found is not None:
            return found
    return None


def version_of(module: str) -> str:
    """Return the distributions that an installed module comes from, with their versions.

    >>> version_of("pytest._code").startswith("pytest ")
    True
    """
    top = module.partition(".")[0]
    found = _versions.get(top)
    if found is None:
        found = _versions[top] = _version_beside(top) or _version_of_distributions(top)
    return found


def _version_beside(top: str) -> str:
    """Return what the folder beside a package says, if it is called as the package is: the module that reads all of
    them takes longer to import than we take for a node.
    """
    module = sys.modules.get(top)
    path = path_of(module) or str(next(iter(getattr(module, "__path__", ())), ""))
    for part in _INSTALLED:
        head, _, rest = path.partition(part)
        if rest:
            try:
                names = os.listdir(head + part)
            except OSError:
                return ""
            wanted = top.lower()
            found = [name[: -len(".dist-info")].split("-") for name in names if name.endswith(".dist-info")]
            versions = [one[1] for one in found if len(one) == 2 and re.sub(r"[-_.]+", "_", one[0]).lower() == wanted]
            return f"{top} {versions[0]}" if len(versions) == 1 else ""
    return ""


def _version_of_distributions(top: str) -> str:
    from importlib import metadata

    try:
        return f"{top} {metadata.version(top)}"
    except (metadata.PackageNotFoundError, ValueError):  # it is called otherwise than what is imported
        pass
    names = sorted(set(metadata.packages_distributions().get(top, ())))
    if names:
        return ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{top} {getattr(sys.modules.get(top), '__version__', 'of no version')}"
