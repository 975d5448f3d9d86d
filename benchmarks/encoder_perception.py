"""How soon does an encoder see the pole? Supervised regression of the state from single frames.

Frames of random episodes before moving backgrounds; an encoder, then a small MLP, regresses cart
position and the pole angle's cosine and sine. Printed is the held-out squared error of the angle
every 100 updates of 256 frames, for each convolution stack and initialisation. It answers which
encoder and initialisation a small preset should use, apart from everything else that CoRe learns.

    python benchmarks/encoder_perception.py --blend 0.3 --updates 400
"""

from __future__ import annotations

import argparse
import json
import time

# isort: split
from actors.environments.catalog import make_environment
from actors.environments.settings import EnvironmentSettings

# isort: split
import numpy as np
import torch
from torch import nn

from learners.augment import centre_crop, random_crop, to_pixels
from learners.models.encoder import PixelEncoder
from learners.models.layers import MLP
from learners.settings import ModelSettings

STACKS = {
    "k5s3,k3s2,k3s2": ((16, 32, 32), (5, 3, 3), (3, 2, 2), (2, 1, 1)),
    "k3s2 x4": ((16, 32, 32, 32), (3, 3, 3, 3), (2, 2, 2, 2), (1, 1, 1, 1)),
    "k4s2 x3": ((16, 32, 32), (4, 4, 4), (2, 2, 2), (1, 1, 1)),
}
FRAMES = 256  # per update


def collect(blend: float, size: int, episodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return frames uint8 (N, H, W, 3) and targets (N, 3): position, cosine and sine."""
    settings = EnvironmentSettings(
        name="dcs/cartpole-swingup",
        image_size=size,
        difficulty="medium",
        distractions=("background",),
        background_blend=blend,
        quality="fast",
    )
    environment = make_environment(settings, seed=5)
    random = np.random.default_rng(0)
    frames, targets = [], []
    for _ in range(episodes):
        step = environment.reset()
        while not step.last():
            step = environment.step(random.uniform(-1, 1, 1).astype(np.float32))
            position, angle = environment.physics.data.qpos[:2]
            frames.append(step.observation)
            targets.append((position, np.cos(angle), np.sin(angle)))
    environment.close()
    return torch.from_numpy(np.stack(frames)), torch.tensor(targets, dtype=torch.float32)


def learn(
    stack: str, init: str, data: tuple[torch.Tensor, torch.Tensor], crop: int, updates: int
) -> dict[str, object]:
    """Train one encoder; return its held-out angle errors and milliseconds of CPU per update."""
    channels, kernels, strides, paddings = STACKS[stack]
    torch.manual_seed(0)
    settings = ModelSettings(channels, kernels, strides, paddings, conv_init=init)
    network = nn.Sequential(PixelEncoder(settings, crop), MLP([50, 128, 3], nn.ELU))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    frames, targets = data
    train = len(frames) * 5 // 6
    errors = []
    begin = time.process_time()
    for update in range(1, updates + 1):
        rows = torch.randint(train, (FRAMES,))
        crops = random_crop(frames[rows][None], crop)[0]
        loss = (network(to_pixels(crops)) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 100 == 0:
            with torch.no_grad():
                held_out = network(to_pixels(centre_crop(frames[train:], crop)))
            errors.append(float((held_out - targets[train:])[:, 1:].square().mean()))
    cpu_ms = 1e3 * (time.process_time() - begin) / updates
    return {"stack": stack, "init": init, "cpu_ms_per_update": cpu_ms, "angle_errors": errors}


def main() -> None:
    """Print one line per stack and initialisation, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blend", type=float, default=0.3, help="weight of the video, 0 to 1")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = collect(arguments.blend, 54, arguments.episodes)
    rows = []
    for stack in STACKS:
        for init in ("delta_orthogonal", "kaiming"):
            row = learn(stack, init, data, 48, arguments.updates)
            rows.append(row)
            errors = " ".join(f"{error:.3f}" for error in row["angle_errors"])  # type: ignore
            cost = f"{row['cpu_ms_per_update']:5.0f} ms"
            print(f"{stack:16s} {init:17s} {cost}  {errors}", flush=True)
    if arguments.json:
        print(json.dumps({"blend": arguments.blend, "rows": rows}))


if __name__ == "__main__":
    main()
