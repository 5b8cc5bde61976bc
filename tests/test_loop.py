"""main.py's training against a loop written out by hand, every tensor of it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from trainings import FEW_CHANNELS

import main
from data.clips import find_clips, read_clip
from data.sampler import ResumableSampler
from data.septuplets import SeptupletDataset
from models import MSTT, build_network
from models.checkpoint import load_network, load_torch_file, network_from, save_network
from models.inference import super_resolve
from models.weights import trained_flow
from training.loop import moving_pixels
from training.settings import with_network_of_weights

STEPS, WARMUP, RATE, MUON_RATE, ALIGNMENT, FINAL, CLIP, EMA = 4, 2, 8e-4, 1e-2, 0.1, 1e-3, 0.01, 0.6
MUON = ("blocks.", "fusion", "blending", "transformer.", "upconv", "conv_hr")


SCHEDULE = ("--steps", STEPS, "--ema", EMA, "--clip", CLIP, "--validate-every", STEPS)


def schedule(step):
    """Share of the peak rates: up in a line, down in a half cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))


def orthogonal(matrix):
    """Five steps of Newton and Schulz, as Jordan et al. write them."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def reference_training(network, optimiser):
    """Weights and their average after STEPS steps."""
    dataset = SeptupletDataset("septuplets", patch=16, flow_method="dis", seed=123, given_frames=2)
    keys = [key for _, key in ResumableSampler([3], [1.0], range(STEPS), seed=123)]
    weights = dict(network.named_parameters())
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step, key in enumerate(keys):
        sample = dataset[key]
        frames, truth = (sample[name][None].float() / 255 for name in ("frames", "truth"))
        flows = (sample[name][None] for name in ("forward_flow", "backward_flow"))
        error = ((network(frames, *flows) - truth) ** 2 + 1e-6).sqrt()
        weight = torch.ones_like(truth)
        weight[:, 1::2] += 9 * moving_pixels(truth)
        loss = (weight * error).mean()
        gradients = dict(zip(weights, torch.autograd.grad(loss, weights.values()), strict=True))
        norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients.values()))
        share = schedule(step)
        for name, weight in weights.items():
            gradient = gradients[name] * min(1.0, CLIP / (norm.item() + 1e-6))
            aligned = name.startswith("interpolation.alignment")
            refined = name.startswith("skip_refinement")
            inside = any(part in name for part in MUON) and not aligned and not refined
            with torch.no_grad():
                if optimiser == "muon" and inside and weight.ndim == 4:
                    first[name] = 0.95 * first[name] + 0.05 * gradient
                    update = (0.05 * gradient + 0.95 * first[name]).flatten(1)
                    size = MUON_RATE * max(1, update.shape[0] / update.shape[1]) ** 0.5
                    weight -= share * size * orthogonal(update).view(weight.shape)
                else:
                    first[name] = 0.9 * first[name] + 0.1 * gradient
                    second[name] = 0.999 * second[name] + 0.001 * gradient**2
                    mean = first[name] / (1 - 0.9 ** (step + 1))
                    size = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    weight -= share * RATE * (ALIGNMENT if aligned else 1) * mean / size
                keep = min(EMA, (2 + step) / (11 + step))
                average[name] = keep * average[name] + (1 - keep) * weight
    return {name: weight.detach() for name, weight in weights.items()}, average


def score_of(weights, options):
    """PSNR of the clips: mean over the frames of a clip, then over the clips."""
    network = network_from("test", options, weights).eval()
    scores = []
    for clip in find_clips("clips"):
        given, truth = read_clip(clip)
        pairs = zip(super_resolve(network, given, "dis"), truth, strict=True)
        scores.append(np.mean([peak_signal_noise_ratio(true, ours) for ours, true in pairs]))
    return np.mean(scores)


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_a_training_is_the_loop_written_out(run_main, optimiser):
    torch.manual_seed(123)
    network = build_network(
        "small",
        midpoint_flow=True,
        global_skip="enhanced",
        skip_refinement=True,
        offset_limit=10.0,
    )
    start = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    weights, average = reference_training(network, optimiser)
    assert run_main(*SCHEDULE, "--run", "r", "--optimiser", optimiser) == 0
    state = load_torch_file("r/last.pt")
    for name, weight in weights.items():
        moved = (weight - start[name]).norm()
        assert (state["network"][name] - weight).norm() < 1e-3 * moved + 1e-6, name
        assert (state["ema"][name] - average[name]).norm() < 1e-3 * moved + 1e-6, name
        assert moved < 1e-4 or (average[name] - weight).norm() > 0.01 * moved  # not the same
    options = state["network_options"]
    assert state["best_score"] == pytest.approx(score_of(state["ema"], options), abs=1e-6)
    assert state["best_score"] != pytest.approx(score_of(state["network"], options), abs=1e-4)
    loaded, _ = load_network("r/best.pt")  # test.py and enhance.py use the averages
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, state["ema"][name])


def test_a_training_starts_from_the_weights_that_are_given(run_main):
    """And wants to be evaluated as they do, where that is no flow to train with."""
    torch.manual_seed(5)
    network = MSTT(**FEW_CHANNELS, global_skip="enhanced")
    save_network("start.safetensors", network, {"flow_method": "enhanced"})
    flags = ("--weights", "start.safetensors", "--warmup", 10**6, "--rate", 1e-9)
    assert run_main(*SCHEDULE, "--run", "r", *flags, "--muon-rate", 1e-9) == 0
    state, (network, _) = load_torch_file("r/last.pt"), load_network("start.safetensors")
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(state["network"][name], weight, atol=1e-7, rtol=0)
    for name in ("best.pt", "best.safetensors"):
        assert trained_flow(load_network(f"r/{name}")[1]) == "enhanced"
    assert state["config"]["flow_method"] == "dis"
    log = [json.loads(line) for line in Path("r/log.jsonl").read_text().splitlines()]
    start, end = (line["psnr"] for line in log if "psnr" in line)  # of steps 0 and 4
    assert start == pytest.approx(end, abs=1e-4)
    mode = Path("r/best.pt").stat().st_mode
    assert Path("r/best.safetensors").stat().st_mode == mode  # others may read them, too


@pytest.mark.parametrize(("given", "asked", "expected"), [(2, 0, 12), (16, 0, 16), (2, 5, 5)])
def test_weights_with_propagation_bring_their_window(tmp_path, given, asked, expected):
    options = {"global_skip": "enhanced", "propagation_blocks": 1}
    path = tmp_path / "start.safetensors"
    save_network(path, MSTT(**FEW_CHANNELS, **options), {"flow_method": "dis", "window": 12})
    config = main.Config(weights=str(path), given_frames=given, evaluation_window=asked)
    assert with_network_of_weights(config, set()).evaluation_window == expected


@pytest.mark.parametrize("frozen", ["extraction", "extraction,transformer.block"])
def test_frozen_stages_keep_their_weights(run_main, frozen):
    torch.manual_seed(5)
    save_network("start.safetensors", MSTT(**FEW_CHANNELS, global_skip="enhanced"), {})
    flags = ("--weights", "start.safetensors", "--frozen", frozen)
    assert run_main(*SCHEDULE, "--run", "r", *flags) == 0
    state, (network, _) = load_torch_file("r/last.pt"), load_network("start.safetensors")
    for weights in (state["network"], state["ema"]):
        kept = {name for name, old in network.named_parameters() if torch.equal(weights[name], old)}
        for part in ("extraction", "transformer.block"):
            names = {f"{part}.{name}" for name, _ in network.get_submodule(part).named_parameters()}
            assert (names <= kept) == (part in frozen)
        assert not any(name.startswith(("reconstruction.", "interpolation.fu")) for name in kept)
    stages = "extraction,interpolation,transformer,reconstruction"
    with pytest.raises(ValueError, match="which leaves nothing to train"):
        run_main(*SCHEDULE, "--run", "s", "--weights", "start.safetensors", "--frozen", stages)
    for wrong, name in (("trunk", "trunk"), ("extraction,", "")):
        flags = ("--run", "s", "--weights", "start.safetensors", "--frozen", wrong)
        flags += ("--validation", "nowhere")  # is looked for, or drawn, after that
        with pytest.raises(ValueError, match=f"frozen is '{name}'; the network has extraction, i"):
            run_main(*SCHEDULE, *flags)
