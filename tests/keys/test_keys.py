"""What must and must not change the key of a node's code."""

import json
import linecache
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tinygraph import Node, UnhashableArgumentError
from tinygraph.keys.canonical import token, token_and_code
from tinygraph.keys.fingerprint import fingerprint, meaning_of, sounds_secret
from tinygraph.keys.source import form_of

# Programs that define `node`, each with a change, as in a diff, and whether the node means the same after it.
# Lines that begin with `# file: ` begin another file beside it.
TABLE = r'''
=== same: a comment
+# about
 @Node
 def node(x):
+    # adds
-    return x + 1
+    return x + 1  # one
=== same: blank lines
+
+
 @Node
 def node(x):
+
     y = x
+
     return y
=== same: a docstring
 @Node
 def node(x):
+    "What it does."
     return x
=== same: another docstring
 @Node
 def node(x):
-    "A."
+    """B."""
     return x
=== same: a docstring for pass
 @Node
 def node(x):
-    pass
+    "Nothing."
=== same: a docstring inside
 @Node
 def node(x):
     def f():
+        'Inner.'
         return x
     return f()
=== same: formatting
 @Node
-def node(x, y=(1, 2)):
-    return f(x, 'a', [1, 2]) + x
+def node(
+    x,
+    y=(
+        1,
+        2,
+    ),
+):
+    return (
+        f(x, "a", [1, 2,],)
+        + x
+    )
 def f(*a): return 1
=== same: one line
 @Node
+def node(x): y = 1; return x + y
-def node(x):
-    y = 1
-    return x + y
=== same: spelling of numbers
 @Node
 def node(x):
-    return x + 1000 + 16
+    return x + 1_000 + 0x10
=== same: spelling of strings
 @Node
 def node(x):
-    return 'abc'
+    return u"a" "b" r"c"
=== same: a moved function
-def f(x): return x
-def g(x): return x
 @Node
 def node(x):
     return f(g(x))
+def g(x): return x
+def f(x): return x
=== same: an unrelated function
+def f(): return 1
 @Node
 def node(x):
     return x
+def g(): return 2
=== same: an unrelated global
-RATE = 1
+RATE = 2
 @Node
 def node(x):
     return x
=== same: an unrelated import
+import json, random
 @Node
 def node(x):
     return x
=== same: an attribute like a global
-rate = 1
+rate = 2
 @Node
 def node(x):
     return x.rate
=== same: a local like a global
-rate = 1
+rate = 2
 @Node
 def node(x):
     rate = x
     return rate
=== same: options of the node
-@Node
+@Node(retries=2, cost=3.0, priority=1)
 def node(x):
     return x
=== same: the name of the node
-@Node
+@Node('other')
 def node(x):
     return x
=== same: a component
-@Node
+@Component
 def node(x):
     return x
=== same: options of a node that it calls
-@Node
+@Node(retries=5)
 def f(x): return x
 @Node
 def node(x):
     return f(x)
=== same: options of a node inside
 @Node
 def node(x):
-    @Node
+    @Node(retries=5)
     def f(y):
         return y
     return f(x)
=== same: a recursive node's options
-@Node
+@Node(retries=1)
 def node(x):
     return node(x - 1) if x else 0
=== same: a helper that moved to another file
+from helpers import f
-RATE = 2
-def f(x): return x * RATE
 @Node
 def node(x):
     return f(x)
+# file: helpers.py
+RATE = 2
+def f(x):
+    return x * RATE
=== same: the order of a dict
-C = {'a': 1, 'b': 2}
+C = {'b': 2, 'a': 1}
 @Node
 def node(x):
     return C
=== same: the order of a set
-C = {'a', 'b', 'c', ('d', 1)}
+C = {('d', 1), 'c', 'b', 'a'}
 @Node
 def node(x):
     return C
=== same: a set of classes and functions
+class B: pass
 class A: pass
-class B: pass
 def f(): pass
-C = {A, B, f, int}
+C = {int, f, B, A}
 @Node
 def node(x):
     return C
=== same: the order of methods
 class A:
+    def g(self): return 2
+
     def f(self): return 1
-    def g(self): return 2
 @Node
 def node(x):
     return A()
=== same: comments in a class
 class A:
+    'A class.'
+    # that says
-    def f(self): return 1
+    def f(self):
+        'One.'
+        return 1
 @Node
 def node(x):
     return A()
=== same: which lock
 import threading
 L = threading.Lock()
+L.acquire()
+L.release()
 @Node
 def node(x):
     with L: return x
=== same: comments in a module that is imported inside
 @Node
 def node(x):
     import helpers
     return helpers.f(x)
 # file: helpers.py
-def f(x): return x
+'Helpers.'
+
+def f(x):
+    # as it is
+    return x
=== same: whether a module was imported before
+import helpers as early
 @Node
 def node(x):
     import helpers
     return helpers.f(x)
 # file: helpers.py
 from deep import d
 RATE = 2
 class A:
     def m(self): return d()
 def f(x): return x
 # file: deep.py
 def d(): return 1
=== same: __file__ and __name__
 @Node
 def node(x):
     return __file__, __name__
+# elsewhere
=== same: a decorator that is only spelled otherwise
-import helpers
+from helpers import twice as t
 @Node
-@helpers.twice
+@t
 def node(x):
     return x
 # file: helpers.py
 def twice(f):
     def g(x): return f(f(x))
     return g
=== other: a constant
 @Node
 def node(x):
-    return x + 1
+    return x + 2
=== other: 1 and True
 @Node
 def node(x):
-    return x + 1
+    return x + True
=== other: 1 and 1.0
 @Node
 def node(x):
-    return x + 1
+    return x + 1.0
=== other: text and bytes
 @Node
 def node(x):
-    return 'a'
+    return b'a'
=== other: an operator
 @Node
 def node(x):
-    return x + 1
+    return x - 1
=== other: the order of statements
 @Node
 def node(x):
+    x *= 2
     x += 1
-    x *= 2
     return x
=== other: a parameter
 @Node
-def node(x, y=1):
+def node(x, *, y=1):
     return x
=== other: a function inside
 @Node
 def node(x):
-    def f(): return 1
+    def f(): return 2
     return f()
=== other: a lambda inside
 @Node
 def node(x):
-    return map(lambda y: y, x)
+    return map(lambda y: -y, x)
=== other: a comprehension
 @Node
 def node(x):
-    return [y for y in x]
+    return [y for y in x if y]
=== other: an f-string
 @Node
 def node(x):
-    return f'{x}'
+    return f'{x!r}'
=== other: async
 @Node
-def node(x):
+async def node(x):
     return 1
=== other: a generator
 @Node
 def node(x):
-    yield 1
+    yield 2
=== other: an assert
 @Node
 def node(x):
     assert x > LIMIT
     return x
-LIMIT = 1
+LIMIT = 2
=== other: a lambda
-node = Node(lambda x: x + 1)
+node = Node(lambda x: x + 2)
=== other: lambdas on one line
-f, node = Node(lambda x: x + 1), Node(lambda x: x + 2)
+node, f = Node(lambda x: x + 1), Node(lambda x: x + 2)
=== other: a lambda in a lambda
-node = Node((lambda: lambda x: x)())
+node = Node((lambda: lambda x: -x)())
=== other: a default
 @Node
-def node(x, y=1):
+def node(x, y=2):
     return x
=== other: a computed default
-N = 1
+N = 2
 @Node
 def node(x, y=N):
     return x
=== other: a default by keyword
-N = 1
+N = 2
 @Node
 def node(x, *, y=N):
     return x
=== other: a closure
 def make(n):
     @Node
     def node(x):
         return x + n
     return node
-node = make(1)
+node = make(2)
=== other: a closure that is used further inside
 def make(n):
     @Node
     def node(x):
         return [x + n for _ in x]
     return node
-node = make(1)
+node = make(2)
=== other: a global
-RATE = 0.1
+RATE = 0.2
 @Node
 def node(x):
     return x * RATE
=== other: both zeros
-RATE = 0.0
+RATE = -0.0
 @Node
 def node(x):
     return x * RATE
=== other: a value in a dict
-C = {'a': {'b': 1}}
+C = {'a': {'b': 2}}
 @Node
 def node(x):
     return C
=== other: the order of a list
-C = [1, 2]
+C = [2, 1]
 @Node
 def node(x):
     return C
=== other: an array
 import numpy
-C = numpy.zeros(3)
+C = numpy.zeros(3, 'f4')
 @Node
 def node(x):
     return C
=== other: a regular expression
 import re
-C = re.compile('a')
+C = re.compile('a', re.I)
 @Node
 def node(x):
     return C
=== other: the state of an object
 class A:
     def __init__(self, n): self.n = n
-C = A(1)
+C = A(2)
 @Node
 def node(x):
     return C.n
=== other: the class of an object
 class A:
-    def f(self): return 1
+    def f(self): return 2
 C = A()
 @Node
 def node(x):
     return C.f()
=== other: an attribute of a function
 def f(): return f.n
-f.n = 1
+f.n = 2
 @Node
 def node(x):
     return f()
=== other: arguments of a partial
 from functools import partial
-node = Node(partial(lambda y, x: x, 1))
+node = Node(partial(lambda y, x: x, 2))
=== other: the function of a partial
 from functools import partial
-node = Node(partial(lambda y, x: x, 1))
+node = Node(partial(lambda y, x: y, 1))
=== other: a table of functions
-def f(): return 1
+def f(): return 2
 def g(): return T['f']()
 T = {'f': f, 'g': g}
 @Node
 def node(x):
     return T[x]()
=== other: a helper
-def f(x): return x
+def f(x): return -x
 @Node
 def node(x):
     return f(x)
=== other: a helper's helper
-def g(x): return x
+def g(x): return -x
 def f(x): return g(x)
 @Node
 def node(x):
     return f(x)
=== other: a helper's global
-N = 1
+N = 2
 def f(x): return N
 @Node
 def node(x):
     return f(x)
=== other: a helper inside a function inside
-def f(x): return x
+def f(x): return -x
 @Node
 def node(x):
     return (lambda: [f(y) for y in x])()
=== other: mutual recursion
 def f(x): return g(x)
-def g(x): return f(x) + 1
+def g(x): return f(x) + 2
 @Node
 def node(x):
     return f(x)
=== other: a helper in another file
 from helpers import f
 @Node
 def node(x):
     return f(x)
 # file: helpers.py
-def f(x): return x
+def f(x): return -x
=== other: a helper through its module
 import helpers
 @Node
 def node(x):
     return helpers.f(x)
 # file: helpers.py
-def f(x): return x
+def f(x): return -x
=== other: a helper through a package
 import lib.deep.helpers
 @Node
 def node(x):
     return lib.deep.helpers.f(x)
 # file: lib/__init__.py
 # file: lib/deep/__init__.py
 # file: lib/deep/helpers.py
-def f(x): return x
+def f(x): return -x
=== other: a constant through its module
 import config
 @Node
 def node(x):
     return config.RATE
 # file: config.py
-RATE = 1
+RATE = 2
=== same: another constant of that module
 import config
 @Node
 def node(x):
     return config.RATE
 # file: config.py
 RATE = 1
+N = 2
=== other: a module that was captured
 def make():
     import helpers as h
     def node(x): return h.f(x)
     return node
 node = Node(make())
 # file: helpers.py
-def f(x): return x
+def f(x): return -x
=== other: a module as a value
 import helpers
 @Node
 def node(x):
     return getattr(helpers, x)()
 # file: helpers.py
-def f(): return 1
+def f(): return 2
=== other: a module that is imported inside
 @Node
 def node(x):
     import helpers
     return helpers.f(x)
 # file: helpers.py
-def f(x): return x
+def f(x): return -x
=== other: a name that is imported inside
 @Node
 def node(x):
     from lib import helpers
     return helpers.f(x)
 # file: lib/__init__.py
 # file: lib/helpers.py
-def f(x): return x
+def f(x): return -x
=== other: what a module that is imported inside imports
 @Node
 def node(x):
     from lib.helpers import f
     return f(x)
 # file: lib/__init__.py
 # file: lib/helpers.py
 from .deep import g as f
 # file: lib/deep.py
-def g(x): return x
+def g(x): return -x
=== other: a constant set in an imported module
 import config
+config.RATE = 2
 @Node
 def node(x):
     import config
     return config.RATE
 # file: config.py
 RATE = 1
=== other: what a decorator does
 def d(f):
-    return lambda x: f(x)
+    return lambda x: -f(x)
 @Node
 @d
 def node(x):
     return x
=== other: the argument of a decorator
 def d(n):
     def wrap(f):
         return lambda x: f(x) + n
     return wrap
 @Node
-@d(1)
+@d(2)
 def node(x):
     return x
=== other: what a decorator with wraps does
 import functools
 def d(f):
     @functools.wraps(f)
-    def g(x): return f(x)
+    def g(x): return -f(x)
     return g
 @Node
 @d
 def node(x):
     return x
=== other: what is decorated
 import functools
 def d(f):
     @functools.wraps(f)
     def g(x): return f(x)
     return g
 @d
-def h(x): return x
+def h(x): return -x
 @Node
 def node(x):
     return h(x)
=== other: lru_cache
 import functools
 @functools.lru_cache
-def f(x): return x
+def f(x): return -x
 @Node
 def node(x):
     return f(x)
=== other: contextmanager
 import contextlib
 @contextlib.contextmanager
-def f(): yield 1
+def f(): yield 2
 @Node
 def node(x):
     with f() as y: return y
=== other: singledispatch
 import functools
 @functools.singledispatch
 def f(x): return x
 @f.register
-def _(x: int): return 1
+def _(x: int): return 2
 @f.register
 def _(x: str): return 1
 @Node
 def node(x):
     return f(x)
=== other: a method
 class A:
-    def f(self): return 1
+    def f(self): return 2
 @Node
 def node(x):
     return A().f()
=== other: a method of a base
 class B:
-    def f(self): return 1
+    def f(self): return 2
 class A(B): pass
 @Node
 def node(x):
     return A().f()
=== other: the bases
 class B: pass
 class C: pass
-class A(B): pass
+class A(C): pass
 @Node
 def node(x):
     return A()
=== other: an attribute of a class
 class A:
-    N = 1
+    N = 2
 @Node
 def node(x):
     return A.N
=== other: a property
 class A:
     @property
-    def p(self): return 1
+    def p(self): return 2
 @Node
 def node(x):
     return A().p
=== other: a static method
 class A:
     @staticmethod
-    def p(): return 1
+    def p(): return 2
 @Node
 def node(x):
     return A.p()
=== other: a class method
 class A:
     @classmethod
-    def p(cls): return 1
+    def p(cls): return 2
 f = A.p
 @Node
 def node(x):
     return f()
=== other: a descriptor
 class D:
-    def __get__(self, o, c): return 1
+    def __get__(self, o, c): return 2
 class A:
     d = D()
 @Node
 def node(x):
     return A().d
=== other: a metaclass
 class M(type):
-    def __len__(cls): return 1
+    def __len__(cls): return 2
 class A(metaclass=M): pass
 @Node
 def node(x):
     return len(A)
=== other: a field of a dataclass
 import dataclasses
 @dataclasses.dataclass
 class A:
-    n: int = 1
+    n: int = 2
 @Node
 def node(x):
     return A()
=== other: the factory of a field
 import dataclasses
 @dataclasses.dataclass
 class A:
-    n: list = dataclasses.field(default_factory=lambda: [1])
+    n: list = dataclasses.field(default_factory=lambda: [2])
 @Node
 def node(x):
     return A()
=== other: a frozen dataclass
 import dataclasses
-@dataclasses.dataclass
+@dataclasses.dataclass(frozen=True)
 class A:
     n: int = 1
 @Node
 def node(x):
     return A()
=== other: a member of an enum
 import enum
 class A(enum.Enum):
-    X = 1
+    X = 2
 @Node
 def node(x):
     return A.X
=== other: a method of an enum
 import enum
 class A(enum.Enum):
     X = 1
-    def f(self): return 1
+    def f(self): return 2
 @Node
 def node(x):
     return A.X
=== other: a field of a named tuple
 import typing
 class A(typing.NamedTuple):
-    n: int = 1
+    n: int = 2
 @Node
 def node(x):
     return A()
=== other: an exception
 class E(Exception):
-    code = 1
+    code = 2
 @Node
 def node(x):
     raise E
=== other: a node that it calls
 @Node
-def f(x): return x
+def f(x): return -x
 @Node
 def node(x):
     return f(x)
=== other: a recursive node
 @Node
 def node(x):
-    return node(x - 1) if x else 0
+    return node(x - 1) if x else 1
=== other: the method of a class node
 @Node
 class node:
     def __init__(self, n): self.n = n
     def __call__(self, x): return self.f(x)
-    def f(self, x): return x
+    def f(self, x): return -x
=== other: the constructor of a class node
 @Node
 class node:
-    def __init__(self, n): self.n = n
+    def __init__(self, n): self.n = -n
     def __call__(self, x): return x
=== other: a class node that it calls
 @Node
 class M:
     def __init__(self, n): self.n = n
-    def __call__(self, x): return x
+    def __call__(self, x): return -x
 @Node
 def node(x):
     return M(1)(x)
=== other: what an entry calls
 @Node
 class M:
     def __init__(self, n): self.n = n
     def __call__(self, x): return self.f(x)
-    def f(self, x): return x
+    def f(self, x): return -x
 node = M.entry
=== other: a method as a node
 class A:
     def __init__(self, n): self.n = n
     def f(self, x): return x
-node = Node(A(1).f)
+node = Node(A(2).f)
=== other: an object as a node
 class A:
-    def __call__(self, x): return x
+    def __call__(self, x): return -x
 node = Node(A())
=== other: a function of C
-node = Node(abs)
+node = Node(max)
=== other: a name that is not defined yet
 @Node
 def node(x):
     return later(x)
+later = 1
=== other: the text of an enum's members
 import enum
 class A(enum.Enum):
     X = 1
-    def __str__(self): return 'a'
+    def __str__(self): return 'b'
 @Node
 def node(x):
     return str(A.X)
=== other: what an enum makes of a missing member
 import enum
 class A(enum.Enum):
     X = 1
     Y = 2
     @classmethod
-    def _missing_(cls, value): return cls.X
+    def _missing_(cls, value): return cls.Y
 @Node
 def node(x):
     return A(x)
=== other: the constructor of an enum's members
 import enum
 class A(enum.Enum):
     X = 1, 2
-    def __init__(self, a, b): self.c = a + b
+    def __init__(self, a, b): self.c = a * b
 @Node
 def node(x):
     return A.X.c
=== other: what an enum's __new__ sets
 import enum
-RATE = 1
+RATE = 2
 class A(enum.Enum):
     X = 1
     def __new__(cls, value):
         self = object.__new__(cls)
         self._value_, self.rate = value, RATE
         return self
 @Node
 def node(x):
     return A.X.rate
=== other: the constructor of an int enum
 import enum
 class A(enum.IntEnum):
     X = 1
     def __new__(cls, value):
         self = int.__new__(cls, value)
         self._value_ = value
-        self.text = str(value)
+        self.text = repr(value) + '!'
         return self
 @Node
 def node(x):
     return A.X.text
=== other: the boundary of a flag
 import enum
-class A(enum.Flag, boundary=enum.KEEP):
+class A(enum.Flag, boundary=enum.STRICT):
     X = 1
 @Node
 def node(x):
     return A(x)
=== other: data of an enum with underscores
 import enum
 class A(enum.Enum):
-    __rate__ = 1
+    __rate__ = 2
     X = 1
 @Node
 def node(x):
     return A.__rate__
=== other: data of a class with underscores
 class A:
-    __tablename__ = 'a'
+    __tablename__ = 'b'
 @Node
 def node(x):
     return A.__tablename__
=== other: data of a class node with underscores
 @Node
 class node:
-    __rate__ = 1
+    __rate__ = 2
     def __init__(self): pass
     def __call__(self, x): return x * self.__rate__
=== other: an operator from C
 class A:
-    __add__ = int.__sub__
+    __add__ = int.__mul__
 @Node
 def node(x):
     return A() + x
=== other: a cached method with underscores
 import functools
 class A:
     @functools.lru_cache
-    def __len__(self): return 1
+    def __len__(self): return 2
 @Node
 def node(x):
     return len(A())
=== other: an object as a method with underscores
 class D:
     def __init__(self, f): self.f = f
     def __get__(self, o, c): return self.f
 class A:
     @D
-    def __getitem__(key): return 1
+    def __getitem__(key): return 2
 @Node
 def node(x):
     return A()[x]
=== other: the order in which a class is matched
 class A:
-    __match_args__ = 'a', 'b'
+    __match_args__ = 'b', 'a'
     a, b = 1, 2
 @Node
 def node(x):
     match A():
         case A(y): return y
=== other: a function of a library in a dataclass
 import dataclasses, statistics
 @dataclasses.dataclass
 class A:
     n: int = 1
-    agg = staticmethod(statistics.mean)
+    agg = staticmethod(statistics.median)
 @Node
 def node(x):
     return A.agg(x)
=== other: a method of a dataclass with underscores
 import dataclasses, reprlib
 @dataclasses.dataclass
 class A:
     n: int = 1
     @reprlib.recursive_repr()
-    def __repr__(self): return 'a'
+    def __repr__(self): return 'b'
 @Node
 def node(x):
     return repr(A())
=== other: a dataclass that was made
 import dataclasses
-A = dataclasses.make_dataclass('A', [('n', int, 1)])
+A = dataclasses.make_dataclass('A', [('n', int, 2)])
 @Node
 def node(x):
     return A().n
=== other: a class that was made
 import types
-A = types.new_class('A', (), {}, lambda inside: inside.update(f=lambda self: 1))
+A = types.new_class('A', (), {}, lambda inside: inside.update(f=lambda self: 2))
 A.__module__ = 'types'
 @Node
 def node(x):
     return A().f()
=== other: a class of an exec
 inside = {}
-exec('class A:\n    def f(self): return 1', inside)
+exec('class A:\n    def f(self): return 2', inside)
 A = inside['A']
 @Node
 def node(x):
     return A().f()
=== other: a ufunc of a function
 import numpy
-made = numpy.frompyfunc(lambda x: x, nin=1, nout=1)
+made = numpy.frompyfunc(lambda x: -x, nin=1, nout=1)
 @Node
 def node(x):
     return made(x)
=== other: an attribute of a function in a table
 def f(): return f.__dict__['n']
-f.n = 1
+f.n = 2
 T = [f]
 @Node
 def node(x):
     return T[0]()
=== other: a list set in an imported module
 import config
+config.TABLE = [1, 3]
 @Node
 def node(x):
     import config
     return config.TABLE
 # file: config.py
 TABLE = [1, 2]
=== other: an item set in a table of an imported module
 import config
+config.TABLE['a'].append(3)
 @Node
 def node(x):
     import config
     return config.TABLE
 # file: config.py
 TABLE = {'a': [1, 2]}
=== other: a negative constant set in an imported module
 import config
+config.RATE = -2
 @Node
 def node(x):
     import config
     return config.RATE
 # file: config.py
 RATE = -1
=== other: a function set in an imported module
 import helpers
+helpers.g = lambda x: -x
 @Node
 def node(x):
     import helpers
     return helpers.g(x)
 # file: helpers.py
 def g(x): return x
=== other: another function set in an imported module
 import helpers
-helpers.g = lambda x: x
+helpers.g = lambda x: -x
 @Node
 def node(x):
     import helpers
     return helpers.g(x)
 # file: helpers.py
=== other: an attribute set in a class of an imported module
 import helpers
+helpers.C.v = 2
 @Node
 def node(x):
     import helpers
     return helpers.C.v
 # file: helpers.py
 class C:
     v = 1
=== other: a method set in a class of an imported module
 import helpers
+helpers.C.f = lambda self: 2
 @Node
 def node(x):
     return getattr(helpers, x)().f()
 # file: helpers.py
 class C:
     def f(self): return 1
=== other: a constant set in a module that is a value
 import config
+config.RATE = 2
 @Node
 def node(x):
     return getattr(config, x)
 # file: config.py
 RATE = 1
=== same: whether a module with all sorts of things was imported before
+import helpers
 @Node
 def node(x):
     import helpers
     return helpers.f(x)
 # file: helpers.py
 import abc, dataclasses, enum, functools, json, typing
 from deep import *
 from json import dumps as d, loads
 from os.path import join
 DAY = 60 * 60 * 24
 MB = 2 ** 20
 HALF = 1 / 2
 MANY = 9 ** 9 ** 9 if 0 else 1
 A, B = 1, [2]
 C = -1
 D = {'a': {1, 2}, True: (1, 'x')}
 E: int = 3
 F = 1
 F += 1
 if F:
     E2 = 1
 else:
     E2 = 2
 count = 0
 @dataclasses.dataclass
 class R:
     n: int = 1
     m: list = dataclasses.field(default_factory=list)
     def f(self): return 1
 class Q(typing.NamedTuple):
     n: int = 1
 class O(enum.Enum):
     X = 1
     Y = 'a'
     def f(self): return 1
 class P(abc.ABC):
     __slots__ = 'a', '__b'
     N = [1]
     __hidden = 2
     def f(self): return 1
     def __g(self): return 1
     @abc.abstractmethod
     def g(self): return 1
     @property
     def h(self): return 1
     @staticmethod
     def i(): return 1
     def over(self): return 1
     over = property(over)
 class S:
     v = 1
     w = -1
     def __init_subclass__(cls): cls.added = 1
     def __class_getitem__(cls, x): return cls
     def f(self):
         v = 3
         return v
 class T(S):
     pass
 class TD(typing.TypedDict):
     a: int
 @functools.cache
 def g(x): return x
 @functools.wraps(g)
 def h(x): return x
 def set_count():
     global count
     count += 1
 set_count()
 lam = lambda x: x
 def f(x): return x
 # file: deep.py
 Z = 1
 def zz(): return 1
=== other: a module that was made
 import types
 m = types.ModuleType('m')
-exec('RATE = 1\ndef f(): return RATE', m.__dict__)
+exec('RATE = 1\ndef f(): return -RATE', m.__dict__)
 @Node
 def node(x):
     return getattr(m, x)()
=== other: a value in a module that was made
 import types
 m = types.ModuleType('m')
-m.RATE = [1]
+m.RATE = [2]
 @Node
 def node(x):
     return getattr(m, x)
=== other: a module that was loaded from its path
 import importlib.util, os
 spec = importlib.util.spec_from_file_location('loaded', os.path.join(os.path.dirname(__file__), 'helpers.py'))
 m = importlib.util.module_from_spec(spec)
 spec.loader.exec_module(m)
 @Node
 def node(x):
     return getattr(m, x)()
 # file: helpers.py
-def f(): return 1
+def f(): return 2
=== other: what a decorator of a library was given
 import sys, os
 sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'site-packages'))
 import helpers
 sys.path.pop(0)
 @Node
-@helpers.scaled([1])
+@helpers.scaled([2])
 def node(x):
     return x
 # file: site-packages/helpers.py
 import functools
 def scaled(by):
     def wrap(f):
         @functools.wraps(f)
         def scaling(x): return f(x) * by[0]
         return scaling
     return wrap
=== other: an attribute of a function that is called otherwise
 def f(): return getattr(f, 'n')
-f.n = [1]
+f.n = [2]
 @Node
 def node(x):
     return f()
=== same: what a function remembers
 def f(): return 1
+f.cache = {1: 2}
 @Node
 def node(x):
     return f()
=== other: a property from C
 import operator
 class A:
-    __len__ = property(operator.itemgetter(0))
+    __len__ = property(operator.itemgetter(1))
 @Node
 def node(x):
     return A()
=== other: a function of a module in a made class
 import dataclasses
-A = dataclasses.make_dataclass('A', ['n'], namespace={'f': lambda self: 1})
+A = dataclasses.make_dataclass('A', ['n'], namespace={'f': lambda self: 2})
 @Node
 def node(x):
     return A(x).f()
=== other: a computed constant set in an imported module
 import config
+config.DAY = 3
 @Node
 def node(x):
     import config
     return config.DAY
 # file: config.py
 DAY = 60 * 60 * 24
=== other: a decorated function set in an imported module
 import helpers
+helpers.g = lambda x: -x
 @Node
 def node(x):
     import helpers
     return helpers.g(x)
 # file: helpers.py
 import functools
 @functools.wraps(print)
 def g(x): return x
=== other: an imported function set in an imported module
 import helpers
+helpers.d = lambda x: -x
 @Node
 def node(x):
     import helpers
     return helpers.g(x)
 # file: helpers.py
 from deep import d
 def g(x): return d(x)
 # file: deep.py
 def d(x): return x
=== other: a constant of a package set in an imported module
 import lib.helpers
+lib.helpers.N = 2
 @Node
 def node(x):
     from lib.helpers import N
     return N
 # file: lib/__init__.py
 # file: lib/helpers.py
 from .deep import N
 # file: lib/deep.py
 N = 1
=== other: the size of a cache set in an imported module
 import config
+config.CACHE_SIZE = 2
 @Node
 def node(x):
     import config
     return config.CACHE_SIZE
 # file: config.py
 CACHE_SIZE = 1
=== same: what an imported module remembers
 import config
+config._cache['a'] = 2
 @Node
 def node(x):
     import config
     return config.f(x)
 # file: config.py
 _cache = {}
 def f(x): return _cache.setdefault(x, x)
=== other: an array of a class with underscores
 import numpy
 class A:
-    __table__ = numpy.array([1])
+    __table__ = numpy.array([2])
 @Node
 def node(x):
     return A.__table__
=== other: a method of a library in a record
 import dataclasses, collections, json
 @dataclasses.dataclass(repr=False)
 class A:
     n: int = 1
-    __repr__ = json.dumps
+    __repr__ = json.loads
 @Node
 def node(x):
     return repr(A())
=== other: how members of an enum are numbered
 import enum
 class A(enum.Enum):
-    def _generate_next_value_(name, start, count, last): return name
+    def _generate_next_value_(name, start, count, last): return name + ''
     X = enum.auto()
 @Node
 def node(x):
     return A.X
=== other: a mixin of an enum
 import enum
 class M:
     def __format__(self, how):
-        return 'a'
+        return 'b'
 class A(M, enum.Enum):
     X = 1
 @Node
 def node(x):
     return f'{A.X}'
=== other: an attribute with underscores of a function
 def f(): return vars(f)['__n__']
-f.__n__ = 1
+f.__n__ = 2
 @Node
 def node(x):
     return f()
=== other: a bound of a generic base
 import typing
 T = typing.TypeVar('T')
 class B(typing.Generic[T]):
     def make(self): return self.__orig_bases__[0].__args__[0]()
-class A(B[int]): pass
+class A(B[str]): pass
 @Node
 def node(x):
     return A().make()
'''

