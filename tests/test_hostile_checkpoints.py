"""Checkpoints made to harm: each is refused in one line, before memory is taken."""

import io
import json
import pickle
import warnings
import zipfile

import pytest
import torch

from models import MSTT
from utils.checkpoint import (
    FORMAT,
    check_weights,
    load_network,
    network_from,
    save_network,
    save_torch_file,
    trained_flow,
)

NAME = "extraction.conv_first.weight"
RELEASED = {
    "conv_first.weight": torch.zeros(8, 3, 3, 3),
    "MSD_align.dcnpack.conv_offset_mask.weight": torch.zeros(54, 8, 3, 3),
}


@pytest.fixture
def network():
    return MSTT(8, 2, 1, 1)


@pytest.fixture
def saved(tmp_path, network):
    """Sound weights and, to be changed, their description."""
    path = tmp_path / "net.safetensors"
    save_network(path, network, {"recipe": "none"})
    return path, json.loads(path.with_suffix(".json").read_text())


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


def test_a_description_of_deep_brackets_is_refused(saved):
    path, _ = saved
    path.with_suffix(".json").write_text("[" * 200_000)
    assert "does not describe a network" in refusal(load_network, path)


def test_an_endless_description_is_not_read(saved):
    path, _ = saved
    with open(path.with_suffix(".json"), "wb") as file:
        file.truncate(2**42)
    assert "larger than" in refusal(load_network, path)


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
    path, description = saved
    path.with_suffix(".json").write_text(json.dumps(description | entry))
    _, information = load_network(path)
    assert "unknown flow method" in refusal(trained_flow, information)
    path.with_suffix(".json").write_text(json.dumps(description | {"config": {}}))
    assert trained_flow(load_network(path)[1]) == "pyflow"


def test_released_weights_with_names_that_are_no_text_are_refused(tmp_path):
    torch.save(RELEASED | {5: torch.zeros(1)}, tmp_path / "4x.pth")
    assert "no weights by name" in refusal(load_network, tmp_path / "4x.pth")


def test_keys_of_any_depth_are_named_by_their_kind(tmp_path):
    key = ()
    for _ in range(500):
        key = (key,)
    torch.save({key: 1, "b\n": 2}, tmp_path / "odd.pth")
    assert "it holds tuple, b\\n" in refusal(load_network, tmp_path / "odd.pth")


@pytest.mark.parametrize("kind", ["zero strides", "one storage for all"])
def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path, monkeypatch, kind):
    """Their network would take 15 TB."""
    with torch.device("meta"):
        large = MSTT(65536, 8, 1, 1)
    numbers = torch.zeros(1)
    weights = {name: numbers.expand(value.shape) for name, value in large.state_dict().items()}
    options = large.options
    if kind != "zero strides":
        small = MSTT(8, 2, 1, 1)
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

    monkeypatch.setattr("utils.checkpoint.MSTT", build)
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
    }[kind]()


@pytest.mark.filterwarnings("ignore")  # of PyTorch, that quantised tensors go away
@pytest.mark.parametrize(
    "kind", ["meta", "nested", "sparse", "quantised", "complex", "float8", "integer"]
)
def test_tensors_that_are_no_plain_numbers_are_refused(network, kind):
    weights = network.state_dict()
    check_weights("good.pt", weights)
    weights[NAME] = strange(kind, weights[NAME])
    message = refusal(network_from, "bad.pt", network.options, weights)
    assert message.startswith(f"the weights of bad.pt are unusable: {NAME} is ")


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


class RunsCode:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize("form", ["raw", "old", "zip"])
def test_a_refusal_does_not_advise_to_run_the_code(tmp_path, recwarn, form):
    path = tmp_path / "evil.pt"
    if form == "raw":
        path.write_bytes(pickle.dumps({"a": RunsCode()}, protocol=4))
    else:
        torch.save({"a": RunsCode()}, path, _use_new_zipfile_serialization=form == "zip")
    message = refusal(load_network, path)
    assert "cannot be loaded safely" in message
    for advice in ("weights_only", "trust", "safe_globals", "Re-running", "allowlist"):
        assert advice not in message
    assert not recwarn.list
