"""What can go wrong here that the other side tells apart, by the name of the class."""

import os


class GraphicsError(RuntimeError):
    """No picture can be drawn in a process, or none that is right.

    The message is one line, the name of the OpenGL library and the reason.

    Args:
        reason: a text, or what the library or its Python layer raised.
        library: of OpenGL; None for the one that this process draws with.
    """

    def __init__(self, reason: object, library: "str | None" = None) -> None:
        library = library or os.environ.get("MUJOCO_GL")
        super().__init__(f"{library}: {' '.join(str(reason).split())}")