PRELUDE = "from tinygraph import Component, Node"


def rows():
    """Each row of the table: what it is about, the program, the program changed, whether its node means the same."""
    for row in TABLE.split("=== ")[1:]:
        title, *lines = row.rstrip("\n").split("\n")
        means, _, name = title.partition(": ")
        one = [line[1:] for line in lines if line[:1] in (" ", "-", "")]
        two = [line[1:] for line in lines if line[:1] in (" ", "+", "")]
        yield name, one, two, means == "same"


ROWS = list(rows())


def written(root, lines):
    """Write a program and the files beside it."""
    name, content = "main.py", [PRELUDE]
    for line in [*lines, "# file: "]:
        if line.startswith("# file: "):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(content) + "\n")
            name, content = line.removeprefix("# file: "), []
        else:
            content.append(line)


# Loads the program in each folder that it is given, and says what its node means.
PROBE = """
import importlib, json, sys
from tinygraph.keys.fingerprint import fingerprint

found = {}
for folder in json.load(sys.stdin):
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    found[folder] = fingerprint(importlib.import_module("main").node).digest.hex()
    sys.path.remove(folder)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("main", "helpers", "deep", "lib", "config"):
            del sys.modules[name]
json.dump(found, sys.stdout)
"""


def printed(*command, seed=0, **options):
    """Run Python, and return what it prints."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """The digests of both programs of each row, from two processes with other hash seeds and in other folders."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    for number, (_, one, two, _) in enumerate(ROWS):
        written(here / str(number) / "one", one)
        written(here / str(number) / "two", two)
    shutil.copytree(here, there / "deeper")
    names = [f"{number}/{which}" for number in range(len(ROWS)) for which in ("one", "two")]
    found = []
    for seed, place in ((1, here), (2, there / "deeper")):
        folders = json.dumps([str(place / name) for name in names])
        digest = json.loads(printed("-c", PROBE, seed=seed, input=folders))
        found.append({name: digest[str(place / name)] for name in names})
    return found


