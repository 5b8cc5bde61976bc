"""Checkpoints: what loads, and what is refused with one clear line."""

import json
import pickle

import pytest
import torch

from models import MSTT
from models.checkpoint import load_network, load_torch_file, save_network, save_torch_file


@pytest.fixture
def saved(tmp_path):
    network = MSTT(8, 2, 1, 1)
    path = tmp_path / "net.safetensors"
    save_network(path, network, {"recipe": "none"})
    return path


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_network(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, 4000])
def test_truncated_weights_are_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_network(saved)


def test_weights_without_description_are_refused(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.json"):
        load_network(saved)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": 3}'])
def test_damaged_description_is_refused(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match="does not describe a network"):
        load_network(saved)


def test_weights_of_another_size_name_what_differs(saved):
    description = json.loads(saved.with_suffix(".json").read_text())
    description["network"]["channels"] = 16
    saved.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"conv_first.weight is \(8, 3, 3, 3\) instead of"):
        load_network(saved)


def test_impossible_options_are_refused(saved):
    description = json.loads(saved.with_suffix(".json").read_text())
    description["network"]["colour"] = "blue"
    saved.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="cannot be built"):
        load_network(saved)


class RunsCode:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"conv_first.weight": RunsCode()}, path)
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        load_network(path)
    path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        load_network(path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"hello"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content):
    path = tmp_path / "4x_epoch.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"4x_epoch\.pth"):
        load_network(path)


def test_other_dictionaries_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="neither a training checkpoint"):
        load_network(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list"):
        load_torch_file(path)


def test_an_incomplete_released_state_dict_is_refused(tmp_path):
    path = tmp_path / "4x_epoch.pth"
    torch.save({"conv_first.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match="lacks weights of the released"):
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
