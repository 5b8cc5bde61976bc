"""Schedule, loss, EMA and log."""

import itertools
import json
import math
import os
import signal
from dataclasses import dataclass

import pytest
import torch

from models import MSTT
from utils.distributed import Team
from utils.inference import pick_device, pick_precision, to_tensor, to_uint8, windows
from utils.runs import restore, training_state
from utils.training import Ema, RunLog, StopSignals, blame, charbonnier, learning_rate


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(step, 100, peak=1.0, warmup=10, final=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(55, 100, 1.0, 10, 0.1) == pytest.approx(0.55)  # half-way down


def test_charbonnier_is_the_formula_and_float32():
    a, b = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.75])
    expected = ((1e-6**0.5) + (0.25 + 1e-6) ** 0.5) / 2
    assert charbonnier(a, b).item() == pytest.approx(expected)
    assert charbonnier(a.bfloat16(), b).dtype == torch.float32


def test_ema_follows_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    ema = Ema(network, decay=0.9)
    network.weight.data.fill_(1.0)
    ema.update(network, step=10_000)
    assert ema.weights["weight"].item() == pytest.approx(0.1)
    ema.update(network, step=0)  # early steps forget the start: decay 1/10
    assert ema.weights["weight"].item() == pytest.approx(0.9 + 0.1 * 0.1)


@pytest.fixture
def trained():
    """(state, network) of a network that took one step."""
    network = MSTT(8, 2, 1, 1)
    optimiser = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()

    @dataclass
    class NoConstants:
        """A Config."""

    return training_state(NoConstants(), network, Ema(network, 0.9), optimiser, 1, 20.0), network


def test_a_state_restores_the_moments_but_not_the_constants_of_adam(trained):
    state, network = trained
    state["optimiser"]["param_groups"][0] |= {"betas": "ab", "eps": None, "lr": 1e9}
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    assert restore(state, Ema(network, 0.9), optimiser) == (1, 20.0, 0, False)
    group = optimiser.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.9, 0.999), 1e-8)
    moments = optimiser.state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], state["optimiser"]["state"][0]["exp_avg"])
    optimiser.step()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg_sq", None),
        ("exp_avg_sq", torch.zeros(1)),
        ("exp_avg", torch.zeros(8, 3, 3, 3, dtype=torch.int64)),
        ("exp_avg", torch.zeros(8, 3, 3, 3).to(torch.float8_e4m3fn)),
        ("step", "one"),
        ("step", torch.tensor(-1.0)),
        ("max_exp_avg_sq", torch.zeros(1)),
    ],
)
def test_a_state_of_no_adam_is_refused(trained, name, value):
    state, network = trained
    state["optimiser"]["state"][0][name] = value
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), torch.optim.Adam(network.parameters()))


def test_nested_tensors_are_refused(trained):
    state, network = trained
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    state["optimiser"]["state"][0]["exp_avg"] = nested
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), torch.optim.Adam(network.parameters()))


@pytest.mark.parametrize("average", [torch.zeros(1), "zeros", torch.zeros(8, dtype=torch.int64)])
def test_an_average_of_another_network_is_refused(trained, average):
    state, network = trained
    ema = Ema(network, 0.9)
    name = next(name for name, weight in ema.weights.items() if weight.shape == (8,))
    state["ema"] = dict(state["ema"]) | {name: average}
    with pytest.raises(ValueError, match="do not fit each other"):
        restore(state, ema, torch.optim.Adam(network.parameters()))


def test_names_of_samples_do_not_reach_the_terminal_raw():
    parts = [{"name": ["new\nline", "\x1b[2J"]}]
    line = blame(Team(), 3, math.nan, [torch.tensor(math.nan)], parts, lambda part: 1.0)
    assert line.isprintable()
    assert r"new\nline, \x1b[2J" in line


def test_log_lines_are_json_and_resume_appends(tmp_path):
    for step in (1, 2):
        log = RunLog(tmp_path)
        log.write(step, loss=0.5)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["loss"] == 0.5


def test_a_stop_signal_is_noted_and_the_old_handlers_return():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGTERM)
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


def test_uint8_and_tensors_are_inverse():
    frames = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8).numpy()
    tensor = to_tensor(frames)
    assert tensor.shape == (2, 3, 5, 6)
    assert (to_uint8(tensor) == frames).all()
    assert to_uint8(torch.tensor([-0.2, 1.7]).view(1, 2, 1).expand(3, 2, 1)).ravel().tolist()[
        :1
    ] == [0]
