"""The page of results: what it holds, and that it works in a browser, from disk, offline.

The second half needs Chromium and Playwright and is skipped where either is missing.
"""

import base64
import json
import re
import shutil

import cv2
import matplotlib
import numpy as np
import pytest

from utils import page as web
from utils.page import GIVEN, TRUTH, PageClip, page_entry, write_page
from utils.plots import ERROR_LEVELS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def make_clip(name="bridge", count=5, side=64, **options):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    method = np.clip(truth.astype(int) + rng.integers(-20, 21, truth.shape), 0, 255)
    given = rng.integers(0, 256, (count // 2 + 1, side // 4, side // 4, 3), np.uint8)
    sources = {GIVEN: given, "ours": method.astype(np.uint8), TRUTH: truth}
    figures = {"ours": [f"{30 + time}.00 dB" for time in range(count)]}
    return PageClip(name, sources, 2, (GIVEN, "ours"), TRUTH, figures, **options)


def data_of(path):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', path.read_text())[1])


def frames_of(source):
    """The frames that a page holds of a source."""
    contents = [np.frombuffer(base64.b64decode(text), np.uint8) for text in source["frames"]]
    decoded = [cv2.imdecode(content, cv2.IMREAD_COLOR) for content in contents]
    return np.stack(decoded)[..., ::-1]


def test_frames_are_kept_without_loss(tmp_path):
    clip = make_clip()
    entries, facts = [page_entry(clip, 1)], {"Data": "</script>"}
    write_page(tmp_path / "index.html", "A <title>", facts, entries, 1)
    (entry,) = data_of(tmp_path / "index.html")["clips"]
    assert entry["count"] == 5
    for source in entry["sources"]:
        np.testing.assert_array_equal(frames_of(source), clip.sources[source["name"]])
    text = (tmp_path / "index.html").read_text()
    assert "A &lt;title&gt;" in text
    assert text.count("MIT") >= 2  # the licences of the two components


def test_large_clips_are_cut_to_the_budget(tmp_path, monkeypatch):
    """In space and in time, and the low-resolution frames at the same place."""
    monkeypatch.setattr(web, "BUDGET", 300_000)
    monkeypatch.setattr(web, "MOST_FRAMES", 5)
    clip = make_clip(count=9, side=160, first=4)
    clip.sources[TRUTH][:, 100:140, 100:140] ^= 255 * (np.arange(9) % 2)[:, None, None, None] == 255
    write_page(tmp_path / "index.html", "", {}, [page_entry(clip, 1)], 1)
    (entry,) = data_of(tmp_path / "index.html")["clips"]
    assert (tmp_path / "index.html").stat().st_size < 500_000
    assert 64 <= entry["width"] < 160
    assert entry["count"] == 5
    first = entry["first"] - 4
    assert first % 2 == 0
    column, row = map(int, re.search(r"from \((\d+), (\d+)\)", entry["note"]).groups())
    part = np.s_[row : row + entry["height"], column : column + entry["width"]]
    low = np.s_[part[0].start // 4 : part[0].stop // 4, part[1].start // 4 : part[1].stop // 4]
    given, ours, truth = (frames_of(source) for source in entry["sources"])
    np.testing.assert_array_equal(truth, clip.sources[TRUTH][first : first + 5, *part])
    np.testing.assert_array_equal(ours, clip.sources["ours"][first : first + 5, *part])
    np.testing.assert_array_equal(given, clip.sources[GIVEN][first // 2 : first // 2 + 3, *low])
    assert entry["sources"][1]["figures"][0] == f"{30 + first}.00 dB"


def test_of_many_clips_the_first_are_shown(tmp_path):
    write_page(tmp_path / "index.html", "", {}, [page_entry(make_clip("clip", 3, 32), 20)], 20)
    assert f"of the first {web.MOST_CLIPS} of 20 clips" in (tmp_path / "index.html").read_text()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(tmp_path, browser):
    """A page with two clips, opened from disk: (clips, page), and nothing went wrong in it."""
    clips = [make_clip(), make_clip("harbour", 3, 96)]
    entries = [page_entry(clip, 2) for clip in clips]
    write_page(tmp_path / "index.html", "Evaluation", {"Data": "clips"}, entries, 2)
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("body[data-drawn]")
    yield clips, page
    assert problems == []
    assert [url for url in requests if not url.startswith("data:image/")] == [
        (tmp_path / "index.html").as_uri()
    ]
    page.close()


def shown(page, side):
    """The pixels of the canvas on a side, 0 left and 1 right."""
    url = page.evaluate(
        "side => document.querySelectorAll('.view canvas')[side].toDataURL('image/png')", side
    )
    content = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def at_time(page, time):
    page.locator("#time").fill(str(time))
    page.wait_for_selector(f'body[data-drawn^="bridge {time} "]')


def test_frames_of_both_sides_and_of_every_time(opened):
    (clip, other), page = opened
    for time in (3, 4):
        at_time(page, time)
        enlarged = clip.sources[GIVEN][time // 2].repeat(4, axis=0).repeat(4, axis=1)
        np.testing.assert_array_equal(shown(page, 0), enlarged)
        np.testing.assert_array_equal(shown(page, 1), clip.sources["ours"][time])
        kind = "interpolated" if time % 2 else "given"
        assert page.locator("#when").inner_text().endswith(kind)
        assert page.locator("#right-label").inner_text() == f"ours \u00b7 3{time}.00 dB"
    page.select_option("#clip", "harbour")
    page.select_option("#left", TRUTH)
    page.wait_for_selector('body[data-drawn="harbour 1 truth,ours"]')
    np.testing.assert_array_equal(shown(page, 0), other.sources[TRUTH][1])


def test_the_error_map_is_that_of_the_figures(opened):
    (clip, _), page = opened
    at_time(page, 2)
    page.check("#error")
    page.wait_for_selector('body[data-drawn$="errors"]')
    error = np.abs(clip.sources["ours"][2].astype(float) - clip.sources[TRUTH][2]).mean(axis=2)
    index = np.minimum(np.floor(error * 255 / ERROR_LEVELS + 0.5), 255).astype(int)
    colours = matplotlib.colormaps["magma"](index, bytes=True)[..., :3]
    np.testing.assert_array_equal(shown(page, 1), colours)


def test_slider_zoom_and_flicker(opened):
    from playwright.sync_api import expect

    _, page = opened
    box = page.locator("#slider").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle[1], steps=3)
    page.mouse.up()
    assert page.evaluate("document.getElementById('slider').value") == pytest.approx(25, abs=1)
    before = page.locator(".view canvas").last.bounding_box()
    assert before["width"] == pytest.approx(box["width"], abs=1)

    page.click("#pixels")
    expect(page.locator("#zoom")).to_have_text("16\u00d7")
    first, second = (page.locator(".view canvas").nth(side).bounding_box() for side in (0, 1))
    assert first == second
    assert first["width"] == pytest.approx(16 * 64, abs=1)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    expect(page.locator("#zoom")).not_to_have_text("16\u00d7")

    page.click("#flicker")
    expect(page.locator("#when")).to_have_text(re.compile("given$"))
    expect(page.locator("#when")).to_have_text(re.compile("interpolated$"))
