"""Checkpoints made to harm: each is refused in one line, before memory is taken."""

import io
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch

from models import MSTT
from models.checkpoint import (
    FORMAT,
    check_weights,
    load_network,
    load_torch_file,
    network_from,
    save_torch_file,
)
from models.weights import trained_flow

NAME = "extraction.conv_first.weight"
RELEASED = {
    "conv_first.weight": torch.zeros(8, 3, 3, 3),
    "MSD_align.dcnpack.conv_offset_mask.weight": torch.zeros(54, 8, 3, 3),
}


@pytest.fixture
def network():
    return MSTT(8, 2, 1, 1)


def training_checkpoint(path, weights, options, config=None):
    kinds = {"optimiser": {}, "random": {}, "versions": {}, "config": config or {}}
    state = {"format": FORMAT, "step": 1, "best_score": 1.0, "network_options": options}
    save_torch_file(path, state | kinds | {"network": weights, "ema": weights})
    return path


def refusal(read, *arguments):
    """The message of the refusal, which is one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_endless_description_is_not_read(saved):
    with open(saved.with_suffix(".json"), "wb") as file:
        file.truncate(2**42)
    assert "larger than" in refusal(load_network, saved)


@pytest.mark.parametrize(
    "entry",
    [
        {"config": 3},
        {"config": {"flow_method": ["dis"]}},
        {"flow_method": "../dis"},
        {"flow_method": None},
    ],
)
def test_an_unknown_flow_method_is_refused(saved, entry):
    description = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps(description | entry))
    _, information = load_network(saved)
    assert "unknown flow method" in refusal(trained_flow, information)
    saved.with_suffix(".json").write_text(json.dumps(description | {"config": {}}))
    assert trained_flow(load_network(saved)[1]) == "pyflow"


@pytest.mark.parametrize("kind", ["zero strides", "one storage for all", "room beside it"])
def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path, monkeypatch, kind):
    """Their network would take 15 TB."""
    with torch.device("meta"):
        large = MSTT(65536, 8, 1, 1)
    numbers = torch.zeros(1)
    weights = {name: numbers.expand(value.shape) for name, value in large.state_dict().items()}
    options = large.options
    small = MSTT(8, 2, 1, 1)
    if kind == "room beside it":  # which another tensor has and does not claim
        weights, options = small.state_dict(), small.options
        weights[NAME] = numbers.expand(weights[NAME].shape)
        weights["extraction.conv_first.bias"] = torch.zeros(1000)[:8]
    elif kind == "one storage for all":
        largest = max(value.numel() for value in small.state_dict().values())
        numbers, options = torch.zeros(largest), small.options
        weights = {
            name: numbers[: value.numel()].view(value.shape)
            for name, value in small.state_dict().items()
        }
    path = training_checkpoint(tmp_path / "last.pt", weights, options)
    assert path.stat().st_size < 2**20

    def build(**options):
        raise AssertionError("a network was built")

    monkeypatch.setattr("models.checkpoint.MSTT", build)
    assert "claim" in refusal(load_network, path)


def strange(kind, tensor):
    if kind == "nested":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a prototype, says PyTorch
            return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    return {
        "meta": lambda: tensor.to("meta"),
        "sparse": tensor.to_sparse,
        "quantised": lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "complex": lambda: tensor.to(torch.complex64),
        "float8": lambda: tensor.to(torch.float8_e4m3fn),
        "integer": tensor.int,
        "of eight bits": lambda: tensor.to(torch.int8),
    }[kind]()


@pytest.mark.filterwarnings("ignore")  # of PyTorch, that quantised tensors go away
@pytest.mark.parametrize(
    "kind",
    ["meta", "nested", "sparse", "quantised", "complex", "float8", "integer", "of eight bits"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(network, kind):
    weights = network.state_dict()
    check_weights("good.pt", weights)
    weights[NAME] = strange(kind, weights[NAME])
    message = refusal(network_from, "bad.pt", network.options, weights)
    assert message.startswith(f"the weights of bad.pt are unusable: {NAME} is ")
    weights[NAME] = torch.zeros(3)
    assert f"{NAME} is (3,) instead of" in refusal(network_from, "b", network.options, weights)
    weights[NAME] = "text"
    assert "no weights by name" in refusal(network_from, "b", network.options, weights)


@pytest.mark.parametrize("kind", ["meta", "nested"])
def test_released_weights_that_are_no_plain_numbers_are_refused(tmp_path, kind):
    name = "MSD_align.dcnpack.conv_offset_mask.weight"
    torch.save(RELEASED | {name: strange(kind, RELEASED[name])}, tmp_path / "4x.pth")
    assert name in refusal(load_network, tmp_path / "4x.pth")


def test_parts_that_share_their_bytes_are_refused(tmp_path):
    """The directory of a zip file can name the same bytes many times."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pt")
    buffer = io.BytesIO((tmp_path / "plain.pt").read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        part = next(p for p in archive.infolist() if p.file_size >= 4000)
        archive.filelist += [part] * 10
        archive._didModify = True
    (tmp_path / "bomb.pt").write_bytes(buffer.getvalue())
    assert "larger than the file" in refusal(load_network, tmp_path / "bomb.pt")


def pickled(path, pickles, form):
    """A file that looks like torch.save's, with this pickle as its content."""
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=form == "zip")
    if form == "zip":
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, pickles if name.endswith("data.pkl") else content)
    elif form == "old":
        file = io.BytesIO(path.read_bytes())
        for _ in range(3):  # magic number, version, system
            pickle.load(file)
        path.write_bytes(file.getvalue()[: file.tell()] + pickles)
    else:
        path.write_bytes(pickles)
    return path


