"""What the benchmarks of inference and training found, kept, drawn and tabulated.

    python -m benchmarks.speed plot              figures/speed.png
    python -m benchmarks.speed tables            the tables of docs/speed.md, printed
    python -m benchmarks.speed tables --write    put into docs/speed.md, between its markers

figures/speed.json keeps the newest figures of every kind of processor (AVX2, AVX512, ...).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.timing import Seconds, commit, machine, mebibytes
from models import SIZES
from utils.config import parse_config, run_script

FIGURES = Path(__file__).parents[1] / "figures"
SPEED = FIGURES / "speed.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "speed.md"
MARKERS = ("<!-- speed:begin -->", "<!-- speed:end -->")


@dataclass(frozen=True)
class Config:
    what: Literal["plot", "tables"]  # what is made
    write: bool = False  # put the tables between the markers of docs/speed.md


def main() -> None:
    config = parse_config(Config, __doc__, positional=("what",))
    plot() if config.what == "plot" else tables(config.write)


def store(key: str, value: dict) -> None:
    """Put measurements into figures/speed.json, next to those of other runs and processors."""
    values = stored()
    on = {"machine": machine(), "commit": commit(), "threads": torch.get_num_threads()}
    values.setdefault(torch.backends.cpu.get_cpu_capability(), {})[key] = on | value
    SPEED.write_text(json.dumps(values, indent=1) + "\n")


def stored() -> dict[str, dict[str, dict]]:
    """The measurements of earlier runs: instruction set -> kind of measurement -> figures."""
    return json.loads(SPEED.read_text()) if SPEED.exists() else {}


def rates(peaks: dict[str, float]) -> str:
    return ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peaks.items())


def faster(base: Seconds, row: Seconds) -> dict[str, str]:
    """Columns of a table: how many times as fast as the base."""
    return {
        "faster": f"{base.wall / row.wall:.1f}x",
        "faster, processor": f"{base.processor / row.processor:.1f}x",
    }


def compare_table(rows: list[dict]) -> list[dict[str, str]]:
    times = [Seconds(row["seconds"], row["processor"]) for row in rows]
    return [
        {"formulation": row["name"], "seconds": f"{row['seconds']:.2f}"}
        | faster(times[0], time)
        | {
            "peak memory": mebibytes(row["peak_bytes"]),
            "TFLOP": f"{row['operations'] / 1e12:.2f}",
            "of matrix-product peak": f"{row['share_of_peak']:.0%}",
            "largest difference": "another network"
            if row["largest_difference"] is None
            else f"{row['largest_difference']:.1e}",
        }
        for row, time in zip(rows, times, strict=True)
    ]


def plot() -> None:
    """Log-log: processor time and peak memory against the side and the number of frames."""
    measured = {name: parts["growth"] for name, parts in stored().items() if "growth" in parts}
    if not measured:
        raise ValueError(f"{SPEED} has no growth; first run python -m benchmarks.inference growth")
    figure = Figure(figsize=(9, 3.4 * len(measured)), layout="constrained")
    kinds = {"side": "side of four LR frames, pixels", "frames": "given frames of 80x80"}
    axes = figure.subplots(len(measured), 2, squeeze=False)
    for row, (name, growth) in zip(axes, measured.items(), strict=True):
        for axis, (kind, label) in zip(row, kinds.items(), strict=True):
            draw_growth(axis, [p for p in growth["points"] if p["kind"] == kind])
            axis.set(xlabel=label, title=f"{name}, {growth['precision']}")
    figure.savefig(FIGURES / "speed.png", dpi=130)
    print(FIGURES / "speed.png")


def draw_growth(axis: Axes, points: list[dict]) -> None:
    """Time (solid) and memory (dotted) of the networks against the points' value."""
    memory_axis = axis.twinx()
    measured = {p["size"] for p in points}
    for index, size in enumerate(size for size in SIZES if size in measured):
        chosen = [p for p in points if p["size"] == size]
        values = [p["value"] for p in chosen]
        axis.loglog(values, [p["processor"] for p in chosen], f"C{index}o-", label=size)
        if all(p["peak_bytes"] for p in chosen):
            mebibytes = [p["peak_bytes"] / 2**20 for p in chosen]
            memory_axis.loglog(values, mebibytes, f"C{index}s:", markersize=4)
    axis.set_ylabel("processor seconds (solid)")
    ticks = sorted({p["value"] for p in points})
    axis.set_xticks(ticks, [str(value) for value in ticks], minor=False)
    axis.minorticks_off()
    memory_axis.set_ylabel("peak memory, MiB (dotted)")
    axis.grid(alpha=0.3)
    axis.legend()


def markdown(rows: list[dict[str, str]]) -> str:
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_section(name: str, parts: dict[str, dict]) -> str:
    """The tables of one processor, those that were measured."""
    text = ""
    if table := parts.get("compare"):
        text += f"""\
**{name}**: {table["machine"]}, {table["threads"]} threads, commit {table["commit"]};
frames of {table["side"]}x{table["side"]}. One core's large matrix products reach
{rates(table["matrix_product_peak"])}; convolutions can pass that (`benchmarks/NOTES.md`).

{markdown(compare_table(table["rows"]))}

"""
    if table := parts.get("stages"):
        text += f"""\
Where the processor time goes there (commit {table["commit"]}, {table["side"]}x{table["side"]}):

{markdown(stage_rows(table["networks"]))}

"""
    if table := parts.get("training"):
        text += f"""\
A training step of the full network there, batch 1, four given frames of 80x80 (forward, loss,
backward, Adam; without the loader; commit {table["commit"]}):

{markdown(table["rows"])}

"""
    return text


def stage_rows(networks: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    rows = []
    for stage in next(iter(networks.values())):
        row = {"stage": stage}
        for head, seconds in networks.items():
            row[head] = f"{seconds[stage]:.2f} s, {seconds[stage] / sum(seconds.values()):.0%}"
        rows.append(row)
    return rows


def tables(write: bool) -> None:
    """Print the tables, or put them into docs/speed.md."""
    sections = [machine_section(name, parts) for name, parts in stored().items()]
    if not sections:
        raise ValueError(f"{SPEED} is missing; first run python -m benchmarks.inference compare")
    text = "\n".join(sections)
    if not write:
        print(text)
        return
    begin, end = MARKERS
    content, count = re.subn(
        f"(?s)(?<={begin}\n).*?(?={end})", lambda _: text, DOCUMENT.read_text()
    )
    if count != 1:
        raise ValueError(f"{DOCUMENT} needs one line {begin} and below it one line {end}")
    DOCUMENT.write_text(content)


if __name__ == "__main__":
    run_script(main)
