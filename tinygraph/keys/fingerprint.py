"""Fingerprint: what the code of a node means, with everything that it reaches in the user's own code.

Functions are their normal form, and what the names in them stand for: helpers and classes are walked in turn, values
count by what they are, packages by their version, and the standard library by Python's. What is reached in other ways
(an attribute of an argument, ``getattr`` with a name made up at run time) is not seen: ``version=`` says that it
changed.

Everything is numbered in the order in which it is met, which is that of names, so recursion is a number, and the
digest is the same in every process. Nothing of the user's is imported to find out, and nothing is run.
"""

from __future__ import annotations

import builtins
import functools
import marshal
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from enum import EnumMeta
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

from tinygraph.definition import Definition, Kind
from tinygraph.errors import UnhashableArgumentError
from tinygraph.keys.canonical import ATOMS, tree_of
from tinygraph.keys.content import LIBRARIES
from tinygraph.keys.digests import digest
from tinygraph.keys.packages import Origin, found_module, origin_of, origin_of_module, path_of, version_of
from tinygraph.keys.source import Chain, Import, codes_in, digest_of_file, form_of, module_at, trim

FORMAT = 1  # of fingerprints: another one, and all of them are others

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Fingerprint(NamedTuple):
    """What the code of a node means.

    ``parts``: what it is made of, by a name for people, as a short digest or a small value; ``draws``: whether it names
    ``random`` or ``numpy.random``, or calls what sounds like drawing (``sample``, ``shuffle``); ``unkept``: the names
    of the nodes that it reaches and that are not to be kept; ``nodes``: the names of all that it reaches.
    """

    digest: bytes
    parts: dict[str, str]
    draws: bool
    unkept: list[str]
    nodes: tuple[str, ...] = ()


def fingerprint(definition: Definition) -> Fingerprint:
    """Return what the code of a node means now.

    >>> __name__ = "__main__"  # as in a script
    >>> RATE = 0.5
    >>> def half(x): return RATE * x
    >>> before = fingerprint(Definition(half))
    >>> fingerprint(Definition(half, retries=2)).digest == before.digest
    True
    >>> half.__globals__["RATE"] = 0.25
    >>> after = fingerprint(Definition(half))
    >>> [(label, was, after.parts[label]) for label, was in before.parts.items() if after.parts[label] != was]
    [('global `RATE` in __main__', '0.5', '0.25')]

    Raises :class:`UnhashableArgumentError` for a value in a global, a closure, a default or a class that has no key.
    """
    walk = _Walk()
    walk.parts["Python"] = _PYTHON
    root = walk.root(definition)
    walk.finish()
    made_of = marshal.dumps([FORMAT, _PYTHON, root, walk.rows], 2)
    return Fingerprint(digest(made_of), walk.parts, walk.draws, list(walk.unkept), tuple(walk.nodes))


def meaning_of(thing: Any) -> bytes:
    """Return what a function, a class, a module or a node means, as the argument of a call.

    >>> meaning_of(len) == meaning_of(max)
    False
    """
    return fingerprint_of(thing).digest


def fingerprint_of(thing: Any) -> Fingerprint:
    """Return what code means as the argument of a call, and what it needs: random numbers, nodes."""
    walk = _Walk()
    tree = walk.refer(thing)
    walk.finish()
    made_of = marshal.dumps([FORMAT, tree, walk.rows], 2)
    return Fingerprint(digest(made_of), walk.parts, walk.draws, list(walk.unkept), tuple(walk.nodes))


def sounds_secret(name: str) -> bool:
    """Return whether what a name stands for is to be shown to nobody.

    >>> sounds_secret("API_KEY"), sounds_secret("db_pwd"), sounds_secret("rate")
    (True, True, False)
    """
    return _SECRET.search(name) is not None


