"""MSTT: the multi-scale spatial-temporal transformer for satellite video super-resolution.

Four low-resolution frames in, seven high-resolution frames out: 4x in space, 2x in time, in one
network. Paper: "Space-time super-resolution for satellite video: a joint framework based on
multi-scale spatial-temporal transformer", JAG 108 (2022) 102731, figure 1.

Conventions, here and in the whole project:
    B batch, N given frames (paper: 4), T = 2N - 1 output frames, C channels,
    H, W low resolution, s = 4 scale in space.
    Frames are RGB in [0, 1]. Given frame i stands at time 2i of the output.
    Flow is (B, N - 1, 2, H, W) in LR pixels, (dx, dy), for backward warping: frame i at (x, y)
    looks like frame i + 1 at (x + dx, y + dy) with the forward flow, and the other way round
    with the backward flow.
"""

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from models.blocks import (
    bicubic,
    bicubic_flow_baseline,
    full_precision,
    interleave,
    mean_of_neighbours,
)
from models.dual_aggregation import DatExtraction
from models.extraction import FeatureExtraction, SpanExtraction
from models.fusion import FrameFusion
from models.interpolation import FeatureInterpolation
from models.propagation import Propagation
from models.reconstruction import DirectReconstruction, Reconstruction
from models.refinement import SkipRefinement
from models.straying import blended, without_strays
from models.transformer import SpatialTemporalTransformer
from utils.resize import SMALLEST_SIDE
from utils.text import check_choice

SIZES = {
    "mstt": {"channels": 64, "groups": 8, "front_blocks": 5, "back_blocks": 20},  # 5.66 M, paper
    "small": {"channels": 32, "groups": 8, "front_blocks": 5, "back_blocks": 10},  # 1.26 M
    # Wide at low resolution and nothing above it; most work on the given frames alone.
    "fast": {
        "channels": 64,
        "groups": 8,
        "front_blocks": 6,
        "back_blocks": 4,
        "extraction": "span",
        "offset_channels": 32,
        "attention_channels": 64,
        "enlargement": "direct",
    },
}
# The same for a GPU: better features in several times the time.
SIZES["large"] = SIZES["fast"] | {"front_blocks": 18, "back_blocks": 20, "extraction": "dat"}
# "enhanced" is a skip from enhanced frames; the flow method of that name is another thing, see
# models/inference.py.
SKIPS = ("none", "bicubic", "enhanced", "neighbours")
EXTRACTIONS = {"released": FeatureExtraction, "span": SpanExtraction, "dat": DatExtraction}
ENLARGEMENTS = {"released": Reconstruction, "direct": DirectReconstruction}
# Options that count something, and the least of each.
LEAST = {"front_blocks": 0, "back_blocks": 0, "propagation_blocks": 0}
LEAST |= dict.fromkeys(("channels", "groups", "offset_channels", "attention_channels"), 1)
# Makes flows as above of enhanced given frames, (B, N, 3, sH, sW).
FlowBetween = Callable[[Tensor], tuple[Tensor, Tensor]]


