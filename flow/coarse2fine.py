"""PyFlow's method (pathak22/pyflow), computed by our own native core.

`coarse2fine_reference.py` explains and defines the method, `coarse2fine.cpp` computes it in
float32 and many times faster; the flows differ by less than 0.001 px in the mean, and by pixels at
most where the images hardly determine the flow. The core is compiled on first use; where that is
impossible, the definition itself runs, after one warning.
"""

import ctypes
import functools
import math
import warnings
from pathlib import Path

import numpy as np

from flow import coarse2fine_reference as reference
from utils.native import NativeBuildError, load_library

SOURCE = Path(__file__).with_name("coarse2fine.cpp")
# Neither changes a result that is a number, and loops with square roots and choices need
# both to be vectorised.
FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")

RATIO_RANGE = (0.4, 0.98)  # a ratio outside of it is replaced ...
DEFAULT_RATIO = 0.75  # ... by this one


def coarse2fine_flow(
    Im1,
    Im2,
    alpha=1,
    ratio=0.5,
    minWidth=40,
    nOuterFPIterations=3,
    nInnerFPIterations=1,
    nSORIterations=20,
    colType=0,
):
    """Dense optical flow from Im1 to Im2, with the signature and the results of PyFlow.

    The released code passes others than these defaults, see flow.PYFLOW_PARAMETERS. Silent, and
    releases Python's lock.

    Arguments:
        Im1, Im2: (H, W, C) float64 or float32 in [0, 1], equal shapes.
        alpha: weight of the smoothness term, > 0.
        ratio: size of a pyramid level relative to the next finer one; outside of
            [0.4, 0.98] it becomes 0.75. PyFlow then builds its pyramid with 0.75, too, but goes on
            to scale the flow by the ratio it was given, which is left out here.
        minWidth: width of the coarsest level in pixels, approximately.
        nOuterFPIterations: warps on the finest level; level k does k more.
        nInnerFPIterations: updates of the robust weights per warp.
        nSORIterations: SOR sweeps on the finest level; level k does 3k more.
        colType: 0 for RGB (C = 3), 1 for grey (C = 1).

    Returns: (u, v, warped), float64: u and v (H, W) in pixels, Im2 at (x + u, y + v) looks like
        Im1 at (x, y); warped (H, W, C), Im2 interpolated there (Im1 where outside).

    Raises: ValueError: images of another shape, type or range, not finite, or too small for one
        pyramid level (narrower than minWidth / ratio); parameters out of range.
    """
    alpha, ratio = _positive("alpha", alpha), _positive("ratio", ratio)
    iterations = (
        _count("nOuterFPIterations", nOuterFPIterations),
        _count("nInnerFPIterations", nInnerFPIterations),
        _count("nSORIterations", nSORIterations),
    )
    _check_images(Im1, Im2, colType)
    levels, ratio = plan_levels(*Im1.shape[:2], ratio, _count("minWidth", minWidth))
    library = _native_library()
    if library is None:
        images = (np.asarray(image, np.float64) for image in (Im1, Im2))
        return reference.coarse2fine_flow(*images, levels, alpha, ratio, *iterations)
    return _native_flow(library, Im1, Im2, levels, alpha, ratio, *iterations)


def plan_levels(height, width, ratio, min_width):
    """(levels of the pyramid, ratio in use). ValueError where not even one level is left."""
    if not RATIO_RANGE[0] <= ratio <= RATIO_RANGE[1]:
        ratio = DEFAULT_RATIO
    levels = reference.pyramid_levels(height, width, ratio, min_width)
    if not levels:
        raise ValueError(
            f"images of {width}x{height} are too small for PyFlow's pyramid: "
            f"with minWidth {min_width} and ratio {ratio} they must be at least "
            f"{math.ceil(min_width / ratio)} pixels wide, and not many times less high; use "
            'larger images, a smaller minWidth, or another flow method, such as "dis"'
        )
    return levels, ratio


def _check_images(im1, im2, col_type):
    if col_type not in (0, 1):
        raise ValueError(f"colType must be 0 (RGB) or 1 (grey), not {col_type!r}")
    channels = 1 if col_type == 1 else 3
    for name, image in (("Im1", im1), ("Im2", im2)):
        if not isinstance(image, np.ndarray) or image.dtype not in (np.float64, np.float32):
            kind = getattr(image, "dtype", type(image).__name__)
            raise ValueError(
                f"{name} must be a float64 or float32 array in [0, 1], not {kind}; "
                "divide 8-bit images by 255"
            )
        if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            raise ValueError(
                f"{name} must be (H, W, {channels}) with colType {col_type}, not {image.shape}"
            )
        if not np.isfinite(image).all():
            raise ValueError(f"{name} holds NaN or infinity; replace these pixels first")
        low, high = image.min(), image.max()
        if low < 0 or high > 1:
            raise ValueError(f"{name} must be in [0, 1], not [{low:g}, {high:g}]; scale or clip it")
    if im1.shape != im2.shape:
        raise ValueError(f"Im1 {im1.shape} and Im2 {im2.shape} must have the same shape")


def _positive(name, value):
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0, not {value:g}")
    return value


def _count(name, value):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")
    return int(value)


class _Level(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("source", "radius")),
        *((name, ctypes.c_double) for name in ("sigma", "ratio")),
        *((name, ctypes.c_int32) for name in ("height", "width")),
    )


class _Parameters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("alpha", "ratio")),
        *((name, ctypes.c_int32) for name in ("outer", "inner", "sweeps")),
    )


@functools.cache
def _native_library():
    try:
        library = load_library(SOURCE, FLAGS)
    except NativeBuildError as error:
        warnings.warn(
            f"PyFlow's method runs in NumPy, same results but many times slower: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    planes = np.ctypeslib.ndpointer(np.float32, ndim=3, flags="C_CONTIGUOUS")
    levels, parameters = ctypes.POINTER(_Level), ctypes.POINTER(_Parameters)
    library.coarse2fine_flow.argtypes = (
        *(planes, planes, ctypes.c_int32, levels, ctypes.c_int32, parameters, planes, planes),
    )
    return library


def _native_flow(library, im1, im2, levels, alpha, ratio, outer, inner, sweeps):
    im1, im2 = (np.ascontiguousarray(im.transpose(2, 0, 1), np.float32) for im in (im1, im2))
    flow = np.empty((2, *im1.shape[1:]), np.float32)
    warped = np.empty_like(im1)
    plan = (_Level * len(levels))(*levels), len(levels)
    parameters = _Parameters(alpha, ratio, outer, inner, sweeps)
    if library.coarse2fine_flow(im1, im2, len(im1), *plan, parameters, flow, warped):
        raise MemoryError(f"no memory for the flow of {im1.shape[2]}x{im1.shape[1]} images")
    u, v = flow.astype(np.float64)
    return u, v, warped.transpose(1, 2, 0).astype(np.float64, order="C")
