"""Speed and memory of inference on the CPU, side by side with the obvious formulation.

    python -m benchmarks.inference compare    obvious formulation, ours, bfloat16, other sizes
    python -m benchmarks.inference stages     where the time goes, stage by stage
    python -m benchmarks.inference growth     against frame size, number of frames, batch, threads

What is measured goes into figures/speed.json, which benchmarks/speed.py draws and tabulates. Four
frames of 160x160 become seven of 640x640, random weights and frames (they change neither time nor
memory), flow given. Variants take turns; medians; bfloat16 only where the processor computes in
it. `compare` runs the obvious formulation with the memory allocator as PyTorch finds it, and once
more as our scripts set it for themselves (utils/memory.py). "Processor" is the time of all threads
together, which other programs on the machine change less than they change the wall time.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.obvious import obvious
from benchmarks.speed import compare_table, rates, stage_rows, store
from benchmarks.timing import (
    Stopwatch,
    in_turns,
    interleaved_medians,
    mebibytes,
    peak_extra_memory,
    print_table,
    timed,
)
from flow import estimate_flow
from models import SIZES, build_network
from models.inference import autocast, pick_precision
from utils.config import parse_config, run_script

CPU = torch.device("cpu")
NEIGHBOURS = {"midpoint_flow": True, "global_skip": "neighbours", "skip_refinement": True}
SHIPPED_OPTIONS = {
    "small": {"midpoint_flow": True, "global_skip": "bicubic"},
    "fast": NEIGHBOURS,
    "large": NEIGHBOURS | {"offset_limit": 10.0, "propagation_blocks": 30},
}
# What main.py gives a network that it trains.
TRAINED_OPTIONS = NEIGHBOURS | {"global_skip": "enhanced", "offset_limit": 10.0}
OTHERS = tuple(size for size in SIZES if size != "mstt")  # beside the paper's
OBVIOUS = "obvious, float32"  # the variant that the others are compared with


@dataclass(frozen=True)
class Config:
    what: Literal["compare", "stages", "growth"]  # what is measured
    side: int = 160  # of the frames in `compare` and `stages`, LR pixels, a multiple of 80
    repeats: int = 3  # counted calls of each variant
    threads: int = 2  # of PyTorch and the native kernels
    sides: str = "80,160,320,640"  # of the frames in `growth`
    frames: str = "2,4,8,16,31"  # given frames in `growth`, at a side of 80
    batches: str = "1,2,4"  # windows at once in `growth`, at a side of 80


def main() -> None:
    config = parse_config(Config, __doc__, positional=("what",))
    torch.set_num_threads(config.threads)
    measure = {"compare": compare, "stages": stages, "growth": growth}[config.what]
    store(config.what, measure(config))


def precisions() -> list[str]:
    """Those that this processor computes in."""
    native = pick_precision(CPU) == torch.bfloat16
    return ["float32", "bfloat16"] if native else ["float32"]


def variants_of(
    arguments: Callable[[str, str], tuple], others: Sequence[str] = ()
) -> dict[str, tuple]:
    """The arguments of each formulation and precision by its name; see `in_turns`.

    The obvious formulation is there twice, for PyTorch's memory allocator and for ours.
    """
    names = (OBVIOUS, "obvious, freed memory kept, float32")
    variants = dict.fromkeys(names, arguments("obvious", "float32"))
    for formulation, precision in itertools.product(("ours", *others), precisions()):
        variants[f"{formulation}, {precision}"] = arguments(formulation, precision)
    return variants


def network_of(size: str) -> nn.Module:
    """A network of random weights: the paper's as released, the others with the skip they have."""
    torch.manual_seed(0)
    network = build_network(size, **SHIPPED_OPTIONS.get(size, {}))
    return network.to(memory_format=torch.channels_last).eval()


