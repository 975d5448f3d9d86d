"""A known scene with known statistics: whether what a graphics library draws is what it should.

Needs MuJoCo and NumPy alone, and serves the program `robosuite_process` as well, whose Python
(3.9 or newer) loads this file by its path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 64  # pixels of the picture

# A red box without light, half as high as the picture, in front of a blue sky.
_SCENE = f"""
<mujoco>
  <visual>
    <headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/>
    <quality shadowsize="0" offsamples="0"/>
    <global offwidth="{SIDE}" offheight="{SIDE}"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1="0 0 1" rgb2="0 0 1" width="16"
      height="96"/>
    <material name="red" rgba="1 0 0 1" emission="1"/>
  </asset>
  <worldbody>
    <camera pos="0 -3 0" xyaxes="1 0 0 0 0 1" fovy="45"/>
    <geom type="box" size="0.5 0.5 0.5" material="red"/>
  </worldbody>
</mujoco>
"""
_BOX_SHARE = 0.233  # of the picture: (0.5 / (2.5 tan 22.5 degrees))^2
_TOLERANCE = 0.03


def find_fault(render: Any) -> str | None:
    """Draws the scene and returns what is wrong with the picture, None if nothing is.

    Takes some 50 ms, once per process; leaves no context behind.

    Args:
        render: dm_control's module `_render`, whose `Renderer` makes contexts.
    """
    context = render.Renderer(SIDE, SIDE)
    try:
        with context.make_current() as thread:
            fault: str | None = thread.call(find_fault_here)
    finally:
        context.free()
    return fault


def find_fault_here() -> str | None:
    """Returns what `find_fault` does, drawing in this thread's current OpenGL context."""
    picture = _draw()
    red = np.all(np.abs(picture.astype(int) - (255, 0, 0)) < 24, axis=-1)
    blue = np.all(np.abs(picture.astype(int) - (0, 0, 255)) < 24, axis=-1)
    shares = float(red.mean()), float(blue.mean())
    if abs(shares[0] - _BOX_SHARE) < _TOLERANCE and abs(sum(shares) - 1.0) < _TOLERANCE:
        return None
    return (
        f"of a red box before a blue sky, {shares[0]:.0%} is red and {shares[1]:.0%} blue where "
        f"{_BOX_SHARE:.0%} and {1 - _BOX_SHARE:.0%} should be"
    )


def _draw() -> np.ndarray:
    import mujoco

    model = mujoco.MjModel.from_xml_string(_SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    option, perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
    mujoco.mjv_updateScene(model, data, option, perturb, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    try:
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        area = mujoco.MjrRect(0, 0, SIDE, SIDE)
        mujoco.mjr_render(area, scene, context)
        mujoco.mjr_readPixels(picture, None, area, context)
    finally:
        context.free()
    return picture
