"""The network's promises on shapes, skips and warps; test_benchmarks compares the released one."""

import cv2
import numpy as np
import pytest
import torch

from models import MSTT, build_network
from models.blocks import bicubic, bicubic_flow_baseline, flow_warp, interleave
from models.refinement import SkipRefinement
from models.transformer import patch_attention
from utils.resize import imresize


def random_inputs(height=32, width=32, count=4, batch=1, motion=0.5):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(batch, count, 3, height, width, generator=generator)
    flows = torch.randn(2, batch, count - 1, 2, height, width, generator=generator) * motion
    return frames, *flows


def test_default_size_has_the_papers_parameters():
    assert sum(p.numel() for p in MSTT().parameters()) == 5_664_283


def test_small_size_is_about_a_million():
    assert sum(p.numel() for p in build_network("small").parameters()) == 1_264_891


@pytest.mark.parametrize("coupling", ["released", "symmetric"])
@pytest.mark.parametrize("size", [(16, 16), (33, 47), (50, 85)])
def test_any_size_gives_four_times_the_size(size, coupling):
    network = MSTT(8, 2, 1, 1, coupling=coupling, global_skip=True).eval()
    with torch.inference_mode():
        output = network(*random_inputs(*size))
    assert output.shape == (1, 7, 3, 4 * size[0], 4 * size[1])
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_n_given_frames_give_twice_minus_one(count):
    output = MSTT(8, 2, 1, 1)(*random_inputs(16, 20, count=count, batch=2))
    assert output.shape == (2, 2 * count - 1, 3, 64, 80)


def test_items_of_a_batch_do_not_see_each_other():
    network = MSTT(8, 2, 1, 1, coupling="symmetric", global_skip=True).eval()
    both = random_inputs(24, 24, batch=2)
    with torch.inference_mode():
        together = network(*both)
        alone = torch.cat([network(*(x[i : i + 1] for x in both)) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient():
    for coupling in ("released", "symmetric"):
        network = MSTT(8, 2, 1, 1, coupling=coupling, midpoint_flow=True)
        network(*random_inputs(20, 20)).square().mean().backward()
        without = [name for name, p in network.named_parameters() if p.grad is None]
        assert not without
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_training_with_the_skip_starts_at_the_baseline():
    inputs = random_inputs(24, 24)
    network = build_network("small", global_skip=True)
    difference = network(*inputs) - bicubic_flow_baseline(*inputs)
    assert difference.abs().mean() < 0.01


def cubic(image, xs, ys):
    """(C, H, W) at positions by cubic convolution (a = -3/4), the border repeated."""
    height, width = image.shape[1:]
    left, top = np.floor(xs), np.floor(ys)
    out = 0
    for i in range(-1, 3):
        for j in range(-1, 3):
            row = (top + i).clip(0, height - 1).astype(int)
            column = (left + j).clip(0, width - 1).astype(int)
            out = out + image[:, row, column] * kernel(ys - top - i) * kernel(xs - left - j)
    return out


def kernel(t, a=-0.75):
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    return np.where(t < 1, near, np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0))


def test_bicubic_is_matlabs_away_from_the_border():
    frame = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))
    expected = imresize(frame.movedim(0, -1).numpy(), 4).transpose(2, 0, 1)
    inner = (..., slice(8, -8), slice(8, -8))
    enlarged = bicubic(frame[None, None])[0, 0].numpy()
    np.testing.assert_allclose(enlarged[inner], expected[inner], atol=1e-5)