class _Walk:
    """One walk over code, from a root to everything that it reaches."""

    def __init__(self) -> None:
        self.rows: list[Any] = []  # what was met, by number
        self.parts: dict[str, str] = {}
        self.draws = False
        self.unkept: dict[str, None] = {}
        self.nodes: dict[str, None] = {}
        self._mentioned: set[str] = set()  # names in code that imports modules itself, and in the files of those
        self._offered: list[tuple[str, str, bool]] = []  # nodes of such files: their names, and whether not to be kept
        self._numbers: dict[Any, int] = {}  # by address, or by path for files
        self._pending: deque[tuple[int, Callable[[Any, str], Any], Any, str]] = deque()
        self._alive: list[Any] = []  # what has a number keeps its address
        self._referred = 0
        self._root: Any = None

    def root(self, definition: Definition) -> Any:
        """Begin at a node."""
        self._root = definition.function
        return self._node(definition, "function", "")

    def finish(self) -> None:
        """Walk until nothing is new."""
        pending = self._pending
        while pending:
            number, visit, thing, role = pending.popleft()
            self.rows[number] = visit(thing, role)
        for attribute, name, unkept in self._offered:
            if attribute in self._mentioned:
                self._reach(name, unkept)
        trim()

    def _reach(self, node: str, unkept: bool) -> None:
        self.nodes[node] = None
        if unkept:
            self.unkept[node] = None

    def refer(self, thing: Any, role: str = "") -> Any:
        """Return what stands for a function, a class, a module, a node or something with a name; walk it later."""
        self._referred += 1
        if isinstance(thing, FunctionType):
            return self._function(thing, role)
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, ModuleType):
            return self._module(thing.__name__, thing)
        if isinstance(thing, Definition):
            return self._node(thing, "node", f" of `{thing.name}`")
        return self._named(thing)

    def _number(self, key: Any, visit: Callable[[Any, str], Any], thing: Any, role: str) -> Any:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.rows)
            self.rows.append(None)
            self._alive.append(thing)
            self._pending.append((number, visit, thing, role))
        return {"code": number}

    # Nodes

    def _node(self, definition: Definition, role: str, of: str) -> Any:
        function: Any = definition.function
        while hasattr(function, "__wrapped__") and _is_ours(type(function)):
            function = function.__wrapped__  # a stand-in for a body that captured futures
        if definition.function is not self._root:
            self._reach(definition.name, _is_unkept(definition))
        tree = [
            self.refer(function, role) if isinstance(function, FunctionType) else self._tree(function, definition.name)
        ]
        if definition.kind is Kind.ENTRY and (cls := _class_around(function)) is not None:
            tree.append(self.refer(cls))
        version = getattr(definition, "version", None)
        if version is not None:
            tree.append({"version": self._value(f"version={of}", version)})
        key = getattr(definition, "key", None)
        if key is not None:
            tree.append({"key": self._value(f"key={of}", key)})
        return {"node": tree}

    # Values

    def _tree(self, value: Any, where: str) -> Any:
        return value if type(value) in ATOMS else tree_of(value, where, code=self.refer)

    def _value(self, label: str, value: Any) -> Any:
        """Encode a value, and tell of it under a label."""
        if type(value) in ATOMS:
            self._tell(label, _shown(label, value))
            return value
        if isinstance(value, FunctionType):
            return self._function(value, "helper")
        before = self._referred
        tree = tree_of(value, label, code=self.refer)
        if isinstance(value, type | ModuleType | Definition):
            return tree  # it is told of where it is defined
        # What is told of a value must not change because other code got other numbers.
        told = tree if self._referred == before else tree_of(value, label, code=_by_name)
        self._tell(label, digest(marshal.dumps(told, 2)).hex()[:10])
        return tree

    def _tell(self, label: str, what: str) -> None:
        label, again = label.strip(), 1
        name = label
        while self.parts.get(name, what) != what:
            again += 1
            name = f"{label} ({again})"
        self.parts[name] = what

    # Functions

    def _function(self, function: FunctionType, role: str) -> Any:
        if id(function) in self._numbers:
            return {"code": self._numbers[id(function)]}
        scope = function.__globals__
        module, path = scope.get("__name__", ""), function.__code__.co_filename
        if path[:1] == "<":
            path = scope.get("__file__") or path
        origin = origin_of(module, path)
        if origin is Origin.USER:
            return self._number(id(function), self._visit_function, function, role or "helper")
        named = self._foreign(module, function.__qualname__, origin)
        if (function.__closure__ or hasattr(function, "__wrapped__")) and not _is_of_library(function):
            return [named, self._number(id(function), self._visit_wrapper, function, role or "helper")]
        return named

    def _visit_function(self, function: FunctionType, role: str) -> Any:
        code, scope = function.__code__, function.__globals__
        form = form_of(code, scope)
        where = _place(code.co_filename, scope.get("__name__", ""))
        name = _short_name(function.__qualname__)
        self._tell(_label(role, name, where), form.digest.hex()[:10])
        row: list[Any] = ["function", form.digest]
        if function.__defaults__ or function.__kwdefaults__:
            row.append([self._value(f"default `{p}` of `{name}`", value) for p, value in _defaults(function)])
        if form.free:
            row.append(self._captured(function, form.free, name))
        found: list[Any] = []
        for chain in form.names:
            if chain[0] in scope:
                found.append((chain, self._reached(scope[chain[0]], chain, f"global `{{}}` in {where}")))
            elif chain[0] not in _BUILTINS:
                found.append((chain, {"undefined": []}))
        row.append(found)
        self.draws |= form.draws
        if form.imports:
            package = scope.get("__package__") or scope.get("__name__", "").rpartition(".")[0]
            row.append(self._imported(form.imports, package))
            named = {name for part in codes_in(code) for name in part.co_names}
            self._mentioned |= named
            self._note_imports(form.imports, named)
        if function.__dict__:
            where = f"`{{}}` of `{name}` in {where}"
            own = [(other, value) for other, value in sorted(function.__dict__.items()) if _is_told(other, value)]
            if own:
                row.append([(other, self._leniently(where.format(other), value)) for other, value in own])
        return row

    def _note_imports(self, imports: tuple[Import, ...], named: set[str] | frozenset[str]) -> None:
        """Note whether code draws random numbers with what it imports, by the names that are in it."""
        for one in imports:
            if one.module == "numpy":
                self.draws |= "random" in named
            elif one.module.partition(".")[0] == "torch":
                self.draws |= any(_TORCH.match(name) is not None for name in named)

    def _leniently(self, label: str, value: Any) -> Any:
        """Encode a value if it has a meaning, else its kind: what is beside the code, and need not be used."""
        try:
            return self._value(label, value)
        except UnhashableArgumentError:
            return {"kind": type(value).__name__}

    def _captured(self, function: FunctionType, chains: tuple[Chain, ...], name: str) -> list[Any]:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        found: list[Any] = []
        for chain in chains:
            try:
                thing = cells[chain[0]].cell_contents
            except ValueError:  # not assigned yet
                found.append((chain, {"undefined": []}))
            else:
                found.append((chain, self._reached(thing, chain, f"`{{}}` captured by `{name}`")))
        return found

    def _reached(self, thing: Any, chain: Chain, label: str) -> Any:
        """Return what stands for what a name, with the attributes that follow, stands for now."""
        if chain[0] in _OF_MODULES:
            return None
        at, begin = 1, 0
        while isinstance(thing, ModuleType):
            name = thing.__name__
            if at == len(chain):
                return self._module(name, thing)
            part = vars(thing).get(chain[at])
            if origin_of_module(name) is not Origin.USER:
                self._note_draws(name, chain[at])
                if not isinstance(part, ModuleType):
                    return self._module(name)
            elif part is None and chain[at] not in vars(thing):
                return self._module(f"{name}.{chain[at]}")
            label, begin = f"global `{{}}` in {_place(path_of(thing), name)}", at
            thing = part
            at += 1
        if isinstance(thing, FunctionType):
            tree = self._function(thing, "helper")
            if at < len(chain) and chain[at] in thing.__dict__:
                dotted = ".".join(chain[begin : at + 1])
                return [tree, self._value(label.format(dotted), thing.__dict__[chain[at]])]
            return tree
        return self._value(label.format(".".join(chain[begin:at])), thing)

    def _visit_wrapper(self, function: FunctionType, role: str) -> Any:
        """A function of a library around one of the user's, such as what contextmanager or singledispatch returns."""
        found: list[Any] = []
        registry = getattr(function, "registry", None)
        if isinstance(registry, MappingProxyType):
            return ["registry", self._tree(dict(registry), function.__qualname__)]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                inside = cell.cell_contents
            except ValueError:
                continue
            if isinstance(inside, FunctionType | type | Definition | functools.partial) or type(inside) in ATOMS:
                found.append(self._tree(inside, function.__qualname__))
            elif isinstance(inside, MethodType):
                owner = inside.__self__
                owner = getattr(owner, "definition", owner)  # of a call of a node
                found.append([self._leniently_tree(owner, function.__qualname__), inside.__name__])
            elif _is_told(name, inside):  # what a decorator was given
                found.append(self._leniently_tree(inside, function.__qualname__))
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            found.append(self._tree(wrapped, function.__qualname__))
        return ["wrapper", found]

    def _leniently_tree(self, value: Any, where: str) -> Any:
        try:
            return self._tree(value, where)
        except UnhashableArgumentError:
            return {"kind": type(value).__name__}

    # Classes

    def _class(self, cls: type) -> Any:
        module = cls.__module__
        origin = origin_of_module(module)
        if not cls.__flags__ & _HEAP_TYPE or (origin is not Origin.USER and _is_library(cls)):
            return self._foreign(module, cls.__qualname__, origin)
        return self._number(id(cls), self._visit_class, cls, "")

    def _visit_class(self, cls: type, role: str) -> Any:
        name = _short_name(cls.__qualname__)
        where = _place(path_of(sys.modules.get(cls.__module__)), cls.__module__)
        bases = [self.refer(base) for base in cls.__bases__ if base is not object]
        meta = type(cls)
        row: list[Any] = ["class", cls.__name__, bases, None if meta is type else self.refer(meta)]
        lenient = origin_of_module(meta.__module__) not in (Origin.USER, Origin.LIBRARY)
        lenient |= origin_of_module(cls.__module__) is not Origin.USER  # a library has made it
        told = [base.__name__ for base in cls.__bases__]
        for attribute, value in _attributes(cls):
            label = f"`{name}.{attribute}` in {where}"
            told.append(attribute)
            try:
                tree = self.refer(value, "method") if type(value) is FunctionType else self._attribute(label, value)
            except UnhashableArgumentError:
                if not lenient and not attribute.startswith("__"):
                    raise
                tree = {"kind": type(value).__name__}  # what a library keeps in the classes that it makes
            row.append((attribute, tree))
        self._tell(f"class `{name}` in {where}", digest(marshal.dumps(told, 2)).hex()[:10])
        return row

    def _attribute(self, label: str, value: Any) -> Any:
        if isinstance(value, staticmethod | classmethod | property | functools.cached_property):
            return self._tree(value, label)  # the functions in it tell of themselves
        return self._value(label, value)

    # Modules

    def _module(self, name: str, module: Any = None) -> Any:
        """Return what stands for a module as a whole, imported or not: the user's own by what its file says."""
        self._note_draws(name, "")
        if name == "__main__":
            return {"module": name}
        if module is None:
            module = sys.modules.get(name)
        if module is None or module is sys.modules.get(name):
            found = found_module(name)
            if found is None:
                return {"missing": name}
            path, origin = found
        else:  # nobody finds it by its name
            path = path_of(module)
            origin = origin_of(name, path)
        if origin is not Origin.USER:
            return self._foreign(name, "", origin)
        if module is not None and not path:
            top = name.partition(".")[0]
            origin = origin_of_module(top)
            if top != name and origin is not Origin.USER:  # a part of a library in C
                return self._foreign(name, "", origin)
            return self._number(id(module), self._visit_made_module, module, "")
        key = path if module is None or module is sys.modules.get(name) else (path, id(module))
        return self._number(key, self._visit_module, (name, path, module), "")

    def _visit_made_module(self, module: ModuleType, role: str) -> Any:
        """A module that was made by hand: what is in it."""
        name, inside = module.__name__, vars(module)
        label = f"`{{}}` in {name}"
        names = [other for other in sorted(inside) if other not in _OF_MODULES]
        return ["made module", [(other, self._value(label.format(other), inside[other])) for other in names]]

    def _visit_module(self, thing: tuple[str, str, Any], role: str) -> Any:
        name, path, imported = thing
        try:
            module = module_at(path)
        except (OSError, SyntaxError, ValueError, RecursionError):
            content = digest_of_file(path)
            self._tell(f"module {name}", content.hex()[:10])
            return ["file", content]
        row: list[Any] = ["module", module.digest]
        package = name if os.path.basename(path) == "__init__.py" else name.rpartition(".")[0]
        row.append(self._imported(module.imports, package))
        told = module.digest
        self.draws |= module.draws
        self._mentioned |= module.mentioned
        self._note_imports(module.imports, module.mentioned)
        if imported is None:
            self._offered += module.nodes
        else:
            inside = vars(imported)
            self._offered += [
                (other, value.name, _is_unkept(value))
                for other, value in inside.items()
                if isinstance(value, Definition)
            ]
            # What a run has changed in it, or what the file said when it was imported: none of it, as a rule.
            changed = [
                (other, self._leniently(f"`{other}` in {name}", value))
                for other, value in module.changed_in(inside)
                if _is_told(other, value)
            ]
            if changed:
                row.append(changed)
                told = digest(marshal.dumps([told, [other for other, _ in changed]], 2))
        self._tell(f"module {name}", told.hex()[:10])
        return row

    def _imported(self, imports: tuple[Import, ...], package: str) -> list[Any]:
        """Return what stands for modules that are imported when the code runs."""
        names: dict[str, None] = {}
        for one in imports:
            name = one.module
            if one.level:
                around = package.split(".")
                around = around[: len(around) - one.level + 1]
                name = ".".join([*around, name] if name else around)
            steps = name.split(".")
            names.update((".".join(steps[: end + 1]), None) for end in range(len(steps)))
            found = found_module(name)
            if found is not None and found[1] is Origin.USER:
                inside = (f"{name}.{other}" for other in one.names if other != "*")
                names.update((other, None) for other in inside if found_module(other) is not None)
            for other in one.names:
                self._note_draws(name, other)
            self._mentioned.update(one.names)
        return [(name, self._module(name)) for name in sorted(names) if name]

    # What is not the user's

    def _foreign(self, module: str, name: str, origin: Origin) -> Any:
        self._note_draws(module, name)
        if origin is Origin.OURS:
            return {"import": [module.partition(".")[0], name]}
        if origin is not Origin.INSTALLED:
            return {"import": [module, name]}
        version = version_of(module)
        package, _, number = version.partition(" ")
        self._tell(f"package {package}", number)
        return {"import": [module, name, version]}

    def _named(self, thing: Any) -> Any:
        """What has a name and is not made of Python code: a function of C, an object that is pickled as its name."""
        owner = getattr(thing, "__objclass__", None)
        bound = getattr(thing, "__self__", None)
        if owner is None and bound is not None and not isinstance(bound, ModuleType):
            owner = bound if isinstance(bound, type) else type(bound)
        name = _name_of(thing)
        if isinstance(owner, type):
            return [self.refer(owner), name]
        module = getattr(thing, "__module__", None) or type(thing).__module__
        origin = origin_of_module(module)
        if origin is Origin.USER:
            return {"named": [name, self.refer(type(thing))]}
        return self._foreign(module, name, origin)

    def _note_draws(self, module: str, name: str) -> None:
        if module == "random" or module.startswith(("numpy.random", "torch.random")) or (module, name) in _DRAWS:
            self.draws = True
        elif module.partition(".")[0] == "torch":
            self.draws |= _TORCH.match(name) is not None


