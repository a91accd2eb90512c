"""A module of a user's, with what surrounds its nodes."""

from __future__ import annotations

import os
from contextvars import ContextVar

from tinygraph import Node

user: ContextVar[str] = ContextVar("user", default="nobody")

os.environ["SURROUNDINGS_IMPORTED"] = "yes"


@Node
def who() -> str:
    """The user, who is somebody else from here on."""
    found = user.get()
    user.set("a leak")
    return found