@pytest.mark.parametrize(
    ("skip", "refined"), [("enhanced", False), ("enhanced", True), ("neighbours", True)]
)
def test_skips_from_enhanced_frames_are_their_definition(skip, refined):
    """Given frames: (bicubic +) residual. Between: both of them, warped half-way, + residual."""
    generator = torch.Generator().manual_seed(0)
    network = MSTT(8, 2, 1, 1, global_skip=skip, skip_refinement=refined).eval()
    frames = torch.rand(1, 3, 3, 16, 20, generator=generator)
    flows = torch.randn(2, 1, 2, 2, 16, 20, generator=generator)
    residual = 0.1 * torch.randn(1, 5, 3, 64, 80, generator=generator)
    # Of "neighbours" it is asked for the given frames only.
    network.reconstruction.enlarge = lambda x: residual if x.shape[1] == 5 else residual[:, ::2]
    change = torch.randn(2, 2, 2, 64, 80, generator=generator)
    weight = torch.randn(2, 1, 64, 80, generator=generator)
    seen = []
    if refined:
        between = residual[0, 1::2] if skip == "neighbours" else torch.zeros(2, 3, 64, 80)
        corrections = (change, weight, between)
        network.skip_refinement.correct = lambda *images: seen.append(images) or corrections
    with torch.no_grad():
        output = network(frames, *flows)[0].numpy()

    ys, xs = np.mgrid[:64, :80].astype(np.float64)
    given = residual[0, ::2].numpy()
    if skip == "enhanced":
        given = given + bicubic(frames)[0].numpy()
    np.testing.assert_allclose(output[::2], given, atol=1e-6)
    for gap in range(2):
        ways = [  # to the following and to the previous frame, HR pixels
            2 * cv2.resize(flow[0, gap].movedim(0, -1).numpy(), (80, 64)).transpose(2, 0, 1)
            for flow in flows
        ]
        share = np.full((64, 80), 0.5)
        if refined:
            _, previous, following = (images[gap].numpy() for images in seen[0])
            for image, before, way in (
                (following, given[gap + 1], ways[0]),
                (previous, given[gap], ways[1]),
            ):
                warped = cubic(before, xs + way[0], ys + way[1])
                np.testing.assert_allclose(image, warped, atol=1e-5)
            ways = [
                way + direction[gap].numpy() for way, direction in zip(ways, change, strict=True)
            ]
            share = 1 / (1 + np.exp(-weight[gap, 0].double().numpy()))
        following = cubic(given[gap + 1], xs + ways[0][0], ys + ways[0][1])
        previous = cubic(given[gap], xs + ways[1][0], ys + ways[1][1])
        expected = share * following + (1 - share) * previous + residual[0, 2 * gap + 1].numpy()
        np.testing.assert_allclose(output[2 * gap + 1], expected, atol=1e-5)


def test_the_enhanced_skip_differentiates_through_the_warp():
    """Interpolated frames teach the given ones, and the refinement starts at nothing."""
    network = MSTT(8, 2, 1, 1, global_skip="enhanced", skip_refinement=True)
    plain = MSTT(8, 2, 1, 1, global_skip="enhanced")
    plain.load_state_dict(network.state_dict(), strict=False)
    inputs = random_inputs(20, 20)
    output = network(*inputs)
    torch.testing.assert_close(output, plain(*inputs))
    output[:, 1::2].square().mean().backward()
    for name, parameter in network.named_parameters():
        if not name.startswith("interpolation.alignment"):  # starts at offsets of zero
            assert parameter.grad is not None, name
    assert network.skip_refinement.conv_last.weight.grad.abs().max() > 0
    frames = inputs[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(frames, *inputs[1:])[:, 1].sum(), frames)
    assert gradient[:, :2].abs().sum() > 100 * gradient[:, 2:].abs().sum()


def test_the_refinement_looks_at_warped_frames_and_does_not_change_them():
    refinement = SkipRefinement(8)
    torch.nn.init.normal_(refinement.conv_last.weight)
    previous, following = torch.rand(2, 1, 3, 64, 80).requires_grad_().unbind()
    features = torch.rand(1, 8, 16, 20, requires_grad=True)
    change, weight, _ = refinement.correct(features, previous, following)
    asked = (features, previous, following)
    seen, *others = torch.autograd.grad((change.sum() + weight.sum()), asked, allow_unused=True)
    assert seen.abs().max() > 0
    assert others == [None, None]


def test_one_frame_alone_is_enlarged_as_the_trained_way_to_given_frames():
    network = MSTT(8, 2, 1, 1, global_skip="enhanced", enlargement="direct").eval()
    frames, forward_flow, backward_flow = random_inputs(20, 20)
    none = forward_flow[:, :0]
    with torch.no_grad():
        alone = network(frames[:, :1], none, none)
        network.transformer.forward = lambda features: 0 * features
        without = network(frames[:, :1], none, none)
        together = network(frames, forward_flow, backward_flow)
    assert alone.shape == (1, 1, 3, 80, 80)
    assert not torch.equal(alone, without)
    # Only the transformer looks at other frames.
    torch.testing.assert_close(without[:, 0], together[:, 0], atol=1e-5, rtol=0)


