"""MSTT written the obvious way: the base that speed and memory are compared with.

float32, contiguous activations, deformable convolution by grid_sample, explicit softmax
attention, gap after gap, the alignment that the released coupling never uses computed all the
same, all frames reconstructed at once. Same parameters, same numbers: tests/test_fast.py holds
the two together, gradients included.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.reference import deform_conv2d_grid_sample
from models import MSTT
from models.blocks import flow_warp, interleave
from models.interpolation import FeatureInterpolation, MultiScaleAlignment
from models.layers import Conv
from models.transformer import PATCH_SIZES, MultiScaleAttention, SpatialTemporalTransformer


def obvious(network: MSTT) -> nn.Module:
    """The obvious formulation of a network, with copies of its weights.

    The sides of its frames have to be multiples of 80 (of 2 * PATCH_SIZES[0]), as in the released
    code.
    """
    formulation = ObviousMSTT(network.options)
    formulation.load_state_dict(network.state_dict())
    return formulation.train(network.training)


class ObviousMSTT(MSTT):
    """Every stage by its textbook formula. Arguments: those of MSTT, as a dict."""

    def __init__(self, options: dict):
        super().__init__(**options)
        channels, groups = options["channels"], options["groups"]
        offsets = (options["offset_channels"] or channels, options["offset_limit"])
        self.interpolation = ObviousInterpolation(
            channels, groups, options["coupling"], options["midpoint_flow"], *offsets
        )
        self.interpolation.alignment = ObviousAlignment(channels, groups, *offsets)
        attention_channels = options["attention_channels"] or 4 * channels
        self.transformer = ObviousTransformer(channels, attention_channels)
        self.transformer.block.attention = ObviousAttention(attention_channels)
        for layer in self.modules():
            if isinstance(layer, Conv):
                layer.forward = partial(convolve, layer)
        self.extraction.forward = self.extract
        self.reconstruction.trunk = self.trunk
        self.reconstruction.forward = self.reconstruct

    def extract(self, frames: Tensor) -> Tensor:
        return self.extraction.extract(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def trunk(self, features: Tensor) -> Tensor:
        x = self.reconstruction.blocks(features.flatten(0, 1))
        return x.unflatten(0, features.shape[:2])

    def reconstruct(self, features: Tensor) -> Tensor:
        stage, x = self.reconstruction, features.flatten(0, 1)
        if self.options["enlargement"] == "direct":
            return F.pixel_shuffle(stage.conv_last(x), 4).unflatten(0, features.shape[:2])
        x = F.pixel_shuffle(stage.upconv1(x), 2)
        x = F.pixel_shuffle(stage.upconv2(x), 2)
        x = stage.conv_last(stage.conv_hr(x))
        return x.unflatten(0, features.shape[:2])


def convolve(layer: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    x = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
    x = x if layer.slope == 1 else F.leaky_relu(x, layer.slope)
    return x if residual is None else x + residual


class ObviousAlignment(MultiScaleAlignment):
    def forward(self, neighbour: Tensor, target: Tensor) -> Tensor:
        context = self.offset_conv1(torch.cat((neighbour, target), dim=1))
        scales = (self.mul_scale1, self.mul_scale2, self.mul_scale3)
        multi_scale = torch.cat([conv(context) for conv in scales], dim=1)
        offset_features = self.offset_conv2(multi_scale, residual=context)
        layer = self.dcnpack
        offset_1, offset_2, mask = layer.conv_offset_mask(offset_features).chunk(3, dim=1)
        offset = torch.cat((offset_1, offset_2), dim=1)
        if layer.offset_limit is not None:
            offset = layer.offset_limit * torch.tanh(offset / layer.offset_limit)
        aligned = deform_conv2d_grid_sample(
            neighbour,
            offset,
            layer.weight,
            layer.bias,
            padding=layer.padding,
            mask=torch.sigmoid(mask),
        )
        return F.leaky_relu(aligned, 0.1)


class ObviousInterpolation(FeatureInterpolation):
    def forward(self, features: Tensor, forward_flow: Tensor, backward_flow: Tensor) -> Tensor:
        gaps = [
            self.gap(features[:, i], features[:, i + 1], forward_flow[:, i], backward_flow[:, i])
            for i in range(features.shape[1] - 1)
        ]
        return interleave(features, torch.stack(gaps, dim=1))

    def gap(self, previous: Tensor, following: Tensor, forward: Tensor, backward: Tensor):
        """One interpolated frame (B, C, H, W)."""
        aligned_previous = self.alignment(previous, following)
        aligned_following = self.alignment(following, previous)
        warped_following = self.warp(following, forward)
        warped_previous = self.warp(previous, backward)
        second = warped_following if self.coupling == "released" else aligned_following
        blend1 = self.fusion(torch.cat((aligned_previous, warped_following), dim=1))
        blend2 = self.fusion(torch.cat((warped_previous, second), dim=1))
        return self.blending(torch.cat((blend1, blend2), dim=1))

    def warp(self, features: Tensor, flow: Tensor) -> Tensor:
        if self.midpoint_flow:
            return flow_warp(features, flow / 2)
        return flow_warp(features, flow, released=True)


class ObviousAttention(MultiScaleAttention):
    def forward(self, x: Tensor, frames: int) -> Tensor:
        query, key, value = (
            embedding(x).chunk(len(PATCH_SIZES), dim=1)
            for embedding in (self.query_embedding, self.key_embedding, self.value_embedding)
        )
        heads = [
            self.head(q, k, v, patch, frames)
            for q, k, v, patch in zip(query, key, value, PATCH_SIZES, strict=True)
        ]
        return self.output_linear(torch.cat(heads, dim=1), residual=x)

    def head(self, query: Tensor, key: Tensor, value: Tensor, patch: int, frames: int) -> Tensor:
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


class ObviousTransformer(SpatialTemporalTransformer):
    def forward(self, features: Tensor) -> Tensor:
        x = self.block(self.encoder(features.flatten(0, 1)), features.shape[1])
        return self.decoder(x).unflatten(0, features.shape[:2])