def test_the_table_has_what_was_promised():
    assert len({name for name, *_ in ROWS}) == len(ROWS) >= 100


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[name for name, *_ in ROWS])
def test_a_change_counts_if_it_means_something(digests, number):
    here, there = digests
    one, two = f"{number}/one", f"{number}/two"
    assert (here[one], here[two]) == (there[one], there[two]), "another process, hash seed or folder changed it"
    assert (here[one] == here[two]) is ROWS[number][3]


# How the program came to be there

PROGRAM = """
from tinygraph import Node
from tinygraph.keys.fingerprint import fingerprint
RATE = 0.5
class Model:
    def fit(self, x): return RATE * x
def helper(x): return Model().fit(x)
@Node
def node(x, y=(lambda z: z)):
    assert x, RATE
    return [helper(y(x)) for _ in x]
"""
TELL = "print(fingerprint(node).digest.hex())\n"


def test_a_script_a_module_and_another_folder_are_the_same(tmp_path):
    for folder in (tmp_path, tmp_path / "else" / "where"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "program.py").write_text(PROGRAM + f"if __name__ == '__main__': {TELL}")
    ask = f"from program import *\n{TELL}"
    one = printed("program.py", cwd=tmp_path)
    assert one == printed("program.py", cwd=tmp_path / "else" / "where", seed=3)
    assert one == printed(tmp_path / "program.py", cwd=tmp_path.parent)
    assert one == printed("-c", ask, cwd=tmp_path)
    assert one == printed("-m", "program", cwd=tmp_path)
    assert one == printed("-O", "program.py", cwd=tmp_path) == printed("-OO", "-c", ask, cwd=tmp_path)


