"""Draws the picture of one physics: a camera that persists, a sky that is replaced in place.

What makes it fast, and what it costs in faithfulness (grey levels of 255, mean over a picture):

- one picture per agent step, a persistent scene, buffers of the picture's size: exact;
- `paper`: bodies of half as many facets, a sky of 400 instead of 800 texels per face without
  mipmaps, shadow maps of 256 instead of 2048 texels, and no multisampling where a resize from
  320 x 240 smooths edges too: 0.2 to 0.6 on average over pictures, up to 0.9 in one of reacher;
- `fast`: drawn straight at the observation's size, without shadows, reflections and multisampling:
  1.4 to 7, and clean reacher 20, whose lights are drawn darker without shadows.

The published pictures of the Distracting Control Suite are 320 x 240, squeezed into a square
("wide"). Drawn straight at a square size, the same content needs the frustum of a 4:3 picture,
which `_wide_frustum` sets. The plain suite's 64 x 64 pictures, and so Natural MuJoCo's, show the
middle of that view, not squeezed ("square").

Everything here must run on one thread, the one that draws first: an EGL context belongs to a
thread. `mujoco.Renderer` must not be used in the same process: dm_control would then draw into the
other's context.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cv2
import mujoco
import numpy as np
from dm_control.mujoco import engine
from PIL import Image

from actors.environments.segmentation import Segmentation
from actors.environments.sky import VideoSky

PUBLISHED_HEIGHT, PUBLISHED_WIDTH = 240, 320


@dataclass(frozen=True)
class Quality:
    """How a picture is drawn."""

    direct: bool  # at the observation's size; else 320 x 240 and an antialiased bilinear resize
    sky_size: int  # texels per side of a sky face
    mipmaps: bool  # filtered smaller versions of the sky, too
    shadow_size: int  # side of the shadow map in texels, 0 for no shadows
    samples: int  # multisamples per pixel
    reflections: bool
    facets: tuple[int, int] | None  # slices and stacks of round bodies; None: the task's (28, 16)


def quality_for(name: str, image_size: int, view: str = "wide") -> Quality:
    """Returns what "exact", "paper" or "fast" mean for observations of that many pixels."""
    square = view == "square"
    if name == "exact":
        return Quality(square, 800, True, 2048, 4, True, None)
    if name == "paper":
        # A square picture is drawn at its own size: nothing but multisampling smooths its edges.
        return Quality(square, 400, False, 256, 4 if square else 0, True, (14, 8))
    # A picture shows about 0.41 of a sky face: twice its size is 0.8 texels per pixel.
    sky_size = min(400, -(-int(image_size * 2.0) // 4) * 4)
    return Quality(True, sky_size, False, 0, 0, False, (14, 8))


class Renderer:
    """Draws one physics from one of its cameras.

    Attributes:
        frames_drawn: pictures drawn by `observe` so far.
    """

    def __init__(
        self,
        physics: engine.Physics,
        camera_id: int,
        image_size: int,
        quality: Quality,
        view: str = "wide",
    ) -> None:
        self._physics = physics
        self._camera_id = camera_id
        self._image_size = image_size
        self._quality = quality
        self._wide = view == "wide"
        self._camera: engine.Camera | None = None
        self._film: engine.Camera | None = None
        self._segmentation: Segmentation | None = None
        self._thread: int | None = None
        self._sky: VideoSky | None = None
        self.frames_drawn = 0
        if quality.direct:
            self._height = self._width = image_size
        else:
            self._height, self._width = PUBLISHED_HEIGHT, PUBLISHED_WIDTH
        self._canvas = Image.new("RGB", (self._width, self._height))  # what a resize starts from
        # What it ends in, as an array and as an image of the same memory, which may be changed.
        self._pixels = np.empty((image_size, image_size, 4), np.uint8)
        self._squeezed = Image.frombuffer(
            "RGBX", (image_size, image_size), self._pixels, "raw", "RGBX", 0, 1
        )
        self._squeezed.readonly = 0
        visual = physics.model.vis
        visual.global_.offheight = self._height
        visual.global_.offwidth = self._width
        visual.quality.shadowsize = quality.shadow_size
        visual.quality.offsamples = quality.samples
        if quality.facets is not None:
            visual.quality.numslices, visual.quality.numstacks = quality.facets

    def replace_sky(self) -> np.ndarray:
        """Makes room for videos in the sky; returns the task's own, uint8 (size, size, 3).

        Raises:
            SkyMissing: the task has no sky.
        """
        self._sky = VideoSky(self._physics, self._quality.sky_size, self._quality.mipmaps)
        return self._sky.own

    def send_sky(self, frame: np.ndarray, token: object) -> None:
        """Shows `frame` from the next picture on, seen by the camera at its present pose.

        Args:
            frame: contiguous uint8 (sky_size, sky_size, 3).
            token: equal for equal frames, which are then not sent twice.
        """
        assert self._sky is not None, "replace_sky comes first"
        self._ready()
        self._sky.send(frame, token, self._camera_id)

    def observe(self, own_sky: bool = False, memory: np.ndarray | None = None) -> np.ndarray:
        """Draws the current state: uint8 (image_size, image_size, 3).

        Args:
            own_sky: draw the task's own sky where a video has taken its place.
            memory: such an array, contiguous, to draw into and return; None makes a new one.
        """
        self._ready()
        assert self._camera is not None
        if self._sky is not None:
            self._sky.show(video=not own_sky)
        drawn = self._camera.render()  # a view of a buffer that the next picture overwrites
        self.frames_drawn += 1
        size = self._image_size
        picture = np.empty((size, size, 3), np.uint8) if memory is None else memory
        if self._quality.direct:
            np.copyto(picture, drawn)
            return picture
        # Rows come bottom first; turned back, they are the buffer itself, read without a copy.
        self._canvas.frombytes(drawn[::-1].data, "raw", "RGB", 0, -1)
        self._squeezed.paste(self._canvas.resize((size, size), Image.Resampling.BILINEAR))
        cv2.cvtColor(self._pixels, cv2.COLOR_RGBA2RGB, dst=picture)
        return picture

    def background(self) -> np.ndarray:
        """Returns where nothing but planes, height fields and sky is: bool (size, size), those of
        an observation, valid until the next call.
        """
        self._ready()
        if self._segmentation is None:
            size = self._image_size
            self._grow(size, size)
            self._segmentation = Segmentation(
                self._physics, self._make_camera(size, size), _wide_frustum if self._wide else None
            )
        return self._segmentation.background()

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
        if self._sky is not None:
            self._sky.show(video=True)
        return np.ascontiguousarray(self._film.render())

    def close(self) -> None:
        """Frees the context; must come from the thread that drew. Safe to call twice."""
        if self._thread is not None:
            self._camera = self._film = self._segmentation = None
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
        squeezed = self._wide and height == width
        camera = engine.Camera(
            self._physics,
            height=height,
            width=width,
            camera_id=self._camera_id,
            scene_callback=_wide_frustum if squeezed else None,
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


def _wide_frustum(physics: engine.Physics, scene: Any) -> None:
    """Gives a square picture the view of a 4:3 one (both eyes of the scene's stereo camera)."""
    del physics
    for camera in scene.camera:
        camera.frustum_width = (camera.frustum_top - camera.frustum_bottom) * (4 / 3) / 2