_DRAWS = frozenset((("numpy", "random"), ("tinygraph", "generator"), ("tinygraph.seeds", "generator")))
_TORCH = re.compile(
    r"rand|((log_)?normal|bernoulli|multinomial|poisson)_?$|\w*dropout", re.IGNORECASE
)  # what draws of torch
_HEAP_TYPE = 1 << 9  # a class made by a class statement, and not in C
_BUILTINS = vars(builtins)
# What Python itself writes into a module: where it lies, and how it is called.
_OF_MODULES = frozenset(
    [
        "__annotations__",
        "__builtins__",
        "__cached__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__path__",
        "__spec__",
    ]
)


def _is_unkept(definition: Definition) -> bool:
    return getattr(definition, "cache", None) in (False, "run")


def _is_told(name: str, value: Any) -> bool:
    """Whether what lies beside code under a name counts: it may be what the code remembers, or counts itself."""
    return name not in _NOTED and (type(value) in ATOMS or _REMEMBERED.search(name) is None)


_REMEMBERED = re.compile(r"cache|memo|^_*seen$", re.IGNORECASE)
_NOTED = frozenset(("__wrapped__", "__signature__", "calls", "hits", "misses"))


def _is_library(cls: type) -> bool:
    """Whether a class is where it says: what make_dataclass and types.new_class make says that it is theirs."""
    return _found_at(cls.__module__, cls.__qualname__) is cls


