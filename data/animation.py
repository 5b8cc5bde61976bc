"""Moving clips from stills: a PyTorch dataset, and a command that writes them out.

    python -m data.animation STILLS OUT [--clips 200 --height 256 --width 256]
    python -m data.animation STILLS OUT --test

The first writes septuplets in the 189_vime7 layout (OUT/train/<clip>/im1.png..im7.png and the
list OUT/189_vime7_train.txt), beside clips that are there already; the second test clips
(OUT/<clip>/truth/00000000.png..), with --frames 23 longer ones, into a folder that is empty or new.

A clip is made as a satellite would film it: a camera that drifts and shakes a little over the
still, tone and optics of its own, and traffic that moves by itself. All of it is a pure function
of (seed, epoch, index).
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data import look, traffic
from data.degrade import draw_for_sample, lr_frames
from data.flow_cache import flow_of
from data.lists import FRAMES, LEAST_SIDE, training_clips, write_list, write_whole
from data.stills import Stills, check_outside
from utils.config import parse_config, run_script
from utils.files import check_empty
from utils.resize import SMALLEST_SIDE
from utils.streams import progress_bar

CACHE_BYTES = 4 * 10**9  # decoded stills kept in memory
TRIES = 20  # places of the camera, until one shows data
MARGIN = 8  # pixels a still must be larger than a clip on each axis, for the camera to move in


@dataclass(frozen=True)
class Animation:
    """How clips move and look. Pixels are those of the truth, times are frames of the truth."""

    blur_min: float = 0.4  # least sigma of the optics in pixels
    blur_max: float = 1.2  # largest sigma; real satellite video is softer than most stills
    reduction_max: float = 2.0  # stills with room for it are reduced by 1 to this
    drift_usual: float = 0.1  # camera speed in pixels per frame that most clips stay below
    drift_max: float = 2.0  # camera speed of the fastest clip in pixels per frame
    drift_fast_share: float = 0.3  # share of clips between drift_usual and drift_max
    jitter: float = 0.02  # standard deviation of the camera position in pixels, per frame
    rotation: float = 0.01  # standard deviation of the camera's turn in degrees per frame
    zoom: float = 0.0001  # standard deviation of the change of scale per frame
    grey_share: float = 0.5  # share of clips with little colour
    stretch_share: float = 0.5  # share of clips with their contrast stretched to the full range
    traffic_share: float = 0.8  # share of clips with vehicles
    roads_max: int = 4  # largest number of roads with vehicles in a clip
    fast_share: float = 0.5  # share of clips with vehicles whose vehicles are fast
    speed_split: float = 1.2  # slow vehicles drive up to this, fast ones from it, pixels per frame
    speed_max: float = 3.0  # speed of the fastest vehicle in pixels per frame
    aircraft_share: float = 0.05  # share of clips with an aircraft

    def __post_init__(self):
        if not 0 <= self.blur_min <= self.blur_max:
            raise ValueError(f"blur from {self.blur_min} to {self.blur_max}: want 0 <= min <= max")
        if not 0 < self.drift_usual <= self.drift_max:
            raise ValueError(
                f"drift of {self.drift_usual} to {self.drift_max}: want 0 < usual <= max"
            )
        if not 0 <= self.speed_split <= self.speed_max:
            raise ValueError(f"speed of {self.speed_split} to {self.speed_max}: want split <= max")
        if self.reduction_max < 1 or self.roads_max < 1:
            raise ValueError("reduction_max and roads_max must be at least 1")
        for name, value in vars(self).items():
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, want a share between 0 and 1")


def draw_camera(
    rng: np.random.Generator,
    still: tuple[int, int],
    size: tuple[int, int],
    animation: Animation,
    length: int = FRAMES,
) -> tuple[np.ndarray, float]:
    """The path of the camera over a still.

    Flips, transposition, reduction, drift, jitter, rotation and zoom go into one map, so pixels
    are resampled once.

    Arguments:
        still: (H, W) of the still.
        size: (H, W) of the clip, less than the still's by MARGIN or more, one way round.
        length: T, frames of the clip.

    Returns: (T, 2, 3) affine maps from (x, y) in each frame to (x, y) in the still, and the factor
        by which the still is reduced.
    """
    reach = np.array([size[1], size[0]]) / 2
    turn = np.array([[0.0, 1.0], [1.0, 0.0]]) if rng.random() < 0.5 else np.eye(2)
    turn *= rng.choice([-1.0, 1.0], (2, 1))
    room = np.array([still[1], still[0]]) / 2 - 1
    if (np.abs(turn) @ reach + 2 > room).any():  # a long clip fits a long still one way only
        turn = turn[:, ::-1]
    extent = np.abs(turn) @ reach
    reduction = min(
        math.exp(rng.uniform(0, math.log(animation.reduction_max))),
        float((room / (extent + MARGIN / 2 - 1)).min()),
    )
    reduction = max(reduction, 1.0)

    time = np.arange(length) - (length - 1) / 2
    if rng.random() < animation.drift_fast_share:
        speed = math.exp(
            rng.uniform(math.log(animation.drift_usual), math.log(animation.drift_max))
        )
    else:
        speed = rng.uniform(0, animation.drift_usual)
    way = rng.uniform(0, 2 * math.pi)
    shift = time[:, None] * speed * np.array([math.cos(way), math.sin(way)])
    shift += rng.normal(0, animation.jitter, (length, 2))
    angle = np.deg2rad(rng.normal(0, animation.rotation)) * time
    zoom = 1 + rng.normal(0, animation.zoom) * time
    # A still with little room holds the camera back.
    need = np.abs(shift).max() + (np.abs(angle).max() + np.abs(zoom - 1).max()) * reach.max()
    hold = min(1.0, float((room / reduction - extent).min()) / max(need, 1e-6))
    shift, angle, zoom = shift * hold, angle * hold, 1 + (zoom - 1) * hold

    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    linear = reduction * turn @ (zoom[:, None, None] * rotation.reshape(length, 2, 2))
    slack = room - reduction * (extent + need * hold)
    centre = room + 0.5 + rng.uniform(-1, 1, 2) * np.maximum(slack, 0)
    middle = reach - 0.5
    offset = centre + reduction * shift @ turn.T - linear @ middle
    return np.concatenate([linear, offset[..., None]], -1), reduction


def animate(
    still: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    animation: Animation,
    count: int = FRAMES,
) -> np.ndarray:
    """Make a clip of seven frames from a still, the first ones of them, or a longer one.

    Arguments:
        still: (H, W, 3) uint8, larger than the clip by MARGIN or more, one way round.
        size: (H, W) of the clip.
        rng: source of everything random.
        count: frames to make, (count, H, W, 3) uint8; up to seven they do not depend on it.
    """
    length = max(count, FRAMES)
    corners = np.array([[0, 0, 1], [size[1], 0, 1], [0, size[0], 1], [size[1], size[0], 1]])
    for _ in range(TRIES):
        camera, reduction = draw_camera(rng, still.shape[:2], size, animation, length)
        seen = (camera @ corners.T).transpose(0, 2, 1).reshape(-1, 2)
        first, last = np.maximum(seen.min(0), 0).astype(int), np.ceil(seen.max(0)).astype(int)
        if look.black_share(still[first[1] : last[1], first[0] : last[0]]) <= look.MOST_BLACK:
            break
    sigma = rng.uniform(animation.blur_min, animation.blur_max)
    saturation = look.draw_saturation(rng, animation.grey_share)

    # Only the part of the still that the clip sees, with a border for the blur and the kernel.
    border = 3 + math.ceil(3 * sigma * reduction)
    low = np.maximum(np.floor(seen.min(0)).astype(int) - border, 0)
    high = np.ceil(seen.max(0)).astype(int) + border
    scene = look.tone(
        still[low[1] : high[1], low[0] : high[0]], rng, saturation, animation.stretch_share
    )
    scene = look.blur(scene, sigma * reduction)
    local = camera - np.concatenate([np.zeros((2, 2)), low[:, None]], axis=1)

    def film(t: int) -> np.ndarray:
        return cv2.warpAffine(
            scene,
            local[t],
            size[::-1],
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )

    frames = [film(t) for t in range(count)]
    middle = frames[length // 2] if count > length // 2 else film(length // 2)
    _add_traffic(frames, middle, camera, rng, sigma, saturation, animation)

    gain, offset = look.brightness_drift(rng, length)
    clip = np.empty((count, *size, 3), np.uint8)
    for t, frame in enumerate(frames):
        cv2.addWeighted(frame, gain[t], frame, 0, offset[t], dst=clip[t], dtype=cv2.CV_8U)
    return clip


def _add_traffic(
    frames: list[np.ndarray],
    middle: np.ndarray,
    camera: np.ndarray,
    rng: np.random.Generator,
    sigma: float,
    saturation: float,
    animation: Animation,
) -> None:
    """Draw the clip's vehicles, planned on its middle frame, into its first frames, in place."""
    motion = ground_to_frames(camera)
    has_vehicles = rng.random() < animation.traffic_share
    has_aircraft = rng.random() < animation.aircraft_share
    slow, fast = (0.15, animation.speed_split), (animation.speed_split, animation.speed_max)
    speed = fast if rng.random() < animation.fast_share else slow
    if has_vehicles:
        roads = int(rng.integers(1, animation.roads_max + 1))
        vehicles = traffic.plan_vehicles(rng, middle, roads, speed, saturation)
    if has_aircraft:
        aircraft = traffic.plan_aircraft(rng, middle, animation.speed_max)
    if has_vehicles:
        traffic.draw_vehicles(frames, vehicles, motion, sigma)
    if has_aircraft:
        traffic.draw_aircraft(frames, aircraft, motion, sigma)