def test_compiled_files_change_nothing(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = "-c", f"from program import *\n{TELL}"
    fresh = printed(*command, cwd=tmp_path)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=tmp_path, check=True)
    assert (tmp_path / "__pycache__").exists()
    assert printed(*command, cwd=tmp_path) == fresh


@pytest.mark.parametrize("source", ["standard input", "a command"])
def test_without_source_the_bytecode_counts(source, tmp_path):
    def told(program, seed=0):
        program += TELL
        if source == "standard input":
            return printed("-", input=program, seed=seed, cwd=tmp_path)
        return printed("-c", program, seed=seed, cwd=tmp_path)

    one = told(PROGRAM)
    assert told(PROGRAM, seed=5) == one
    assert told("\n\n" + PROGRAM.replace("    assert", "    'Says what it does.'\n    # and why\n    assert")) == one
    for before, after in (("RATE * x", "RATE + x"), ("z: z", "z: -z")):
        assert told(PROGRAM.replace(before, after)) != one


def test_a_cell_is_known_by_its_code():
    """Not by its number, nor by the file name that a kernel makes up."""

    def run(cell, name):
        linecache.cache[name] = len(cell), None, cell.splitlines(keepends=True), name
        scope = {"__name__": "__main__"}
        exec(compile(cell, name, "exec"), scope)
        assert form_of(scope["node"].function.__code__, scope).is_source
        return fingerprint(scope["node"])

    one = run(PROGRAM, "<ipython-input-3-0a1b>")
    assert run("# again\n" + PROGRAM, "/elsewhere/ipykernel_17/1234.py").digest == one.digest
    assert run(PROGRAM.replace("0.5", "0.25"), "<ipython-input-5-0a1b>").digest != one.digest
    assert "helper `helper` in __main__" in one.parts


