"""Hostile files: none may crash a reader, lead it out of its folder, or fill the memory."""

import contextlib
import errno
import os
import random
import stat
import struct
import time
import tracemalloc
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import rasterio
import torch
from trainings import make_optimiser

from benchmarks.fuzz import fuzz, make_readers
from benchmarks.mutations import change
from data.stills import Stills, read_still, stretch_to_8_bits
from media.images import write_image
from models import MSTT
from models.checkpoint import load_network, load_torch_file, network_from, save_torch_file
from training.loop import Ema
from training.run import open_run, read_state, restore
from utils import files
from utils.files import lock_folder

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name",
    [
        "list",
        "image",
        "still",
        "tiff",
        "frames",
        "checkpoint",
        "restore",
        "safetensors",
        "description",
    ],
)
def test_mutated_files_are_accepted_or_refused(tmp_path, name):
    reader = next(reader for reader in make_readers(tmp_path) if reader.name == name)
    files = 20 if reader.vary else 100
    counts = fuzz(reader, files=files, seed=7, folder=tmp_path)
    assert counts["refused"] > 0
    assert counts["accepted"] + counts["refused"] == files
    assert counts["more than one line"] == counts["large"] == 0


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about kinds of tensors to come or go
def test_values_are_mutated_one_place_at_a_time_and_in_every_way():
    state = {"step": 1, "config": {"a": [1, 2]}, "network": {"w": torch.ones(3, 4)}}
    rng = random.Random(1)
    changed = [change(state, rng, ["other"]) for _ in range(500)]
    assert state["config"] == {"a": [1, 2]}
    changed = [content for content in changed if isinstance(content, dict) and "a" not in content]
    assert all(sum(content.get(n) is not state[n] for n in state) <= 1 for content in changed)
    assert {"step", "config", "network", "other"} == set().union(*changed)
    assert any(content.get("config") == {"a": [1]} for content in changed)
    weights = [content.get("network") for content in changed]
    tensors = [w["w"] for w in weights if isinstance(w, dict) and "w" in w]
    tensors = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    assert any(tensor.is_meta for tensor in tensors)
    assert any(tensor.is_nested for tensor in tensors)
    assert any(tensor.is_quantized for tensor in tensors)
    plain = [tensor for tensor in tensors if tensor.layout == torch.strided]
    assert len(plain) < len(tensors)
    plain = [tensor for tensor in plain if not tensor.is_nested]
    assert any(tensor.shape == (3, 4) and tensor.stride() == (0, 0) for tensor in plain)


def bomb_png(path, side):
    """A PNG of a few bytes that claims side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    content += struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(1000))
    content += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(content + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", 0xAE426082))


def test_a_still_that_claims_a_huge_size_is_not_decoded(tmp_path):
    bomb_png(tmp_path / "bomb.png", 30_000)
    with pytest.raises(ValueError, match=r"bomb\.png: 30000x30000 pixels, over the limit"):
        read_still(tmp_path / "bomb.png")
    bomb_png(tmp_path / "bomb.png", 10_000)
    with pytest.raises(ValueError, match=r"bomb\.png: 10000x10000 pixels in \d+ bytes"):
        read_still(tmp_path / "bomb.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_stills_that_are_no_files_or_endless_are_not_read(tmp_path):
    for name in ("pipe.png", "pipe.tif"):
        os.mkfifo(tmp_path / name)
    with open(tmp_path / "endless.png", "wb") as file:
        file.truncate(2**42)
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "folder\n.png").mkdir()
    with pytest.raises(ValueError, match="5 of 5 stills cannot be used") as caught:
        Stills(tmp_path, (16, 16), 10**6)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert sum("not a regular file" in line for line in lines) == 3
    assert sum("more than any image" in line for line in lines) == 1


def test_many_bad_stills_are_listed_in_a_few_lines(tmp_path):
    for number in range(100):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(ValueError, match="100 of 100 stills cannot be used") as caught:
        Stills(tmp_path, (16, 16), 10**6)
    assert len(str(caught.value).splitlines()) < 30


@pytest.mark.parametrize(
    ("size", "kind", "options", "refusal"),
    [
        (12_000, "float64", {}, "12000x12000 pixels of 64 bits, over the limit"),
        (16_000, "uint8", {"tiled": True, "blockxsize": 2048, "blockysize": 2048}, "pixels in"),
        (64, "float64", {"tiled": True, "blockxsize": 8192, "blockysize": 8192}, "67108864"),
        (64, "complex64", {}, "complex numbers"),
    ],
)
def test_a_small_tiff_that_decodes_to_gigabytes_is_refused(tmp_path, size, kind, options, refusal):
    """GDAL leaves out blocks that were never written."""
    path = tmp_path / "bomb.tif"
    shape = {"width": size, "height": size, "count": 3, "dtype": kind, "SPARSE_OK": True}
    transform = rasterio.Affine(2, 0, 500, 0, -2, 900)
    rasterio.open(path, "w", driver="GTiff", transform=transform, **shape, **options).close()
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match=refusal):
        read_still(path)


def test_stretching_takes_little_more_memory_than_the_still():
    image = np.random.default_rng(0).integers(1, 60_000, (2000, 1000), dtype=np.uint16)
    tracemalloc.start()
    stretched = stretch_to_8_bits(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * image.nbytes
    low, high = np.percentile(image, (0.5, 99.5))
    whole = np.clip(np.rint((image - low) * (255 / (high - low))), 0, 255)
    np.testing.assert_array_equal(stretched, whole)


def test_other_formats_under_the_name_of_a_picture_are_refused(tmp_path):
    """OpenCV would read them, of whatever size they claim."""
    cv2.imwrite(str(tmp_path / "a.bmp"), IMAGE)
    (tmp_path / "a.bmp").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        read_still(tmp_path / "a.png")


def test_a_plain_tiff_is_read(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), IMAGE[..., ::-1])
    np.testing.assert_array_equal(read_still(tmp_path / "a.tif"), IMAGE)


def test_stills_do_not_lead_out_of_their_folder(tmp_path):
    (tmp_path / "stills").mkdir()
    write_image(tmp_path / "secret.png", IMAGE)
    write_image(tmp_path / "stills" / "good.png", IMAGE)
    (tmp_path / "stills" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"link\.png: leads out of"):
        Stills(tmp_path / "stills", (16, 16), 10**6)


def test_a_tiff_cannot_name_other_files(tmp_path):
    """GDAL's VRT format is text that names the files its pixels come from."""
    write_image(tmp_path / "secret.png", IMAGE)
    band = '<VRTRasterBand dataType="Byte" band="{}"><SimpleSource><SourceFilename>{}'
    band += "</SourceFilename><SourceBand>{}</SourceBand></SimpleSource></VRTRasterBand>"
    bands = "".join(band.format(n, tmp_path / "secret.png", n) for n in (1, 2, 3))
    text = f'<VRTDataset rasterXSize="64" rasterYSize="64">{bands}</VRTDataset>'
    (tmp_path / "still.tif").write_text(text)
    with pytest.raises(ValueError, match=r"still\.tif cannot be read"):
        read_still(tmp_path / "still.tif")


