"""How close the network and its operators come to the outputs of the released code.

    python -m benchmarks.parity

Largest absolute differences to tests/data/mstt_reference.npz (float32, CPU, every stored map).
The operators' own references are compared by benchmarks/operators.py.
"""

import numpy as np

from tests.reference_network import DATA, reference_maps, released_network
from utils.config import run_script


def main() -> None:
    reference = np.load(DATA / "mstt_reference.npz")
    print(f"{'map':<22}{'largest difference':>20}{'largest value':>16}")
    for name, value in reference_maps(released_network(), reference).items():
        difference = np.abs(value - reference[name]).max()
        print(f"{name:<22}{difference:20.2e}{np.abs(reference[name]).max():16.3f}")


if __name__ == "__main__":
    run_script(main)
