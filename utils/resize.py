"""MATLAB's `imresize` (bicubic, antialiased) by factors 4 and 1/4.

The low-resolution frames of the paper, of Vimeo-90K's users and of the test clips are made by it:
a cubic kernel with a = -0.5, widened by 4 for reduction, pixel centres at half integers, image
mirrored at its border with the border pixel repeated, and halves rounded up. Bytes are rounded
once, at the end, as `im2uint8(imresize(im2double(x), scale))` does; MATLAB's `imresize(x, scale)`
of bytes rounds after each of the two axes, and may be a level off from this. PyTorch's
antialiased `interpolate` has the same kernel and differs only at the border, so the border is
padded here and cropped again.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

SCALE = 4  # of the whole project: high-resolution over low-resolution pixels
SMALLEST_SIDE = 16  # LR pixels, too; below it flow and attention have nothing to work on
# Pixels added on each side before resizing. The widened kernel reaches 7.5 input pixels from the
# centre of an output pixel in reduction, 2 in enlargement; whole output pixels make it 8 and 2.
REDUCTION_BORDER = 8
ENLARGEMENT_BORDER = 2


def equal_parts(length, most):
    """(start, stop) of the fewest equal parts of an axis that are no longer than `most`."""
    count = -(-length // most)
    return list(itertools.pairwise(length * i // count for i in range(count + 1)))


def symmetric_indices(size, before, after):
    """Indices that mirror an axis at its ends with the end pixel repeated (MATLAB's "symmetric").

    Arguments:
        size: length of the axis, at least 1.
        before, after: pixels to add at either end, of any length.

    Returns: int64 tensor of before + size + after indices into the axis.
    """
    index = torch.arange(-before, size + after) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _resize(x, scale, dtype):
    """`imresize` of a tensor (B, C, H, W), computed in float32 or float64."""
    height, width = x.shape[-2:]
    if scale < 1:
        border, factor = REDUCTION_BORDER, 0.25
        # MATLAB rounds the output size up, so a last partial block of 4 still gives a pixel.
        end = [border + -size % 4 for size in (height, width)]
    else:
        border, factor = ENLARGEMENT_BORDER, 4.0
        end = [border, border]
    rows = symmetric_indices(height, border, end[0]).to(x.device)
    columns = symmetric_indices(width, border, end[1]).to(x.device)
    x = x.index_select(-2, rows).index_select(-1, columns).to(dtype)
    x = F.interpolate(x, scale_factor=factor, mode="bicubic", antialias=True)
    margin = int(border * factor)
    return x[..., margin:-margin, margin:-margin]


def imresize(image, scale):
    """Reduce or enlarge images by 4 as MATLAB's `imresize(image, scale)` does in floating point.

    Arguments:
        image: numpy array (H, W), (H, W, C) or (..., H, W, C), uint8 or floating.
        scale: 1/4 or 4.

    Returns: uint8 rounded with halves up and clipped for uint8, float64 for float64 and float32 for
        other floats, which may overshoot the range of the input. H and W become ceil(scale H) and
        ceil(scale W).

    Raises:
        ValueError: another scale, type or number of axes, or an empty image.
    """
    if scale not in (0.25, 4):
        raise ValueError(f"imresize works with scale 1/4 or 4, not {scale}")
    image = np.asarray(image)
    is_uint8 = image.dtype == np.uint8
    if image.ndim < 2 or 0 in image.shape or not (is_uint8 or image.dtype.kind == "f"):
        raise ValueError(
            "imresize needs uint8 or floating images (H, W) or (..., H, W, C), "
            f"not {image.dtype} {image.shape}"
        )
    full = image[..., None] if image.ndim == 2 else image
    # In double precision sums of bytes times the kernel's weights, multiples of 2**-12, are exact:
    # a part of a frame gives the very pixels of the whole frame, ties of rounding included.
    kind = np.float64 if is_uint8 or image.dtype == np.float64 else np.float32
    x = torch.from_numpy(np.ascontiguousarray(full if is_uint8 else full.astype(kind)))
    x = x.reshape(-1, *full.shape[-3:]).permute(0, 3, 1, 2).contiguous()
    out = _resize(x, scale, torch.float64 if kind == np.float64 else torch.float32)
    out = out.permute(0, 2, 3, 1).reshape(*full.shape[:-3], *out.shape[-2:], full.shape[-1])
    if is_uint8:
        out = out.add(0.5).floor().clamp(0, 255).to(torch.uint8)
    out = np.ascontiguousarray(out.numpy())
    return out[..., 0] if image.ndim == 2 else out