def _is_of_library(function: FunctionType) -> bool:
    """Whether a wrapper is a library's own function: its version says what is in it."""
    module = function.__module__
    if hasattr(function, "registry") or origin_of_module(module) is Origin.USER:
        return False
    return _found_at(module, function.__qualname__) is function


def _found_at(module: str, qualname: str) -> Any:
    thing: Any = sys.modules.get(module)
    for step in qualname.split("."):
        thing = getattr(thing, step, None)
    return thing


def _is_ours(kind: type) -> bool:
    return origin_of_module(kind.__module__) is Origin.OURS


def _by_name(thing: Any) -> Any:
    return {"code": getattr(thing, "__qualname__", type(thing).__qualname__)}


def _name_of(thing: Any) -> str:
    for attribute in ("__qualname__", "__name__", "_name"):
        name = getattr(thing, attribute, None)
        if isinstance(name, str):
            return name
    reduced = thing.__reduce_ex__(4)
    return reduced if isinstance(reduced, str) else type(thing).__qualname__


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    defaults, code = function.__defaults__ or (), function.__code__
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    named = function.__kwdefaults__ or {}
    yield from ((name, named[name]) for name in sorted(named))


def _class_around(function: Any) -> type | None:
    """Return the class in whose body a method was defined, if its name leads there."""
    name = getattr(function, "__qualname__", "")
    thing: Any = None
    for step, part in enumerate(name.split(".")[:-1]):
        thing = function.__globals__.get(part) if not step else getattr(thing, part, None)
        thing = thing.function if isinstance(thing, Definition) else thing
    if isinstance(thing, type) and vars(thing).get(function.__name__) is function:
        return thing
    return None


