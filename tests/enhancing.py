"""What the tests of enhance.py share: small frames, a small network, one call."""

import itertools
from pathlib import Path

import numpy as np
import torch

import enhance
from media.folder import write_image_file
from media.frames import FrameError, Source
from media.open import open_source
from models import MSTT
from models.checkpoint import save_network

HEIGHT, WIDTH = 24, 32


def make_frames(count, height=HEIGHT, width=WIDTH):
    """A bright square that moves over a textured ground: (count, height, width, 3) uint8."""
    rng = np.random.default_rng(5)
    ground = rng.normal(110, 6, (height + 2, width + 2, 3))
    ground = (ground[1:-1, 1:-1] + ground[2:, 1:-1] + ground[:-2, 1:-1]) / 3
    frames = np.repeat(ground[None], count, axis=0)
    for index, frame in enumerate(frames):
        left = 4 + index % (width - 16)
        frame[8:16, left : left + 8] = (220, 180, 60)
    return np.rint(frames).astype(np.uint8)


def write_frames(folder, frames, suffix=".png"):
    """Write frames as files 0, 1, 2, ...; returns the folder."""
    folder.mkdir()
    for index, pixels in enumerate(frames):
        write_image_file(folder / f"{index}{suffix}", pixels)
    return folder


def save_small_network(path):
    """A network of 8 channels whose own part of the output is one or two levels of 8 bits."""
    torch.manual_seed(1)
    network = MSTT(channels=8, groups=2, front_blocks=1, back_blocks=1, global_skip=True)
    with torch.no_grad():
        network.reconstruction.conv_last.weight.mul_(10)
    save_network(path, network, {})
    return network.eval()


def last_of_each(*words):
    """A command line: of a flag that is there more than once, the last instead of the others."""
    parts, flag = {"": []}, ""
    for word in map(str, words):
        if word.startswith("--"):
            flag = word.partition("=")[0]
            parts[flag] = []
        parts[flag].append(word)
    return list(itertools.chain.from_iterable(parts.values()))


def run(checkpoint, source, output, *flags):
    """enhance.py on the CPU, in float32, with the fast flow."""
    fixed = ("--model", checkpoint, "--flow-method", "dis", "--device", "cpu")
    enhance.main(last_of_each(source, output, *fixed, "--precision", "float32", *flags))
    return Path(output)


def read_all(path):
    source = open_source(path)
    return np.stack([source.read(index) for index in range(source.count)])


class Frames(Source):
    """Frames from memory; one that is None is damaged."""

    suffix = ".png"

    def __init__(self, frames, times=None):
        self.path, self.frames, self.count, self.times = Path("in"), frames, len(frames), times
        self.adopt(frames[0])

    def name(self, index):
        return f"frame {index}"

    def read(self, index):
        if self.frames[index] is None:
            raise FrameError("damaged")
        return self.frames[index]


def interrupt_at(monkeypatch, calls):
    """Press Ctrl-C in the n-th of all calls of the network from now on, for every n in calls."""
    strips, seen = enhance.Enhancer.strips, [0]

    def pressed(self, *arguments):
        for strip in strips(self, *arguments):
            seen[0] += 1
            if seen[0] in calls:
                raise KeyboardInterrupt
            yield strip

    monkeypatch.setattr(enhance.Enhancer, "strips", pressed)