def imported(folder, name="edited"):
    import importlib

    sys.path.insert(0, str(folder))
    try:
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def test_a_file_that_was_edited_since_its_import_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited.py"
    path.write_text("def f(x):\n    return x + 1\n")
    running = imported(tmp_path).f
    path.write_text("def f(x):\n    return x + 2\n")
    assert fingerprint(Node(running)).digest != fingerprint(Node(imported(tmp_path).f)).digest


def test_lines_that_move_after_the_import_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited.py"
    path.write_text("def f(x):\n    return x + 1\n")
    running = imported(tmp_path).f
    path.write_text("# new\n\ndef f(x):\n    # first\n    return x + 1\n")
    assert fingerprint(Node(running)).digest == fingerprint(Node(imported(tmp_path).f)).digest


def test_a_module_that_is_imported_inside_and_was_edited_counts_as_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited.py"
    path.write_text("def f(x):\n    return x + 1\n")

    def body(x):
        import edited

        return edited.f(x)

    monkeypatch.syspath_prepend(str(tmp_path))
    imported(tmp_path)
    before = fingerprint(Node(body)).digest
    path.write_text("def f(x):\n    return x + 2\n")
    stale = fingerprint(Node(body)).digest
    imported(tmp_path)
    assert len({before, stale, fingerprint(Node(body)).digest}) == 3