# Of a class: what Python and dataclasses write into it, which follows from what counts anyway, or says where it lies.
_OF_CLASSES = frozenset(
    [
        "__abstractmethods__",
        "__conditional_annotations__",
        "__classcell__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__parameters__",
        "__qualname__",
        "__slotnames__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
        "_field_defaults",
    ]
)
_OF_RECORDS = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__", "_field_defaults")
# What the libraries of records write into them, if the user has not.
_WRITTEN = frozenset(
    [
        *("__init__", "__repr__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__new__"),
        *("__setattr__", "__delattr__", "__getstate__", "__setstate__", "__replace__", "__attrs_init__"),
        *("__getnewargs__", "_make", "_replace", "_asdict"),
    ]
)
# What enums write into themselves, beside functions.
_OF_ENUMS = re.compile(
    r"_(use_args|member_names|member_map|value2member_map|unhashable_values|unhashable_values_map|hashable_values|"
    r"member_type|flag_mask|all_bits|singles_mask|inverted|ignore|order|value_repr)_|__dir__"
)
_OF_LIBRARIES = (
    "__pydantic_",
    "__attrs_",
    "__sqlalchemy_",
    "__mapper",
)  # names that they write: caches, and what says it again


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield what of a class counts, in the order of names: its own functions and values, its fields, its members."""
    inside = vars(cls)
    members: Any = cls.__members__ if isinstance(cls, EnumMeta) else None
    is_record = any(name in inside for name in _OF_RECORDS)
    for name in sorted(inside):
        value = inside[name]
        kind = type(value)
        if name in _OF_CLASSES or kind in (GetSetDescriptorType, MemberDescriptorType):
            continue
        if name[:2] == "__" and not _is_own(cls, name, value):
            continue
        if is_record and ((name in _WRITTEN and _is_generated(value)) or kind.__name__ == "_tuplegetter"):
            continue
        if members is not None and (name in members or _is_of_enums(name, value)):
            continue
        yield name, value
    if members is not None:
        yield "its members", [(name, member._value_, _set_in(cls, member)) for name, member in members.items()]
    annotations = _annotations(cls)
    if annotations:
        yield "its annotations", [(name, annotations[name]) for name in annotations]
    if "__dataclass_fields__" in inside:
        yield "its fields", [_field(name, field) for name, field in inside["__dataclass_fields__"].items()]
        yield "its dataclass", repr(inside["__dataclass_params__"])
    for name in _OF_RECORDS[1:]:
        if name in inside:
            yield f"its {name.strip('_')}", inside[name]


def _is_own(cls: type, name: str, value: Any) -> bool:
    """Whether an attribute with underscores is the user's: libraries keep much under such names that says nothing."""
    kind = type(value)
    if kind is FunctionType:
        # Of protocols, until there is an instance.
        return bool(value.__name__ != "_no_init_or_replace_init")
    if name.startswith(_OF_LIBRARIES):
        return False
    if kind in ATOMS or origin_of_module(kind.__module__) is not Origin.INSTALLED:
        return True
    if kind.__module__.partition(".")[0] in LIBRARIES:
        return True
    around = (type(cls), *cls.__mro__)
    return not any(origin_of_module(base.__module__) is Origin.INSTALLED for base in around)


