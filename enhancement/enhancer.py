"""A network at work on a sequence: window by window, tile by tile, in the memory there is."""

import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from tqdm import tqdm

from enhancement import tiling
from enhancement.job import Job, WindowBuffer
from enhancement.levels import Levels, band_groups, fill_missing, missing_pixels, view_rgb
from media.frames import Sink, Source
from models import MSTT
from models.blocks import SCALE
from models.enhanced_flow import EnhancedFlow
from models.inference import NOT_FINITE, autocast, given_flow, windows, with_flow

# Pixels; all pairs of smaller frames are worked on at the same time.
LARGE = 4_000_000
PROGRESS = "{l_bar}{bar}| {n:.1f}/{total:.1f} MP [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Enhancer:
    """A network at work on windows of frames, in tiles.

    Arguments:
        network: in evaluation mode, on `device`.
        device: where it runs.
        precision: what its convolutions compute in, see `models.inference.pick_precision`.
        flow_method: one of `models.inference.FLOWS`.
        tile, overlap: LR pixels, see `enhancement.tiling`; tile 0: what the free memory allows.
        levels: of the given frames.
        job: keeps the unfinished work, and the tile for a resumed run.
    """

    def __init__(
        self,
        network: MSTT,
        device: torch.device,
        precision: torch.dtype,
        flow_method: str,
        tile: int,
        overlap: int,
        levels: Levels,
        job: Job,
    ):
        self.network = with_flow(network, flow_method)
        self.device, self.precision = device, precision
        self.flow_method, self.tile, self.overlap = flow_method, tile, overlap
        self.levels, self.job = levels, job

    def run(self, source: Source, sink: Sink, levels: Levels, dtype: np.dtype, title: str) -> None:
        """Enhance all frames of a source, window by window, except those the sink has already.

        Arguments:
            source: LR frames.
            sink: takes the result.
            levels, dtype: of the result.
            title: of the progress bar.
        """
        total, finished = 2 * source.count - 1, sink.finished()
        self.megapixels = SCALE**2 * source.height * source.width / 1e6
        with tqdm(
            total=total * self.megapixels,
            initial=finished * self.megapixels,
            desc=title,
            unit="MP",
            bar_format=PROGRESS,
        ) as self.progress:
            for start, stop, first_new in windows(source.count):
                self.progress.set_postfix_str(f"frame {finished}/{total}")
                if finished < 2 * stop - 1:
                    frames = [source.read(index) for index in range(start, stop)]
                    masks = output_masks([missing_pixels(pixels) for pixels in frames])[first_new:]
                    buffer = self.window(source, frames, first_new, levels, dtype)
                    sink.write(2 * start + first_new, map(with_mask, buffer, masks))
                    finished = 2 * stop - 1

    def window(
        self,
        source: Source,
        frames: list[np.ndarray],
        first_new: int,
        levels: Levels,
        dtype: np.dtype,
    ) -> WindowBuffer:
        """Enhance one window; when memory runs out, with the next smaller tile.

        Arguments:
            source: of the frames.
            frames: N given ones, each (H, W, bands).
            first_new: how many outputs to leave out at the beginning.
            levels, dtype: of the result.

        Returns: the remaining ones of 2N - 1 frames, (SCALE * H, SCALE * W, bands).

        Raises:
            ValueError: memory ran out, with a tile that the user chose or with the smallest.
        """
        frames = [fill_missing(pixels) for pixels in frames]
        views = np.stack([view_rgb(source, self.levels, pixels) for pixels in frames])
        flows = window_flow(views, self.flow_method)
        del views
        before = self.progress.n
        while True:
            tile = self.pick_tile(source)
            buffer = WindowBuffer(
                self.job.folder / "window",
                2 * len(frames) - 1 - first_new,
                SCALE * source.width,
                source.bands,
                dtype,
            )
            try:
                for strip in self.strips(source, frames, flows, tile, first_new):
                    buffer.append(strip[first_new:], levels)
                    del strip  # or it would be held while the next one is made
                return buffer
            except (RuntimeError, MemoryError) as error:
                if not tiling.is_out_of_memory(error):
                    raise
            # Outside of the handler nothing holds the tensors of the failed attempt any more.
            self.shrink_tile(source, tile)
            self.progress.n = before

    def strips(
        self,
        source: Source,
        frames: list[np.ndarray],
        flows: tuple[np.ndarray, np.ndarray],
        tile: int,
        first_new: int,
    ) -> Iterator[np.ndarray]:
        """Rows of the result from the top down, see `tiling.blend_tiles`; black 0 and white 1."""
        groups = band_groups(source.bands, source.colour, source.alpha)
        axes = (source.height, source.width)
        new = 2 * len(frames) - 1 - first_new
        share = new * self.megapixels / tiling.tile_count(*axes, tile, self.overlap)

        def predict(rows: slice, columns: slice) -> np.ndarray:
            unit = self.levels.to_unit(np.stack([pixels[rows, columns] for pixels in frames]))
            # Networks are at a loss outside of black and white: the values beyond pass beside them.
            beyond = unit - np.clip(unit, 0, 1)
            unit -= beyond
            flow = [torch.from_numpy(both[None, ..., rows, columns]) for both in flows]
            flow = [both.to(self.device) for both in flow]
            height, width = (SCALE * side for side in unit.shape[1:3])
            result = np.empty((2 * len(frames) - 1, height, width, source.bands), np.float32)
            network = self.network
            if isinstance(network, EnhancedFlow):  # all bands move alike
                colours = torch.from_numpy(unit[..., list(groups[0])]).movedim(-1, 1)[None]
                with torch.no_grad(), autocast(self.device, self.precision):
                    flow = network.between(colours.to(self.device))
                network = network.network
            for group in groups:
                inputs = torch.from_numpy(unit[..., list(group)]).movedim(-1, 1)[None]
                # Not inference_mode: autocast would convert the weights for every frame in it.
                with torch.no_grad(), autocast(self.device, self.precision):
                    output = network(inputs.to(self.device), *flow)[0].float()
                if not torch.isfinite(output).all():
                    raise ValueError(NOT_FINITE)
                if len(set(group)) == 1:
                    result[..., group[0]] = output.mean(dim=1).cpu()
                else:
                    result[..., list(group)] = output.movedim(1, -1).cpu()
            if source.alpha is not None:
                result[..., [source.alpha]] = enlarged(unit[..., [source.alpha]])
            if beyond.any():
                result += enlarged(beyond)
            # Sums of shares may round past the total, which tqdm complains about.
            self.progress.update(min(share, self.progress.total - self.progress.n))
            return result

        yield from tiling.blend_tiles(predict, *axes, tile, self.overlap)

    def pick_tile(self, source: Source) -> int:
        """The tile of this run: the user's, that of the run which is resumed, or what fits."""
        if self.tile:
            return self.tile
        if "tile" not in self.job.notes:
            host = tiling.available_memory(torch.device("cpu"))
            gpu = tiling.available_memory(self.device) if self.device.type == "cuda" else None
            channels, sizes = self.network.options["channels"], (source.height, source.width)
            tile = tiling.choose_tile(*sizes, channels, source.bands, self.overlap, host, gpu)
            self.job.note("tile", tile)
        return self.job.notes["tile"]

    def shrink_tile(self, source: Source, tile: int) -> None:
        """Go on with a smaller tile after memory ran out.

        Raises:
            ValueError: it is the user's choice, or there is no smaller one.
        """
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


