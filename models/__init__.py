"""The network: MSTT, its named sizes, its files, and how it is run over frames."""

from models.checkpoint import load_network, save_network
from models.inference import super_resolve
from models.mstt import MSTT, SIZES, build_network

__all__ = ["MSTT", "SIZES", "build_network", "load_network", "save_network", "super_resolve"]
