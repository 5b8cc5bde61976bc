"""Checkpoints: what loads, and what is refused with one clear line."""

import json
import pickle

import pytest
import torch

from models import MSTT
from models.checkpoint import load_network, load_torch_file, save_network, save_torch_file

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


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"net\.bin"):
        save_network(tmp_path / "net.bin", MSTT(8, 2, 1, 1), {})