def enlarged(frames: np.ndarray) -> np.ndarray:
    """What needs no network: N frames (N, H, W, bands) bilinear, between two of them their mean.

    Returns: 2N - 1 frames, (SCALE * H, SCALE * W, bands).
    """
    count, height, width, bands = frames.shape
    larger = np.empty((2 * count - 1, SCALE * height, SCALE * width, bands), np.float32)
    for index, band in itertools.product(range(count), range(bands)):
        size = (SCALE * width, SCALE * height)
        plane = np.ascontiguousarray(frames[index, ..., band])
        larger[2 * index, ..., band] = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    larger[1::2] = (larger[:-1:2] + larger[2::2]) / 2
    return larger


def window_flow(views: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """`given_flow`, but between large frames pair by pair, which takes less memory.

    Arguments:
        views: (N, H, W, 3) uint8.
        method: of the flow.
    """
    count, height, width, _ = views.shape
    if height * width < LARGE:
        return given_flow(views, method)
    flows = np.empty((2, count - 1, 2, height, width), np.float32)
    for index in range(count - 1):
        for direction, flow in enumerate(given_flow(views[index : index + 2], method)):
            flows[direction, index] = flow[0]
    return flows[0], flows[1]


def output_masks(masks: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """Where the frames of the result have no data, LR: as given, and between, where either has."""
    between = []
    for pair in itertools.pairwise(masks):
        known = [mask for mask in pair if mask is not None]
        between.append(np.any(known, axis=0) if known else None)
    return [mask for pair in zip(masks, [*between, None], strict=True) for mask in pair][:-1]


def with_mask(pixels: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A frame of the result, masked where its LR mask (H, W, bands) says so."""
    if mask is None:
        return pixels
    return np.ma.array(pixels, mask=mask.repeat(SCALE, axis=0).repeat(SCALE, axis=1))
