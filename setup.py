"""Packaging of the distribution and command `rl-system`; lists what was tried together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("rl_system", "actors", "replay", "learners", "configs")

INIT = Path(__file__).with_name("rl_system") / "__init__.py"
README = Path(__file__).with_name("README.md")

REQUIREMENTS = [
    "ray[default,rllib,tune]==2.60.0",  # its new RLlib stack is alpha: pinned exactly
    "torch==2.13.0",  # install it first and by itself, see the Makefile
    "mujoco>=3.17,<4",  # 4.0 breaks every suite.load of dm_control 1.0.50
    "dm_control==1.0.50",
    "distracting-control==0.1.1rc3",
    "gymnasium",
    "numpy>=2",
    "opencv-python-headless",
    "pillow",
    "tensorboard",
    "pyyaml",
    "rich",
    "imageio",
    "imageio-ffmpeg",
    "matplotlib",
    "psutil",
    "zstandard",
]

DEVELOPMENT = [
    "pytest",
    "pytest-timeout",
    "hypothesis",
    "ruff",
    "mypy",
    "types-PyYAML",
    "types-psutil",
]

setup(
    name="rl-system",
    version=re.search(r'__version__ = "(.+)"', INIT.read_text(encoding="utf-8"))[1],
    description="Distributed actor-learner reinforcement learning from distracting pixels",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=[part for room in ROOMS for part in (room, f"{room}.*")]),
    package_data={
        "actors": ["environments/robosuite_process/*.txt"],
        "configs": ["*.yaml", "**/*.yaml", "*.md"],
        "rl_system": ["py.typed"],
    },
    include_package_data=False,
    install_requires=REQUIREMENTS,
    extras_require={"dev": DEVELOPMENT},
    entry_points={"console_scripts": ["rl-system = rl_system.cli:main"]},
)
