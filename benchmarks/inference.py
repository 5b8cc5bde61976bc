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

import contextlib
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.obvious import obvious
from benchmarks.speed import compare_table, rates, store
from benchmarks.timing import (
    in_turns,
    interleaved_medians,
    peak_extra_memory,
    print_table,
)
from flow import estimate_flow
from models import SIZES, build_network
from models.inference import autocast, pick_precision
from utils.config import parse_config, run_script

CPU = torch.device("cpu")
SHIPPED_OPTIONS = {
    "small": {"midpoint_flow": True, "global_skip": "bicubic"},
    "fast": {"midpoint_flow": True, "global_skip": "neighbours", "skip_refinement": True},
}
OTHERS = tuple(size for size in SIZES if size != "mstt")  # beside the paper's


@dataclass(frozen=True)
class Config:
    what: str  # compare, stages or growth
    side: int = 160  # of the frames in `compare` and `stages`, LR pixels, a multiple of 80
    repeats: int = 3  # counted calls of each variant
    threads: int = 2  # of PyTorch and the native kernels
    sides: str = "80,160,320,640"  # of the frames in `growth`
    frames: str = "2,4,8,16,31"  # given frames in `growth`, at a side of 80
    batches: str = "1,2,4"  # windows at once in `growth`, at a side of 80


def main() -> None:
    config = parse_config(Config, __doc__, positional=("what",))
    measures = {"compare": compare, "stages": stages, "growth": growth}
    if config.what not in measures:
        known = ", ".join(measures)
        raise ValueError(f"{config.what!r} is not a benchmark; choose one of {known}")
    torch.set_num_threads(config.threads)
    store(config.what, measures[config.what](config))


def precisions() -> list[str]:
    """Those that this processor computes in."""
    native = pick_precision(CPU) == torch.bfloat16
    return ["float32", "bfloat16"] if native else ["float32"]


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


def call(network: nn.Module, inputs, precision: str) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with torch.no_grad(), autocast(CPU, precision):
            return network(*inputs)

    return run


class Counted:
    """A call that keeps its output and the operations of its convolutions and matrix products."""

    def __init__(self, run: Callable[[], torch.Tensor]):
        self.run = run

    def __call__(self) -> None:
        mapping = {
            torch.ops.mstt.deform_conv2d: self._deformable,
            torch.ops.mkldnn._convolution_pointwise: self._fused,
            torch.ops.mstt.convolution3x3: self._winograd,
        }
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            self.output = self.run()
        self.operations = counter.get_total_flops()

    @staticmethod
    def _deformable(input, offset, mask, weight, *rest, out_shape, **options) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    @staticmethod
    def _fused(input, weight, *rest, out_shape, **options) -> int:
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    @staticmethod
    def _winograd(input, weight, *rest, out_shape, **options) -> int:
        """Those of a direct convolution, four times as many as are done."""
        return 2 * math.prod(out_shape) * math.prod(weight[1:])


def matrix_product_peak(dtype: torch.dtype, side: int = 2048) -> float:
    """Operations per processor second of a large matrix product, the best of seven."""
    a, b = torch.randn(2, side, side).to(dtype)
    best = math.inf
    for _ in range(7):
        start = time.process_time()
        a @ b
        best = min(best, time.process_time() - start)
    return 2 * side**3 / best


def make_call(side: int, formulation: str, precision: str) -> Callable[[], torch.Tensor]:
    """A call of the obvious formulation, of ours, or of another size."""
    network = network_of(formulation if formulation in OTHERS else "mstt")
    if formulation == "obvious":
        network = obvious(network)
    return call(network, random_window(side), precision)


def compare(config: Config) -> dict:
    """The table: time, processor time, peak memory, and how far the outputs are apart."""
    variants = {
        "obvious, float32": (config.side, "obvious", "float32"),
        "obvious, freed memory kept, float32": (config.side, "obvious", "float32"),
    }
    for formulation, precision in itertools.product(("ours", *OTHERS), precisions()):
        variants[f"{formulation}, {precision}"] = (config.side, formulation, precision)
    results = in_turns(make_call, variants, config.repeats, default=["obvious, float32"])
    peaks = {name: matrix_product_peak(getattr(torch, name)) for name in precisions()}
    rows, base = [], None
    for name, arguments in variants.items():
        counted = Counted(make_call(*arguments))
        counted()
        total, output = counted.operations, counted.output.float()
        base = output if base is None else base
        result = results[name]
        rows.append(
            {
                "name": name,
                "seconds": result.wall,
                "processor": result.processor,
                "peak_bytes": result.peak_bytes,
                "operations": total,
                "share_of_peak": total / result.processor / peaks[arguments[2]],
                "largest_difference": None
                if arguments[1] in OTHERS
                else (output - base).abs().max().item(),
            }
        )
    print_compare(rows)
    print(f"one core's matrix products: {rates(peaks)}")
    return {"side": config.side, "rows": rows, "matrix_product_peak": peaks}


def print_compare(rows: list[dict]) -> None:
    print_table("4 frames in, 7 frames of 4 times the side out", compare_table(rows))


@contextlib.contextmanager
def stopwatch(modules: dict[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Processor seconds spent in every module, summed over its calls."""
    spent, starts, hooks = defaultdict(float), {}, []
    for name, module in modules.items():

        def begin(module, inputs, name=name):
            starts[name] = time.process_time()

        def end(module, inputs, output, name=name):
            spent[name] += time.process_time() - starts[name]

        hooks += [
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(end),
        ]
    yield spent
    for hook in hooks:
        hook.remove()


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
            "reconstruction": network.reconstruction,
            "network": network,
            "blocks": network.reconstruction.blocks,
        }
        run = call(network, inputs, precision)
        run()
        runs = []
        for _ in range(config.repeats):
            with stopwatch(modules) as spent:
                run()
            runs.append(spent)
        median = {name: float(np.median([spent[name] for spent in runs])) for name in modules}
        result[f"{size}, {precision}"] = {
            "features": median["features"],
            "alignment": median["alignment"],
            "warp and fusion": median["interpolation"] - median["alignment"],
            "attention": median["attention"],
            "rest of transformer": median["transformer"] - median["attention"],
            "residual blocks": median["blocks"],
            "upsampling": median["reconstruction"],
        }
        rest = median["network"] - sum(result[f"{size}, {precision}"].values())
        result[f"{size}, {precision}"]["skip and the rest"] = rest
    given = (inputs[0][0].movedim(1, -1) * 255).byte().numpy()
    flows = {m: lambda m=m: estimate_flow(given, method=m) for m in ("pyflow", "dis")}
    flow = {name: s.processor for name, s in interleaved_medians(flows, config.repeats).items()}
    for name, parts in result.items():
        total = sum(parts.values())
        print(f"\n{name}: {total:.2f} processor seconds")
        for stage, seconds in parts.items():
            print(f"  {stage:<22}{seconds:7.2f} s  {seconds / total:4.0%}")
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
            memory = (points[-1]["peak_bytes"] or 0) / 2**20
            print(
                f"{size:6} {kind:8} {value:4}  {median.wall:8.2f} s  "
                f"{median.processor:8.2f} processor s  {memory:6.0f} MiB",
                flush=True,
            )
    torch.set_num_threads(config.threads)
    return {"precision": precision, "points": points}


if __name__ == "__main__":
    run_script(main)
