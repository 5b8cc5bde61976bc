"""The pictures of figures/ by their content."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trainings import FEW_CHANNELS

from figures import make_figures
from figures.make_figures import PATCH, attention_of, flow_colours, look_inside
from models import MSTT


@pytest.fixture
def drawn(monkeypatch):
    """[title, image] of every panel, and the finished figures."""
    panels, figures = [], []
    imshow, savefig = Axes.imshow, Figure.savefig

    def watch(axes, image, **options):
        panels.append((axes, np.asarray(image)))
        return imshow(axes, image, **options)

    monkeypatch.setattr(Axes, "imshow", watch)
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), savefig(f, *a)))
    return panels, figures


def test_colours_of_flow_are_its_direction_and_length():
    flow = np.zeros((2, 1, 6), np.float32)
    flow[0, 0, :3] = 2, -2, 1
    flow[1, 0, 3:5] = 2, -9
    colours = flow_colours(flow, largest=2)[0].astype(int)
    assert colours[0].tolist() == [255, 0, 0]  # to the right
    assert colours[1].tolist() == [0, 255, 255]  # to the left
    assert np.abs(colours[2] - (255, 128, 128)).max() <= 2  # half as far
    assert colours[5].tolist() == [255, 255, 255]  # at rest
    down, up = colours[3], colours[4]
    assert down[1] == up[2] == 255  # yellow-green and violet; what is longer is not stronger
    assert np.abs(down + up - 255).max() <= 4


def test_attention_is_the_softmax_over_all_patches_of_all_frames():
    generator = np.random.default_rng(0)
    query, key = generator.normal(0, 0.2, (2, 3, 4, 25, 37)).astype(np.float32)
    scores = np.empty((3, 2, 3))
    asking = query[1, :, 10:20, 20:30]
    for t, row, column in np.ndindex(scores.shape):
        patch = key[t, :, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
        scores[t, row, column] = (asking * patch).sum() / (4 * PATCH**2) ** 0.5
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(attention_of(query, key, 1, 1, 2), expected, rtol=1e-4)


def test_inside_a_network_are_its_flow_offsets_queries_and_keys():
    network = MSTT(**FEW_CHANNELS).eval()
    convolution = network.interpolation.alignment.dcnpack.conv_offset_mask
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias[: 2 * len(convolution.bias) // 3 : 2] = 1.0  # downwards
        convolution.bias[1 : 2 * len(convolution.bias) // 3 : 2] = 2.5  # to the right
    given = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
    inside = look_inside(network, given, "dis")
    assert inside["forward_flow"].shape == (3, 2, 20, 24)
    assert inside["offsets"].shape[1:] == (2, 20, 24)
    assert (inside["offsets"][:, 0] == 2.5).all()
    assert (inside["offsets"][:, 1] == 1.0).all()
    network.interpolation.alignment.dcnpack.offset_limit = 2.0
    limited = look_inside(network, given, "dis")["offsets"]
    np.testing.assert_allclose(limited[:, 0], 2 * np.tanh(2.5 / 2), rtol=1e-5)
    network.interpolation.alignment.dcnpack.offset_limit = None
    assert inside["query"].shape == inside["key"].shape
    assert inside["query"].shape[::2] == (7, 10)  # of all frames, at half of the resolution
    again = look_inside(network, given[::-1].copy(), "dis")
    assert not np.array_equal(again["query"], inside["query"])


def test_motion_shows_the_first_two_frames_their_flow_and_the_offset(tmp_path, drawn):
    panels, _ = drawn
    generator = np.random.default_rng(0)
    given = generator.integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
    inside = {name: generator.normal(0, 1, (3, 2, 20, 24)) for name in ("forward_flow", "offsets")}
    inside["offsets"][:, 0] += 7  # of all pixels, which is left out
    make_figures.draw_motion(tmp_path / "motion.png", given, inside)
    titles = [axes.get_title() for axes, _ in panels]
    assert [title.split(",")[0] for title in titles] == [
        *("given frame 0", "given frame 1", "optical flow", "mean offset")
    ]
    np.testing.assert_array_equal(panels[0][1], given[0])
    np.testing.assert_array_equal(panels[1][1], given[1])
    largest = [float(title.split("up to ")[1].split()[0]) for title in titles[2:]]
    flow, offset = inside["forward_flow"][0], inside["offsets"][0]
    offset = offset - np.median(offset, axis=(1, 2), keepdims=True)
    for (_, image), field, most in zip(panels[2:], (flow, offset), largest, strict=True):
        assert np.abs(image.astype(int) - flow_colours(field, most)).max() <= 2
    assert max(largest) < 5


def test_every_output_frame_is_shaded_by_its_own_attention(tmp_path, drawn):
    panels, figures = drawn
    generator = np.random.default_rng(0)
    outputs = generator.integers(0, 256, (7, 160, 240, 3), dtype=np.uint8)
    inside = {name: generator.normal(0, 0.3, (7, 2, 20, 30)) for name in ("query", "key")}
    make_figures.draw_attention(tmp_path / "attention.png", outputs, inside)
    weights = attention_of(inside["query"], inside["key"], 3, 1, 1) * 42
    for time in range(7):
        (axes, image), (_, shade) = panels[2 * time : 2 * time + 2]
        np.testing.assert_array_equal(image, outputs[time])
        np.testing.assert_allclose(shade, weights[time])
        assert axes.get_title().startswith(f"time {time}")
        assert ("asking" in axes.get_title()) == (time == 3)
        boxes = [patch.get_bbox().bounds for patch in axes.patches]
        assert boxes == ([(80, 80, 80, 80)] if time == 3 else [])
    assert len(figures) == 1


def test_the_curve_is_that_of_the_description(tmp_path, drawn):
    points = {"A": [[10, 21.0], [20, 22.0]], "B": [[30, 23.0]]}
    stages = [{"name": name, "points": stage} for name, stage in points.items()]
    others = {"curve_others": {"IMDN + flow": 21.5}}
    make_figures.draw_training(
        tmp_path / "t.png", {"curve": stages, "curve_baseline": 20.5} | others
    )
    (figure,) = drawn[1]
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert {name: lines[name] for name in points} == points
    assert {y for _, y in lines["bicubic + flow"]} == {20.5}
    assert {y for _, y in lines["IMDN + flow"]} == {21.5}
