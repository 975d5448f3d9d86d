"""What can go wrong here that the other side tells apart, by the name of the class."""

import os


class GraphicsError(RuntimeError):
    """No picture can be drawn in this process, or none that is right.

    The message is one line, the name of the OpenGL library and the reason.

    Args:
        reason: a text, or what the library or its Python layer raised.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(f"{os.environ.get('MUJOCO_GL')}: {' '.join(str(reason).split())}")