def test_nothing_of_the_users_is_imported_to_make_a_key(tmp_path, monkeypatch):
    (tmp_path / "harm").mkdir()
    (tmp_path / "harm" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "harm" / "deep.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))

    def body():
        import harm.deep
        from harm import deep

        return harm, deep

    parts = fingerprint(Node(body)).parts
    assert {"module harm", "module harm.deep"} <= parts.keys()
    assert not {"harm", "harm.deep"} & sys.modules.keys()


# What is said about it


def test_parts_say_what_is_different():
    scope = {"__name__": "__main__"}
    program = textwrap.dedent("""
        RATE = 0.5
        API_KEY = "abc"
        SHAPE = [1, 2]
        def helper(x, by=2): return RATE, API_KEY, SHAPE
        def make(n): return lambda x: helper(x) + n
        body = make(7)
    """)
    exec(program, scope)
    one = fingerprint(Node(scope["body"], name="node")).parts
    scope.update(RATE=0.25, API_KEY="xyz", SHAPE=[2, 1])
    two = fingerprint(Node(scope["body"], name="node")).parts
    changed = {label: (was, two[label]) for label, was in one.items() if two[label] != was}
    assert changed["global `RATE` in __main__"] == ("0.5", "0.25")
    assert changed.keys() == {f"global `{name}` in __main__" for name in ("RATE", "API_KEY", "SHAPE")}
    assert "xyz" not in str(two)
    assert one["default `by` of `helper`"] == "2"
    assert one["`n` captured by `<lambda>`"] == "7"
    assert one["Python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert one.keys() == two.keys()


def test_a_changed_helper_changes_its_own_part_only(tmp_path):
    (tmp_path / "features.py").write_text("def normalise(x): return x\ndef clean(x): return normalise(x)\n")
    before = fingerprint(Node(imported(tmp_path, "features").clean)).parts
    (tmp_path / "features.py").write_text("def normalise(x): return 2 * x\ndef clean(x): return normalise(x)\n")
    after = fingerprint(Node(imported(tmp_path, "features").clean)).parts
    changed = [label for label in before if after[label] != before[label]]
    assert changed == ["helper `normalise` in features.py"]


def test_the_version_and_what_was_not_kept_are_told():
    scope = {"__name__": "__main__", "leaf": Node(abs, name="leaf"), "kept": Node(len)}
    scope["leaf"].cache = False
    exec("def body(x):\n    return leaf(x), kept(x)", scope)
    node = Node(scope["body"])
    node.version = 1
    one = fingerprint(node)
    node.version = 2
    two = fingerprint(node)
    assert (one.parts["version="], two.parts["version="]) == ("1", "2")
    assert one.digest != two.digest
    assert one.unkept == ["leaf"]
    scope["leaf"].version = 1
    assert fingerprint(node).digest != two.digest


def test_the_key_of_a_node_counts_by_its_code():
    node = Node(abs)
    found = set()
    for key in (lambda x: x, lambda x: -x):
        node.key = key
        found.add(fingerprint(node).digest)
    assert len(found) == 2


def test_a_package_counts_by_its_version(tmp_path):
    site = tmp_path / "site-packages"
    (site / "shop").mkdir(parents=True)
    program = tmp_path / "program.py"
    program.write_text("import shop\nfrom shop import price\ndef node(x): return shop.price(x), price(x)\n")
    ask = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from tinygraph import Node; import program, json;"
        "from tinygraph.keys.fingerprint import fingerprint; print(json.dumps(fingerprint(Node(program.node)).parts));"
        "print(fingerprint(Node(program.node)).digest.hex())"
    )
    told = []
    for version, code in (("1.0", "1"), ("1.0", "2"), ("1.1", "2")):
        shutil.rmtree(site / "shop-1.0.dist-info", ignore_errors=True)
        info = site / f"shop-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shop\nVersion: {version}\n")
        (site / "shop" / "__init__.py").write_text(f"def price(x): return {code}\n")
        told.append(printed("-c", ask, cwd=tmp_path).splitlines())
    (parts, one), (_, again), (newer, two) = told
    assert (json.loads(parts)["package shop"], json.loads(newer)["package shop"]) == ("1.0", "1.1")
    assert one == again != two


