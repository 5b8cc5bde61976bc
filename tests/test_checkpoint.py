"""Checkpoints: what loads, and what is refused with one clear line."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from models import MSTT
from models.checkpoint import (
    load_network,
    load_torch_file,
    network_from,
    save_network,
    save_torch_file,
)

RELEASED = {"conv_first.weight": torch.zeros(64, 3, 3, 3)}


def cut(length):
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def describe(text):
    return lambda path: path.with_suffix(".json").write_text(text)


def ask_for(**options):
    """Let the description ask for another network."""

    def change(path):
        description = path.with_suffix(".json")
        content = json.loads(description.read_text())
        content["network"] |= options
        description.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((cut(length), "not a complete safetensors file") for length in (0, 5, 100, 4000)),
        *((describe(t), "does not describe a network") for t in ("", "[]", "{}", '{"network": 3}')),
        (describe("[" * 200_000), "does not describe a network"),
        (lambda path: path.unlink(), r"net\.safetensors"),
        (lambda path: path.with_suffix(".json").unlink(), r"net\.json"),
        (ask_for(channels=16), r"conv_first.weight is \(8, 3, 3, 3\) instead of"),
        (ask_for(colour="blue"), "cannot be built"),
    ],
)
def test_weights_or_a_description_that_are_damaged_are_refused(saved, damage, message):
    damage(saved)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_network(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"4x\.pth"),
        (b"PK\x03\x04 no zip", r"4x\.pth"),
        (b"hello", r"4x\.pth"),
        ({"state": torch.zeros(3)}, "neither a training checkpoint"),
        (MSTT(8, 2, 1, 1).state_dict(), "holds weights alone; models.save_network writes"),
        ({("a", 1): 1, "b\n": 2}, r"it holds tuple, b\\n"),
        ([1, 2], "holds a list"),
        (RELEASED, "lacks weights of the released"),
        (RELEASED | {5: torch.zeros(1)}, "no weights by name"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content, message):
    path = tmp_path / "4x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_network(path)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    save_torch_file(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_torch_file(path, {"step": lambda: None})
    assert load_torch_file(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_loaded_network_is_float32_whatever_pytorchs_default():
    expected = MSTT(8, 2, 1, 1, extraction="span")
    torch.set_default_dtype(torch.float16)
    try:
        network = network_from("net", expected.options, expected.state_dict())
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network.extraction.mean, expected.extraction.mean, atol=0, rtol=0)


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path):
    path, network = tmp_path / "net.safetensors", MSTT(8, 2, 1, 1)
    save_network(path, network, {"psnr": 30.0})
    renamed = copy.deepcopy(network)
    torch.nn.utils.parametrizations.weight_norm(renamed.extraction.conv_first)
    for wrong, information, message in (
        (
            torch.nn.DataParallel(network),
            {},
            "an MSTT is saved, not DataParallel; .*network.module",
        ),
        (renamed, {}, "weights .* do not fit the network: extraction.conv_first.weight is missing"),
        (network, {"psnr": np.float32(31)}, "what JSON can hold: .*float32"),
        (network, None, "information is NoneType; give a dictionary"),
    ):
        with pytest.raises(ValueError, match=message):
            save_network(path, wrong, information)
        assert load_network(path)[1]["psnr"] == 30.0


def test_options_of_numpy_are_saved(tmp_path):
    save_network(tmp_path / "net.safetensors", MSTT(np.int64(8), 2, 1, 1), {})
    assert load_network(tmp_path / "net.safetensors")[0].options == MSTT(8, 2, 1, 1).options


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"net\.bin"):
        save_network(tmp_path / "net.bin", MSTT(8, 2, 1, 1), {})