@pytest.fixture
def state(trained):
    return trained("muon")[0]


def test_an_incomplete_training_checkpoint_names_what_differs(tmp_path, state):
    path = tmp_path / "last.pt"
    del state["optimiser"]
    save_torch_file(path, state | {"step": "many"})
    for read in (read_state, load_network):
        with pytest.raises(ValueError, match="step is str, optimiser is missing"):
            read(path)


def test_a_state_of_another_network_is_refused(tmp_path, state):
    other = MSTT(8, 2, 1, 2)
    with pytest.raises(ValueError, match=r"reconstruction\.blocks\.1.* is missing"):
        network_from(tmp_path, other.options, state["network"])
    optimiser = make_optimiser(other, "muon")
    with pytest.raises(ValueError, match="do not fit each other"):
        restore(state, Ema(other, 0.9), optimiser)
    network = MSTT(8, 2, 1, 1)
    first = next(iter(state["optimiser"]["adam"].values()))
    first["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match="optimiser is not that of its network"):
        restore(state, Ema(network, 0.9), make_optimiser(network, "muon"))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 10**9},
        {"front_blocks": 10**9},
        {"propagation_blocks": 10**9, "global_skip": "enhanced"},
        {"channels": -8},
        {"channels": 0},
        {"channels": 10**30},
        {"groups": 0},
        {"channels": "8"},
        {"front_blocks": None},
    ],
)
def test_options_of_no_network_are_refused_before_memory_is_taken(tmp_path, state, options):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be built|do not fit") as refusal:
        network_from(tmp_path, state["network_options"] | options, state["network"])
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - start < 30


def test_a_compressed_checkpoint_is_refused(tmp_path):
    torch.save({"conv_first.weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for part in plain.namelist():
            bomb.writestr(part, plain.read(part))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**5
    with pytest.raises(ValueError, match="compressed"):
        load_torch_file(tmp_path / "bomb.pth")


def test_a_file_is_on_the_disk_before_its_name_and_the_name_after_it(tmp_path, monkeypatch):
    path, order = tmp_path / "last.pt", []

    def fsync(file):
        order.append((stat.S_ISDIR(os.fstat(file).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    save_torch_file(path, {"step": 1})
    assert order == [(False, False), (True, True)][: 1 + hasattr(os, "O_DIRECTORY")]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_raises_and_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "last.pt"
    save_torch_file(path, {"step": 1})

    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=r"last\.pt"):
            save_torch_file(path, {"step": 2})
    assert load_torch_file(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_that_a_reader_has_open_is_replaced_when_it_is_closed(tmp_path, monkeypatch):
    replace, left = os.replace, [PermissionError(), PermissionError()]  # as Windows refuses it

    def refusing(partial, path):
        if left:
            raise left.pop()
        replace(partial, path)

    monkeypatch.setattr(files, "RETRIES", (0, 0))
    monkeypatch.setattr(os, "replace", refusing)
    save_torch_file(tmp_path / "last.pt", {"step": 1})
    assert load_torch_file(tmp_path / "last.pt") == {"step": 1}


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl")

    def fail(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with lock_folder(tmp_path, "choose another"):
        assert "cannot be locked" in capsys.readouterr().out


def test_runs_started_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    with contextlib.ExitStack() as stack:
        runs = [open_run("auto", False, False, stack)[0].name for _ in range(3)]
    assert runs == ["now", "now-2", "now-3"]
