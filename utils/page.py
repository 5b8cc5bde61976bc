"""A page to look at results in a browser: one file that needs no server and no network.

It holds the figures and, for every clip, a slider between any two methods at the same place, with
zoom to single pixels, a scrubber through time and the error map as a layer. Frames are inlined as
lossless WebP, so the page may be sent around as it is; where they would make it larger than
BUDGET, a part of each clip is shown, the most detailed where something moves.

utils/web/ holds its parts. The slider is img-comparison-slider, zooming and moving is Panzoom's;
their licences (MIT) stand in the files and in every page.
"""

import base64
import html
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import cv2
import matplotlib
import numpy as np

from utils.files import write_atomically
from utils.machine import usable_cores
from utils.plots import ERROR_LEVELS, detailed_place, figure_time
from utils.report import COLUMNS, NOTE, cells
from utils.resize import SCALE

WEB = Path(__file__).parent / "web"
BUDGET = 9_000_000  # bytes of all frames, a third more in the page
MOST_CLIPS = 12  # with frames; the figures of all are there
MOST_FRAMES = 13  # of a clip, around the one with most motion
SMALLEST = 64  # pixels, shorter side of a part
GIVEN = "low resolution"
TRUTH = "truth"


@dataclass(frozen=True)
class PageClip:
    """What there is to see of one clip.

    The last source decides which part and which time of a large or long clip are shown.
    """

    name: str
    # By name, frames (T, H, W, 3) uint8 of the same times, or those given, at low resolution
    sources: Mapping[str, np.ndarray]
    step: int  # times from a given frame to the next
    shown: tuple[str, str]  # names of the sources that are shown first, left and right
    reference: str | None = None  # source that errors are differences to; None: of the two shown
    figures: Mapping[str, Sequence[str]] = field(default_factory=dict)  # a text for each time
    origin: tuple[int, int] = (0, 0)  # (row, column) in larger frames, of which these are parts
    whole: tuple[int, int] | None = None  # (height, width) of the larger frames
    first: int = 0  # time of the first frame in a longer clip, a multiple of step


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    entries: Sequence[dict[str, Any]],
    count: int,
    tables: str = "",
) -> None:
    """Write the page: the old file stays, or the new one is there whole.

    Arguments:
        facts: what the page says first, a line each.
        entries: of `page_entry`, of the first MOST_CLIPS clips.
        count: of all clips.
        tables: in HTML.
    """
    if count > MOST_CLIPS:
        facts = {**facts, "Pictures": f"of the first {MOST_CLIPS} of {count} clips"}
    colours = matplotlib.colormaps["magma"](range(256), bytes=True)[:, :3].tolist()
    data = json.dumps({"clips": entries, "colours": colours, "levels": ERROR_LEVELS})
    content = Template(_part("page.html")).substitute(
        title=html.escape(title),
        style=_part("img-comparison-slider.css") + _part("page.css"),
        facts="\n".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
            for name, text in facts.items()
        ),
        tables=tables,
        scripts=_part("img-comparison-slider.js") + _part("panzoom.js"),
        data=data.replace("<", "\\u003c"),
        script=_part("page.js"),
    )
    write_atomically(path, lambda partial: partial.write_text(content, encoding="utf-8"))


