"""The built-in data set: satellite scenes, drawn."""

from data.scenes.make import make_scenes

__all__ = ["make_scenes"]
