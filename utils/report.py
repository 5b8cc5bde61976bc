"""What an evaluation prints and keeps: the table, the versions, results.json."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
import torch

from utils.files import write_atomically

# Columns of the table: heading, key of utils.metrics.clip_metrics, format.
COLUMNS = (
    ("PSNR", "psnr_rgb", "{:.2f}"),
    ("SSIM", "ssim_rgb", "{:.4f}"),
    ("PSNR-Y", "psnr_y", "{:.2f}"),
    ("SSIM-Y", "ssim_y", "{:.4f}"),
    ("given", "psnr_rgb_given", "{:.2f}"),
    ("interpolated", "psnr_rgb_interpolated", "{:.2f}"),
    ("moving", "psnr_rgb_moving", "{:.2f}"),
)
# Of the table of conditions.
CONDITION_ROWS = (
    ("PSNR", "psnr_rgb", "{:.2f}"),
    ("moving", "psnr_rgb_moving", "{:.2f}"),
    ("flicker", "flicker", "{:.2f}"),
)
NOTE = (
    "PSNR in dB; given, interpolated and moving: PSNR of RGB. 8 bits, whole frames, no border cut."
)


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-image": skimage.__version__,
        "opencv": cv2.__version__,
    }


def table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of every clip and their mean, one method per line, as plain text.

    Arguments:
        methods: the "methods" of results.json: {method: {"mean": {...}, "clips": {clip: {...}}}}.

    Returns: the lines, joined. A dash stands where a clip has no such figure.
    """
    clips = list(next(iter(methods.values()))["clips"])
    rows = [("clip", "method", *(heading for heading, _, _ in COLUMNS))]
    for clip in clips:
        for method, result in methods.items():
            rows.append((clip, method, *cells(result["clips"][clip])))
    for method, result in methods.items():
        rows.append((f"mean of {len(clips)}", method, *cells(result["mean"])))

    return "\n".join((*_aligned(rows, len(methods)), NOTE))


def conditions_table(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """The mean figures under several conditions, a method and figure per line, as plain text.

    Arguments:
        conditions: the "conditions" of results.json: {condition: {method: as in `table`}}.

    Returns: the lines, joined.
    """
    rows = [("method", "figure", *conditions)]
    for method in next(iter(conditions.values())):
        for heading, key, form in CONDITION_ROWS:
            values = (methods[method]["mean"][key] for methods in conditions.values())
            cells = ("-" if value is None else form.format(value) for value in values)
            rows.append((method, heading, *cells))
    return "\n".join(_aligned(rows, len(CONDITION_ROWS)))


def _aligned(rows: list[tuple[str, ...]], group: int) -> list[str]:
    """Rows as lines of aligned columns, two of text and the rest numbers; a rule per group."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    lines = []
    for index, row in enumerate(rows):
        if index and (index - 1) % group == 0:
            lines.append(rule)
        texts = (cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False))
        numbers = (cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))
        lines.append("  ".join((*texts, *numbers)))
    return [*lines, rule]


def cells(metrics: Mapping[str, float | None]) -> list[str]:
    """The figures of a row as text, in the order of COLUMNS."""
    values = ((metrics[key], form) for _, key, form in COLUMNS)
    return ["-" if value is None else form.format(value) for value, form in values]


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results.json: the old file stays, or the new one is there whole.

    Raises:
        ValueError: a figure is NaN or infinite, which JSON cannot hold.
        OSError: the folder cannot be written.
    """
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
