"""Pictures of graphs: one neutral picture, and one small file for each language that it is written in."""

from tinygraph.render.drawing import draw, to_mermaid, to_pydot
from tinygraph.render.networkx import to_networkx

__all__ = ["draw", "to_mermaid", "to_networkx", "to_pydot"]
