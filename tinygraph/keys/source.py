"""Source: the normal form of a function's code, which comments, formatting and moved lines do not change.

It is the syntax tree, without docstrings, positions and decorators, of the source that really is the source of the
running code: a file may have been edited since it was imported. Where there is no such source (``exec``, standard
input, asserts rewritten by pytest) it is the bytecode, without line numbers and file names.
"""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
import marshal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from tinygraph.keys.digests import digest

Chain = tuple[str, ...]


class Import(NamedTuple):
    """An import statement: how many dots, which module, which names of it."""

    level: int
    module: str
    names: tuple[str, ...]


class Form(NamedTuple):
    """What the code of a function says: its digest, what it names outside itself, what it imports itself.

    ``names``: names of its module, each with the attributes that follow (``("helpers", "normalise")``); ``free``: the
    same for names of functions around it; ``draws``: whether it calls what draws random numbers, as it sounds.
    """

    digest: bytes
    names: tuple[Chain, ...]
    free: tuple[Chain, ...]
    imports: tuple[Import, ...]
    draws: bool
    is_source: bool


_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

# Methods that draw from numpy's global state without naming it, as those of data frames do.
DRAWN = frozenset(("sample", "shuffle", "permutation", "choice", "bootstrap", "rvs"))

_FILES = 16  # so many parsed files are kept: what was found in them is kept with the code
_MODULES = 1_000
_LAMBDA = "<lambda>"
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# By the address of a code object, which is itself beside it: equal code of two files may have two sources.
_forms: dict[int, tuple[weakref.ref[CodeType], Form]] = {}


def form_of(code: CodeType, scope: dict[str, Any] | None = None) -> Form:
    """Return the normal form of a function's code; ``scope`` is its module, which may know where its source is.

    >>> def area(r): return 3.14 * r**2
    >>> def other(r):
    ...     "The same, said in other words."
    ...     return 3.14 * r ** 2  # roughly
    >>> form_of(area.__code__).digest == form_of(other.__code__.replace(co_name="area")).digest
    False
    >>> form_of((lambda path: os.path.join(path, NAME)).__code__).names
    (('NAME',), ('os', 'path', 'join'))
    """
    known = _forms.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    source = _source_of(code, scope)
    if source is None:
        found = Form(digest(bytecode(code)), *_outside(code), is_source=False)
    else:
        found = Form(digest(source.normal), *_outside(source.code), is_source=True)
    # The method is bound here: a callback may come when the interpreter has taken this module apart.
    _forms[id(code)] = weakref.ref(code, functools.partial(_forget, _forms.pop, id(code))), found
    return found


def _forget(pop: Callable[[int, None], Any], address: int, _: weakref.ref[CodeType]) -> None:
    pop(address, None)


