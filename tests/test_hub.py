"""hubconf.py: the shipped networks through torch.hub."""

from pathlib import Path

import numpy as np
import pytest
import torch
from enhancing import make_frames, save_small_network

from models.checkpoint import load_network, save_network
from models.inference import super_resolve
from models.pretrained import Pretrained
from models.weights import CHECKPOINTS, trained_flow

ROOT = str(Path(__file__).parent.parent)


def test_every_trained_network_is_an_entry_and_nothing_else():
    names = sorted(path.stem for path in CHECKPOINTS.glob("*.safetensors"))
    module = torch.hub._import_module("hubconf", f"{ROOT}/hubconf.py")
    entries = [name for name in dir(module) if callable(getattr(module, name)) and name[0] != "_"]
    assert names
    assert sorted(entries) == names
    with pytest.raises(RuntimeError, match="Cannot find callable mstt_none"):
        torch.hub.load(ROOT, "mstt_none", source="local")


def test_an_array_is_enhanced_as_by_test_py():
    network = torch.hub.load(ROOT, "mstt_small", source="local", device="cpu", precision="float32")
    frames = make_frames(2, 16, 20)
    sharper = network.enhance(frames)
    assert sharper.shape == (3, 64, 80, 3)
    expected, information = load_network(CHECKPOINTS / "mstt_small.safetensors")
    flow = trained_flow(information)
    np.testing.assert_array_equal(sharper, list(super_resolve(expected, frames, flow)))


def test_windows_are_those_of_the_weights_or_of_the_call(tmp_path):
    network, frames = save_small_network(tmp_path / "net.safetensors"), make_frames(6)
    save_network(tmp_path / "net.safetensors", network, {"flow_method": "dis", "window": 6})
    loaded = Pretrained(tmp_path / "net.safetensors", "cpu", "float32")
    for asked, window in ((0, 6), (3, 3)):
        expected = list(super_resolve(network, frames, "dis", window=window))
        np.testing.assert_array_equal(loaded.enhance(frames, asked), expected)
    for wrong in (1, 2.5, "4"):
        with pytest.raises(ValueError, match=f"window is {wrong!r}; give 2 to 32"):
            loaded.enhance(frames, wrong)


def test_what_is_no_clip_is_refused(tmp_path):
    save_small_network(tmp_path / "small.safetensors")
    network = Pretrained(tmp_path / "small.safetensors", "cpu", "float32")
    with pytest.raises(ValueError, match="frames must be"):
        network.enhance(make_frames(2).astype(np.float32))
    with pytest.raises(ValueError, match="at least 2 frames, not 1"):
        network.enhance(make_frames(1))


def test_a_precision_that_there_is_not_is_told_at_once(tmp_path):
    save_small_network(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="precision is 'fp16'; choose one of"):
        Pretrained(tmp_path / "small.safetensors", "cpu", "fp16")


def test_weights_of_another_type_are_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_small_network(path)
    model = Pretrained(path, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"made torch\.float16; leave them torch\.float32"):
        model.half().enhance(np.zeros((2, 16, 16, 3), np.uint8))


def test_inputs_follow_the_network_to_its_device(tmp_path):
    save_small_network(tmp_path / "small.safetensors")
    network = Pretrained(tmp_path / "small.safetensors", "cpu", "float32")
    assert network.device == torch.device("cpu")
    assert network.to("meta").device == torch.device("meta")
