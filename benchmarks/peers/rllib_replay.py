"""RLlib's `EpisodeReplayBuffer`, which lives in the process of the algorithm.

    python -m benchmarks.peers.rllib_replay

So it is written and read by one process and gives (B, T, ...) arrays without any transport.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer

from benchmarks.peers import traffic
from benchmarks.peers.traffic import BATCH, EPISODE, LENGTH
from benchmarks.peers.worker_process import serve


class Buffer:
    """One buffer and the episodes that go in."""

    def start(self, path: str, capacity: int) -> None:
        """Makes an empty buffer for `capacity` steps."""
        self._steps = traffic.Steps(path, 0)
        self._capacity = capacity
        self._stream = self._episodes()
        self.clear()

    def clear(self) -> None:
        """Forgets all episodes."""
        self._buffer = EpisodeReplayBuffer(
            self._capacity, batch_size_B=BATCH, batch_length_T=LENGTH
        )

    def write(
        self, start_at: float, seconds: float | None = None, agent_steps: int | None = None
    ) -> dict[str, float]:
        """See `traffic.write`."""
        return traffic.write(
            lambda: next(self._stream), lambda: None, start_at, seconds, agent_steps
        )

    def read(self, start_at: float, seconds: float) -> dict[str, float]:
        """See `traffic.read`."""
        return traffic.read(self._buffer.sample, start_at, seconds)

    def _episodes(self) -> Iterator[int]:
        while True:
            episode = SingleAgentEpisode()
            for step in self._steps.episode():
                if step["is_first"]:
                    episode.add_env_reset(step["observation"])
                # The episode also holds the observation after its last step.
                episode.add_env_step(
                    step["observation"],
                    step["action"],
                    float(step["reward"]),
                    truncated=bool(step["is_last"]),
                )
            self._buffer.add(episode)
            yield EPISODE


if __name__ == "__main__":
    serve(Buffer())
