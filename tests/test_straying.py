"""Enhanced frames that leave those given are bicubic there, and what they were elsewhere."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trainings import FEW_CHANNELS

from data.degrade import Degradation
from models import MSTT
from models.blocks import bicubic, interleave, mean_of_neighbours
from models.checkpoint import load_network, save_network
from models.straying import LIMIT, REACH, blended, without_strays
from utils.images import to_tensor

PLACE = (slice(None), 0, slice(None), 100, 100)  # in frame 0, of LR pixel (25, 25)


def smooth(*shape):
    coarse = F.interpolate(torch.rand(*shape[:-2], 6, 6).flatten(0, 1), shape[-2:])
    return F.avg_pool2d(coarse, 5, 1, 2).unflatten(0, shape[:2])


@pytest.mark.parametrize(("excess", "strays"), [(0.9 * LIMIT, False), (1.1 * LIMIT, True)])
@pytest.mark.parametrize("sign", [1, -1])
def test_frames_are_bicubic_around_what_strays(excess, strays, sign):
    frames = smooth(1, 2, 3, 48, 56)
    enlarged = bicubic(frames)
    given = enlarged + 0.1
    near = frames[0, 0, :, 23:28, 23:28]
    given[PLACE] = near.amax((1, 2)) + excess if sign > 0 else near.amin((1, 2)) - excess
    if not strays:
        kept, share = without_strays(given, frames)
        assert torch.equal(kept, given)
        assert not share.any()
        return
    with pytest.warns(UserWarning, match="frames are bicubic there"):
        kept, share = without_strays(given, frames)
    inside, outside = 4 * (REACH // 2 - 1), 4 * (REACH + REACH // 2 + 2)
    middle = np.s_[:, 0, :, 100 - inside : 100 + inside, 100 - inside : 100 + inside]
    torch.testing.assert_close(kept[middle], enlarged[middle])
    far = torch.ones(4 * 48, 4 * 56, dtype=bool)
    far[100 - outside : 100 + outside, 100 - outside : 100 + outside] = False
    assert torch.equal(kept[..., far], given[..., far])
    assert torch.equal(kept[:, 1], given[:, 1])
    assert (share.min() >= 0, share.max() <= 1) == (True, True)
    between = blended(torch.full_like(given[:, :1], 9.0), kept, share)
    torch.testing.assert_close(between[middle], ((kept[:, :1] + kept[:, 1:]) / 2)[middle])
    assert (between[..., far] == 9).all()


@pytest.mark.parametrize("skip", ["enhanced", "neighbours"])
def test_only_trained_weights_at_work_are_kept_near(tmp_path, skip):
    torch.manual_seed(0)
    network = MSTT(**FEW_CHANNELS, global_skip=skip, skip_refinement=True)
    network.reconstruction.conv_last.bias.data.fill_(2.0)  # white, twice
    save_network(tmp_path / "net.safetensors", network, {})
    network, _ = load_network(tmp_path / "net.safetensors")
    frames, flows = smooth(1, 2, 3, 16, 20), torch.zeros(2, 1, 1, 2, 16, 20)
    with torch.no_grad(), pytest.warns(UserWarning, match="frames are bicubic there"):
        output = network(frames, *flows)
    enlarged = bicubic(frames)
    between = mean_of_neighbours(enlarged, *flows, mode="bicubic")
    torch.testing.assert_close(output, interleave(enlarged, between))
    assert (network.train()(frames, *flows)[:, ::2] - enlarged).abs().mean() > 1


def test_a_frame_alone_has_nothing_between():
    frames = smooth(1, 1, 3, 16, 16)
    given, share = without_strays(bicubic(frames), frames)
    assert blended(given[:, :0], given, share).shape == (1, 0, 3, 64, 64)


@pytest.mark.parametrize("faults", [{"noise": 30.0}, {"impulses": 0.01}])
@pytest.mark.parametrize("name", ["fast", "fast_real"])
def test_shipped_weights_take_strong_noise_and_hot_pixels(name, faults):
    """Without a warning, and closer to the clean picture than bicubic is."""
    torch.manual_seed(0)
    network, _ = load_network(name)
    clean = (60 + 100 * smooth(1, 1, 3, 32, 40)).round().expand(1, 3, -1, -1, -1)
    pixels = clean[0].permute(0, 2, 3, 1).numpy().astype(np.uint8)
    degraded = Degradation(**faults).apply(pixels, np.random.default_rng(0))
    frames = to_tensor(degraded)[None]
    none = torch.zeros(1, 2, 2, 32, 40)
    with torch.no_grad():
        output = network(frames, none, none)[:, ::2]
    truth = bicubic(clean / 255)
    assert (output - truth).square().mean() < 0.3 * (bicubic(frames) - truth).square().mean()
