"""The comparison figure of a test clip: what went in, what came out, and where it is wrong.

Upper row: the whole frame. Lower row: the crop framed in it, magnified. The columns are the
low-resolution frame (nearest neighbour), the methods, the truth, and the error of the last method.
Figures are drawn by matplotlib's Agg canvas through its object interface: no window, no state.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.metrics import moving_masks, psnr
from utils.resize import SCALE

ERROR_LEVELS = 32  # levels of 255: the upper end of every error map, so that figures compare
CROP_SHARE = 4  # the crop is a quarter of the frame per side,
CROP_SIDE = 48  # but at least this many pixels on its shorter side
PANEL = 3.0  # inches, the width of one panel
GAP = 0.06  # inches between panels
DPI = 160  # so a panel is 480 pixels wide
BOX_COLOUR = "#ffd400"
# Fonts with Chinese characters, as they are called on Linux, Windows and macOS, of which those that
# are installed draw what matplotlib's own font lacks. matplotlib reads only the first font of a
# collection, which in Noto's is the Japanese one.
CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN")
CHINESE_FONTS += ("Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei")
CHINESE_FONTS += ("Droid Sans Fallback", "AR PL UMing CN", "Microsoft YaHei", "SimHei", "SimSun")
CHINESE_FONTS += ("PingFang SC", "Hiragino Sans GB", "Heiti TC", "STHeiti", "Arial Unicode MS")


@dataclass(frozen=True)
class Panel:
    """One column of the figure: RGB (H, W, 3) uint8, or an error (H, W) in levels."""

    label: str
    image: np.ndarray
    crop_label: str = ""


def figure_time(truth: np.ndarray) -> tuple[int, np.ndarray]:
    """The frame of a clip that shows most: the interpolated one with the most moving pixels.

    Arguments:
        truth: (T, H, W, 3) uint8 RGB, T odd and at least 3.

    Returns: its time and its moving pixels (H, W) bool; where nothing moves in the whole clip, the
        middle given frame and an empty mask.
    """
    masks = dict(zip(range(1, len(truth), 2), moving_masks(truth), strict=True))
    time = max(masks, key=lambda t: masks[t].sum())  # the earliest of equals
    if masks[time].any():
        return time, masks[time]
    return len(truth) // 4 * 2, np.zeros(truth.shape[1:3], bool)


def detailed_place(
    frame: np.ndarray, size: tuple[int, int], within: np.ndarray | None = None
) -> tuple[int, int]:
    """Where the window of a given size holds the most gradient energy.

    Arguments:
        frame: (H, W, 3) uint8 RGB.
        size: (h, w) of the window in pixels.
        within: (H, W) bool, count the energy of these pixels only; all pixels where it is None
            or empty.

    Returns: (top, left) of the window, multiples of 4, so that low-resolution pixels stay whole;
        the first one in reading order among equals.

    Raises:
        ValueError: the window is larger than the frame.
    """
    height, width = frame.shape[:2]
    if size[0] > height or size[1] > width:
        raise ValueError(f"a window of {size} does not fit a frame of {(height, width)}")
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.int64)
    energy = np.zeros_like(grey)
    energy[:, 1:] += np.diff(grey, axis=1) ** 2
    energy[1:] += np.diff(grey, axis=0) ** 2
    if within is not None and within.any():
        energy *= within
    # Whole numbers: the same place on every machine.
    total = np.pad(energy, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    h, w = size
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    sums = sums[::SCALE, ::SCALE]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top) * SCALE, int(left) * SCALE


def crop_size(height: int, width: int) -> tuple[int, int]:
    """The size of the magnified crop: of the frame's shape, a whole number of LR pixels."""
    share = min(1.0, max(1 / CROP_SHARE, CROP_SIDE / min(height, width)))
    return tuple(max(SCALE, round(side * share / SCALE) * SCALE) for side in (height, width))


