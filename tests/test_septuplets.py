"""Septuplets: layouts, LR frames, flows, augmentation, and what is refused."""

import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from data import septuplets
from data.augment import Augmentation
from data.lists import MAX_NAMES, read_list
from data.septuplets import SeptupletDataset, fitting_patch, reduce_patch
from media import files
from media.files import check_frames
from media.images import write_image
from media.tiff import write_tiff
from utils.resize import imresize
from utils.text import MAX_PRINTED

IM = [f"im{number}.png" for number in range(1, 8)]
DIGITS = [f"{number:03d}.png" for number in range(7)]


def write_clip(folder, names=IM, size=(96, 112), seed=0, shift=(0, 0)):
    """Seven frames of a smooth texture that moves by `shift` (x, y) HR pixels per frame."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).standard_normal((size[0] + 200, size[1] + 200, 3))
    texture = cv2.GaussianBlur(noise, (0, 0), 5) * 900 + 128
    texture = texture.clip(0, 255).astype(np.uint8)
    frames = []
    for time, name in enumerate(names):
        x, y = 100 - time * shift[0], 100 - time * shift[1]
        frames.append(texture[y : y + size[0], x : x + size[1]].copy())
        write_image(folder / name, frames[-1])
    return np.stack(frames)


def to_bytes(x):
    """(T, 3, H, W) -> (T, H, W, 3), uint8."""
    assert x.dtype == torch.uint8
    return x.permute(0, 2, 3, 1).numpy()


def test_every_lr_frame_comes_from_its_own_hr_frame(tmp_path, middle_patch):
    # The released loader reads all four from frame 7.
    truth = write_clip(tmp_path / "train/a", size=(96, 96), shift=(4, 2))
    sample = SeptupletDataset(tmp_path, patch=24)[0]
    np.testing.assert_array_equal(to_bytes(sample["truth"]), truth)
    frames = to_bytes(sample["frames"])
    for i in range(4):
        np.testing.assert_array_equal(frames[i], imresize(truth[2 * i], 1 / 4))
        assert i == 3 or (frames[i] != frames[3]).any()


def test_clips_are_checked_without_shared_memory(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refused)
    for name in "abc":
        write_clip(tmp_path / "train" / name)
    monkeypatch.setattr(septuplets, "CHECKED_AT_ONCE", 2)
    clips = SeptupletDataset(tmp_path, patch=16).clips
    assert [clip.folder[-1] for clip in clips] == ["a", "b", "c"]


def test_sample(tmp_path):
    write_clip(tmp_path / "train/a b'\"\n")
    dataset = SeptupletDataset(tmp_path, patch=16)
    assert len(dataset) == 1
    shapes = {k: tuple(v.shape) for k, v in dataset[0].items() if k != "name"}
    assert shapes == {
        "frames": (4, 3, 16, 16),
        "truth": (7, 3, 64, 64),
        "forward_flow": (3, 2, 16, 16),
        "backward_flow": (3, 2, 16, 16),
    }
    assert dataset[0]["name"] == "a b'\"\n"
    types = {name: value.dtype for name, value in dataset[0].items() if name != "name"}
    assert types == dict.fromkeys(("frames", "truth"), torch.uint8) | dict.fromkeys(
        ("forward_flow", "backward_flow"), torch.float32
    )
    with pytest.raises(IndexError):
        dataset[(0, 1)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_given_frames_are_the_first_ones_of_the_same_sample(tmp_path, count):
    write_clip(tmp_path / "train/a", shift=(4, 2))
    dataset = SeptupletDataset(tmp_path, patch=16)
    shorter = SeptupletDataset(tmp_path, patch=16, given_frames=count)
    assert {dataset.augmentation(epoch, 0).reverse for epoch in range(8)} == {False, True}
    for epoch in range(8):
        whole, cut = dataset[(epoch, 0)], shorter[(epoch, 0)]
        assert torch.equal(cut["frames"], whole["frames"][:count])
        assert torch.equal(cut["truth"], whole["truth"][: 2 * count - 1])
        for name in ("forward_flow", "backward_flow"):
            assert torch.equal(cut[name], whole[name][: count - 1])


@pytest.mark.parametrize("size", [(96, 112), (97, 115)])
def test_patch_of_lr_equals_lr_of_the_whole_frame(size):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    whole = imresize(frames, 1 / 4)
    for top in (0, 1, 2, 4, 8):
        for left in (0, 1, 3, 11, 12):
            patch = reduce_patch(frames, Augmentation(top, left, 16, 16))
            np.testing.assert_array_equal(patch, whole[:, top : top + 16, left : left + 16])


def test_patch_is_the_augmented_part_of_the_whole_sample(tmp_path, middle_patch):
    write_clip(tmp_path / "train/a", size=(96, 96), shift=(4, 2))
    whole = SeptupletDataset(tmp_path, patch=24)[0]
    middle_patch.undo()
    dataset = SeptupletDataset(tmp_path, patch=16)
    for epoch in range(30):
        a, sample = dataset.augmentation(epoch, 0), dataset[(epoch, 0)]
        for name, scale in (("frames", 1), ("truth", 4)):
            rows = slice(scale * a.top, scale * (a.top + 16))
            columns = slice(scale * a.left, scale * (a.left + 16))
            x = whole[name][..., rows, columns]
            dims = [d for d, on in ((-1, a.mirror), (-2, a.flip), (0, a.reverse)) if on]
            x = x.flip(dims)
            torch.testing.assert_close(sample[name], x.mT if a.transpose else x, rtol=0, atol=0)


def test_flow_follows_the_augmented_motion(tmp_path):
    # 8 and 4 HR pixels from one given frame to the next but one: 4 and 2 LR pixels.
    write_clip(tmp_path / "train/a", size=(160, 160), shift=(8, 4))
    dataset = SeptupletDataset(tmp_path, patch=24)
    seen = set()
    for epoch in range(40):
        a, sample = dataset.augmentation(epoch, 0), dataset[(epoch, 0)]
        dx, dy = (-4 if a.mirror else 4), (-2 if a.flip else 2)
        if a.transpose:
            dx, dy = dy, dx
        expected = np.array([dx, dy]) * (-1 if a.reverse else 1)
        forward = np.median(sample["forward_flow"][1].numpy(), axis=(1, 2))
        backward = np.median(sample["backward_flow"][1].numpy(), axis=(1, 2))
        np.testing.assert_allclose(forward, expected, atol=0.4)
        np.testing.assert_allclose(backward, -expected, atol=0.4)
        seen.add(tuple(expected))
    assert len(seen) == 8


def test_sample_is_a_pure_function_of_seed_epoch_and_index(tmp_path):
    for name in ("a", "b"):
        write_clip(tmp_path / "train" / name, seed=ord(name))
    dataset = SeptupletDataset(tmp_path, patch=16, flow_cache=tmp_path / "cache")
    first = dataset[(3, 1)]
    np.random.default_rng().random()
    torch.rand(1)
    again = SeptupletDataset(tmp_path, patch=16)[(3, 1)]
    for name, value in first.items():
        assert name == "name" or torch.equal(value, again[name])
    draws = {dataset.augmentation(epoch, index) for epoch in range(20) for index in range(2)}
    other = SeptupletDataset(tmp_path, patch=16, seed=5)
    assert len(draws) > 30
    assert dataset.augmentation(0, 0) == dataset.augmentation(0, 0)
    assert [dataset.augmentation(e, 0) for e in range(5)] != [
        other.augmentation(e, 0) for e in range(5)
    ]


def test_cached_flow_is_that_of_the_whole_frame(tmp_path):
    write_clip(tmp_path / "train/a", shift=(4, 2))
    kept = SeptupletDataset(tmp_path, patch=16, flow_cache=tmp_path / "cache")
    bare = SeptupletDataset(tmp_path, patch=16)
    for epoch in range(4):
        a, b = kept[(epoch, 0)], bare[(epoch, 0)]
        assert torch.equal(a["forward_flow"], b["forward_flow"])
        assert torch.equal(a["backward_flow"], b["backward_flow"])
    assert len(list((tmp_path / "cache").rglob("*.flow"))) == 1


def test_vimeo_layout(tmp_path):
    for clip in ("00001/0001", "00001/0002", "00002/0001"):
        write_clip(tmp_path / "sequences" / clip)
    with pytest.raises(ValueError, match=r"without sep_trainlist\.txt"):
        SeptupletDataset(tmp_path)
    (tmp_path / "sep_trainlist.txt").write_bytes(
        b"\xef\xbb\xbf00001/0001  \r\n\r\n 00002/0001\t\n\n"
    )
    assert SeptupletDataset(tmp_path, patch=16).names == ["00001/0001", "00002/0001"]


@pytest.mark.parametrize("names", [IM, DIGITS])
@pytest.mark.parametrize("folder", ["train", "."])
@pytest.mark.parametrize("listed", [True, False])
def test_189_vime7_layouts(tmp_path, names, folder, listed):
    for clip in ("clip10", "clip9"):
        write_clip(tmp_path / folder / clip, names)
    if listed:
        (tmp_path / "189_vime7_train.txt").write_text("clip10\n")
    dataset = SeptupletDataset(tmp_path, patch=16)
    assert dataset.names == (["clip10"] if listed else ["clip9", "clip10"])
    assert [path.name for path in dataset.paths(0)] == names


def test_vimeo_by_its_folder_of_sequences(tmp_path):
    for clip in ("00001/0001", "00001/0002"):
        write_clip(tmp_path / "sequences" / clip)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0002\n")
    assert SeptupletDataset(tmp_path / "sequences", patch=16).names == ["00001/0002"]


def test_lines_of_basicsr(tmp_path):
    (tmp_path / "list.txt").write_text("00001/0001 7 (256,448,3)\na b 7\nc (1,2,3)\n")
    assert read_list(tmp_path / "list.txt") == ["00001/0001", "a b 7", "c (1,2,3)"]


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".tif"])
def test_frames_of_other_formats(tmp_path, middle_patch, suffix):
    frames = write_clip(tmp_path / "train/a", size=(96, 96))
    for path, frame in zip(sorted((tmp_path / "train/a").iterdir()), frames, strict=True):
        path.unlink()
        content = cv2.imencode(suffix.lower(), frame[..., ::-1])[1]
        path.with_suffix(suffix).write_bytes(content.tobytes())
    truth = to_bytes(SeptupletDataset(tmp_path, patch=24)[0]["truth"])
    assert np.abs(truth.astype(int) - frames).mean() < (3 if "j" in suffix.lower() else 0.01)


def test_endings_that_are_not_read_are_the_problem(tmp_path):
    for name in ("a", "b"):
        write_clip(tmp_path / "train" / name)
    for path in (tmp_path / "train/a").iterdir():
        path.rename(path.with_suffix(".webp"))
    with pytest.raises(ValueError, match=r"a: no frames; .* holds im1\.webp; frames end in \.png"):
        SeptupletDataset(tmp_path, patch=16)


def test_deep_frames_are_refused_with_a_way_out(tmp_path):
    write_clip(tmp_path / "train/a")
    for path in (tmp_path / "train/a").iterdir():
        path.unlink()
        write_tiff(path.with_suffix(".tif"), [np.zeros((96, 112, 3), np.uint16)])
    with pytest.raises(ValueError, match=r"16-bit TIFF of 3 band\(s\); .* data\.septuplets cut"):
        SeptupletDataset(tmp_path, patch=16)


def test_clips_of_nine_frames_are_told(tmp_path):
    write_clip(tmp_path / "train/a", names=[f"im{number}.png" for number in range(1, 10)])
    write_clip(tmp_path / "train/b")
    with pytest.warns(UserWarning, match=r"1 clip\(s\) in .* more than 7 frames, .*a the first"):
        dataset = SeptupletDataset(tmp_path, patch=16)
    assert [path.name for path in dataset.paths(0)] == IM


def test_patch_that_fits(tmp_path):
    assert [fitting_patch(side) for side in (15, 16, 64, 79, 80, 160)] == [0, 16, 64, 64, 80, 80]
    write_clip(tmp_path / "train/a", size=(400, 384))
    write_clip(tmp_path / "train/b", size=(256, 448))
    assert SeptupletDataset(tmp_path).patch == 64
    with pytest.raises(ValueError, match=r"b: frames of 448x256, .* train with --patch 64"):
        SeptupletDataset(tmp_path, patch=80)


def test_choosing_the_patch_reads_every_header_once(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_clip(tmp_path / "train" / name)
    looked_at = []
    monkeypatch.setattr(files, "image_size", lambda path: looked_at.append(path) or (96, 112))
    assert SeptupletDataset(tmp_path).patch == 16
    assert len(looked_at) == len(set(looked_at)) == 14


def test_folder_above_the_data_set(tmp_path):
    write_clip(tmp_path / "vimeo/sequences/00001/0001")
    (tmp_path / "vimeo/sep_trainlist.txt").write_text("00001/0001\n")
    with pytest.raises(ValueError, match=r"no septuplets; .* Is it .*vimeo that is meant"):
        SeptupletDataset(tmp_path)


@pytest.mark.parametrize("place", ["00001", "00001/0002"])
def test_folder_inside_of_vimeo(tmp_path, place):
    write_clip(tmp_path / "sequences/00001/0002")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0002\n")
    with pytest.raises(ValueError, match=f"{place}: holds test clips, too; give {tmp_path}, whose"):
        SeptupletDataset(tmp_path / "sequences" / place)


def test_folder_above_and_inside_of_a_set_without_a_list(tmp_path):
    write_clip(tmp_path / "set/train/a")
    for root, meant in ((tmp_path, "set"), (tmp_path / "set/train/a", "set/train")):
        with pytest.raises(ValueError, match=rf"Is it {tmp_path / meant} that is meant\?"):
            SeptupletDataset(root)
    shutil.copy(tmp_path / "set/train/a/im1.png", tmp_path / "set/train/a/im8.png")
    with pytest.raises(ValueError, match=r"no septuplets; .* Longer sequences: python -m"):
        SeptupletDataset(tmp_path / "set/train/a")


def test_list_given_by_hand(tmp_path):
    write_clip(tmp_path / "train/a")
    (tmp_path / "mine.txt").write_text("a")
    assert len(SeptupletDataset(tmp_path, list_file=tmp_path / "mine.txt", patch=16)) == 1
    with pytest.raises(FileNotFoundError, match="yours"):
        SeptupletDataset(tmp_path, list_file=tmp_path / "yours.txt")


def test_problems_come_together_by_file(tmp_path):
    train = tmp_path / "root/train"
    for name in ("good", "missing", "broken", "grey", "sizes", "small", "empty"):
        write_clip(train / name, size=(60, 80) if name == "small" else (96, 96))
    (train / "missing/im3.png").unlink()
    (train / "broken/im5.png").write_bytes((train / "good/im5.png").read_bytes()[:-30])
    cv2.imwrite(str(train / "grey/im1.png"), np.zeros((96, 96), np.uint8))
    write_image(train / "sizes/im7.png", np.zeros((96, 92, 3), np.uint8))
    for frame in IM:
        (train / "empty" / frame).unlink()
    write_clip(tmp_path / "outside")
    os.symlink(tmp_path / "outside", train / "link")
    names = ["good", "missing", "broken", "grey", "sizes", "small", "empty", "absent", "link"]
    names += ["../outside", str(tmp_path / "outside"), "zero\0byte", "x" * 300]
    (tmp_path / "root/189_vime7_train.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"^18 problems in ") as error:
        SeptupletDataset(tmp_path / "root", patch=16)
    for line in (
        "missing/im3.png: no such file",
        "broken/im5.png: truncated image",
        "grey/im1.png: 8-bit grey PNG",
        "sizes/im7.png: 92x96 pixels, but 96x96 in im1.png",
        "small: frames of 80x60, smaller than 64 pixels a side",
        "empty: no frames; it needs im1.png",
        "absent: no such clip folder",
        "link/im7.png: leads out of",
        "../outside: leads out of",
        f"{tmp_path}/outside: leads out of",
        r"zero\x00byte: leads out of",
        "xxx: no such clip folder",
    ):
        assert line in str(error.value)
    assert "good" not in str(error.value)


def test_frame_links_in_a_circle_and_out_of_the_root(tmp_path):
    write_clip(tmp_path / "root/train/a")
    for frame, target in ((IM[0], IM[0]), (IM[1], "/etc/passwd")):
        (tmp_path / "root/train/a" / frame).unlink()
        os.symlink(target, tmp_path / "root/train/a" / frame)
    with pytest.raises(ValueError, match=r"^2 problems in ") as error:
        SeptupletDataset(tmp_path / "root", patch=16)
    assert "im1.png: cannot be read" in str(error.value)
    assert "im2.png: leads out of" in str(error.value)


def test_long_lists_of_problems_are_cut(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "189_vime7_train.txt").write_text("".join(f"clip{n}\n" for n in range(3000)))
    with pytest.raises(ValueError, match=f"and {3000 - MAX_PRINTED} more") as error:
        SeptupletDataset(tmp_path)
    assert len(str(error.value).splitlines()) == MAX_PRINTED + 2


def test_folders_without_a_septuplet_are_told(tmp_path):
    write_clip(tmp_path / "train/good")
    (tmp_path / "train/notes").mkdir()
    with pytest.warns(UserWarning, match="1 of 2 folders contain no septuplet .*first: notes"):
        assert len(SeptupletDataset(tmp_path, patch=16)) == 1


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\r\n  \n\n"])
def test_empty_list(tmp_path, content):
    (tmp_path / "train").mkdir()
    (tmp_path / "189_vime7_train.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"189_vime7_train\.txt: names no clip"):
        SeptupletDataset(tmp_path)


def test_a_folder_is_checked_once_however_often_it_is_listed(tmp_path, monkeypatch):
    write_clip(tmp_path / "train" / "clip")
    names = ["clip", "clip/", "./clip", "clip//."] * 5000
    (tmp_path / "list.txt").write_text("\n".join(names))
    looked_at = []

    def check(paths, root):
        looked_at.append(paths)
        return check_frames(paths, root)

    monkeypatch.setattr(septuplets, "check_frames", check)
    dataset = SeptupletDataset(tmp_path, tmp_path / "list.txt", patch=16)
    assert len(looked_at) == 1
    assert len(dataset) == 20_000
    assert dataset.names == names
    assert dataset[19_999]["truth"].shape == dataset[0]["truth"].shape


def test_a_list_of_too_many_names_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a\n" * (MAX_NAMES + 1))
    with pytest.raises(ValueError, match=f"{MAX_NAMES + 1} names, over the limit"):
        read_list(tmp_path / "list.txt")


def test_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_list(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="not a regular file"):
        read_list(tmp_path)


def test_list_link_out_of_the_root(tmp_path):
    (tmp_path / "root/train").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", tmp_path / "root/189_vime7_train.txt")
    with pytest.raises(ValueError, match=r"189_vime7_train\.txt: leads out of") as error:
        SeptupletDataset(tmp_path / "root")
    assert "secret" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        SeptupletDataset(tmp_path / "a")
    with pytest.raises(ValueError, match="no septuplets"):
        SeptupletDataset(tmp_path)
    with pytest.raises(ValueError, match="patch is 8"):
        SeptupletDataset(tmp_path, patch=8)


def test_folders_of_longer_sequences_are_named(tmp_path):
    """As REDS has them: train_sharp/000/00000000.png .. 00000099.png."""
    (tmp_path / "train/train_sharp/000").mkdir(parents=True)
    write_image(tmp_path / "train/train_sharp/000/00000000.png", np.zeros((64, 64, 3), np.uint8))
    for root, inside in ((tmp_path, "train_sharp holds 000"), ("train/train_sharp", "000 holds 0")):
        with pytest.raises(ValueError, match=rf"no septuplets; .* {inside}.* data\.septuplets cut"):
            SeptupletDataset(tmp_path / root)


def test_frame_that_vanishes_later_is_named(tmp_path):
    write_clip(tmp_path / "train/a")
    dataset = SeptupletDataset(tmp_path, patch=16)
    (tmp_path / "train/a/im4.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im4\.png"):
        dataset[0]
