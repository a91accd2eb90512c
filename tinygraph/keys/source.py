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
from types import CodeType, FunctionType
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
    same for names of functions around it.
    """

    digest: bytes
    names: tuple[Chain, ...]
    free: tuple[Chain, ...]
    imports: tuple[Import, ...]
    is_source: bool


_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

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
    """What the file of a module says: its digest, its imports anywhere in it, its plain constants, its functions."""

    path: str
    digest: bytes
    imports: tuple[Import, ...]
    constants: dict[str, Any]
    functions: frozenset[bytes]  # their digests

    def changed_in(self, inside: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield what is otherwise in the imported module: the file was edited since, or a run has set it."""
        for name, constant in self.constants.items():
            value = inside.get(name)
            if type(value) is not type(constant) or repr(value) != repr(constant):
                yield name, value
        for name in sorted(inside):
            thing = inside[name]
            if isinstance(thing, type) and thing.__module__ == inside.get("__name__"):
                functions = [part for part in vars(thing).values() if isinstance(part, FunctionType)]
            else:
                functions = [thing] if isinstance(thing, FunctionType) else []
            codes = [function.__code__ for function in functions]
            if any(c.co_filename == self.path and form_of(c, inside).digest not in self.functions for c in codes):
                yield name, thing


_modules: dict[str, tuple[bytes, Module]] = {}


def module_at(path: str) -> Module:
    """Return the normal form of a whole file. Raises OSError and SyntaxError."""
    with open(path, "rb") as file:
        text = file.read()
    content = digest(text)
    known = _modules.get(path)
    if known is None or known[0] != content:
        tree = ast.parse(text)
        constants: dict[str, Any] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
                constants.update((to.id, statement.value.value) for to in statement.targets if isinstance(to, ast.Name))
        nodes = list(ast.walk(tree))
        ours = _names_of_ours(nodes)
        functions = frozenset(digest(_normal(node, ours)) for node in nodes if isinstance(node, _Function))
        module = Module(path, digest(_normal(tree, ours)), tuple(_imports(nodes)), constants, functions)
        if len(_modules) >= _MODULES:
            _modules.clear()
        known = _modules[path] = content, module
    return known[1]


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


def _outside(code: CodeType) -> tuple[tuple[Chain, ...], tuple[Chain, ...], tuple[Import, ...]]:
    """Return what a code names outside itself, in its module and in functions around it, and what it imports."""
    import dis

    names: set[Chain] = set()
    free: set[Chain] = {(name,) for name in code.co_freevars}
    imports: set[Import] = set()
    around = frozenset(code.co_freevars)
    for part in codes_in(code):
        into: set[Chain] | None = None
        chain: Chain = ()
        last: list[Any] = [None, None]
        for step in dis.get_instructions(part):
            name = step.opname
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
    return tuple(sorted(names)), tuple(sorted(free)), tuple(sorted(imports))
