"""The program of a driver that tests kill: a tiny run on a Ray cluster that lives on.

    python -m tests.rl_system.killed_driver ADDRESS RUN_DIR [CHECKPOINT]

It trains for ever, saves RUN_DIR/checkpoints/000001 after its first updates, and prints one JSON
object a line: `{"told": line}`, `{"metrics": metrics}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from rl_system.algorithm import CoReConfig
from rl_system.config import settings_from_dict
from tests.rl_system.tiny_run import TINY


def main(address: str, directory: Path, checkpoint: str | None) -> None:
    """Train until somebody kills this process."""
    ray.init(address=address, log_to_driver=False)
    settings = settings_from_dict(TINY)
    config = CoReConfig.from_settings(settings, directory / "replay", "core-killed-driver")
    algorithm = config.build_algo()
    algorithm.tell = lambda line: print(json.dumps({"told": line}), flush=True)
    if checkpoint is not None:
        algorithm.restore_from_path(checkpoint)
    saved = checkpoint is not None
    while True:
        metrics = algorithm.train()["metrics"]
        if metrics["updates"] >= 20 and not saved:
            algorithm.save_to_path(directory / "checkpoints" / "000001")
            saved = True
        elif saved:
            print(json.dumps({"metrics": metrics}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