def test_older_files_name_the_skip_by_false_and_true():
    assert MSTT(8, 2, 1, 1, global_skip=False).options["global_skip"] == "none"
    assert MSTT(8, 2, 1, 1, global_skip=True).options["global_skip"] == "bicubic"
    assert MSTT(8, 2, 1, 1).options["global_skip"] == "none"


def test_coupling_and_midpoint_change_the_result():
    inputs = random_inputs(20, 20)
    outputs = []
    for options in ({}, {"coupling": "symmetric"}, {"midpoint_flow": True}):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(MSTT(8, 2, 1, 1, **options)(*inputs))
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 3, 12, 20), (1, 3, 2, 12, 20)), "20x12"),
        (((1, 0, 3, 20, 20), (1, 0, 2, 20, 20)), "N of at least 1"),
        (((0, 2, 3, 20, 20), (0, 1, 2, 20, 20)), "B and N of at least 1"),
        (((1, 4, 1, 20, 20), (1, 3, 2, 20, 20)), "1, 20, 20"),
        (((1, 4, 3, 20, 20), (1, 4, 2, 20, 20)), "(1, 3, 2, 20, 20)"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    frames, flow = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        MSTT(8, 2, 1, 1)(frames, flow, flow)


@pytest.mark.parametrize("frames", [torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8), np.zeros(3)])
def test_frames_of_no_floating_tensor_are_refused(frames):
    """Bytes went through the network as 255 times the numbers it was trained on."""
    flow = torch.zeros(1, 1, 2, 16, 16)
    with pytest.raises(ValueError, match=r"give a floating tensor in \[0, 1\]"):
        MSTT(8, 2, 1, 1)(frames, flow, flow)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"channels": True}, "channels is True; give a whole number"),
        ({"back_blocks": -1}, "back_blocks is -1; give a whole number of at least 0"),
        ({"front_blocks": 1.5}, "front_blocks is 1.5; give"),
        ({"offset_channels": "8"}, "offset_channels is '8'; give"),
        ({"attention_channels": 6}, "attention_channels is 6; give a multiple of 4"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MSTT(**({"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1} | options))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="coupling is 'both'"):
        MSTT(8, 2, 1, 1, coupling="both")
    with pytest.raises(ValueError, match="global_skip is 'trilinear'; choose one of none, bicubic"):
        MSTT(8, 2, 1, 1, global_skip="trilinear")
    with pytest.raises(ValueError, match="enlargement is 'big'"):
        MSTT(8, 2, 1, 1, enlargement="big")
    with pytest.raises(ValueError, match="needs global_skip enhanced or neighbours, not bicubic"):
        MSTT(8, 2, 1, 1, global_skip="bicubic", skip_refinement=True)
    with pytest.raises(ValueError, match="neighbours needs skip_refinement"):
        MSTT(8, 2, 1, 1, global_skip="neighbours")
    with pytest.raises(ValueError, match="front_blocks is 0"):
        MSTT(8, 2, 0, 1, extraction="span")
    with pytest.raises(ValueError, match="extraction is 'vgg'; choose one of released, span"):
        MSTT(8, 2, 1, 1, extraction="vgg")
    with pytest.raises(ValueError, match="offset_limit is -1"):
        MSTT(8, 2, 1, 1, offset_limit=-1)
    with pytest.raises(ValueError, match="size is 'huge'; choose one of mstt"):
        build_network("huge")


class TestFlowWarp:
    def test_whole_pixels_shift_exactly(self):
        x = torch.rand(1, 2, 6, 7)
        flow = torch.zeros(1, 2, 6, 7)
        flow[:, 0], flow[:, 1] = 2, 1
        warped = flow_warp(x, flow)
        torch.testing.assert_close(warped[:, :, :-1, :-2], x[:, :, 1:, 2:])
        assert warped[:, :, -1].abs().max() < 1e-6

    def test_float64_is_sampled_in_float64(self):
        x, flow = torch.rand(1, 2, 6, 7, dtype=torch.float64), torch.zeros(1, 2, 6, 7)
        flow[:, 0] = 0.25
        expected = 0.75 * x[..., :-1] + 0.25 * x[..., 1:]
        torch.testing.assert_close(flow_warp(x, flow)[..., :-1], expected, atol=1e-12, rtol=0)

    def test_released_warp_equals_the_formula(self):
        x, flow = torch.rand(1, 1, 9, 12), torch.randn(1, 2, 9, 12)
        warped = flow_warp(x, flow, released=True)
        expected = torch.zeros_like(warped)
        for row in range(9):
            for column in range(12):
                # normalised by size - 1, read with align_corners=False
                px = (column + flow[0, 0, row, column].item()) * 12 / 11 - 0.5
                py = (row + flow[0, 1, row, column].item()) * 9 / 8 - 0.5
                for qy in (np.floor(py), np.floor(py) + 1):
                    for qx in (np.floor(px), np.floor(px) + 1):
                        if 0 <= qy < 9 and 0 <= qx < 12:
                            share = (1 - abs(px - qx)) * (1 - abs(py - qy))
                            expected[0, 0, row, column] += share * x[0, 0, int(qy), int(qx)]
        torch.testing.assert_close(warped, expected, atol=1e-5, rtol=1e-4)


def test_baseline_moves_a_pattern_half_way():
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def frame(shift):  # a smooth pattern that moves by `shift` to the right
        return (0.5 + 0.3 * torch.sin((xs - shift) / 3) * torch.cos(ys / 4)).expand(3, 32, 32)

    frames = torch.stack((frame(0), frame(2)))[None]
    flow = torch.zeros(1, 1, 2, 32, 32)
    flow[:, :, 0] = 2
    output = bicubic_flow_baseline(frames, flow, -flow)
    enlarged = bicubic_flow_baseline(torch.stack((frame(1), frame(1)))[None], 0 * flow, 0 * flow)
    inner = (..., slice(24, -24), slice(24, -24))
    assert (output[0, 1][inner] - enlarged[0, 1][inner]).abs().max() < 2e-3
    assert (output[0, 0][inner] - enlarged[0, 1][inner]).abs().max() > 0.05


def test_interleave_keeps_time_order():
    given, between = torch.tensor([[0, 2, 4]]), torch.tensor([[1, 3]])
    assert interleave(given, between).tolist() == [[0, 1, 2, 3, 4]]


class TestPatchAttention:
    def slow(self, query, key, value, patch, frames):
        """Token by token, over real content only."""
        batch, channels, height, width = value.shape
        out = torch.zeros_like(value)
        corners = [
            (t, y, x)
            for t in range(frames)
            for y in range(0, height, patch)
            for x in range(0, width, patch)
        ]

        def cut(x, corner):
            t, row, column = corner
            piece = x[t, :, row : row + patch, column : column + patch]
            whole = x.new_zeros(piece.shape[0], patch, patch)
            whole[:, : piece.shape[1], : piece.shape[2]] = piece
            return whole

        real = torch.ones(batch, 1, height, width)
        for here in corners:
            scores = torch.stack([(cut(query, here) * cut(key, there)).sum() for there in corners])
            weights = torch.softmax(scores / (channels * patch * patch) ** 0.5, dim=0)
            total = sum(w * cut(value, c) for w, c in zip(weights, corners, strict=True))
            count = sum(w * cut(real, c) for w, c in zip(weights, corners, strict=True))
            t, row, column = here
            target = out[t, :, row : row + patch, column : column + patch]
            target += (total / count)[:, : target.shape[1], : target.shape[2]]
        return out

    @pytest.mark.parametrize("size", [(10, 15), (7, 12), (4, 3)])
    def test_equals_the_slow_formula(self, size):
        parts = [
            torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)
        ]
        fast = patch_attention(*parts, patch=5, frames=3)
        torch.testing.assert_close(fast, self.slow(*parts, patch=5, frames=3), atol=1e-5, rtol=1e-4)

    def test_padding_does_not_leak(self):
        # Attention averages: constant values must stay constant, up to the border of the map.
        query, key = torch.randn(2, 2, 13, 9), torch.randn(2, 2, 13, 9)
        attended = patch_attention(query, key, torch.ones(2, 2, 13, 9), patch=5, frames=2)
        torch.testing.assert_close(attended, torch.ones_like(attended))

    def test_gradients_with_padding_are_right(self):
        parts = [torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        assert torch.autograd.gradcheck(lambda *p: patch_attention(*p, patch=3, frames=2), parts)
