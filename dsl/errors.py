"""What the compiler raises: each is one line that starts with the model's own line."""

from ellm.system.errors import InputError


class GraphError(InputError):
    """A graph that the compiler cannot accept."""


class ShapeError(GraphError):
    """Operands whose shapes do not fit together; names the model line, both shapes and the checkpoint weight."""


class LoweringError(GraphError):
    """A valid graph that no kernel can run."""