class MSTT(nn.Module):
    """The four stages of figure 1: extract, interpolate, attend, reconstruct.

    Arguments:
        channels: C, feature channels.
        groups: deformable groups of the alignment.
        front_blocks: blocks of the feature extraction.
        back_blocks: residual blocks of the reconstruction.
        coupling, midpoint_flow: see `FeatureInterpolation`.
        global_skip: what is added to the output. "none", as released: nothing. "bicubic": the
            bicubic + flow baseline. "enhanced": to the given frames their bicubic enlargement,
            and to a frame between two of them the mean of both results, warped half-way.
            "neighbours": nothing to the given frames, and frames between are that mean, with the
            residual of `SkipRefinement`; for an extraction with published weights. With "bicubic"
            and "enhanced" training starts from the baseline. Older files have False and True for
            the first two.
        skip_refinement: correct the flows of the warp and weigh the two neighbours, pixel by pixel,
            see `SkipRefinement`. "neighbours" needs it, "enhanced" may have it.
        extraction: "released" (residual blocks), "span" (`SpanExtraction`) or "dat"
            (`DatExtraction`).
        offset_channels: width of the part that estimates the offsets of the alignment; None: C.
        offset_limit: largest offset of the alignment in LR pixels, see `dcn.DCNv2`; None: no limit.
        attention_channels: channels of the maps that the attention works on; None: 4C.
        enlargement: "released" (`Reconstruction`) or "direct" (`DirectReconstruction`).
        frame_fusion: clean each given frame with its neighbours first, see `FrameFusion`; for
            footage with noise and coding errors.
        propagation_blocks: of each direction of the `Propagation` that improves the given frames
            with the help of all others; 0: no propagation. It needs the skips "enhanced" or
            "neighbours", and does nothing to a frame alone.
    """

    def __init__(
        self,
        channels: int = 64,
        groups: int = 8,
        front_blocks: int = 5,
        back_blocks: int = 20,
        coupling: str = "released",
        midpoint_flow: bool = False,
        global_skip: str | bool = "none",
        skip_refinement: bool = False,
        extraction: str = "released",
        offset_channels: int | None = None,
        offset_limit: float | None = None,
        attention_channels: int | None = None,
        enlargement: str = "released",
        frame_fusion: bool = False,
        propagation_blocks: int = 0,
    ):
        if isinstance(global_skip, bool):
            global_skip = SKIPS[global_skip]
        options = _checked({name: value for name, value in locals().items() if name in OPTIONS})
        super().__init__()
        self.options = options
        self.guarded = False  # whether stray pixels are replaced in evaluation, `without_strays`
        check_choice("global_skip", global_skip, SKIPS)
        check_choice("extraction", extraction, EXTRACTIONS)
        check_choice("enlargement", enlargement, ENLARGEMENTS)
        warps_enhanced = global_skip in ("enhanced", "neighbours")
        if skip_refinement and not warps_enhanced:
            raise ValueError(
                f"skip_refinement needs global_skip enhanced or neighbours, not {global_skip} "
                "(--no-skip-refinement turns it off)"
            )
        if global_skip == "neighbours" and not skip_refinement:
            raise ValueError("global_skip neighbours needs skip_refinement, or it only warps")
        if propagation_blocks and not warps_enhanced:
            wanted = "global_skip enhanced or neighbours"
            raise ValueError(f"propagation needs {wanted}, not {global_skip}")
        self.global_skip = global_skip
        self.frame_fusion = FrameFusion() if frame_fusion else None
        self.extraction = EXTRACTIONS[extraction](channels, front_blocks)
        self.interpolation = FeatureInterpolation(
            channels, groups, coupling, midpoint_flow, offset_channels or channels, offset_limit
        )
        self.transformer = SpatialTemporalTransformer(channels, attention_channels or 4 * channels)
        self.reconstruction = ENLARGEMENTS[enlargement](channels, back_blocks)
        self.skip_refinement = None
        if skip_refinement:
            self.skip_refinement = SkipRefinement(channels, residual=global_skip == "neighbours")
        self.propagation = Propagation(channels, propagation_blocks) if propagation_blocks else None
        if global_skip in ("bicubic", "enhanced"):
            nn.init.normal_(self.reconstruction.conv_last.weight, std=1e-3)
            nn.init.zeros_(self.reconstruction.conv_last.bias)

    def extract(self, frames: Tensor) -> Tensor | None:
        """Features of frames, each on its own: (B, N, 3, H, W) -> (B, N, C, H, W).

        None where the network looks at their neighbours first.
        """
        return self.extraction(frames) if self.frame_fusion is None else None

    def forward(
        self,
        frames: Tensor,
        forward_flow: Tensor,
        backward_flow: Tensor,
        features: Tensor | None = None,
        flow_between: FlowBetween | None = None,
    ) -> Tensor:
        """Super-resolve a window of frames in space and time.

        Arguments:
            frames: (B, N, 3, H, W), RGB in [0, 1], H and W >= 16. One frame alone (N = 1) is
                enlarged; between two or more, frames are interpolated.
            forward_flow, backward_flow: (B, N - 1, 2, H, W), LR pixels.
            features: what `extract` makes of the frames, if it is there already.
            flow_between: makes the flows that enhanced given frames are warped along; None: the
                same flows as everywhere.

        Returns: (B, 2N - 1, 3, 4H, 4W), about [0, 1], not clipped, with a skip float32 at least.

        Raises: ValueError: frames of no floating type, shapes that do not fit or are too small.
        """
        _check_shapes(frames, forward_flow, backward_flow)
        originals, replaces_strays = frames, self.guarded and not self.training
        if features is None:
            if self.frame_fusion is not None:
                frames = self.frame_fusion(frames, forward_flow, backward_flow)
            features = self.extraction(frames)  #                              (B, N, C, H, W)
        flows, extracted = (forward_flow, backward_flow), features
        features = self.interpolation(features, *flows)  #                     (B, T, C, H, W)
        features = features + self.transformer(features)  #                    (B, T, C, H, W)
        features = self.reconstruction.trunk(features)  #                      (B, T, C, H, W)
        given_only = self.global_skip == "neighbours"  # others come from the refinement
        output = self.reconstruction.enlarge(features[:, ::2] if given_only else features)
        if self.global_skip == "none":
            return output  #                                                   (B, T, 3, sH, sW)
        if self.global_skip == "bicubic":
            return output + bicubic_flow_baseline(frames, *flows)
        given = full_precision(output) if given_only else output[:, ::2] + bicubic(frames)
        if self.propagation is not None:
            given = self.propagation(given, frames, extracted, *flows)  #      (B, N, 3, sH, sW)
        if replaces_strays:
            given, share = without_strays(given, originals)
        if given.shape[1] == 1:
            return given
        if flow_between is not None:
            flows = flow_between(given)
        if self.skip_refinement is None:
            between = mean_of_neighbours(given, *flows, mode="bicubic")  #     (B, N-1, 3, sH, sW)
        else:
            between = self.skip_refinement(features[:, 1::2], given, *flows)
        if not given_only:
            between = between + output[:, 1::2]
        if replaces_strays:
            between = blended(between, given, share)
        return interleave(given, between)


