"""The network: MSTT, and its named sizes."""

from models.mstt import MSTT, SIZES, build_network

__all__ = ["MSTT", "SIZES", "build_network"]