def _part(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def page_entry(clip: PageClip, count: int) -> dict[str, Any]:
    """One of `count` clips as the script of the page wants it, in its share of BUDGET if it can."""
    share = BUDGET // min(count, MOST_CLIPS)
    key = list(clip.sources.values())[-1]
    time, moving = figure_time(key)
    first = max(min(time - MOST_FRAMES // 2, len(key) - MOST_FRAMES), 0) // clip.step * clip.step
    times = slice(first, first + MOST_FRAMES)
    size = key.shape[1:3]
    frames = len(key[times])
    corner = (0, 0)
    encoded = _encoded(clip, slice(time, time + 1), corner, size)
    used = frames * sum(map(len, itertools.chain(*encoded.values())))
    while used > share and min(size) > SMALLEST:
        ratio = max(0.97 * math.sqrt(share / used), SMALLEST / min(size))
        size = tuple(max(math.floor(ratio * side / SCALE), 1) * SCALE for side in size)
        corner = detailed_place(key[time], size, moving)
        encoded = _encoded(clip, times, corner, size)
        used = sum(map(len, itertools.chain(*encoded.values())))
    if size == key.shape[1:3]:
        encoded = _encoded(clip, times, corner, size)
    whole = clip.whole or key.shape[1:3]
    row, column = (start + more for start, more in zip(clip.origin, corner, strict=True))
    part = f"{size[1]}x{size[0]} of {whole[1]}x{whole[0]} pixels, from ({column}, {row}) on."
    return {
        "name": clip.name,
        "width": size[1],
        "height": size[0],
        "first": clip.first + first,
        "count": frames,
        "start": time - first,
        "step": clip.step,
        "shown": clip.shown,
        "reference": clip.reference,
        "note": part if size != whole else "",
        "sources": [
            {
                "name": name,
                "step": clip.step if name == GIVEN else 1,
                "frames": [base64.b64encode(content).decode() for content in encoded[name]],
                "figures": list(clip.figures.get(name, ()))[times],
            }
            for name in clip.sources
        ],
    }


def _encoded(
    clip: PageClip, times: slice, corner: tuple[int, int], size: tuple[int, int]
) -> dict[str, list[bytes]]:
    """A part of some frames of every source as lossless WebP; corner and size as of high ones."""
    parts = {}
    for name, frames in clip.sources.items():
        factor = SCALE if name == GIVEN else 1
        if name == GIVEN:
            last = (min(times.stop, clip.step * len(frames)) - 1) // clip.step
            frames = frames[times.start // clip.step : last + 1]
        else:
            frames = frames[times]
        rows, columns = (
            slice(start // factor, (start + side) // factor)
            for start, side in zip(corner, size, strict=True)
        )
        parts[name] = frames[:, rows, columns]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return {name: list(pool.map(_webp, frames)) for name, frames in parts.items()}


def _webp(frame: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()  # lossless


def evaluation_entry(
    name: str,
    given: np.ndarray,
    truth: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    figures: Mapping[str, Mapping[str, Any]],
    count: int,
) -> dict[str, Any]:
    """What the page of an evaluation holds of one of its first MOST_CLIPS clips.

    Arguments:
        given, truth, outputs: its frames as uint8 RGB; outputs by method, our own first.
        figures: by method, of utils.metrics.clip_metrics.
        count: of all clips.
    """
    ours, *others = outputs
    shown = (next((name for name in others if name.startswith("bicubic")), GIVEN), ours)
    texts = {
        method: [f"{frame['psnr_rgb']:.2f} dB" for frame in figures[method]["frames"]]
        for method in outputs
    }
    sources = {GIVEN: given, **outputs, TRUTH: truth}
    return page_entry(PageClip(name, sources, 2, shown, TRUTH, texts), count)


def evaluation_page(
    path: Path, results: Mapping[str, Any], entries: Sequence[dict[str, Any]], given: str
) -> None:
    """Write the page of an evaluation by test.py.

    Arguments:
        results: what results.json holds.
        entries: of `evaluation_entry`.
        given: where the given frames came from, or what they went through.
    """
    methods = results["methods"]
    names = list(next(iter(methods.values()))["clips"])
    facts = {
        "Weights": results["checkpoint"] or "none",
        "Data": results["data"],
        "Given frames": given,
        "Command": results["command"],
    }
    tables = _table("Mean of all clips", {name: methods[name]["mean"] for name in methods})
    for clip in names:
        tables += _table(clip, {name: methods[name]["clips"][clip] for name in methods})
    tables = f'<div class="tables">{tables}</div><p class="note">{html.escape(NOTE)}</p>'
    write_page(path, "Evaluation", facts, entries, len(names), tables)


def _table(caption: str, metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    """The figures of all methods, the best of each column marked, as far as they are printed."""
    best = [
        form.format(max((row[key] for row in metrics.values() if row[key] is not None), default=0))
        for _, key, form in COLUMNS
    ]
    head = "".join(f"<th>{heading}</th>" for heading, _, _ in COLUMNS)
    rows = ""
    for method, row in metrics.items():
        values = "".join(
            f"<td{' class=best' * (text == top)}>{text}</td>"
            for text, top in zip(cells(row), best, strict=True)
        )
        rows += f'<tr><th class="name">{html.escape(method)}</th>{values}</tr>'
    return (
        f'<table><caption>{html.escape(caption)}</caption><thead><tr><th class="name">method</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
