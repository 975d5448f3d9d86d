"""The sky around a scene, and a second one that shows videos, exchanged by a handle.

MuJoCo draws the sky as a cube map. A video needs another one with the same picture on all six
faces, changed before every picture. The published way hands MuJoCo a new texture each time, which
converts it and filters its mipmaps six times over (16 ms at 800 texels). Here one face is sent and
filtered once, copied on the graphics side to the faces that the camera can see, and the task's own
sky stays as it is: drawing without distractions is a change of one number.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import cv2
import mujoco
import numpy as np
from dm_control.mujoco import engine

# Direction in the world of each face of the cube map, in OpenGL's order.
_FACES = np.array([(1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1), (0, -1, 0), (0, 1, 0)], float)
_FACE_ANGLE = math.acos(1 / math.sqrt(3))  # from the middle of a face to its corners


class SkyMissing(ValueError):
    """The task draws no sky, so no video can be shown in it."""


class VideoSky:
    """A cube map of `size` texels a side that can take the place of the task's own sky.

    Every method that draws needs the thread of the graphics context.

    Args:
        physics: whose sky it is.
        size: texels per side.
        mipmaps: filter smaller versions, as the published package; without them only the finest
            level exists.

    Attributes:
        own: the task's own sky at that size, uint8 (size, size, 3).

    Raises:
        SkyMissing: the task has no sky.
    """

    def __init__(self, physics: engine.Physics, size: int, mipmaps: bool) -> None:
        self._physics = physics
        self._size = size
        self._levels = size.bit_length() if mipmaps else 1
        self._index = _find_sky(physics)
        self.own = _read_sky(physics, self._index, size)
        self._handles: tuple[int, int] | None = None  # the task's own sky, the videos'
        self._staging = 0  # a plain texture: one face before it is copied
        self._copies = False  # the driver copies between textures
        self._token: object = None
        self._current: set[int] = set()  # faces that show what `_token` stands for

    def show(self, video: bool) -> None:
        """Chooses what is drawn from now on: the video, or the task's own sky."""
        self._textures()[self._index] = self._ready()[int(video)]

    def send(self, frame: np.ndarray, token: object, camera_id: int) -> None:
        """Puts `frame` on the faces that this camera can see.

        Args:
            frame: contiguous uint8 (size, size, 3).
            token: equal for equal frames; faces that have it already are left alone.
            camera_id: index of the camera that draws next, at its present pose.
        """
        self._ready()
        if token != self._token:
            self._token = token
            self._current = set()
        missing = sorted(_visible_faces(self._physics, camera_id) - self._current)
        if not missing:
            return
        with self._physics.contexts.gl.make_current() as context:
            context.call(self._send, frame, missing)
        self._current.update(missing)

    def _ready(self) -> tuple[int, int]:
        if self._handles is None:
            with self._physics.contexts.gl.make_current() as context:
                context.call(self._make)
        assert self._handles is not None
        return self._handles

    def _textures(self) -> np.ndarray:
        return self._physics.contexts.mujoco.ptr.texture

    def _make(self) -> None:
        from OpenGL.raw.GL.VERSION import GL_1_0, GL_1_1, GL_1_2, GL_1_3

        model, index = self._physics.model.ptr, self._index
        original = int(self._textures()[index])
        names = (ctypes.c_uint * 2)()
        GL_1_1.glGenTextures(2, names)
        # MuJoCo sets up the new texture like its own: a sky as high as wide is one picture on all
        # six faces.
        shape = int(model.tex_width[index]), int(model.tex_height[index])
        self._textures()[index] = names[0]
        model.tex_width[index] = model.tex_height[index] = self._size
        mujoco.mjr_uploadTexture(model, self._physics.contexts.mujoco.ptr, index)
        model.tex_width[index], model.tex_height[index] = shape
        GL_1_1.glBindTexture(GL_1_3.GL_TEXTURE_CUBE_MAP, names[0])
        if self._levels == 1:
            # Only the finest level is sent, so only that one may be drawn.
            GL_1_0.glTexParameteri(GL_1_3.GL_TEXTURE_CUBE_MAP, GL_1_2.GL_TEXTURE_MAX_LEVEL, 0)
        self._handles, self._staging = (original, int(names[0])), int(names[1])
        flat = GL_1_1.GL_TEXTURE_2D
        GL_1_1.glBindTexture(flat, self._staging)
        GL_1_0.glTexParameteri(flat, GL_1_2.GL_TEXTURE_MAX_LEVEL, self._levels - 1)
        GL_1_0.glTexImage2D(
            flat, 0, GL_1_0.GL_RGB, self._size, self._size, 0,
            GL_1_0.GL_RGB, GL_1_0.GL_UNSIGNED_BYTE, None,
        )  # fmt: skip
        GL_1_1.glBindTexture(flat, 0)
        self._copies = self._try_copy()

    def _send(self, frame: np.ndarray, faces: list[int]) -> None:
        if self._copies:
            self._stage(frame)
            self._copy(faces)
        else:
            self._send_each(frame)

    def _stage(self, frame: np.ndarray) -> None:
        from OpenGL.raw.GL.VERSION import GL_1_0, GL_1_1, GL_3_0

        flat = GL_1_1.GL_TEXTURE_2D
        GL_1_1.glBindTexture(flat, self._staging)
        GL_1_0.glPixelStorei(GL_1_0.GL_UNPACK_ALIGNMENT, 1)
        GL_1_1.glTexSubImage2D(
            flat, 0, 0, 0, self._size, self._size,
            GL_1_0.GL_RGB, GL_1_0.GL_UNSIGNED_BYTE, ctypes.c_void_p(frame.ctypes.data),
        )  # fmt: skip
        if self._levels > 1:
            GL_3_0.glGenerateMipmap(flat)
        GL_1_1.glBindTexture(flat, 0)

    def _copy(self, faces: list[int]) -> None:
        from OpenGL.raw.GL.VERSION import GL_1_1, GL_1_3, GL_4_3

        assert self._handles is not None
        for level in range(self._levels):
            side = max(1, self._size >> level)
            for face in faces:
                GL_4_3.glCopyImageSubData(
                    self._staging, GL_1_1.GL_TEXTURE_2D, level, 0, 0, 0,
                    self._handles[1], GL_1_3.GL_TEXTURE_CUBE_MAP, level, 0, 0, face,
                    side, side, 1,
                )  # fmt: skip

    def _try_copy(self) -> bool:
        """Whether this driver copies between textures, which OpenGL has since 4.3."""
        from OpenGL.error import GLError, NullFunctionError
        from OpenGL.raw.GL.VERSION import GL_1_0

        try:
            self._stage(self.own)
            self._copy([0])
        except (GLError, NullFunctionError):
            return False
        return bool(GL_1_0.glGetError() == GL_1_0.GL_NO_ERROR)

    def _send_each(self, frame: np.ndarray) -> None:
        """Sends every face by itself: for drivers that do not copy."""
        from OpenGL.raw.GL.VERSION import GL_1_0, GL_1_1, GL_1_3, GL_3_0

        assert self._handles is not None
        cube = GL_1_3.GL_TEXTURE_CUBE_MAP
        GL_1_1.glBindTexture(cube, self._handles[1])
        GL_1_0.glPixelStorei(GL_1_0.GL_UNPACK_ALIGNMENT, 1)
        for face in range(6):
            GL_1_1.glTexSubImage2D(
                GL_1_3.GL_TEXTURE_CUBE_MAP_POSITIVE_X + face, 0, 0, 0, self._size, self._size,
                GL_1_0.GL_RGB, GL_1_0.GL_UNSIGNED_BYTE, ctypes.c_void_p(frame.ctypes.data),
            )  # fmt: skip
        if self._levels > 1:
            GL_3_0.glGenerateMipmap(cube)
        self._current = set(range(6))


def _visible_faces(physics: engine.Physics, camera_id: int) -> set[int]:
    """Returns the faces that may be in a 4:3 picture: a cone around it, so rather one too many."""
    upright = math.tan(math.radians(float(physics.model.cam_fovy[camera_id])) / 2)
    angle = math.atan(upright * math.hypot(1.0, 4 / 3)) + _FACE_ANGLE
    forward = -physics.data.cam_xmat[camera_id].reshape(3, 3)[:, 2]
    return set(np.flatnonzero(_FACES @ forward > math.cos(min(angle, math.pi)) - 1e-6).tolist())


def _find_sky(physics: engine.Physics) -> int:
    kinds = list(physics.model.tex_type)
    sky = int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    if sky not in kinds:
        raise SkyMissing("this task draws no sky to show a video in")
    return kinds.index(sky)


def _read_sky(physics: engine.Physics, index: int, size: int) -> np.ndarray:
    model: Any = physics.model
    width, start = int(model.tex_width[index]), int(model.tex_adr[index])
    face = model.tex_data[start : start + width * width * 3].reshape(width, width, 3)
    if width == size:
        return face.copy()
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
