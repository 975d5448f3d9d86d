"""What can go wrong here that the other side tells apart, by the name of the class."""


class GraphicsError(RuntimeError):
    """No picture can be drawn in this process; the message is the OpenGL library's."""
