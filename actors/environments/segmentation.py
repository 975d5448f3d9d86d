"""Where a picture shows the robot and its objects, and where only ground and sky."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import engine

_GROUND = (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_HFIELD))
_GEOM = int(mujoco.mjtObj.mjOBJ_GEOM)
_FLAGS = {mujoco.mjtRndFlag.mjRND_SEGMENT: True, mujoco.mjtRndFlag.mjRND_IDCOLOR: True}


class Segmentation:
    """Finds the background of what one camera sees, in memory that it makes once.

    dm_control's own segmentation makes several arrays of the picture's size for each picture.

    Args:
        physics: what is seen.
        camera: sees it; it draws nothing else.
        frustum: adapts the camera's scene before it is drawn, None to leave it.
    """

    def __init__(self, physics: engine.Physics, camera: engine.Camera, frustum: Any = None) -> None:
        self._physics = physics
        self._camera = camera
        self._frustum = frustum
        shape = (camera.height, camera.width)
        self._rectangle = mujoco.MjrRect(0, 0, camera.width, camera.height)
        self._colors = np.empty((*shape, 3), np.uint8)  # number of what is seen, low byte first
        # The type of an index, because `take` would make a copy of any other.
        self._numbers = np.empty(shape, np.intp)
        self._byte = np.empty(shape, np.intp)
        self._behind = np.empty(shape, bool)
        self._table = np.empty(camera.scene.maxgeom + 1, bool)

    def background(self) -> np.ndarray:
        """Returns where nothing but planes, height fields and sky is: bool (height, width).

        It is valid until the next call.
        """
        self._camera.update()
        scene = self._camera.scene
        if self._frustum is not None:
            self._frustum(self._physics, scene)
        with scene.override_flags(_FLAGS), self._physics.contexts.gl.make_current() as context:
            context.call(self._draw)
        # Shifted in place: an operation on two types would go through buffers.
        np.copyto(self._numbers, self._colors[..., 2])
        for channel in (1, 0):
            np.copyto(self._byte, self._colors[..., channel])
            self._numbers <<= 8
            self._numbers |= self._byte
        np.take(self._fill_table(), self._numbers, out=self._behind, mode="clip")
        return self._behind[::-1]  # the first row that is read is the lowest of the picture

    def _draw(self) -> None:
        context = self._physics.contexts.mujoco.ptr
        mujoco.mjr_render(self._rectangle, self._camera.scene, context)
        mujoco.mjr_readPixels(self._colors, None, self._rectangle, context)

    def _fill_table(self) -> np.ndarray:
        """Returns for each number in a picture whether it stands for background; 0 is the sky."""
        shapes = self._physics.model.geom_type
        self._table[:] = True
        for geom in self._camera.scene.geoms:
            if geom.segid >= 0 and geom.objid >= 0:
                ground = geom.objtype == _GEOM and shapes[geom.objid] in _GROUND
                self._table[geom.segid + 1] = ground
        return self._table
