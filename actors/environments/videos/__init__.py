"""Background videos: what there is, where its frames are kept, and how data sets get here.

Start at `source.open_videos`. Nothing here imports a simulator.
"""

from __future__ import annotations

from actors.environments.videos.clips import VideoFolderError
from actors.environments.videos.source import VideoSource, open_videos

__all__ = ["VideoFolderError", "VideoSource", "open_videos"]