class Module(NamedTuple):
    """What the file of a module says.

    ``constants``, ``defined``: the values and functions that it gives names to, and for a class the same as a dict and
    a set of its own; ``decorated``: functions of which decorators make something; ``taken``: what it imports from
    where, under which name; ``bound``: all names that it may give a meaning; ``functions``: the digests of all of them;
    ``mentioned``: names that its code uses; ``nodes``: the names of its nodes, and whether they are not to be kept.
    """

    path: str
    digest: bytes
    imports: tuple[Import, ...]
    constants: dict[str, Any]
    defined: frozenset[str]
    decorated: frozenset[str]
    taken: dict[str, Import]
    classes: dict[str, tuple[dict[str, Any], frozenset[str], frozenset[str]]]
    bound: frozenset[str] | None
    functions: frozenset[bytes]
    mentioned: frozenset[str]
    nodes: tuple[tuple[str, str, bool], ...]

    @property
    def draws(self) -> bool:
        """Whether something in it sounds like drawing random numbers."""
        return not DRAWN.isdisjoint(self.mentioned)

    def changed_in(self, inside: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield what is otherwise in the imported module: the file was edited since, or a run has set it."""
        for name in sorted(inside.keys() | self.constants.keys() | self.defined | self.classes.keys()):
            thing = inside.get(name)
            if name in self.constants:
                is_same = _is_same(thing, self.constants[name])
            elif name in self.defined:
                is_same = isinstance(thing, FunctionType) and self._says(thing, inside)
            elif name in self.taken:
                is_same = _is_taken(thing, self.taken[name], inside)
            elif isinstance(thing, type) and thing.__module__ == inside.get("__name__"):
                is_same = self._says_class(thing, name, inside)
            elif isinstance(thing, FunctionType):
                # By its file, because it may be what a decorator has made of another.
                is_same = thing.__code__.co_filename != self.path or self._says(thing, inside)
                is_same = is_same and (self.bound is None or name in self.bound)
                # What a decorator makes of a function has that in a closure.
                is_other = name in self.decorated and thing.__code__.co_filename != self.path
                is_same = is_same and not (is_other and thing.__closure__ is None)
            elif name in self.classes:
                is_same = not self.classes[name][0] and not self.classes[name][1]  # a decorator may make anything of it
            else:
                is_same = name[:2] == "__" or isinstance(thing, ModuleType) or self.bound is None or name in self.bound
            if not is_same:
                yield name, thing

    def _says(self, function: FunctionType, inside: dict[str, Any]) -> bool:
        return form_of(function.__code__, inside).digest in self.functions

    def _says_class(self, cls: type, name: str, inside: dict[str, Any]) -> bool:
        own = vars(cls)
        functions = [part for part in own.values() if isinstance(part, FunctionType)]
        if any(part.__code__.co_filename == self.path and not self._says(part, inside) for part in functions):
            return False
        if name not in self.classes:
            return self.bound is None or name in self.bound
        constants, defined, bound = self.classes[name]
        is_alone = getattr(cls.__init_subclass__, "__func__", None) is None  # else a class around it may add to it
        is_plain = type(cls) is type and "__dataclass_fields__" not in own and "_field_defaults" not in own
        for other, value in own.items():
            if other in constants:
                if (is_plain or type(value) in _LITERAL) and not _is_same(value, constants[other]):
                    return False
            elif other in defined:
                if other in _IMPLICIT:
                    value = getattr(value, "__func__", value)
                if is_plain and not (isinstance(value, FunctionType) and self._says(value, inside)):
                    return False
            elif is_plain and is_alone and other not in bound and other[:2] != "__":
                return False
        return not is_plain or own.keys() >= constants.keys() | defined


def _is_taken(thing: Any, one: Import, inside: dict[str, Any]) -> bool:
    """Whether a name still is what it was imported as, as far as that is loaded."""
    module = one.module
    if one.level:
        around = str(inside.get("__package__") or "").split(".")
        around = around[: len(around) - one.level + 1]
        module = ".".join([*around, module] if module else around)
    there = vars(sys.modules.get(module, sys))
    return module not in sys.modules or one.names[0] not in there or there[one.names[0]] is thing


_IMPLICIT = ("__new__", "__init_subclass__", "__class_getitem__")  # methods of a class without being told to be
_LITERAL = frozenset((type(None), bool, int, float, complex, str, bytes, type(Ellipsis), list, tuple, dict, set))


def _is_same(value: Any, constant: Any) -> bool:
    """Whether a value is what a literal says."""
    if type(value) is not type(constant):
        return False
    if isinstance(constant, list | tuple):
        return len(value) == len(constant) and all(map(_is_same, value, constant))
    if isinstance(constant, dict):
        # A set would take 1 and True for the same, and so would the dict itself.
        kinds = {(type(key), key) for key in value}
        return kinds == {(type(key), key) for key in constant} and all(
            _is_same(value[key], constant[key]) for key in constant
        )
    if isinstance(constant, set):
        return {(type(item), item) for item in value} == {(type(item), item) for item in constant}
    return repr(value) == repr(constant)


_modules: dict[str, tuple[bytes, Module]] = {}


def module_at(path: str) -> Module:
    """Return the normal form of a whole file. Raises OSError and SyntaxError."""
    with open(path, "rb") as file:
        text = file.read()
    content = digest(text)
    known = _modules.get(path)
    if known is None or known[0] != content:
        tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        ours = _names_of_ours(nodes)
        constants, defined, bound = _given(tree.body, nodes)
        classes = {}
        for one in tree.body:
            if isinstance(one, ast.ClassDef) and not one.decorator_list:
                own, methods, names = _given(one.body, [inside for part in one.body for inside in ast.walk(part)])
                own = {_mangled(one.name, name): value for name, value in own.items()}
                methods = frozenset(_mangled(one.name, name) for name in methods)
                classes[one.name] = own, methods, frozenset(_mangled(one.name, name) for name in names)
        module = Module(
            path,
            digest(_normal(tree, ours)),
            tuple(_imports(nodes)),
            constants,
            defined,
            frozenset(
                one.name
                for one in tree.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.decorator_list
            ),
            dict(_taken(tree.body)),
            classes,
            None if any(isinstance(node, ast.alias) and node.name == "*" for node in nodes) else bound,
            frozenset(digest(_normal(node, ours)) for node in nodes if isinstance(node, _Function)),
            frozenset(_mentioned(nodes)),
            tuple(_nodes_of(tree.body, ours)),
        )
        if len(_modules) >= _MODULES:
            _modules.clear()
        known = _modules[path] = content, module
    return known[1]


def _taken(body: list[ast.stmt]) -> Iterator[tuple[str, Import]]:
    """Yield what a module imports from others, by the name that it gives to it."""
    times: dict[str, int] = {}
    for node in _in_scope(body):
        for name in _bound_by(node):
            times[name] = times.get(name, 0) + 1
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
            for alias in statement.names:
                name = alias.asname or alias.name
                if times.get(name) == 1:
                    yield name, Import(statement.level, statement.module or "", (alias.name,))


def _mangled(cls: str, name: str) -> str:
    return f"_{cls.lstrip('_')}{name}" if name[:2] == "__" != name[-2:] else name


def _given(body: list[ast.stmt], nodes: list[ast.AST]) -> tuple[dict[str, Any], frozenset[str], frozenset[str]]:
    """Return what statements give a meaning to: literals and functions that nothing else gives another, and all."""
    constants: dict[str, Any] = {}
    defined: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not statement.decorator_list:
            defined.add(statement.name)
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        if targets:
            try:
                literal = _literal(statement.value)  # type: ignore[attr-defined]
            except (ValueError, TypeError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
                continue
            constants.update((to.id, literal) for to in targets if isinstance(to, ast.Name))
    times: dict[str, int] = {}
    for node in [*_in_scope(body), *(node for node in nodes if isinstance(node, ast.Global))]:
        for name in _bound_by(node):
            times[name] = times.get(name, 0) + 1
    # What is given twice, anywhere, may well be the other.
    once = {name: value for name, value in constants.items() if times[name] == 1}
    return once, frozenset(name for name in defined if times[name] == 1), frozenset(times)


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, or of one that is computed from numbers (``60 * 60``). Raises ValueError."""
    if not isinstance(node, ast.BinOp):
        return ast.literal_eval(node)
    powers = 0
    for part in ast.walk(node):
        if isinstance(part, ast.Constant):
            if not isinstance(part.value, int | float) or abs(part.value) > 1e9:
                raise ValueError
        elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow | ast.LShift):
            powers += 1
            by = part.right.value if isinstance(part.right, ast.Constant) else None
            if not isinstance(by, int | float) or not 0 <= by <= 64 or powers > 2:  # that may take forever
                raise ValueError
        elif not isinstance(part, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop):
            raise ValueError
    return eval(compile(ast.Expression(node), "", "eval", dont_inherit=True), {"__builtins__": {}})