@pytest.mark.parametrize("form", ["raw", "old", "zip"])
def test_a_pickle_that_fills_the_memory_is_refused(tmp_path, form):
    """PyTorch allows bytearray, here of 2**39 bytes."""
    content = b"\x80\x02}X\x01\0\0\0acbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x80\x85Rs."
    content = content.replace(b"\0\0\0\0\x80", (2**39 - 1).to_bytes(5, "little"))
    assert "bytearray" in refusal(load_network, pickled(tmp_path / "a.pt", content, form))


@pytest.mark.parametrize("form", ["raw", "old", "zip"])
@pytest.mark.parametrize("chain", [b"\x85", b"K\x01\x86", b"q\x01h\x01\x86", b"q\x010(h\x01t"])
def test_keys_of_endless_depth_are_refused(tmp_path, form, chain):
    """A key of 300,000 tuples in each other ends the interpreter."""
    content = b"\x80\x02})" + chain * 2000 + b"K\x01s."
    assert "great depth" in refusal(load_network, pickled(tmp_path / "a.pt", content, form))


def test_what_torch_saves_passes_the_check(tmp_path, network):
    optimiser = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    content = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": 2**40}
    content |= {"random": torch.get_rng_state(), "deep": ((1, (2, [3, (4,)])),), "text": "a" * 999}
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        loaded = load_torch_file(tmp_path / "a.pt")
        assert loaded["deep"] == content["deep"]
        assert torch.equal(loaded["random"], content["random"])
        check_weights("a.pt", loaded["network"])


class RunsCode:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return (self.function, ("ran",))


@pytest.mark.parametrize("function", [print, os.mkdir])  # the first is refused before PyTorch reads
@pytest.mark.parametrize("form", ["raw", "old", "zip"])
def test_a_pickle_that_would_run_code_is_refused_without_advice_to(
    tmp_path, monkeypatch, recwarn, capsys, form, function
):
    monkeypatch.chdir(tmp_path)
    path, content = tmp_path / "evil.pt", {"a": RunsCode(function)}
    if form == "raw":
        path.write_bytes(pickle.dumps(content, protocol=4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(load_network, path)
    assert "cannot be loaded safely" in message
    for advice in ("weights_only", "trust", "safe_globals", "Re-running", "allowlist"):
        assert advice not in message
    assert not [str(warning) for warning in recwarn]
    assert "ran" not in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()
