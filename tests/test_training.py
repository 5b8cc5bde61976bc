"""Schedule, loss, EMA and log."""

import json
import math
import signal
import sys
import time
import types

import numpy as np
import pytest
import torch
from trainings import FEW_CHANNELS, deliver, make_optimiser

from dcn import DCNv2
from flow import flow_between_enlarged
from models import MSTT
from models.blocks import bicubic, interleave, mean_of_neighbours
from models.enhanced_flow import EnhancedFlow, stretched
from models.inference import autocast, pick_device, pick_precision, windows
from training.diagnosis import blame, largest_offset
from training.log import Meter, RunLog
from training.loop import Clock, Ema, charbonnier, move_batch, moving_pixels, share_of_peak
from training.run import Progress, restore
from training.signals import StopSignals
from training.validation import FramesAlone
from utils.images import to_tensor, to_uint8
from utils.metrics import moving_mask
from utils.team import Team


def test_the_rate_follows_time_where_that_is_further():
    by_steps = share_of_peak(55, 100, 10, 0.1)
    assert share_of_peak(55, 100, 10, 0.1, elapsed=0.2) == by_steps
    assert share_of_peak(55, 100, 10, 0.1, elapsed=1.0) == pytest.approx(0.1)
    assert share_of_peak(5, 10**9, 5, 0.1, elapsed=0.5) == pytest.approx(0.55)


def test_time_counts_in_the_warm_up_too():
    """The rate goes on where the warm-up ends, also late in a run."""
    assert share_of_peak(0, 10**9, 10, 0.1, elapsed=0.5) == pytest.approx(0.1)
    last, first = (share_of_peak(step, 10**9, 10, 0.1, elapsed=0.5) for step in (9, 10))
    assert last == first == pytest.approx(0.55)
    assert share_of_peak(0, 10**9, 10, 0.0, elapsed=1.0) == 0


def test_a_warm_up_that_would_take_all_steps_takes_half():
    assert [share_of_peak(step, 5, 50, 0.0) for step in range(3)] == [0.5, 1.0, 1.0]
    assert share_of_peak(0, 5, 5, 0.0) == 0.5
    assert share_of_peak(0, 5, 4, 0.0) == 0.25
    assert share_of_peak(0, 1, 50, 0.0) == 1.0


def test_a_clock_keeps_the_end_for_validation(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(minutes=10, used=60.0)
    assert (clock.used, clock.elapsed) == (60.0, 60 / 540)
    now[0] += 480
    assert clock.elapsed == 1.0
    with clock.validating():
        now[0] += 30
    assert clock.last == 45  # one of them, and room
    with clock.validating():
        now[0] += 1
    assert clock.last == Clock.LEAST  # which is known now to be enough
    assert Clock(None).elapsed == 0
    assert Clock(minutes=1).elapsed == 0  # not over at once


def test_steps_have_twice_the_time_of_a_validation(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(minutes=10)
    with clock.validating():
        now[0] += 5
    now[0] += 10
    assert not clock.rested
    now[0] += 1
    assert clock.rested


def test_a_batch_becomes_images_in_0_to_1_where_it_is_computed():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 16, 16)
    flow = torch.randn(1, 0, 2, 16, 16)
    batch = {"frames": levels, "truth": levels, "forward_flow": flow, "backward_flow": flow}
    (frames, *flows), truth = move_batch(batch, torch.device("cpu"))
    assert frames.dtype == truth.dtype == torch.float32
    assert torch.equal(frames.flatten(), torch.arange(256) / 255)
    assert all(moved is flow for moved in flows)


def test_charbonnier_is_the_formula_and_float32():
    a, b = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.75])
    expected = ((1e-6**0.5) + (0.25 + 1e-6) ** 0.5) / 2
    assert charbonnier(a, b).item() == pytest.approx(expected)
    assert charbonnier(a.bfloat16(), b).dtype == torch.float32
    expected = (0.1 + (0.25 + 0.01) ** 0.5) / 2
    assert charbonnier(a, b, epsilon=0.1).item() == pytest.approx(expected)