def _bound_by(node: ast.AST) -> tuple[str, ...]:
    """Return the names that a part of a syntax tree gives a meaning to."""
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0],)
    if isinstance(node, ast.Global):
        return (*node.names, *node.names)  # a function gives it another
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return (node.name,) if node.name else ()
    if isinstance(node, ast.MatchMapping):
        return (node.rest,) if node.rest else ()
    return ()


_SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef


def _in_scope(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield what is in statements, but not what is in the functions and classes that they define."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, _SCOPES):
            pending.extend(ast.iter_child_nodes(node))


def _mentioned(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the names that code uses, its attributes, and the names that it imports."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _nodes_of(body: list[ast.stmt], ours: frozenset[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield the nodes of a module, by attribute and name, with whether their options say that they are not kept."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in statement.decorator_list:
                if _root_of(decorator) in ours:
                    yield statement.name, *_options_of(decorator, statement.name)
        elif isinstance(statement, ast.Assign) and _root_of(statement.value) in ours:
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield target.id, *_options_of(statement.value, target.id)


def _root_of(call: ast.expr) -> str:
    while isinstance(call, ast.Attribute | ast.Call):
        call = call.func if isinstance(call, ast.Call) else call.value
    return call.id if isinstance(call, ast.Name) else ""


def _options_of(call: ast.expr, name: str) -> tuple[str, bool]:
    unkept = False
    if isinstance(call, ast.Call):
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Name):
            name = first.id
        elif isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = first.value
        for keyword in call.keywords:
            value = keyword.value
            if keyword.arg == "name" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                name = value.value
            elif keyword.arg == "cache":  # what is no literal may be either
                unkept = not (isinstance(value, ast.Constant) and value.value in (True, None))
            elif keyword.arg is None:  # **options: nobody knows
                unkept = True
    return name, unkept


def digest_of_file(path: str) -> bytes:
    """Return the digest of what a file holds that is no Python source; nothing for what is no file."""
    try:
        with open(path, "rb") as file:
            return digest(file.read())
    except OSError:
        return b""


# Finding the source


class _Source(NamedTuple):
    normal: bytes
    code: CodeType  # as it is without -O


class _Parsed:
    """A file, parsed once for as long as it has this content."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.defined: dict[str, list[tuple[_Function, ast.stmt]]] = {}
        imports: list[ast.AST] = []
        for statement in self.tree.body:
            for node in ast.walk(statement):
                if isinstance(node, _Function):
                    name = _LAMBDA if isinstance(node, ast.Lambda) else node.name
                    self.defined.setdefault(name, []).append((node, statement))
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    imports.append(node)
        self.ours = _names_of_ours(imports)
        # A call through a name that the module imports is compiled in another way.
        self._imports = list(_imports_of_module(self.tree.body))
        self._compiled: dict[tuple[int, int, int], list[CodeType]] = {}

    def code_of(self, node: _Function, statement: ast.stmt | None, flags: int, optimize: int = -1) -> CodeType | None:
        """Compile the statement in which a function is, where it is in the file, and return the function's code.

        That is many times quicker than all of the file, which is compiled where there is no statement.
        """
        flags = flags & _FUTURE | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        key = id(statement), flags, optimize
        codes = self._compiled.get(key)
        if codes is None:
            module = self.tree if statement is None else ast.Module([*self._imports, statement], [])
            try:
                whole = compile(module, "", "exec", flags, dont_inherit=True, optimize=optimize)
                codes = list(codes_in(whole))
            except (SyntaxError, ValueError, RecursionError):
                codes = []
            self._compiled[key] = codes
        first = _first_line(node)
        for code in codes:
            if code.co_firstlineno == first and (
                self._lambda_of(code) is node if isinstance(node, ast.Lambda) else code.co_name == node.name
            ):
                return code
        return None

    def _lambda_of(self, code: CodeType) -> ast.AST | None:
        """Return the lambda that code was compiled from: the innermost that has all of its steps in its body."""
        if code.co_name != _LAMBDA:
            return None
        steps = [at for at in code.co_positions() if at[2] is not None and at[3] is not None and at[2:] != (0, 0)]
        nodes: list[Any] = [node for node, _ in self.defined.get(_LAMBDA, ()) if node.lineno == code.co_firstlineno]
        if not steps:  # of a constant some Pythons do not say where it is; nor do all under -X no_debug_ranges
            form = bytecode(code)
            return next((node for node in nodes if bytecode(_compiled_alone(node)) == form), None)
        first = min((line or 0, column or 0) for line, _, column, _ in steps)
        last = max((line or 0, column or 0) for _, line, _, column in steps)
        found = None
        for node in nodes:
            start, end = (node.body.lineno, node.body.col_offset), (node.body.end_lineno, node.body.end_col_offset)
            if start <= first and last <= end:
                found = node  # they come from the outside in
        return found


def _compiled_alone(node: ast.Lambda) -> CodeType:
    constants = compile(ast.Expression(node), "", "eval", dont_inherit=True).co_consts
    return [constant for constant in constants if isinstance(constant, CodeType)][-1]  # after those in its defaults


_parsed: dict[str, tuple[list[str], _Parsed | None]] = {}


def _file(path: str, scope: dict[str, Any] | None) -> _Parsed | None:
    linecache.checkcache(path)
    lines = linecache.getlines(path, scope)
    known = _parsed.get(path)
    if known is None or (known[0] is not lines and known[0] != lines):
        parsed = None
        if lines:
            try:
                parsed = _Parsed("".join(lines))
            except (SyntaxError, ValueError, RecursionError):
                parsed = None
        known = _parsed[path] = lines, parsed
    return known[1]


def trim() -> None:
    """Let go of parsed files, when code has been walked: a tree takes a hundred times the memory of its text."""
    while len(_parsed) > _FILES:
        _parsed.pop(next(iter(_parsed)), None)


def _source_of(code: CodeType, scope: dict[str, Any] | None) -> _Source | None:
    """Return the source of a code object if it is found, and really is its source."""
    parsed = _file(code.co_filename, scope)
    if parsed is None:
        return None
    defined = parsed.defined.get(code.co_name, [])
    here = [pair for pair in defined if _first_line(pair[0]) == code.co_firstlineno]
    elsewhere = [pair for pair in defined if _first_line(pair[0]) != code.co_firstlineno]
    form = b""
    for pairs, whole, equal in (
        (here, False, True),
        (here, True, True),
        (here, False, False),
        (elsewhere, False, False),
    ):
        found = {}
        for node, statement in pairs:
            candidate = parsed.code_of(node, None if whole else statement, code.co_flags)
            if candidate is None:
                continue
            if equal:
                if candidate != code or not _same_place(candidate, code):
                    continue
            else:
                form = form or bytecode(code)
                if bytecode(candidate) != form:
                    continue
            try:
                found[_normal(node, parsed.ours)] = node, statement
            except RecursionError:
                return None
        if len(found) == 1:
            ((normal, (node, statement)),) = found.items()
            plain = parsed.code_of(node, statement, code.co_flags, 0) if sys.flags.optimize else code
            return _Source(normal, plain or code)
    return None


def _same_place(one: CodeType, other: CodeType) -> bool:
    return one.co_name != _LAMBDA or list(one.co_positions()) == list(other.co_positions())


def _first_line(node: _Function) -> int:
    decorators = getattr(node, "decorator_list", None)
    return min(decorator.lineno for decorator in decorators) if decorators else node.lineno


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and everything that is defined inside it, in order."""
    pending = [code]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(constant for constant in reversed(current.co_consts) if isinstance(constant, CodeType))


# The normal form of a tree


def _normal(node: ast.AST, ours: frozenset[str]) -> bytes:
    """Return the tree as bytes, without docstrings, positions, and the decorators of its root."""
    return marshal.dumps(_tree(node, ours, is_root=True), 2)


def _tree(node: Any, ours: frozenset[str], *, is_root: bool = False) -> Any:
    if isinstance(node, ast.Constant):
        return ("Constant", type(node.value).__name__, repr(node.value))
    if isinstance(node, ast.AST):
        found: list[Any] = [type(node).__name__]
        for name in node._fields:
            part = getattr(node, name, None)
            if name == "decorator_list":
                if is_root:
                    continue
                part = [_without_options(decorator, ours) for decorator in part or ()]
            elif name in ("type_comment", "type_ignores", "ctx"):
                continue
            if isinstance(part, list):
                found.append([_tree(item, ours) for item in part if not _says_nothing(item)])
            else:
                found.append(_tree(part, ours) if isinstance(part, ast.AST) else part)
        return tuple(found)
    return node


def _says_nothing(statement: Any) -> bool:
    """Whether a statement does nothing: a docstring, `pass`, `...`."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


_COUNTS = ("version", "key")  # the options of a node that say what it means


def _without_options(decorator: ast.expr, ours: frozenset[str]) -> Any:
    """Return a decorator, or where it makes a node only what counts of it: how a node is run says nothing."""
    call = decorator if isinstance(decorator, ast.Call) else None
    root: ast.expr = decorator if call is None else call.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name) or root.id not in ours:
        return decorator
    counting = [] if call is None else [keyword for keyword in call.keywords if keyword.arg in _COUNTS]
    return ast.Call(ast.Name("node"), [], counting)


def _names_of_ours(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names under which a file has imported us, and what it took from us."""
    ours = __name__.partition(".")[0]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == ours and not node.level:
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(
                alias.asname or alias.name.partition(".")[0]
                for alias in node.names
                if alias.name.partition(".")[0] == ours
            )
    return frozenset(found)


def _imports_of_module(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the import statements that bind names of the module."""
    for statement in body:
        if isinstance(statement, ast.Import) or (
            isinstance(statement, ast.ImportFrom) and statement.module != "__future__"
        ):
            yield statement
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            yield from _imports_of_module(statement.body)
            yield from _imports_of_module(getattr(statement, "orelse", []))
            yield from _imports_of_module(getattr(statement, "finalbody", []))
            for handler in getattr(statement, "handlers", []):
                yield from _imports_of_module(handler.body)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[Import]:
    found: list[Import] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names = tuple(sorted(alias.name for alias in node.names))
            found.append(Import(node.level, node.module or "", names))
        elif isinstance(node, ast.Import):
            found += [Import(0, alias.name, ()) for alias in node.names]
    return iter(sorted(set(found)))


# Bytecode

_LOADS_NAME = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
_LOADS_FREE = frozenset(("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"))
_LOADS_ATTRIBUTE = frozenset(("LOAD_ATTR", "LOAD_METHOD"))
_NOTHING = frozenset(("NOP", "CACHE", "RESUME", "EXTENDED_ARG", "PUSH_NULL", "PRECALL", "NOT_TAKEN"))


def bytecode(code: CodeType) -> bytes:
    """Return what a code object does, without where it was written, and without its docstring.

    >>> one = compile("def f(): return 1", "here", "exec")
    >>> two = compile('\\n\\ndef f():\\n    "Says one."\\n    return 1', "there", "exec")
    >>> bytecode(one.co_consts[0]) == bytecode(two.co_consts[0])
    True
    """
    return marshal.dumps(_steps(code), 2)


def _steps(code: CodeType) -> Any:
    import dis

    steps: list[Any] = []
    at = {}
    for step in dis.get_instructions(code):
        at[step.offset] = len(steps)
        if step.opname in ("LOAD_CONST", "KW_NAMES", "RETURN_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL"):
            steps.append((step.opname, _constant(step.argval)))
        elif step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            steps.append([step.opname, step.argval])
        elif step.opname not in _NOTHING:
            steps.append((step.opname, step.argval if isinstance(step.argval, str) else step.arg))
    # Where a jump goes, counted in steps: a constant more or less may change how long a step is.
    told = [(step[0], at.get(step[1], -1)) if isinstance(step, list) else step for step in steps]
    flags = code.co_flags & ~_NOT_MEANT
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags
    return [code.co_name, *counts, code.co_varnames, code.co_freevars, code.co_cellvars, told, _handlers(code, at)]


# Flags that say how code came to be: whether it has a docstring (0x4000000), is inside a function (0x10), or was made
# awaitable later, by types.coroutine (0x100).
_NOT_MEANT = _FUTURE | 0x4000000 | 0x10 | 0x100


def _handlers(code: CodeType, at: dict[int, int]) -> list[Any]:
    """Return which steps are inside a `try`, and where it goes on."""
    import dis

    parse: Callable[[CodeType], list[Any]] | None = getattr(dis, "_parse_exception_table", None)
    if parse is None:
        return [code.co_exceptiontable]
    return [
        (at.get(entry.start, -1), at.get(entry.end, -1), at.get(entry.target, -1), entry.depth, entry.lasti)
        for entry in parse(code)
    ]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _steps(value)
    if isinstance(value, tuple):
        return ("tuple", [_constant(item) for item in value])
    if isinstance(value, frozenset):
        return ("frozenset", sorted(marshal.dumps(_constant(item), 2) for item in value))
    if isinstance(value, slice):
        return ("slice", [_constant(item) for item in (value.start, value.stop, value.step)])
    return (type(value).__name__, repr(value))


def _outside(code: CodeType) -> tuple[tuple[Chain, ...], tuple[Chain, ...], tuple[Import, ...], bool]:
    """Return what a code names outside itself, in its module and in functions around it; what it imports; whether an
    attribute that it takes sounds like drawing random numbers.
    """
    import dis

    names: set[Chain] = set()
    free: set[Chain] = {(name,) for name in code.co_freevars}
    imports: set[Import] = set()
    around = frozenset(code.co_freevars)
    draws = False
    for part in codes_in(code):
        into: set[Chain] | None = None
        chain: Chain = ()
        last: list[Any] = [None, None]
        for step in dis.get_instructions(part):
            name = step.opname
            if name in _LOADS_ATTRIBUTE and step.argval in DRAWN:
                draws = True
            if name in _LOADS_ATTRIBUTE and into is not None:
                chain = *chain, step.argval
                continue
            if name in _NOTHING:
                continue
            if into is not None:
                into.add(chain)
                into = None
            if name in _LOADS_NAME:
                into, chain = names, (step.argval,)
            elif name in _LOADS_FREE and step.argval in around:
                into, chain = free, (step.argval,)
            elif name == "IMPORT_NAME":
                level, of = last
                imports.add(Import(level or 0, step.argval, tuple(sorted(of or ()))))
            last = [last[1], step.argval]
    return tuple(sorted(names)), tuple(sorted(free)), tuple(sorted(imports)), draws