MADE = """
import dataclasses
def deco(n): return lambda f: lambda self: f(self) + n
@dataclasses.dataclass
class A:
    n: int = 1
    @deco(2)
    def f(self): return 1
    @deco(2)
    def __repr__(self): return 1
    g = lambda self: 4
"""


@pytest.mark.parametrize("name", ["<stdin>", "<string>", "<ipython-input-1>"])
def test_what_is_in_a_dataclass_without_source_counts(name):
    def told(program):
        scope = {"__name__": "__main__"}
        exec(compile(program, name, "exec"), scope)
        return meaning_of(scope["A"])

    changes = [
        ("@deco(2)\n    def f", "@deco(3)\n    def f"),
        ("@deco(2)\n    def __", "@deco(3)\n    def __"),
        ("4", "5"),
    ]
    assert len({told(MADE), *(told(MADE.replace(*change)) for change in changes)}) == 4
    assert told(MADE) == told("\n" + MADE)


def test_the_nodes_that_code_reaches_are_told(tmp_path, monkeypatch):
    """Those of files that are imported inside, too, loaded or not: of these what is named."""
    (tmp_path / "offers.py").write_text(
        "from tinygraph import Node\n"
        "@Node(cache=False)\ndef now(): return 1\n"
        "@Node('other', cache='run')\ndef later(): return 1\n"
        "@Node\ndef kept(): return 1\n"
        "never = Node(abs, cache=False)\n"
        "def helper(): return later()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def body():
        from offers import kept, now

        return kept(), now()

    def by_module():
        import offers

        return offers.kept(), offers.now()

    for loaded in (False, True):
        if loaded:
            import offers

            assert offers
        for function in (body, by_module):
            found = fingerprint(Node(function))
            assert (set(found.nodes), set(found.unkept)) == ({"now", "other", "kept"}, {"now", "other"})
        assert "offers" not in sys.modules or loaded
    sys.modules.pop("offers")
    scope = {"__name__": "__main__", "inner": Node(lambda: 1, name="inner")}
    exec("def helper(): return inner()\ndef body(): return helper()", scope)
    assert fingerprint(Node(scope["body"])).nodes == ("inner",)


def test_what_code_in_an_argument_needs_is_told():
    scope = {"__name__": "__main__", "now": Node(lambda: 1, name="now", cache=False)}
    exec("import random\nclass A:\n    def f(self): return random.random()\ndef g(): return now()", scope)
    for value, draws, unkept in (
        (7, False, ()),
        (b"a", False, ()),
        ([1, {"a": len}], False, ()),
        (scope["now"], False, ("now",)),
        ({"a": [scope["g"]]}, False, ("now",)),
        (scope["A"](), True, ()),
        ([scope["A"]().f, scope["g"]], True, ("now",)),
    ):
        assert token_and_code(value) == (token(value), draws, unkept)
    with pytest.raises(UnhashableArgumentError, match="argument 'x'"):
        token_and_code((x for x in "a"), "argument 'x'")


def test_what_sounds_secret_is_shown_to_nobody():
    names = ("api_key", "PIN_TOKEN", "db_pwd", "passphrase", "Bearer", "auth_code", "cookie", "session_id")
    assert all(map(sounds_secret, names))
    assert not any(map(sounds_secret, ("rate", "name", "path", "n")))
    scope = {"__name__": "__main__", "DB_PWD": 123456, "COOKIE": "abc", "RATE": 654321}
    exec("def body(token=987654): return DB_PWD, COOKIE, RATE", scope)
    told = str(fingerprint(Node(scope["body"])).parts)
    assert "654321" in told
    assert not any(text in told for text in ("123456", "abc", "987654"))


DRAWING = [
    "import random\ndef body(): return random.random()",
    "from random import choice\ndef body(): return choice([1])",
    "import numpy as np\ndef body(): return np.random.rand()",
    "from numpy import random as r\ndef body(): return r.rand()",
    "from numpy.random import default_rng\ndef body(): return default_rng()",
    "def body():\n    import random\n    return random.random()",
    "def body():\n    import numpy as np\n    return np.random.rand()",
    "def body():\n    from numpy.random import rand\n    return rand()",
    "from tinygraph import generator\ndef body(): return generator().random()",
    "import random\ndef helper(): return random.random()\ndef body(): return helper()",
    "def body(df): return df.sample(3)",
    "def body(x): return [y.shuffle() for y in x]",
    "class A:\n    def f(self, x): return x.permutation(3)\ndef body(x): return A().f(x)",
    "import numpy.random as r\nshuffle = r.shuffle\ndef body(x): return shuffle(x)",
]


@pytest.mark.parametrize("program", [*DRAWING, "import numpy as np, random\ndef body(x): return np.sum(x), x.random"])
def test_whether_code_draws_random_numbers_is_seen(program):
    scope = {"__name__": "__main__"}
    exec(program, scope)
    assert fingerprint(Node(scope["body"])).draws is (program in DRAWING)


def test_what_has_no_meaning_is_refused_by_name(tmp_path):
    scope = {"__name__": "__main__"}
    with (tmp_path / "log").open("w") as log:
        exec("def helper(): return LOG\ndef body(): return helper()", scope)
        scope["LOG"] = {"file": log}
        with pytest.raises(UnhashableArgumentError, match=r"global `LOG` in __main__\['file'\] has no key.*_io.Text"):
            fingerprint(Node(scope["body"]))


def test_what_counts_by_its_kind_is_no_obstacle():
    scope = {"__name__": "__main__"}
    exec(
        "import threading, logging, sys, queue, weakref\n"
        "LOCK, LOG, OUT, QUEUE = threading.RLock(), logging.getLogger('a'), sys.stdout, queue.Queue()\n"
        "LOCAL, KNOWN = threading.local(), weakref.WeakValueDictionary()\n"
        "class A:\n    lock = threading.Lock()\n    def f(self): return LOCK, LOG, OUT, QUEUE, LOCAL, KNOWN\n"
        "def body(): return A()",
        scope,
    )
    assert fingerprint(Node(scope["body"])).digest == fingerprint(Node(scope["body"])).digest


def test_a_recursion_through_values_ends():
    scope = {"__name__": "__main__"}
    exec("TABLE = {}\ndef body(x):\n    return TABLE['self'](x)\nTABLE['self'] = body\nTABLE['more'] = [TABLE]", scope)
    assert fingerprint(Node(scope["body"])).digest == fingerprint(Node(scope["body"])).digest


def test_what_is_looked_up_is_looked_up_each_time():
    scope = {"__name__": "__main__", "helper": len}
    exec("def body(x): return helper(x)", scope)
    node = Node(scope["body"])
    found = [fingerprint(node).digest]
    scope["helper"] = lambda x: x
    found.append(fingerprint(node).digest)
    scope["helper"] = max
    found.append(fingerprint(node).digest)
    assert len(set(found)) == 3


def test_lambdas_on_one_line_are_told_apart():
    one, two, three = (lambda x: x + 1), (lambda x: x + 2), (lambda x: x + 1)
    assert form_of(one.__code__).is_source
    assert meaning_of(one) == meaning_of(three) != meaning_of(two)


def test_closures_over_other_values_are_told_apart():
    def make(n):
        return lambda x: x + n

    assert meaning_of(make(1)) == meaning_of(make(1)) != meaning_of(make(2))


def test_the_house_is_found_in_its_source():
    """Nearly all of the functions that are loaded: what is found in no source counts by its bytecode."""
    import types

    import tinygraph.store.recall
    import tinygraph.store.statefile  # noqa: F401  loaded, with most of the store

    found = [
        form_of(function.__code__, vars(module)).is_source
        for name, module in sorted(sys.modules.items())
        if name.startswith(("tinygraph.store.", "json.", "logging")) and isinstance(module, types.ModuleType)
        for function in vars(module).values()
        if isinstance(function, types.FunctionType) and Path(function.__code__.co_filename).exists()
    ]
    assert len(found) > 100
    assert all(found)


LAMBDAS = """
a = b = c = 1
found = [
    lambda: a if b else c, lambda: a and b or c, lambda x: f"{x}", lambda: [i for i in (1, 2)], lambda: (yield),
    lambda: not a, lambda: 1 < a < 3, lambda *a, **k: k, lambda x=(lambda: 1): x, lambda: (lambda: (lambda: 3)),
    lambda: None, lambda: ..., lambda: 1 + 1, lambda: {**{}}, lambda: (i for i in []), lambda: (d := 3), lambda: -1,
    lambda: "x" "y", lambda: (not (a or b)), lambda: ((a)), lambda: (a,
        b),
]
found += [found[8].__defaults__[0], found[9](), found[9]()()]
"""


def test_a_lambda_is_found_whatever_it_returns(tmp_path):
    path, scope = tmp_path / "lambdas.py", {}
    path.write_text(LAMBDAS)
    exec(compile(LAMBDAS, str(path), "exec"), scope)
    forms = [form_of(one.__code__) for one in scope["found"]]
    assert all(form.is_source for form in forms)
    assert len({form.digest for form in forms}) == len(forms)


def test_what_was_edited_in_a_class_made_by_exec_counts():
    """A dataclass whose own methods have no source, like those that were made for it."""
    found = set()
    for body in ("return 1", "return 2"):
        scope = {"__name__": "__main__"}
        exec(f"import dataclasses\n@dataclasses.dataclass\nclass A:\n    n: int\n    def f(self): {body}", scope)
        found.add(meaning_of(scope["A"]))
    assert len(found) == 2


def test_a_value_means_the_same_in_a_worker(tmp_path):
    """Where the classes of a script have travelled as code."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import dataclasses, enum, typing
        from tinygraph import Node
        from tinygraph.keys.canonical import token
        RATE = 3
        def helper(x): return x * RATE
        class Colour(enum.Enum):
            RED = 1
        class Point(typing.NamedTuple):
            x: int = 1
        class Table(dict):
            def get(self, key): return super().get(key), Colour.RED
        @dataclasses.dataclass
        class Config:
            rate: int = 1
            colour: Colour = Colour.RED
            def area(self): return helper(self.rate)
        @Node
        def there(value): return token(value)
        for value in (Config(), Colour.RED, Point(), Table(a=1), helper, lambda x: x + RATE, Config, [Config(2)]):
            assert there(value).resolve(executor="processes", workers=1) == token(value), value
    """)
    )
    printed(script, cwd=tmp_path)