def test_charbonnier_weighs_what_moves():
    """A block of 20x20 that jumps by 8 pixels; only the middle frame is interpolated."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.2 + torch.rand(2, 3, 3, 64, 64, generator=generator) * 0.01
    truth[:, 0, :, 20:40, 10:30] = truth[:, 1:, :, 20:40, 18:38] = 0.8
    truth[:, 2, :, 20:40, 18:38] = 0.2
    truth[:, 2, :, 20:40, 26:46] = 0.8
    output = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    levels = (truth.movedim(2, -1) * 255).round().byte().numpy()
    expected = np.stack([moving_mask(*clip) for clip in levels])
    moving = moving_pixels(truth)[:, 0, 0].numpy()
    assert expected.mean() > 0.1
    assert (moving != expected).mean() < 0.02  # another smoothing

    error = ((output - truth) ** 2 + 1e-6).sqrt()
    weighted = error.clone()
    weighted[:, 1] *= torch.where(torch.from_numpy(moving), 5.0, 1.0)[:, None]
    assert charbonnier(output, truth, 5.0).item() == pytest.approx(weighted.mean().item(), rel=1e-5)
    assert charbonnier(output, truth, 1.0).item() == pytest.approx(error.mean().item(), rel=1e-5)
    alone = charbonnier(output[:, :1], truth[:, :1], 5.0)  # one given frame: nothing is between
    assert alone.item() == pytest.approx(error[:, 0].mean().item(), rel=1e-5)


def test_ema_follows_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    ema = Ema(network, decay=0.9)
    network.weight.data.fill_(1.0)
    ema.update(network, step=10_000)
    assert ema.weights["weight"].item() == pytest.approx(0.1)
    ema.update(network, step=0)  # early steps forget the start: decay 1/10
    assert ema.weights["weight"].item() == pytest.approx(0.9 + 0.1 * 0.1)


@pytest.fixture(params=["muon", "adam"])
def trained(request, trained):
    """(state, network, kind of optimiser) of a network that took one step."""
    return *trained(request.param), request.param


def test_a_state_restores_the_moments(trained):
    state, network, kind = trained
    optimiser = make_optimiser(network, kind)
    assert restore(state, Ema(network, 0.9), optimiser) == Progress(1, 20.0)
    moments = optimiser.state_dict()
    assert moments.keys() == state["optimiser"].keys()
    for part, entries in moments.items():
        for number, values in entries.items():
            for name, value in values.items():
                assert torch.equal(value, state["optimiser"][part][number][name])
    groups = [group for part in optimiser.parts.values() for group in part.param_groups]
    assert {group["peak"] for group in groups} <= {1e-3, 1e-4, 1e-2}
    optimiser.step()


def test_a_state_of_the_other_optimiser_is_refused(trained):
    state, network, own = trained
    other = {"muon": "adam", "adam": "muon"}[own]
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), make_optimiser(network, other))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("adam", "exp_avg_sq", None),
        ("adam", "exp_avg_sq", torch.zeros(1)),
        ("adam", "exp_avg", torch.zeros(8, 3, 3, 3, dtype=torch.int64)),
        ("adam", "exp_avg", torch.zeros(8, 3, 3, 3).to(torch.float8_e4m3fn)),
        ("adam", "step", "one"),
        ("adam", "step", torch.tensor(-1.0)),
        ("adam", "max_exp_avg_sq", torch.zeros(1)),
        ("muon", "momentum", torch.zeros(1)),
        ("muon", "exp_avg", torch.zeros(1)),
    ],
)
@pytest.mark.parametrize("trained", ["muon"], indirect=True)
def test_a_state_of_no_optimiser_is_refused(trained, part, name, value):
    state, network, kind = trained
    state["optimiser"][part][0][name] = value
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), make_optimiser(network, kind))


def test_nested_tensors_are_refused(trained):
    state, network, kind = trained
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    state["optimiser"]["adam"][0]["exp_avg"] = nested
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), make_optimiser(network, kind))


@pytest.mark.parametrize("average", [torch.zeros(1), "zeros", torch.zeros(8, dtype=torch.int64)])
def test_an_average_of_another_network_is_refused(trained, average):
    state, network, kind = trained
    ema = Ema(network, 0.9)
    name = next(name for name, weight in ema.weights.items() if weight.shape == (8,))
    state["ema"] = dict(state["ema"]) | {name: average}
    with pytest.raises(ValueError, match="do not fit each other"):
        restore(state, ema, make_optimiser(network, kind))


def test_names_of_samples_do_not_reach_the_terminal_raw():
    parts = [{"name": ["new\nline", "\x1b[2J"]}]
    line = blame(Team(), 3, math.nan, [torch.tensor(math.nan)], parts, lambda part: 1.0)
    assert line.isprintable()
    assert r"new\nline, \x1b[2J" in line


def test_a_batch_is_blamed_for_its_own_loss_alone():
    """A finite loss can have a gradient that is not; then any batch may be the cause."""
    parts = [{"name": ["good"]}, {"name": ["bad"]}]
    for loss, named in ((math.inf, False), (1.0, True)):
        losses = [torch.tensor(1.0), torch.tensor(loss)]
        line = blame(Team(), 3, math.nan, losses, parts, lambda part: 1.0)
        assert "on bad" in line
        assert ("on good" in line) == named


def test_the_largest_offset_is_that_of_both_axes_below_the_limit():
    network = MSTT(**FEW_CHANNELS, offset_limit=4.0)
    layer = next(layer for layer in network.modules() if isinstance(layer, DCNv2))
    with torch.no_grad():  # its weights start at zero
        offsets, others, mask = layer.conv_offset_mask.bias.chunk(3)
        offsets[0], others[1], mask[2] = 1.0, -3.0, 9.0
    flow = torch.zeros(1, 1, 2, 16, 16)
    inputs = (torch.rand(1, 2, 3, 16, 16), flow, flow)
    assert largest_offset(network, inputs) == pytest.approx(4 * math.tanh(3 / 4))
    assert not layer.conv_offset_mask._forward_hooks


def test_a_loss_that_is_no_number_counts_for_the_speed_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter()
    meter.add(math.nan, 4)
    meter.add(3.0, 4)
    now[0] = 2.0
    assert (meter.loss, meter.speed) == (3.0, 4.0)


def test_log_lines_are_json_and_resume_appends(tmp_path):
    for step in (1, 2):
        log = RunLog(tmp_path)
        log.write(step, loss=0.5)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == 0.5


def board_of(writer):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = writer
    return module


def test_tensorboard_gets_every_number_of_a_step(tmp_path, monkeypatch):
    scalars = []

    class Writer:
        def __init__(self, folder):
            scalars.append(folder)

        def add_scalar(self, *point):
            scalars.append(point)

        def close(self):
            scalars.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board_of(Writer))
    log = RunLog(tmp_path)
    log.write(3, loss=0.5, rate=0.1)
    log.close()
    folder = str(tmp_path / "tensorboard")
    assert scalars == [folder, ("loss", 0.5, 3), ("rate", 0.1, 3), "closed"]


def test_a_tensorboard_that_fails_is_said_and_missed_by_nobody(tmp_path, monkeypatch, capsys):
    def fail(folder):
        raise AttributeError("no such\nversion")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board_of(fail))
    RunLog(tmp_path).write(1, loss=0.5)
    assert (
        "no TensorBoard log, which fails here (AttributeError: no such" in capsys.readouterr().out
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    RunLog(tmp_path).write(2, loss=0.5)
    assert capsys.readouterr().out == ""
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_stop_signal_is_noted_and_the_old_handlers_return():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.received is None
        deliver(signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("count", range(2, 24))
@pytest.mark.parametrize("length", [2, 3, 4])
def test_windows_produce_every_output_once(count, length):
    produced = []
    for start, stop, first_new in windows(count, length):
        assert 2 <= stop - start <= length
        outputs = range(2 * start, 2 * stop - 1)
        produced += outputs[first_new:]
    assert produced == list(range(2 * count - 1))


def test_frames_enlarged_alone_are_warped_between():
    def network(frames, forward_flow, backward_flow):
        assert frames.shape[1] == 1
        assert forward_flow.shape[1] == backward_flow.shape[1] == 0
        return bicubic(frames)

    frames, flows = torch.rand(1, 3, 3, 16, 20), torch.randn(2, 1, 2, 2, 16, 20)
    between = mean_of_neighbours(bicubic(frames), *flows, mode="bicubic")
    expected = interleave(bicubic(frames), between)
    torch.testing.assert_close(FramesAlone(network)(frames, *flows), expected)
    flows = flow_between_enlarged(to_uint8(stretched(bicubic(frames)[0])), 4)
    flows = (torch.from_numpy(flow)[None] for flow in flows)
    expected[:, 1::2] = mean_of_neighbours(bicubic(frames), *flows, mode="bicubic")
    enhanced = EnhancedFlow(FramesAlone(network))
    torch.testing.assert_close(enhanced(frames, *torch.zeros(2, 1, 2, 2, 16, 20)), expected)


def test_windows_share_their_end_frame():
    assert windows(7) == [(0, 4, 0), (3, 7, 1)]
    assert windows(5) == [(0, 4, 0), (1, 5, 5)]


def test_too_short_a_sequence_is_refused():
    with pytest.raises(ValueError, match="1 frames"):
        windows(1)


def test_devices_and_precisions_that_are_not_here():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="here there is cpu"):
        pick_device("cuda:99")
    with pytest.raises(ValueError, match="float16"):
        pick_precision(torch.device("cpu"), "float16")
    assert pick_precision(torch.device("cpu"), "float32") == torch.float32


def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert pick_precision(torch.device("cpu"), "auto") == torch.float32
    with pytest.warns(UserWarning, match="no bfloat16"):
        assert pick_precision(torch.device("cpu"), "bfloat16") == torch.float32


def test_float32_on_a_gpu_means_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    autocast(torch.device("cpu"), torch.float32)
    assert torch.backends.cudnn.allow_tf32
    autocast(torch.device("cuda"), torch.float32)
    assert not torch.backends.cudnn.allow_tf32


def test_uint8_and_tensors_are_inverse():
    frames = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8).numpy()
    tensor = to_tensor(frames)
    assert tensor.shape == (2, 3, 5, 6)
    assert (to_uint8(tensor) == frames).all()
    beyond = torch.tensor([-0.2, 1.7]).view(1, 2, 1).expand(3, 2, 1)
    assert to_uint8(beyond).ravel().tolist() == [0] * 3 + [255] * 3