def comparison_figure(
    path: Path, clip: str, given: np.ndarray, truth: np.ndarray, outputs: Mapping[str, np.ndarray]
) -> None:
    """Draw one clip and write it as a PNG.

    Arguments:
        path: the file to write; its folder must exist.
        clip: the clip's name, for the title.
        given: (N, h, w, 3) uint8 RGB, the low-resolution frames.
        truth: (2N-1, 4h, 4w, 3) uint8 RGB.
        outputs: for every method by name the frames it made, like truth. The error map is that of
            the last one.
    """
    time, moving = figure_time(truth)
    height, width = crop_size(*truth.shape[1:3])
    top, left = detailed_place(truth[time], (height, width), moving)
    crop = np.s_[top : top + height, left : left + width]

    # An interpolated time has no low-resolution frame: show the given one before it.
    low = given[time // 2].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    panels = [Panel(f"low resolution, time {time // 2 * 2}", low)]
    for name, frames in outputs.items():
        image, right = frames[time], truth[time]
        label = f"{name}, {_decibel(psnr(image, right))}"
        panels.append(Panel(label, image, _decibel(psnr(image[crop], right[crop]))))
    panels.append(Panel("truth", truth[time]))
    method, frames = list(outputs.items())[-1]
    error = np.abs(frames[time].astype(np.float64) - truth[time]).mean(axis=2)
    panels.append(Panel(f"error of {method}", error))

    kind = "given" if time % 2 == 0 else "interpolated"
    what = "most detail in motion" if moving.any() else "most detail"
    title = (
        f"{clip}, time {time} ({kind}). PSNR of this frame, and of the crop: RGB, 8 bits, no "
        f"border cut. Crop: {what}."
    )
    _draw(path, title, panels, crop)


def _draw(path: Path, title: str, panels: list[Panel], crop: tuple[slice, slice]) -> None:
    """Two rows of panels, sized in inches so that no space is left over."""
    height, width = panels[0].image.shape[:2]
    panel_w, panel_h = PANEL, PANEL * height / width
    title_h, label_h, bar_w = 0.34, 0.30, 0.85
    figure_w = len(panels) * (panel_w + GAP) + GAP + bar_w
    figure_h = title_h + label_h + 2 * (panel_h + GAP)
    figure = Figure(figsize=(figure_w, figure_h), dpi=DPI, facecolor="white")

    def place(left: float, bottom: float, w: float, h: float) -> Axes:
        return figure.add_axes((left / figure_w, bottom / figure_h, w / figure_w, h / figure_h))

    corner = (crop[1].start - 0.5, crop[0].start - 0.5)
    size = (crop[1].stop - crop[1].start, crop[0].stop - crop[0].start)
    for column, panel in enumerate(panels):
        x = GAP + column * (panel_w + GAP)
        look = {"cmap": "magma", "vmin": 0, "vmax": ERROR_LEVELS} if panel.image.ndim == 2 else {}
        whole = place(x, panel_h + 2 * GAP, panel_w, panel_h)
        whole.imshow(panel.image, **look)
        whole.set_title(panel.label, fontsize=13, pad=4)
        whole.add_patch(Rectangle(corner, *size, fill=False, edgecolor=BOX_COLOUR, lw=1.6))
        part = place(x, GAP, panel_w, panel_h)
        shown = part.imshow(panel.image[crop], interpolation="nearest", **look)
        if panel.crop_label:
            box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 3}
            style = {"transform": part.transAxes, "color": "white", "bbox": box}
            part.text(0.02, 0.03, panel.crop_label, **style)
        for axes in (whole, part):
            axes.set_axis_off()
    bar_place = place(x + panel_w + GAP, GAP, 0.14, 2 * panel_h + GAP)
    bar = figure.colorbar(shown, cax=bar_place, extend="max")
    bar.set_ticks(range(0, ERROR_LEVELS + 1, 8))
    bar.set_label(f"mean |error|\n0 to {ERROR_LEVELS} of 255", fontsize=11)
    style = {"fontsize": 13, "va": "top", "parse_math": False, "fontfamily": _font_families()}
    figure.text(GAP / figure_w, 1 - 0.07 / figure_h, title, **style)
    with warnings.catch_warnings():  # a name that no font here has is drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from ")
        figure.savefig(path, format="png")


def _font_families() -> list[str]:
    """matplotlib's own font, and behind it those of CHINESE_FONTS that are installed."""
    installed = set(font_manager.get_font_names())
    own = matplotlib.rcParams["font.family"]
    return [*own, *(name for name in CHINESE_FONTS if name in installed)]


def _decibel(value: float) -> str:
    return f"{value:.2f} dB" if np.isfinite(value) else "exact"
