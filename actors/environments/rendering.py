"""Draws the picture of one physics: a camera that persists, a sky that is replaced in place.

What makes it fast, and what it costs in faithfulness (grey levels of 255, mean over a picture):

- one picture per agent step and a persistent scene: exact;
- `paper`: a sky of 400 instead of 800 texels per face, sent without mipmaps, shadow maps of 512
  instead of 2048, and no multisampling, since the resize from 320 x 240 smooths edges too: 0.1 to
  0.7;
- `fast`: drawn straight at the observation's size, without shadows, reflections and multisampling:
  1.5 to 6, and clean reacher 20, whose lights are drawn darker without shadows.

Published pictures are 320 x 240, squeezed into a square. Drawn straight at a square size, the same
content needs the frustum of a 4:3 picture, which `_square_frustum` sets.

Everything here must run on one thread, the one that draws first: an EGL context belongs to a
thread. `mujoco.Renderer` must not be used in the same process: dm_control would then draw into the
other's context.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import cv2
import mujoco
import numpy as np
from dm_control.mujoco import engine
from PIL import Image

PUBLISHED_HEIGHT, PUBLISHED_WIDTH = 240, 320


@dataclass(frozen=True)
class Quality:
    """How a picture is drawn."""

    direct: (
        bool  # draw at the observation's size; else 320 x 240 and an antialiased bilinear resize
    )
    sky_size: int  # texels per side of a sky face
    mipmaps: bool  # send the sky through MuJoCo, which recomputes its mipmaps (16 ms at 800 texels)
    shadow_size: int  # side of the shadow map in texels, 0 for no shadows
    samples: int  # multisamples per pixel
    reflections: bool


def quality_for(name: str, image_size: int) -> Quality:
    """Returns what "exact", "paper" or "fast" mean for observations of that many pixels."""
    if name == "exact":
        return Quality(False, 800, True, 2048, 4, True)
    if name == "paper":
        return Quality(False, 400, False, 512, 0, True)
    # A picture shows about 0.41 of a sky face: twice its size is 0.8 texels per pixel.
    sky_size = min(400, -(-int(image_size * 2.0) // 4) * 4)
    return Quality(True, sky_size, False, 0, 0, False)


class SkyMissing(ValueError):
    """The task draws no sky, so no video can be shown in it."""


class Renderer:
    """Draws one physics from one of its cameras.

    Attributes:
        frames_drawn: pictures drawn by `observe` so far.
        sky: the task's own sky, uint8 (sky_size, sky_size, 3): what a video is blended with; None
            without one.
    """

    def __init__(
        self, physics: engine.Physics, camera_id: int, image_size: int, quality: Quality
    ) -> None:
        self._physics = physics
        self._camera_id = camera_id
        self._image_size = image_size
        self._quality = quality
        self._camera: engine.Camera | None = None
        self._film: engine.Camera | None = None
        self._thread: int | None = None
        self._sky_sent = False
        self._sky_index = _find_sky(physics)
        self._replaces_sky = False
        self.sky = (
            None
            if self._sky_index is None
            else _read_sky(physics, self._sky_index, quality.sky_size)
        )
        self.frames_drawn = 0
        if quality.direct:
            self._height = self._width = image_size
        else:
            self._height, self._width = PUBLISHED_HEIGHT, PUBLISHED_WIDTH
        model = physics.model
        model.vis.global_.offheight = self._height
        model.vis.global_.offwidth = self._width
        model.vis.quality.shadowsize = quality.shadow_size
        model.vis.quality.offsamples = quality.samples

    def replace_sky(self) -> None:
        """Gives the sky the size that `send_sky` fills. Call it once, before the first picture.

        Raises:
            SkyMissing: the task has no sky.
        """
        if self._sky_index is None:
            raise SkyMissing("this task draws no sky to show a video in")
        size = self._quality.sky_size
        model = self._physics.model
        # A sky as high as wide is one picture, shown on all six faces of the cube around the scene.
        model.tex_height[self._sky_index] = size
        model.tex_width[self._sky_index] = size
        self._replaces_sky = True

    def send_sky(self, frame: np.ndarray) -> None:
        """Shows `frame`, contiguous uint8 (sky_size, sky_size, 3), from the next picture on."""
        assert self._replaces_sky, "replace_sky comes first"
        self._ready()
        contexts = self._physics.contexts
        with contexts.gl.make_current() as context:
            if self._quality.mipmaps:
                model = self._physics.model
                start = model.tex_adr[self._sky_index]
                model.tex_data[start : start + frame.size] = frame.reshape(-1)
                context.call(
                    mujoco.mjr_uploadTexture, model.ptr, contexts.mujoco.ptr, self._sky_index
                )
            else:
                context.call(self._send_without_mipmaps, frame, contexts.mujoco.ptr)

    def observe(self) -> np.ndarray:
        """Draws the current state: a new uint8 array (image_size, image_size, 3)."""
        self._ready()
        assert self._camera is not None
        picture = self._camera.render()  # a view of a buffer that the next picture overwrites
        self.frames_drawn += 1
        if self._quality.direct:
            return np.ascontiguousarray(picture)
        size = (self._image_size, self._image_size)
        # The array of a Pillow image is read-only: copied, so that the caller owns what it gets.
        return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))

    def film(self, height: int) -> np.ndarray:
        """Draws the current state for people: a new uint8 array (height, 4/3 height, 3).

        The offscreen buffer grows to that size once, which costs `observe` a few percent from then
        on.
        """
        self._ready()
        width = -(-height * 4 // 3)
        if self._film is None or self._film.height != height:
            self._grow(height, width)
            self._film = self._make_camera(height, width)
        return np.ascontiguousarray(self._film.render())

    def close(self) -> None:
        """Frees the context; must come from the thread that drew. Safe to call twice."""
        if self._thread is not None:
            self._camera = self._film = None
            self._physics.free()
            self._thread = None

    def _ready(self) -> None:
        """Makes context and camera on first use and guards against a second thread."""
        thread = threading.get_ident()
        if self._thread is None:
            self._camera = self._make_camera(self._height, self._width)
            self._thread = thread
        elif self._thread != thread:
            raise RuntimeError(
                "An environment draws on the thread that first reset it, and this is another: "
                "make and step each environment on one thread."
            )

    def _make_camera(self, height: int, width: int) -> engine.Camera:
        square = self._quality.direct and height == width
        camera = engine.Camera(
            self._physics,
            height=height,
            width=width,
            camera_id=self._camera_id,
            scene_callback=_square_frustum if square else None,
        )
        flags = camera.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._quality.shadow_size > 0
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._quality.reflections
        return camera

    def _grow(self, height: int, width: int) -> None:
        buffer = self._physics.model.vis.global_
        if height <= buffer.offheight and width <= buffer.offwidth:
            return
        buffer.offheight = max(height, buffer.offheight)
        buffer.offwidth = max(width, buffer.offwidth)
        contexts = self._physics.contexts
        with contexts.gl.make_current() as context:
            context.call(
                mujoco.mjr_resizeOffscreen, buffer.offwidth, buffer.offheight, contexts.mujoco.ptr
            )

    def _send_without_mipmaps(self, frame: np.ndarray, context: Any) -> None:
        from OpenGL.raw.GL.VERSION import GL_1_0, GL_1_1, GL_1_2, GL_1_3

        cube = GL_1_3.GL_TEXTURE_CUBE_MAP
        GL_1_1.glBindTexture(cube, int(context.texture[self._sky_index]))
        if not self._sky_sent:
            # Only the finest level is sent, so only that one may be drawn.
            GL_1_0.glTexParameteri(cube, GL_1_2.GL_TEXTURE_MAX_LEVEL, 0)
            self._sky_sent = True
        GL_1_0.glPixelStorei(GL_1_0.GL_UNPACK_ALIGNMENT, 1)
        pixels = ctypes.c_void_p(frame.ctypes.data)
        for face in range(6):
            GL_1_1.glTexSubImage2D(
                GL_1_3.GL_TEXTURE_CUBE_MAP_POSITIVE_X + face,
                0,
                0,
                0,
                frame.shape[1],
                frame.shape[0],
                GL_1_0.GL_RGB,
                GL_1_0.GL_UNSIGNED_BYTE,
                pixels,
            )


def _square_frustum(physics: engine.Physics, scene: Any) -> None:
    """Gives a square picture the view of a 4:3 one (both eyes of the scene's stereo camera)."""
    del physics
    for camera in scene.camera:
        camera.frustum_width = (camera.frustum_top - camera.frustum_bottom) * (4 / 3) / 2


def _find_sky(physics: engine.Physics) -> int | None:
    kinds = list(physics.model.tex_type)
    sky = int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    return kinds.index(sky) if sky in kinds else None


def _read_sky(physics: engine.Physics, index: int, size: int) -> np.ndarray:
    model = physics.model
    width, start = int(model.tex_width[index]), int(model.tex_adr[index])
    face = model.tex_data[start : start + width * width * 3].reshape(width, width, 3)
    if width == size:
        return face.copy()
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
