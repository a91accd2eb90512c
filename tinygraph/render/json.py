"""JSON: the picture as data, for whoever draws it in another way."""

from __future__ import annotations

import json
from typing import Any

from tinygraph.render.picture import Box, Picture


def json_of(picture: Picture) -> str:
    r"""Return a picture as JSON text.

    ``boxes`` have ``id``, ``name``, ``kind``, ``state``, ``states`` (how many of its calls are in which), ``calls``,
    ``caller`` (the id of the box around it, or null), ``hidden`` (calls inside that are not shown), ``closed``,
    ``returned``, ``used``, ``critical``, ``seconds`` (of its calls together, or null) and ``line``; ``arrows`` have
    ``source`` and ``target`` (ids), ``count``, ``used`` and ``critical``.

    >>> from tinygraph import Node
    >>> from tinygraph.render.calls import listing_of
    >>> from tinygraph.render.picture import picture_of
    >>> json.loads(json_of(picture_of(listing_of(Node(abs, name="size")(1).graph))))["boxes"][0]["name"]
    'size'
    """
    boxes = picture.boxes
    data = {
        "title": picture.title,
        "calls": picture.calls,
        "seconds": picture.seconds,
        "work": picture.work,
        "depth": picture.depth,
        "levels": picture.levels,
        "boxes": [_box(picture, box) for box in boxes],
        "arrows": [
            {
                "source": boxes[arrow.source].id,
                "target": boxes[arrow.target].id,
                "count": arrow.count,
                "used": arrow.used,
                "critical": arrow.critical,
            }
            for arrow in picture.arrows
        ],
    }
    # ASCII without `<` and `&`: it stays data wherever it is pasted, a web page included.
    return json.dumps(data, indent=1).replace("<", "\\u003c").replace("&", "\\u0026") + "\n"


def _box(picture: Picture, box: Box) -> dict[str, Any]:
    return {
        "id": box.id,
        "name": box.name,
        "kind": box.kind,
        "state": str(box.state),
        "states": {str(state): number for state, number in box.states},
        "calls": box.calls,
        "caller": None if box.caller is None else picture.boxes[box.caller].id,
        "hidden": box.hidden,
        "closed": box.closed,
        "returned": box.returned,
        "used": box.used,
        "critical": box.critical,
        "seconds": box.seconds,
        "line": box.line,
    }