def _is_of_enums(name: str, value: Any) -> bool:
    function = getattr(value, "__func__", value)
    if isinstance(function, FunctionType):
        return _is_foreign(function)
    return isinstance(value, BuiltinFunctionType | MethodDescriptorType | WrapperDescriptorType) or (
        _OF_ENUMS.fullmatch(name) is not None
    )


def _set_in(cls: type, member: Any) -> list[Any]:
    """Return the attributes that a member of an enum was given when it was made."""
    found: list[Any] = []
    for name, value in sorted(getattr(member, "__dict__", {}).items()):
        if name[:1] == "_" == name[-1:] or name == "_sort_order_" or not _is_told(name, value):
            continue
        if isinstance(getattr(cls, name, None), functools.cached_property):
            continue
        found.append((name, value))
    return found


def _annotations(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        found: dict[str, Any] = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
        return found
    annotations: Any = vars(cls).get("__annotations__")
    return annotations if isinstance(annotations, dict) else {}


def _field(name: str, field: Any) -> list[Any]:
    """Return what counts of a field of a dataclass."""
    flags = field.init, field.repr, field.hash, field.compare, getattr(field, "kw_only", None) is True
    return [name, field.default, field.default_factory, flags, dict(field.metadata)]


def _is_generated(value: Any) -> bool:
    """Whether a function was written by a library for a record: it follows from the fields."""
    function = getattr(value, "__func__", value)
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    if code.co_filename[:1] == "<":
        made_by = function.__globals__.get("__name__") or ""
        return (
            code.co_qualname.startswith("__create_fn__")
            or code.co_filename.startswith("<attrs generated ")
            or made_by.startswith("namedtuple_")
        )
    # A decorator of a library, around a function of the user, is the user's.
    inside = list(_functions_in(function))
    made_by = (function.__globals__.get("__name__") or "").partition(".")[0]
    is_made = made_by in _MAKE_RECORDS or (made_by == "reprlib" and inside)
    return bool(is_made) and _is_foreign(function) and all(map(_is_generated, inside))


_MAKE_RECORDS = frozenset(("attr", "attrs", "collections", "dataclasses", "pydantic", "typing"))


def _is_foreign(function: FunctionType) -> bool:
    path = function.__code__.co_filename
    return path[:1] != "<" and origin_of(function.__globals__.get("__name__", ""), path) is not Origin.USER


def _functions_in(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            if isinstance(cell.cell_contents, FunctionType | MethodType | functools.partial | Definition):
                yield cell.cell_contents
        except ValueError:
            continue


# Labels

_places: dict[tuple[str, str], str] = {}
_SECRET = re.compile(
    r"key|token|secret|passw|passphrase|pwd|credential|auth|bearer|cookie|session|private|dsn", re.IGNORECASE
)
_NAMED = re.compile(r"`([^`]*)`")


def _place(path: str, module: str) -> str:
    """Return how to name a file to a person, and the same in the next version of it."""
    place = _places.get((path, module))
    if place is None:
        name = os.path.basename(path)
        is_file = name.endswith(".py") and "ipykernel" not in path
        place = _places[path, module] = name if is_file else module
    return place


def _short_name(qualname: str) -> str:
    return qualname.rpartition("<locals>.")[2]


def _label(role: str, name: str, where: str) -> str:
    if name == "<lambda>":
        return f"lambda in {where}"
    if "." in name and role == "helper":
        role = "method"
    return f"{role} `{name}` in {where}"


def _shown(label: str, value: Any) -> str:
    """Return a value as a person may read it: numbers and short texts, but nothing that sounds like a secret."""
    kind = type(value)
    named = _NAMED.search(label)
    if value is not None and kind is not bool and sounds_secret(named[1] if named is not None else label):
        pass
    elif kind in (int, float, bool, complex, type(None)):
        text = repr(value)
        if len(text) <= 24:
            return text
    elif kind is str and len(value) <= 24:
        return repr(value)
    return digest(marshal.dumps(value, 2)).hex()[:10]