def random_window(side: int, count: int = 4, batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(batch, count, 3, side, side, generator=generator)
    flows = torch.randn(2, batch, count - 1, 2, side, side, generator=generator) * 0.3
    return frames, *flows


def call(
    network: nn.Module, inputs, precision: str | torch.dtype, device: torch.device = CPU
) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with torch.no_grad(), autocast(device, precision):
            return network(*inputs)

    return run


def counted(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The output of a call, and the operations of its convolutions and matrix products.

    Of Winograd's those of a direct convolution, four times as many as are done.
    """

    def direct(input, weight, *rest, out_shape, **options) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    def deformable(input, offset, mask, weight, *rest, out_shape, **options) -> int:
        return direct(input, weight, out_shape=out_shape)

    mapping = {torch.ops.mstt.deform_conv2d: deformable, torch.ops.mstt.convolution3x3: direct}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        output = run()
    return output, counter.get_total_flops()


def matrix_product_peak(dtype: torch.dtype, side: int = 2048) -> float:
    """Operations per processor second of a large matrix product, the best of seven."""
    a, b = torch.randn(2, side, side).to(dtype)
    return 2 * side**3 / min(timed(lambda: a @ b).processor for _ in range(7))


def make_call(side: int, formulation: str, precision: str) -> Callable[[], torch.Tensor]:
    """A call of the obvious formulation, of ours, or of another size."""
    network = network_of(formulation if formulation in OTHERS else "mstt")
    if formulation == "obvious":
        network = obvious(network)
    return call(network, random_window(side), precision)


def compare(config: Config) -> dict:
    """The table: time, processor time, peak memory, and how far the outputs are apart."""
    variants = variants_of(lambda *choice: (config.side, *choice), OTHERS)
    results = in_turns(make_call, variants, config.repeats, default=[OBVIOUS])
    peaks = {name: matrix_product_peak(getattr(torch, name)) for name in precisions()}
    rows, base = [], None
    for name, (side, formulation, precision) in variants.items():
        output, operations = counted(make_call(side, formulation, precision))
        base = output if base is None else base
        difference = None if formulation in OTHERS else (output.float() - base).abs().max().item()
        (wall, processor), peak_bytes = results[name]
        rows.append(
            {
                "name": name,
                "seconds": wall,
                "processor": processor,
                "peak_bytes": peak_bytes,
                "operations": operations,
                "share_of_peak": operations / processor / peaks[precision],
                "largest_difference": difference,
            }
        )
    print_table("4 frames in, 7 frames of 4 times the side out", compare_table(rows))
    print(f"one core's matrix products: {rates(peaks)}")
    return {"side": config.side, "rows": rows, "matrix_product_peak": peaks}


def stages(config: Config) -> dict:
    """Processor seconds of every stage, the stages of a module without those listed inside it."""
    inputs = random_window(config.side)
    result = {}
    for size, precision in itertools.product(SIZES, precisions()):
        network = network_of(size)
        modules = {
            "features": network.extraction,
            "interpolation": network.interpolation,
            "alignment": network.interpolation.alignment,
            "transformer": network.transformer,
            "attention": network.transformer.block.attention,
            "network": network,
            "blocks": network.reconstruction.blocks,
        }
        run = call(network, inputs, precision)
        run()
        watch, runs = Stopwatch(time.process_time), []
        for name, module in modules.items():
            module.forward = watch.call(name, module.forward)
        enlarge = network.reconstruction.enlarge
        network.reconstruction.enlarge = watch.call("upsampling", enlarge)
        for _ in range(config.repeats):
            watch.seconds.clear()
            run()
            runs.append(dict(watch.seconds))
        median = {name: float(np.median([spent[name] for spent in runs])) for name in runs[0]}
        parts = {
            "features": median["features"],
            "alignment": median["alignment"],
            "warp and fusion": median["interpolation"] - median["alignment"],
            "attention": median["attention"],
            "rest of transformer": median["transformer"] - median["attention"],
            "residual blocks": median["blocks"],
            "upsampling": median["upsampling"],
        }
        rest = median["network"] - sum(parts.values())
        result[f"{size}, {precision}"] = parts | {"skip and the rest": rest}
    given = (inputs[0][0].movedim(1, -1) * 255).byte().numpy()
    flows = {m: lambda m=m: estimate_flow(given, method=m) for m in ("pyflow", "dis")}
    flow = {name: s.processor for name, s in interleaved_medians(flows, config.repeats).items()}
    print_table("processor seconds of every stage", stage_rows(result))
    print("\nflow of 3 pairs: " + ", ".join(f"{k} {v:.2f} s" for k, v in flow.items()))
    return {"side": config.side, "networks": result, "flow": flow}


def growth(config: Config) -> dict:
    """Time and memory against the side, the given frames, the batch and the threads."""
    precision = precisions()[-1]
    cases = [("side", int(v), random_window(int(v))) for v in config.sides.split(",")]
    cases += [("frames", int(v), random_window(80, count=int(v))) for v in config.frames.split(",")]
    cases += [("batch", int(v), random_window(80, batch=int(v))) for v in config.batches.split(",")]
    cases += [("threads", n, random_window(80)) for n in range(1, config.threads + 1)]
    points = []
    for size in SIZES:
        network = network_of(size)
        for kind, value, inputs in cases:
            torch.set_num_threads(value if kind == "threads" else config.threads)
            run = call(network, inputs, precision)
            median = interleaved_medians({"": run}, config.repeats)[""]
            point = {"size": size, "kind": kind, "value": value, **median._asdict()}
            points.append(point | {"peak_bytes": peak_extra_memory(run)})
            print(
                f"{size:6} {kind:8} {value:4}  {median.wall:8.2f} s  "
                f"{median.processor:8.2f} processor s  {mebibytes(points[-1]['peak_bytes']):>10}",
                flush=True,
            )
    torch.set_num_threads(config.threads)
    return {"precision": precision, "points": points}


if __name__ == "__main__":
    run_script(main)
