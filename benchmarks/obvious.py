"""MSTT written the obvious way: the base that speed and memory are compared with.

float32, contiguous activations, deformable convolution by grid_sample, explicit softmax
attention, gap after gap, the alignment that the released coupling never uses computed all the
same, all frames reconstructed at once. Same parameters, same numbers: tests/test_fast.py holds
the two together, gradients included.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn import DCNv2
from dcn.reference import deform_conv2d_grid_sample
from models import MSTT
from models.blocks import flow_warp, interleave
from models.extraction import FeatureExtraction
from models.interpolation import FeatureInterpolation
from models.layers import Conv
from models.reconstruction import DirectReconstruction, Reconstruction
from models.transformer import PATCH_SIZES, MultiScaleAttention, SpatialTemporalTransformer


def obvious(network: MSTT) -> nn.Module:
    """The obvious formulation of a network, with copies of its weights.

    The sides of its frames have to be multiples of 80 (of 2 * PATCH_SIZES[0]), as in the released
    code.
    """
    formulation = MSTT(**network.options)
    formulation.load_state_dict(network.state_dict())
    for stage in formulation.modules():
        for kind, function in STAGES.items():
            if isinstance(stage, kind):
                stage.forward = partial(function, stage)
        if isinstance(stage, Reconstruction):
            stage.trunk = partial(each_frame, stage.blocks)
            stage.enlarge = partial(enlarge, stage)
    return formulation.train(network.training)


def each_frame(stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A stage that sees each frame on its own, for all frames of (B, T, ...) at once."""
    return stage(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def extract(stage: FeatureExtraction, frames: Tensor) -> Tensor:
    return each_frame(stage.extract, frames)


def enlarge(stage: Reconstruction, features: Tensor) -> Tensor:
    def enlarge_frames(x: Tensor) -> Tensor:
        if isinstance(stage, DirectReconstruction):
            return F.pixel_shuffle(stage.conv_last(x), 4)
        x = F.pixel_shuffle(stage.upconv1(x), 2)
        x = F.pixel_shuffle(stage.upconv2(x), 2)
        return stage.conv_last(stage.conv_hr(x))

    return each_frame(enlarge_frames, features)


def convolve(layer: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    x = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
    x = x if layer.slope == 1 else F.leaky_relu(x, layer.slope)
    return x if residual is None else x + residual


def deform(layer: DCNv2, x: Tensor, offset_features: Tensor) -> Tensor:
    offset_1, offset_2, mask = layer.conv_offset_mask(offset_features).chunk(3, dim=1)
    offset = torch.cat((offset_1, offset_2), dim=1)
    if layer.offset_limit is not None:
        offset = layer.offset_limit * torch.tanh(offset / layer.offset_limit)
    options = {"padding": layer.padding, "mask": torch.sigmoid(mask)}
    return deform_conv2d_grid_sample(x, offset, layer.weight, layer.bias, **options)


def interpolate(
    stage: FeatureInterpolation, features: Tensor, forward_flow: Tensor, backward_flow: Tensor
) -> Tensor:
    def warp(features: Tensor, flow: Tensor) -> Tensor:
        if stage.midpoint_flow:
            return flow_warp(features, flow / 2)
        return flow_warp(features, flow, released=True)

    def gap(previous: Tensor, following: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        aligned_previous = stage.alignment(previous, following)
        aligned_following = stage.alignment(following, previous)
        warped_following, warped_previous = warp(following, forward), warp(previous, backward)
        second = warped_following if stage.coupling == "released" else aligned_following
        blend1 = stage.fusion(torch.cat((aligned_previous, warped_following), dim=1))
        blend2 = stage.fusion(torch.cat((warped_previous, second), dim=1))
        return stage.blending(torch.cat((blend1, blend2), dim=1))

    gaps = [
        gap(features[:, i], features[:, i + 1], forward_flow[:, i], backward_flow[:, i])
        for i in range(features.shape[1] - 1)
    ]
    return interleave(features, torch.stack(gaps, dim=1))


def attend(stage: MultiScaleAttention, x: Tensor, frames: int) -> Tensor:
    def head(query: Tensor, key: Tensor, value: Tensor, patch: int) -> Tensor:
        """softmax(q k^T / sqrt(d p p)) v; (B * frames, d, h, w) each."""
        total, channels, height, width = query.shape
        rows, columns = height // patch, width // patch

        def tokens(x: Tensor) -> Tensor:  # (B, frames * rows * columns, d * p * p)
            x = x.reshape(total, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
            return x.reshape(total // frames, frames * rows * columns, -1)

        query, key, value = tokens(query), tokens(key), tokens(value)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        out = torch.softmax(scores, dim=-1) @ value
        out = out.reshape(total, rows, columns, channels, patch, patch)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(total, channels, height, width)

    embeddings = (stage.query_embedding, stage.key_embedding, stage.value_embedding)
    parts = (embedding(x).chunk(len(PATCH_SIZES), dim=1) for embedding in embeddings)
    heads = [head(*part) for part in zip(*parts, PATCH_SIZES, strict=True)]
    return stage.output_linear(torch.cat(heads, dim=1), residual=x)


def transform(stage: SpatialTemporalTransformer, features: Tensor) -> Tensor:
    x = stage.block(stage.encoder(features.flatten(0, 1)), features.shape[1])
    return stage.decoder(x).unflatten(0, features.shape[:2])


STAGES = {
    Conv: convolve,
    DCNv2: deform,
    FeatureExtraction: extract,
    FeatureInterpolation: interpolate,
    SpatialTemporalTransformer: transform,
    MultiScaleAttention: attend,
}
