"""The pictures of this folder, from the shipped weights and the built-in scenes.

python -m figures.make_figures
python -m figures.make_figures --checkpoint runs/NAME/best.pt --out elsewhere

comparison_CLIP.png   LR, bicubic + flow, ours, truth, error
motion.png            optical flow, and how far the deformable convolution reaches
attention.png         what one patch attends to in all seven frames
training.png          the training curve kept in the weights' JSON file
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from data.clips import Clip, find_clips, read_clip
from data.scenes.make import make_scenes
from dcn.deform_conv import bounded
from flow import estimate_flow
from models import MSTT
from models.baselines import bicubic_flow
from models.checkpoint import load_network
from models.enhanced_flow import EnhancedFlow
from models.inference import ENHANCED, super_resolve
from models.weights import trained_flow, trained_window
from utils.config import parse_config, run_script
from utils.images import to_tensor
from utils.plots import comparison_figure

HEAD = 2  # the attention head that is shown: patches of 10 at half of the low resolution
PATCH = 10
DPI = 130


@dataclass(frozen=True)
class Config:
    checkpoint: str = "checkpoints/mstt_fast.safetensors"  # the weights that are shown
    scenes: str = "trainset/scenes"  # folder of the built-in scenes, made where it is missing
    out: str = "figures"  # folder for the pictures


def capture(module: nn.Module, seen: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    """Keep what a module puts out."""
    return module.register_forward_hook(lambda module, inputs, output: seen.append(output))


def look_inside(network: MSTT, given: np.ndarray, flow_method: str) -> dict[str, np.ndarray]:
    """Run a window and keep flow, offsets, queries and keys.

    Arguments:
        network: in evaluation mode.
        given: (4, h, w, 3) uint8 RGB.
        flow_method: one of models.inference.FLOWS.

    Returns: forward_flow (3, 2, h, w); offsets (gaps, 2, h, w), the mean over groups and taps;
        query and key (7, d, h/2, w/2) of the head that is shown.
    """
    modules = {
        "offsets": network.interpolation.alignment.dcnpack.conv_offset_mask,
        "query": network.transformer.block.attention.query_embedding,
        "key": network.transformer.block.attention.key_embedding,
    }
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    frames = to_tensor(given)[None]
    with torch.inference_mode():
        if flow_method == ENHANCED:
            flows = EnhancedFlow(network).between(frames)
        else:
            flows = [torch.from_numpy(x)[None] for x in estimate_flow(given, method=flow_method)]
        hooks = [capture(module, seen[name]) for name, module in modules.items()]
        network(frames, *flows)
    for hook in hooks:
        hook.remove()
    offsets = seen["offsets"][0]
    taps = offsets.shape[1] // 3
    offsets = bounded(offsets[:, : 2 * taps], network.interpolation.alignment.dcnpack.offset_limit)
    offsets = offsets.unflatten(1, (-1, 2)).mean(dim=1).flip(1)  # (dy, dx) -> (dx, dy)
    heads = {name: seen[name][0].chunk(4, dim=1)[HEAD].numpy() for name in ("query", "key")}
    return {"forward_flow": flows[0][0].numpy(), "offsets": offsets.numpy(), **heads}


def flow_colours(flow: np.ndarray, largest: float) -> np.ndarray:
    """Flow (2, h, w) as RGB: the hue is the direction, the saturation the length."""
    angle = (np.degrees(np.arctan2(flow[1], flow[0])) / 2) % 180
    length = np.hypot(*flow).clip(0, largest) / largest * 255
    hsv = np.stack((angle, length, np.full_like(length, 255)), axis=-1)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def draw_motion(path: Path, given: np.ndarray, inside: dict[str, np.ndarray]) -> None:
    """Two given frames, the flow between them, and the mean offset of the alignment."""
    flow, offsets = inside["forward_flow"][0], inside["offsets"][0]
    offsets = offsets - np.median(offsets, axis=(1, 2), keepdims=True)
    panels = {"given frame 0": given[0], "given frame 1": given[1]}
    for name, field in (("optical flow", flow), ("mean offset", offsets)):
        largest = max(float(np.percentile(np.hypot(*field)[4:-4, 4:-4], 99.5)), 0.05)
        panels[f"{name}, up to {largest:.2f} LR px"] = flow_colours(field, largest)
    figure = Figure(figsize=(3.2 * len(panels), 3.8), dpi=DPI, layout="constrained")
    for axes, (label, image) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(label, fontsize=10)
        axes.set_axis_off()
    figure.savefig(path)


def attention_of(
    query: np.ndarray, key: np.ndarray, frame: int, row: int, column: int
) -> np.ndarray:
    """The attention of one patch to all patches of all frames: (7, rows, columns), sums to 1."""

    def tokens(x: np.ndarray) -> np.ndarray:
        t, d, h, w = x.shape
        x = x[:, :, : h // PATCH * PATCH, : w // PATCH * PATCH]
        x = x.reshape(t, d, h // PATCH, PATCH, w // PATCH, PATCH)
        return x.transpose(0, 2, 4, 3, 5, 1).reshape(t, h // PATCH, w // PATCH, -1)

    queries, keys = tokens(query), tokens(key)
    scores = keys @ queries[frame, row, column] / math.sqrt(queries.shape[-1])
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def draw_attention(path: Path, outputs: np.ndarray, inside: dict[str, np.ndarray]) -> None:
    """The seven output frames, shaded by how much one patch of the middle frame attends there."""
    rows, columns = (side // PATCH for side in inside["query"].shape[2:])
    frame, row, column = 3, rows // 2, columns // 2
    weights = attention_of(inside["query"], inside["key"], frame, row, column)
    weights = weights * weights.size  # 1 is the share of every patch if all had the same
    side = 2 * 4 * PATCH  # a patch in output pixels
    figure = Figure(figsize=(2.1 * len(outputs), 2.4), dpi=DPI, layout="constrained")
    for time, axes in enumerate(figure.subplots(1, len(outputs))):
        image = outputs[time, : rows * side, : columns * side]
        axes.imshow(image)
        shade = axes.imshow(
            weights[time],
            extent=(-0.5, columns * side - 0.5, rows * side - 0.5, -0.5),
            cmap="inferno",
            vmin=float(weights.min()),
            vmax=float(weights.max()),
            alpha=0.55,
        )
        if time == frame:
            corner = (column * side, row * side)
            axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#ffd400", lw=1.8))
        axes.set_title(f"time {time}" + (", asking patch" if time == frame else ""), fontsize=9)
        axes.set_axis_off()
    figure.colorbar(shade, ax=figure.axes, shrink=0.8, label="attention over even share")
    figure.savefig(path)


def draw_training(path: Path, information: dict[str, Any]) -> None:
    """Validation PSNR over the samples seen, one line per stage of the recipe."""
    figure = Figure(figsize=(6.4, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for stage in information["curve"]:
        samples, scores = zip(*stage["points"], strict=True)
        axes.plot(samples, scores, marker="o", ms=3, label=stage["name"])
    others = {"bicubic + flow": information["curve_baseline"]} | information.get("curve_others", {})
    for number, (name, score) in enumerate(others.items()):
        axes.axhline(score, color=f"C{9 - number}", ls="--", lw=1, label=name)
    axes.set_xlabel("training samples")
    axes.set_ylabel("validation PSNR (dB, RGB)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path)


def draw_comparison(
    path: Path, clip: Clip, network: MSTT, flow_method: str, window: int
) -> np.ndarray:
    """The comparison sheet of a clip; returns the network's output frames."""
    given, truth = read_clip(clip)
    outputs = {
        "bicubic+flow": np.stack(bicubic_flow(given)),
        "mstt": np.stack(list(super_resolve(network, given, flow_method, window=window))),
    }
    comparison_figure(path, clip.name, given, truth, outputs)
    return outputs["mstt"]


def main() -> None:
    config = parse_config(Config, __doc__)
    network, information = load_network(config.checkpoint)
    flow_method, window = trained_flow(information), trained_window(information)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    clips = find_clips(make_scenes(config.scenes) / "test")
    outputs = {
        clip.name: draw_comparison(
            out / f"comparison_{clip.name}.png", clip, network, flow_method, window
        )
        for clip in clips
    }
    clip = next(clip for clip in clips if clip.name.startswith("junction"))  # has most traffic
    given = read_clip(clip)[0]
    inside = look_inside(network, given, flow_method)
    draw_motion(out / "motion.png", given, inside)
    draw_attention(out / "attention.png", outputs[clip.name], inside)
    if "curve" in information:
        draw_training(out / "training.png", information)
    print(f"pictures of {config.checkpoint} in {out}")


if __name__ == "__main__":
    run_script(main)
