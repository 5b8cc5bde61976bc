"""The passes in time over the shots of a sequence, each a piece of work for all processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from enhancement.enhancer import Enhancer
from enhancement.job import memory_told
from enhancement.levels import Levels
from enhancement.outputs import levels_of_output
from enhancement.repair import Denser, LowResolutionSink
from enhancement.shares import deal, missing_windows, wait_to_see
from enhancement.shots import Shot, ShotSink
from media.frames import Sink, Source


def run_passes(
    config: Any,
    enhancer: Enhancer,
    source: Source,
    sink: Sink,
    parts: Sequence[range],
) -> None:
    """Enhance a source as often as --times asks for; the last pass goes to the sink.

    The source has the enhancer's levels; `parts` are the frames of every shot.
    """
    levels, whole = enhancer.levels, len(parts) == 1
    sources = [source if whole else Shot(source, shot) for shot in parts]
    sinks = [sink if whole else ShotSink(sink, shot, source.count, config.times) for shot in parts]
    passes = config.times.bit_length() - 1
    # No window has more frames; the memory is planned for the longest of all shots and passes.
    longest = config.times // 2 * max(1, *(len(shot) - 1 for shot in parts)) + 1
    enhancer.window = min(enhancer.window, longest)
    for number in range(1, passes):
        pass_folder = enhancer.job.folder / f"pass{number}"
        folders = [pass_folder / f"{shot.start:08d}" for shot in parts]
        between = [LowResolutionSink(folder) for folder in folders]
        run_pass(enhancer, sources, between, levels, source.dtype, f"pass {number} of {passes}")
        sources = [Denser(*pair) for pair in zip(sources, folders, strict=True)]
    title = f"pass {passes} of {passes}" if passes > 1 else "enhancing"
    run_pass(enhancer, sources, sinks, *levels_of_output(config, source, levels), title)


def run_pass(
    enhancer: Enhancer,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    levels: Levels,
    dtype: np.dtype,
    title: str,
) -> None:
    """Enhance what is missing of every source, each process its share; all wait for all.

    `levels` and `dtype` are those of the result, `title` is the progress bar's.
    """
    team, job = enhancer.team, enhancer.job

    def missing() -> list[list]:
        return [
            missing_windows(*pair, enhancer.window) for pair in zip(sources, sinks, strict=True)
        ]

    def begin() -> list[list]:
        cuts = missing()
        starts = [(shot, cut[0]) for shot, part in enumerate(cuts) for cut in part]
        job.clear_windows(title, starts)
        return cuts

    shares = deal(team.together(begin, first_alone=True), team.rank, team.world)
    if team.world > 1:
        enhancer.agree_on_tile(sources[0])

    def work() -> None:
        with memory_told(job.output):
            for shot, (*pair, share) in enumerate(zip(sources, sinks, shares, strict=True)):
                if share.elsewhere and not share.cuts:
                    continue
                enhancer.run(*pair, levels, dtype, title, share, shot)
                if team.has_failed:
                    break

    team.together(work)
    team.together(lambda: wait_to_see(lambda: not any(missing()), job.folder, team))
