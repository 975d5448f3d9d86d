"""The front camera of a simulation: the published picture, or the part of it that is used.

A published observation is a window of 144 x 144 in a picture of 256 x 256 with 4 samples a pixel,
its middle 24 pixels left of the picture's and 16 above it. Drawing that part alone, with the same
edges of pixels, is the same picture for two thirds of the time. No light of the task throws
shadows; what costs time is the robot's 170,000 triangles, drawn once more where something mirrors,
and their multisampling.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from actors.environments.robosuite_process.errors import GraphicsError

VIEW = 256  # pixels of the published picture, of which an observation is a part
WINDOW = 144
# Left and lower edge of that part: columns 32 to 176, and rows 72 to 216 counted from below as
# OpenGL does, which are rows 40 to 184 of the upright picture.
WINDOW_X, WINDOW_Y = 32, 72

# Without mirrors weaker than this a picture changes by less than half a grey level, in the mean.
_FAINT_MIRROR = 0.05


class Camera:
    """Draws one simulation; everything here must run on the thread that made it.

    There may be several in one process: each makes its own OpenGL context current before it draws.

    Qualities: "exact" draws the whole published picture and cuts the window out, byte for byte
    what robosuite gives; "paper" draws the window alone and leaves out mirrors too faint to see;
    "fast" leaves out all mirrors, shadows and multisampling.

    Raises:
        GraphicsError: no OpenGL context can be made.
    """

    _current: Camera | None = None  # the one that drew last

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, quality: str) -> None:
        self._model, self._data = model, data
        self._exact, self._fast = quality == "exact", quality == "fast"
        try:
            self._gl = mujoco.GLContext(VIEW, VIEW)
            self._make_current()
        except Exception as error:  # whatever the OpenGL library and its Python layer raise
            raise GraphicsError(error) from error
        size = VIEW if self._exact else WINDOW
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if self._fast:
            model.vis.quality.offsamples = 0
        self.context = self.make_context()
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = not self._fast
        self._camera, self._option = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "frontview")
        self._option.geomgroup[:2] = 0, 1  # looks, not the shapes that collide
        self._perturb = mujoco.MjvPerturb()

    def make_context(self) -> Any:
        """Returns a new drawing context with the model's present textures."""
        self._make_current()
        return mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)

    def observe(self, context: Any = None) -> np.ndarray:
        """Returns the window as the simulation stands: uint8 (144, 144, 3), upright.

        Args:
            context: of `make_context`, whose textures to use; None for the camera's own.
        """
        context = context or self.context
        if self._exact:
            rows, columns = slice(WINDOW_Y, WINDOW_Y + WINDOW), slice(WINDOW_X, WINDOW_X + WINDOW)
            picture = self._draw(context, VIEW, VIEW)[rows, columns]
        else:
            picture = self._draw(context, WINDOW, WINDOW, narrow=True)
        return np.ascontiguousarray(picture[::-1])

    def film(self, height: int, width: int) -> np.ndarray:
        """Returns the whole view for people: uint8 (height, width, 3), upright."""
        self._make_current()
        if self.context.offHeight < height or self.context.offWidth < width:
            mujoco.mjr_resizeOffscreen(width, height, self.context)
        return np.ascontiguousarray(self._draw(self.context, height, width)[::-1])

    def upload(self, texture: int) -> None:
        """Sends a texture of the model, once changed, to where it is drawn."""
        self._make_current()
        mujoco.mjr_uploadTexture(self._model, self.context, texture)

    def close(self, *contexts: Any) -> None:
        """Gives back the memory of its drawing, and of contexts that `make_context` returned."""
        self._make_current()
        for context in (*contexts, self.context):
            context.free()
        self._gl.free()
        Camera._current = None

    def _make_current(self) -> None:
        if Camera._current is not self:
            self._gl.make_current()
            Camera._current = self

    def _draw(self, context: Any, height: int, width: int, narrow: bool = False) -> np.ndarray:
        self._make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        scene = self._scene
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            scene,
        )
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._exact or self._has_mirror()
        if narrow:
            _narrow(scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, scene, context)
        picture = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, context)
        return picture

    def _has_mirror(self) -> bool:
        if self._fast:
            return False
        model, kinds = self._model, mujoco.mjtGeom
        # MuJoCo mirrors the scene in planes and boxes alone.
        flat = np.isin(model.geom_type, (int(kinds.mjGEOM_PLANE), int(kinds.mjGEOM_BOX)))
        materials = model.geom_matid[flat & (model.geom_matid >= 0) & (model.geom_group == 1)]
        return bool((model.mat_reflectance[materials] >= _FAINT_MIRROR).any())


def _narrow(scene: mujoco.MjvScene) -> None:
    """Turns the view of a square picture of `VIEW` pixels into that of its window."""
    for eye in scene.camera:
        pixel = (eye.frustum_top - eye.frustum_bottom) / VIEW
        middle, bottom = eye.frustum_center, eye.frustum_bottom
        eye.frustum_bottom = bottom + WINDOW_Y * pixel
        eye.frustum_top = bottom + (WINDOW_Y + WINDOW) * pixel
        eye.frustum_center = middle + (WINDOW_X + WINDOW / 2 - VIEW / 2) * pixel
        eye.frustum_width = WINDOW * pixel / 2
