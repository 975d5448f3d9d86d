"""robosuite's domain randomisation of looks, once an episode, by its own modders and ranges.

The draws are those of robosuite's wrapper: colours and textures, then cameras, then lights, from
one seeded generator. Two things differ from its version 1.4.1:

- Textures are sent to where they are drawn, as by the version that the paper used (1.2). 1.4.1
  forgets to, so that there only colours of untextured shapes, lights and cameras change.
- Of several bitmaps made for one texture only the last, which is all that can be seen, is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mujoco
import numpy as np
from robosuite.utils import mjmod
from robosuite.wrappers import domain_randomization_wrapper as published

from actors.environments.robosuite_process.camera import Camera

# What randomisation changes in the model, beside textures.
_FIELDS = (
    *("geom_rgba", "mat_rgba", "mat_reflectance", "mat_shininess", "mat_specular"),
    *("cam_pos", "cam_quat", "cam_fovy"),
    *("light_pos", "light_dir", "light_active"),
    *("light_ambient", "light_diffuse", "light_specular"),
)
# Methods of the texture modder that make bitmaps without drawing random numbers.
_SETTERS = ("set_texture", "set_checker", "set_gradient", "set_rgb")


class Randomizer:
    """Randomises the looks of one simulation, and shows it without.

    Args:
        sim: robosuite's simulation, as its model was made.
        camera: that draws it.
        kinds: any of "color" (with textures and lights) and "camera".
        seed: of all draws, 0 to 2^32 - 1.
    """

    def __init__(self, sim: Any, camera: Camera, kinds: list[str], seed: int) -> None:
        self._model, self._data, self._camera = sim.model._model, sim.data._data, camera
        self._random = np.random.RandomState(seed)
        self._drawn_from: dict[str, Any] | None = None  # the generator before this episode's draws
        self._original = self._read()
        self._original_context: Any = None
        self._bitmaps: dict[int, Callable[[], None]] = {}  # by texture, what makes the last one
        self._textures: Any = None
        self._modders: list[Any] = []
        common = {"sim": sim, "random_state": self._random}
        if "color" in kinds:
            textures = mjmod.TextureModder(**common, **published.DEFAULT_COLOR_ARGS)
            for setter in _SETTERS:
                setattr(textures, setter, partial(self._put_off, getattr(textures, setter)))
            textures.upload_texture = self._upload
            self._textures = textures
            self._modders.append(textures)
        if "camera" in kinds:
            self._modders.append(mjmod.CameraModder(**common, **published.DEFAULT_CAMERA_ARGS))
        if "color" in kinds:
            self._modders.append(mjmod.LightingModder(**common, **published.DEFAULT_LIGHTING_ARGS))

    def randomize(self) -> None:
        """Draws the looks of an episode."""
        self._drawn_from = self._random.get_state(legacy=False)
        for modder in self._modders:
            modder.restore_defaults()
        for modder in self._modders:
            modder.randomize()
        self._set_bitmaps()

    def observe_original(self) -> np.ndarray:
        """Returns `camera.observe` with original colours, textures, lights and cameras."""
        randomized = self._read()
        self._write(self._original)
        try:
            return self._camera.observe(self._make_original_context())
        finally:
            self._write(randomized)

    @property
    def contexts(self) -> list[Any]:
        """The drawing contexts that it has made."""
        return [] if self._original_context is None else [self._original_context]

    def get_state(self) -> dict[str, Any]:
        """Returns what this episode's looks and all later draws follow from."""
        return {"drawn_from": self._drawn_from, "random": self._random.get_state(legacy=False)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`, by drawing that episode's looks once more."""
        if state["drawn_from"] is None:
            for modder in self._modders:
                modder.restore_defaults()
            self._set_bitmaps()
            self._write(self._original)
            self._drawn_from = None
        else:
            self._random.set_state(state["drawn_from"])
            self.randomize()
        self._random.set_state(state["random"])

    def _put_off(self, setter: Callable[..., None], name: str, *args: Any, **kwargs: Any) -> None:
        texture = int(self._textures._name_to_tex_id(name))
        self._bitmaps[texture] = partial(setter, name, *args, **kwargs)

    def _set_bitmaps(self) -> None:
        while self._bitmaps:  # a pattern's setter ends in set_texture, which is put off in turn
            _, set_bitmap = self._bitmaps.popitem()
            set_bitmap()

    def _upload(self, name: str, device_id: int = 0) -> None:
        del device_id  # of robosuite's signature
        self._camera.upload(int(self._textures._name_to_tex_id(name)))

    def _make_original_context(self) -> Any:
        """Makes, the first time, a context with the original textures; None if none change."""
        if self._textures is not None and self._original_context is None:
            bitmaps = self._model.tex_rgb.copy()
            for index, texture in enumerate(self._textures.textures):
                texture.bitmap[:] = self._textures._default_texture_bitmaps[index]
            self._original_context = self._camera.make_context()
            self._model.tex_rgb[:] = bitmaps
        return self._original_context

    def _read(self) -> dict[str, np.ndarray]:
        return {name: getattr(self._model, name).copy() for name in _FIELDS}

    def _write(self, fields: dict[str, np.ndarray]) -> None:
        for name, value in fields.items():
            getattr(self._model, name)[...] = value
        mujoco.mj_camlight(self._model, self._data)