def ground_to_frames(camera: np.ndarray) -> np.ndarray:
    """Maps from the middle frame's (x, y) to each frame's, (T, 2, 3), from the camera's maps."""
    last = np.broadcast_to([[[0.0, 0.0, 1.0]]], (len(camera), 1, 3))
    square = np.concatenate([camera, last], axis=1)
    return (np.linalg.inv(square) @ square[len(camera) // 2])[:, :2]


class StillsDataset(Dataset):
    """Clips made on the fly from a folder of satellite or aerial stills.

    `dataset[(epoch, index)]`, or `dataset[index]` for epoch 0, is a dict:
        frames (N, 3, h, w): the given frames, truth reduced by 4, rounded to 8 bits, and perhaps
            degraded
        truth (T, 3, 4h, 4w): all frames, T = 2N - 1
        forward_flow, backward_flow (N - 1, 2, h, w): between neighbouring given frames
        name: file and index
    images uint8 RGB, a quarter of the bytes of float32; flows float32. Everything random is a pure
    function of (seed, epoch, index).
    A large still counts several times per epoch: its side over the clip's, rounded.

    Arguments:
        root: folder, searched with its sub-folders for PNG, JPEG and TIFF.
        patch: side of the given frames in pixels; the truth is 4 times that.
        flow_method: one of flow.FLOW_METHODS.
        seed: of all random choices.
        animation: how the clips move and look, by default Animation().
        cache_bytes: see `Stills`.
        given_frames: N; below 4 they are the first ones of the same clip. One has no flow.
        degrade: what the given frames have gone through, one of data.degrade.DRAWS.

    Raises: ValueError: stills that cannot be read or are too small, all of them named.
    """

    def __init__(
        self,
        root: str | Path,
        patch: int = 80,
        flow_method: str = "dis",
        seed: int = 123,
        animation: Animation | None = None,
        cache_bytes: int = CACHE_BYTES,
        given_frames: int = 4,
        degrade: str = "none",
    ):
        self.degrade = degrade
        self.given_frames = given_frames
        self.size = (4 * patch, 4 * patch)
        self.flow_method = flow_method
        self.seed = seed
        self.animation = animation or Animation()
        least = (4 * patch + MARGIN, 4 * patch + MARGIN)
        lower = "a lower --patch" if patch > SMALLEST_SIDE else ""
        self.stills = Stills(root, least, cache_bytes, lower)
        self.names = [path.relative_to(root).as_posix() for path in self.stills.paths]
        self.sizes = self.stills.shapes
        sides = [math.sqrt(height * width) for height, width in self.sizes]
        repeats = [max(1, round(side / (4 * patch))) for side in sides]
        self._still_of = np.repeat(np.arange(len(self.stills)), repeats)

    def __len__(self) -> int:
        return len(self._still_of)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(self._still_of[index])
        rng = np.random.default_rng((self.seed, epoch, index))
        frames = 2 * self.given_frames - 1
        degradation, noise = draw_for_sample(self.degrade, self.seed, epoch, index)
        filmed = max(frames, FRAMES) if degradation.codec else frames
        clip = animate(self.stills[number], self.size, rng, self.animation, filmed)
        given = lr_frames(clip, degradation, noise)[: self.given_frames]
        truth = clip[:frames]
        forward, backward = flow_of(given, self.flow_method)
        return {
            "frames": to_tensor(given),
            "truth": to_tensor(truth),
            "forward_flow": torch.from_numpy(forward),
            "backward_flow": torch.from_numpy(backward),
            "name": f"{self.names[number]}:{index}",
        }


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(T, H, W, 3) uint8 to (T, 3, H, W) uint8."""
    planes = np.empty((len(images), 3, *images.shape[1:3]), np.uint8)
    for image, plane in zip(images, planes, strict=True):
        cv2.split(image, list(plane))
    return torch.from_numpy(planes)


@dataclass(frozen=True, kw_only=True)
class Config(Animation):
    stills: str  # folder of stills, searched with its sub-folders
    out: str  # folder to write to
    clips: int = 200  # number of clips
    height: int = 256  # height of the clips in pixels, a multiple of 4
    width: int = 256  # width of the clips in pixels, a multiple of 4
    fit: bool = False  # make smaller clips of stills that are too small, instead of refusing them
    seed: int = 123  # of all random choices
    test: bool = False  # write test clips instead of septuplets for training
    frames: int = FRAMES  # of a test clip; an odd number, since every second one is given

    def __post_init__(self):
        super().__post_init__()
        if self.clips < 1:
            raise ValueError(f"clips is {self.clips}, want at least 1")
        if min(self.height, self.width) < LEAST_SIDE or self.height % 4 or self.width % 4:
            raise ValueError(
                f"clips of {self.width}x{self.height} pixels: want multiples of 4 from {LEAST_SIDE}"
            )
        if self.frames < 3 or self.frames % 2 == 0:
            raise ValueError(f"clips of {self.frames} frames: want an odd number from 3")
        if self.frames != FRAMES and not self.test:
            raise ValueError(f"--frames {self.frames} is for --test; a septuplet has {FRAMES}")


def write_clips(config: Config) -> list[str]:
    """Animate the stills of a folder, in turn until there are enough clips; returns their names."""
    wanted = (config.height, config.width)
    least = (LEAST_SIDE, LEAST_SIDE) if config.fit else wanted
    least = (least[0] + MARGIN, least[1] + MARGIN)
    stills = Stills(config.stills, least, CACHE_BYTES, "" if config.fit else "--fit")
    out = Path(config.out)
    check_outside(out, config.stills)
    paths = [stills.paths[number % len(stills)] for number in range(config.clips)]
    stems = [re.sub(r"[^\w.-]", "_", path.stem) for path in paths]  # which a list can hold
    names = [f"{number:05d}_{stem}" for number, stem in enumerate(stems)]
    folders = [out / name / "truth" if config.test else out / "train" / name for name in names]
    if config.test:
        check_empty(out)  # test.py takes all clips of a folder
    else:
        training_clips(out)  # refuses what could not be added to
        if there := [folder for folder in folders if folder.exists()]:
            raise ValueError(f"{there[0]}: exists already; remove it or give another OUT")
    for number, folder in enumerate(progress_bar(folders, unit="clip")):
        still = stills[number % len(stills)]
        room = [(side - MARGIN) // 4 * 4 for side in still.shape[:2]]
        size = (min(wanted[0], room[0]), min(wanted[1], room[1])) if config.fit else wanted
        rng = np.random.default_rng((config.seed, 0, number))
        clip = animate(still, size, rng, config, config.frames)
        write_whole(folder, clip, config.test)
    if not config.test:
        write_list(out, dict.fromkeys((*training_clips(out), *names)))
    return names


def main() -> None:
    config = parse_config(Config, __doc__, positional=("stills", "out"))
    names = write_clips(config)
    print(f"{len(names)} clips of {config.frames} frames in {config.out}")


if __name__ == "__main__":
    run_script(main)