OPTIONS = tuple(inspect.signature(MSTT).parameters)  # in this order


def build_network(size: str = "mstt", **options) -> MSTT:
    """A network of a named size (see SIZES), with further options of `MSTT`.

    Raises: ValueError: a size that does not exist.
    """
    check_choice("network size", size, SIZES)
    return MSTT(**(SIZES[size] | options))


def widened(network: MSTT, **options) -> MSTT:
    """A network with more parts, by options of `MSTT`, which have their initial weights.

    It is the same one if it has them all.
    """
    if options.items() <= network.options.items():
        return network
    wider = MSTT(**(network.options | options))
    wider.load_state_dict(wider.state_dict() | network.state_dict())
    return wider


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options whose numbers are plain ints; refuses, by a ValueError, those of no network."""
    for name, least in LEAST.items():
        value = options[name]
        if value is None and name in ("offset_channels", "attention_channels"):
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}")
        options[name] = int(value)
    return options


def _check_shapes(frames: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> None:
    """Refuse what the stages would fail on further down, with the shapes seen."""
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(f"frames are {kind}; give a floating tensor in [0, 1]")
    if frames.ndim != 5 or 0 in frames.shape[:2] or frames.shape[2] != 3:
        seen = tuple(frames.shape)
        raise ValueError(f"frames are {seen}; give (B, N, 3, H, W) with B and N of at least 1")
    batch, count, _, height, width = frames.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"frames are {width}x{height}; each side needs at least {SMALLEST_SIDE} pixels"
        )
    expected = (batch, count - 1, 2, height, width)
    for name, flow in (("forward_flow", forward_flow), ("backward_flow", backward_flow)):
        if flow.shape != expected:
            raise ValueError(f"{name} is {tuple(flow.shape)}; these frames need {expected}")
