"""A network at work on a sequence: window by window, tile by tile, in the memory there is.

While the network works on one window, a thread reads the next one and another writes the one
before; no more than these three are ever held, and of frames too large for that one. What the
network makes of a frame alone is made once, though two windows see the frame.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from enhancement import tiling
from enhancement.job import Job, WindowBuffer, window_name
from enhancement.levels import Levels, band_groups, fill_missing, view_rgb
from enhancement.shares import Cut, Share, missing_windows
from media.frames import Sink, Source, remove
from models import MSTT
from models.blocks import SCALE, interleave
from models.enhanced_flow import EnhancedFlow
from models.inference import ENHANCED, NotFinite, autocast, given_flow
from utils.memory import is_out_of_memory, return_freed_memory
from utils.streams import progress_bar
from utils.team import ALONE, Team

# Pixels; of smaller frames, all pairs are worked on at the same time, and three windows held.
LARGE = 4_000_000
PROGRESS = "{l_bar}{bar}| {n:.1f}/{total:.1f} MP [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

T = TypeVar("T")
Flows = tuple[np.ndarray, np.ndarray]


@dataclass(eq=False)
class GivenFrame:
    """A frame of one window or two."""

    pixels: np.ndarray  # (H, W, bands), all with data
    mask: np.ndarray  # where they had none, (H, W, bands); or np.ma.nomask
    uses: int  # how many windows still need it
    # What the network made of it alone, for another window.
    made: dict[Any, torch.Tensor | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """Given frames from `start` on, the flows between them unless the network makes those itself.

    Its first `first_new` outputs come from the window before.
    """

    start: int
    first_new: int
    frames: list[GivenFrame]
    flows: Flows | None


@dataclass(eq=False)
class Enhancer:
    """A network at work on windows of frames, in tiles."""

    network: MSTT  # in evaluation mode, on `device`
    device: torch.device
    precision: torch.dtype  # of its convolutions, see `models.inference.pick_precision`
    flow_method: str  # one of `models.inference.FLOWS`
    window: int  # given frames that it sees at once
    tile: int  # LR pixels, see `enhancement.tiling`; 0: what the free memory allows
    overlap: int  # of tiles, LR pixels
    levels: Levels  # of the given frames
    job: Job  # keeps the unfinished work, and the tile for a resumed run
    say: Callable[..., None]  # told "progress", see `enhance.json_line`
    team: Team = ALONE  # the processes that work on the same job

    def __post_init__(self):
        self.flow = EnhancedFlow(self.network) if self.flow_method == ENHANCED else None

    def run(
        self,
        source: Source,
        sink: Sink,
        levels: Levels,
        dtype: np.dtype,
        title: str,
        share: Share | None = None,
        shot: int = 0,
    ) -> None:
        """Enhance frames of a source, window by window.

        Arguments:
            levels, dtype: of the result.
            title: of the progress bar.
            share: what this process makes of it; None: all that the sink does not have already.
            shot: the number of the source, if there are several.
        """
        share = share or Share(missing_windows(source, sink, self.window))
        total = 2 * source.count - 1 - share.elsewhere
        finished = total - share.frames
        self.place = title, shot
        self.megapixels = SCALE**2 * source.height * source.width / 1e6
        with (
            progress_bar(
                total=total * self.megapixels,
                initial=finished * self.megapixels,
                desc=title,
                unit="MP",
                bar_format=PROGRESS,
            ) as self.progress,
            ThreadPoolExecutor(1) as writer,  # on Ctrl-C too, what is being written gets finished
        ):
            reading = self.read_windows(source, share.cuts)
            is_large = source.height * source.width >= LARGE

            def write(window: Window, buffer: WindowBuffer) -> None:
                nonlocal finished
                start = 2 * window.start + window.first_new
                masks = output_masks([frame.mask for frame in window.frames])[window.first_new :]
                sink.write(start, map(with_mask, buffer, masks))
                remove(buffer.folder)
                finished += len(masks)
                self.progress.set_postfix_str(f"frame {finished}/{total}", refresh=False)
                self.say("progress", step=title, finished=finished, total=total)

            writing = None
            for window in reading if is_large else one_ahead(reading):
                buffer = self.enhance_window(source, window, levels, dtype)
                if writing:
                    writing.result()
                if is_large:  # leaves room to cache the frames that were just written
                    return_freed_memory()
                writing = writer.submit(write, window, buffer)
                if is_large:
                    writing.result()
                if self.team.has_failed:
                    break
            if writing:
                writing.result()

    def read_windows(self, source: Source, cuts: list[Cut]) -> Iterator[Window]:
        """The windows of `models.inference.windows`, every frame read once."""
        frames: dict[int, GivenFrame] = {}
        for start, stop, first_new in cuts:
            for index in range(start, stop):
                if index not in frames:
                    uses = sum(cut[0] <= index < cut[1] for cut in cuts)
                    pixels = source.read(index)
                    frames[index] = GivenFrame(fill_missing(pixels), np.ma.getmask(pixels), uses)
            frames = {index: frames[index] for index in range(start, stop)}
            flows = None
            if self.flow is None:
                given = [frame.pixels for frame in frames.values()]
                views = np.stack([view_rgb(source, self.levels, pixels) for pixels in given])
                flows = window_flow(views, self.flow_method)
            yield Window(start, first_new, list(frames.values()), flows)

    def enhance_window(
        self, source: Source, window: Window, levels: Levels, dtype: np.dtype
    ) -> WindowBuffer:
        """Enhance one window; when memory runs out, with the next smaller tile.

        Returns: the new ones of 2N - 1 frames, (SCALE * H, SCALE * W, bands), of levels and dtype.
        Raises: ValueError: memory ran out, with a tile that the user chose or with the smallest.
        """
        frames, flows, first_new = window.frames, window.flows, window.first_new
        before = self.progress.n, self.progress.initial
        while True:
            tile = self.pick_tile(source)
            new = 2 * len(frames) - 1 - first_new
            folder = self.folder_for(window, tile)
            try:
                buffer = WindowBuffer(folder, new, SCALE * source.width, source.bands, dtype)
                for strip in self.strips(source, frames, flows, tile, first_new, buffer.carried):
                    buffer.append(strip[first_new:], levels)
                    del strip  # or it would be held while the next one is made
                    buffer.keep()
                for frame in frames:
                    frame.uses -= 1
                return buffer
            except Exception as error:  # OpenCV has one of its own
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler nothing holds the tensors of the failed attempt any more.
            self.shrink_tile(source, tile)
            self.progress.n, self.progress.initial = before
            for frame in frames:
                frame.made.clear()

    def folder_for(self, window: Window, tile: int) -> Path:
        """The folder for a window made of such tiles; those of other tiles go."""
        name = window_name(*self.place, window.start)
        folder = self.job.folder / f"{name}tile {tile}"
        for other in self.job.folder.glob(f"{name}*"):
            if other != folder:
                remove(other)
        return folder

    def strips(
        self,
        source: Source,
        frames: list[GivenFrame],
        flows: Flows | None,
        tile: int,
        first_new: int,
        carried: tiling.Carried,
    ) -> Iterator[np.ndarray]:
        """Rows of the result from the top down, see `tiling.blend_tiles`; black 0 and white 1."""
        groups = band_groups(source.bands, source.colour, source.alpha)
        axes = (source.height, source.width)
        new = 2 * len(frames) - 1 - first_new
        tiles = tiling.tile_count(*axes, tile, self.overlap)
        share = new * self.megapixels / tiles

        def alone(key: Any, make: Callable[..., T], *inputs: list[Any]) -> list[T]:
            """What `make` makes of every frame alone, as far as another window has not."""
            results = []
            for frame, *values in zip(frames, *inputs, strict=True):
                result = frame.made.pop(key) if key in frame.made else make(*values)
                if frame.uses > 1 and tiles == 1:  # of many tiles it would fill the memory
                    frame.made[key] = result
                results.append(result)
            return results

        def predict(rows: slice, columns: slice) -> np.ndarray:
            unit = self.levels.to_unit(np.stack([frame.pixels[rows, columns] for frame in frames]))
            # Networks are at a loss outside of black and white: the values beyond pass beside them.
            beyond = unit - np.clip(unit, 0, 1)
            unit -= beyond
            flow = flow_between = None
            if flows:
                flow = [torch.from_numpy(both[None, ..., rows, columns]) for both in flows]
                flow = [both.to(self.device) for both in flow]
            height, width = (SCALE * side for side in unit.shape[1:3])
            result = np.empty((2 * len(frames) - 1, height, width, source.bands), np.float32)
            for group in groups:
                inputs = torch.from_numpy(unit[..., list(group)]).movedim(-1, 1)[None]
                inputs = inputs.to(self.device)
                # Not inference_mode: autocast would convert the weights for every frame in it.
                with torch.no_grad(), autocast(self.device, self.precision):
                    single = inputs.split(1, dim=1)
                    features = alone(("features", group), self.network.extract, single)
                    if flow is None:  # of the first group: all bands move alike
                        larger = alone("enlarged", self.flow.enlarge, single, features)
                        flow = self.flow.between_enlarged(torch.cat(larger, dim=1))
                        flow_between = self.flow.between_finished()
                        del larger
                    known = joined(features)
                    del features
                    output = self.network(inputs, *flow, known, flow_between)[0].float()
                if not torch.isfinite(output).all():
                    raise NotFinite()
                if len(set(group)) == 1:
                    output, group = output.mean(dim=1, keepdim=True), group[:1]
                result[..., list(group)] = output.movedim(1, -1).cpu()
            if source.alpha is not None:
                result[..., [source.alpha]] = enlarged(unit[..., [source.alpha]])
            if beyond.any():
                result += enlarged(beyond)
            # Sums of shares may round past the total, which tqdm complains about.
            self.progress.update(min(share, self.progress.total - self.progress.n))
            return result

        inherited = share * tiling.tile_count(*axes, tile, self.overlap, carried.finished)
        self.progress.initial += inherited  # or they would count as fast ones
        self.progress.update(min(inherited, self.progress.total - self.progress.n))
        yield from tiling.blend_tiles(predict, *axes, tile, self.overlap, carried)

    def pick_tile(self, source: Source) -> int:
        """The tile of this run: the user's, that of the run which is resumed, or what fits."""
        if self.tile:
            return self.tile
        if "tile" not in self.job.notes:
            host = tiling.available_memory(torch.device("cpu")) // self.team.local_world
            gpu = tiling.available_memory(self.device) if self.device.type == "cuda" else None
            options, sizes = self.network.options, (source.height, source.width)
            tile = tiling.choose_tile(
                *sizes, options, source.bands, self.overlap, host, gpu, self.window
            )
            self.job.note("tile", tile)
        return self.job.notes["tile"]

    def agree_on_tile(self, source: Source) -> None:
        """Take the smallest tile that any process of the team would: other tiles, other frames."""
        self.job.note("tile", min(self.team.gather(self.pick_tile(source))))

    def shrink_tile(self, source: Source, tile: int) -> None:
        """Go on with a smaller tile after memory ran out, unless it is the user's or the least."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = tiling.smaller_tile(tile, source.height, source.width, self.overlap)
        if smaller is None:
            raise ValueError(f"out of memory, even with tiles of {tile}")
        if self.tile:
            raise ValueError(
                f"out of memory with --tile {tile}; try --tile {smaller} --overwrite, which starts "
                "again: other tiles make slightly other frames"
            )
        self.progress.write(f"out of memory with tiles of {tile}, going on with {smaller}")
        self.job.note("tile", smaller)


def joined(features: list[torch.Tensor | None]) -> torch.Tensor | None:
    """Features of single frames, (1, 1, C, H, W), as those of a window, (1, N, C, H, W)."""
    if features[0] is None:
        return None
    # Of four dimensions, so that the channels stay last in memory, as the network makes them.
    return torch.cat([one[0] for one in features]).unflatten(0, (1, -1))


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, the next of which a thread makes while the caller works on one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = pool.submit(next, items, end)
            yield item


def enlarged(frames: np.ndarray) -> np.ndarray:
    """What needs no network: N frames (N, H, W, bands) bilinear, between two of them their mean.

    Returns: 2N - 1 frames, (SCALE * H, SCALE * W, bands).
    """
    bands = torch.from_numpy(frames).movedim(-1, 1)
    x = F.interpolate(bands, scale_factor=SCALE, mode="bilinear")[None]  # (1, N, bands, sH, sW)
    return interleave(x, (x[:, :-1] + x[:, 1:]) / 2)[0].movedim(1, -1).numpy()


def window_flow(views: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """`given_flow` of (N, H, W, 3) uint8; of large frames pair by pair, which takes less memory."""
    count, height, width, _ = views.shape
    if height * width < LARGE:
        return given_flow(views, method)
    flows = np.empty((2, count - 1, 2, height, width), np.float32)
    for index in range(count - 1):
        for direction, flow in enumerate(given_flow(views[index : index + 2], method)):
            flows[direction, index] = flow[0]
    return flows[0], flows[1]


def output_masks(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Where the frames of the result have no data, LR: as given, and between, where either has."""
    between = [np.ma.mask_or(*pair, shrink=False) for pair in itertools.pairwise(masks)]
    return [mask for pair in zip(masks, [*between, None], strict=True) for mask in pair][:-1]


def with_mask(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame of the result, masked where its LR mask (H, W, bands) says so."""
    if mask is np.ma.nomask:
        return pixels
    if (mask == mask[..., :1]).all():  # one band of it will do
        mask = mask[..., :1]
    mask = mask.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    return np.ma.array(pixels, mask=np.broadcast_to(mask, pixels.shape))
