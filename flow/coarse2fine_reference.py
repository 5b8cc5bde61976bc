"""PyFlow's method in plain NumPy: its definition, and the fallback without a compiler.

Coarse-to-fine variational flow with robust data and smoothness terms (Brox et al., ECCV
2004; Bruhn et al., IJCV 2005), in the discretisation of C. Liu's thesis (MIT 2009,
appendix A) and with the constants of pathak22/pyflow, whose results it reproduces. All in
float64. Images are (H, W, C), u and v are (H, W), separable filters replicate the border.
`coarse2fine.cpp` computes the same, in the same order.
"""

import math
from typing import NamedTuple

import numpy as np

OMEGA = 1.8  # over-relaxation of the SOR sweeps
EPSILON_SQUARED = 1e-6  # of both robust functions, sqrt(x^2 + epsilon^2)
DAMPING = 0.05  # times alpha, added to the diagonal of the linear system
NOISE_FLOOR = 1e-20  # a channel whose noise estimate is below says nothing

CENTRAL_DIFFERENCE = np.array([-0.5, 0, 0.5])
SMOOTHING = np.array([0.02, 0.11, 0.74, 0.11, 0.02])
GREY = np.array([0.299, 0.587, 0.114])  # BT.601


class Level(NamedTuple):
    """How one level of the pyramid is made: smooth level `source`, then resize it."""

    source: int
    radius: int
    sigma: float
    ratio: float
    height: int
    width: int


def pyramid_levels(height, width, ratio, min_width):
    """Levels of the pyramid, finest first; none where the image is too small for one.

    The width alone decides how many there are. Near the top each level is made from the
    full image; below a quarter of its size, from a level whose smoothing is bounded.
    """
    count = int(math.log(min_width / width) / math.log(ratio))
    step = 1 / ratio - 1
    direct = int(math.log(0.25) / math.log(ratio))
    levels = [Level(0, 0, 0.0, 1.0, height, width)]
    for i in range(1, count):
        source = levels[max(i - direct, 0)]
        sigma = step * min(i, direct)
        scale = ratio**i if i <= direct else ratio**i * width / source.width
        size = int(source.height * scale), int(source.width * scale)
        levels.append(Level(max(i - direct, 0), int(3 * sigma), sigma, scale, *size))
    too_small = count < 1 or any(min(level.height, level.width) < 1 for level in levels)
    return [] if too_small else levels


def coarse2fine_flow(im1, im2, levels, alpha, ratio, outer, inner, sweeps):
    """u, v and the bicubically warped im2. See `flow.coarse2fine.coarse2fine_flow`."""
    pyramid1, pyramid2 = build_pyramid(im1, levels), build_pyramid(im2, levels)
    u = v = None
    noise = np.full(5 if im1.shape[2] == 3 else 3, 0.02)
    for k in reversed(range(len(levels))):
        features1, features2 = features(pyramid1[k]), features(pyramid2[k])
        size = features1.shape[:2]
        if u is None:
            u, v = np.zeros(size), np.zeros(size)
            warped = features2
        else:
            scale = size[0] / u.shape[0], size[1] / u.shape[1]
            u, v = (resize(flow, size, scale) / ratio for flow in (u, v))
            warped = warp(features1, features2, u, v)
        for _ in range(outer + k):
            ix, iy, it = derivatives(features1, warped)
            du, dv = np.zeros(size), np.zeros(size)
            for _ in range(inner):
                system = linear_system(u, v, du, dv, ix, iy, it, noise, alpha)
                du, dv = relax(*system, sweeps + 3 * k)
            u, v = u + du, v + dv
            warped = warp(features1, features2, u, v)
            noise = channel_noise(features1, warped)
    return u, v, warp_bicubic(im1, im2, u, v)


def build_pyramid(image, levels):
    pyramid = [image]
    for level in levels[1:]:
        k = np.arange(-level.radius, level.radius + 1)
        taps = np.exp(-(k**2) / (2 * level.sigma**2))
        smoothed = smooth(pyramid[level.source], taps / taps.sum())
        pyramid.append(resize(smoothed, (level.height, level.width), (level.ratio, level.ratio)))
    return pyramid


def features(image):
    """RGB: grey, its x and y derivatives, G - R and G - B. Grey: the first three."""
    grey = image @ GREY if image.shape[2] == 3 else image[..., 0]
    channels = [grey, derivative(grey, axis=1), derivative(grey, axis=0)]
    if image.shape[2] == 3:
        channels += [image[..., 1] - image[..., 0], image[..., 1] - image[..., 2]]
    return np.stack(channels, axis=-1)


def neighbour(image, step, axis):
    """The image moved by `step` pixels along an axis, border replicated."""
    size = image.shape[axis]
    return np.take(image, np.clip(np.arange(size) + step, 0, size - 1), axis)


def convolve(image, taps, axis):
    radius = len(taps) // 2
    return sum(tap * neighbour(image, k - radius, axis) for k, tap in enumerate(taps))


def derivative(image, axis):
    """Taps [1, -8, 0, 8, -1] / 12; in differences, so that flat stretches give exactly zero.

    In an image of one row, the smallest v leads out of it.
    """
    inner = neighbour(image, 1, axis) - neighbour(image, -1, axis)
    outer = neighbour(image, 2, axis) - neighbour(image, -2, axis)
    return (8 * inner - outer) / 12


def smooth(image, taps):
    return convolve(convolve(image, taps, axis=1), taps, axis=0)


def resize(image, size, scale):
    """Bilinear; output pixel j samples at (j + 1) / scale - 1, so scale > 1 enlarges."""
    for axis in (0, 1):
        position = (np.arange(size[axis]) + 1) / scale[axis] - 1
        left = np.trunc(position).astype(int)
        fraction = np.clip(position - left, 0, 1)
        fraction = fraction.reshape((-1,) + (1,) * (image.ndim - 1 - axis))
        last = image.shape[axis] - 1
        image = (1 - fraction) * np.take(image, np.clip(left, 0, last), axis) + (
            fraction * np.take(image, np.clip(left + 1, 0, last), axis)
        )
    return image


def sample_positions(u, v):
    """Where (x + u, y + v) lies: (inside, y0, y1, fraction of y, x0, x1, fraction of x)."""
    height, width = u.shape
    y, x = np.mgrid[:height, :width]
    y, x = y + v, x + u
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    y, x = np.where(inside, y, 0), np.where(inside, x, 0)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    return inside[..., None], y0, y1, (y - y0)[..., None], x0, x1, (x - x0)[..., None]


def warp(im1, im2, u, v):
    """Bilinear im2 at (x + u, y + v); im1's value where that lies outside."""
    inside, y0, y1, fy, x0, x1, fx = sample_positions(u, v)
    above = (1 - fx) * im2[y0, x0] + fx * im2[y0, x1]
    below = (1 - fx) * im2[y1, x0] + fx * im2[y1, x1]
    return np.where(inside, (1 - fy) * above + fy * below, im1)


def warp_bicubic(im1, im2, u, v):
    """Bicubic Hermite interpolation of im2 at (x + u, y + v), clipped to [0, 1].

    Each cell is the cubic given by values, central differences and cross derivatives at
    its four corners. im1's value where (x + u, y + v) lies outside.
    """
    inside, y0, y1, fy, x0, x1, fx = sample_positions(u, v)
    dx, dy = (convolve(im2, CENTRAL_DIFFERENCE, axis) for axis in (1, 0))
    dxy = convolve(dx, CENTRAL_DIFFERENCE, axis=0)
    values_y, slopes_y = hermite_weights(fy)
    values_x, slopes_x = hermite_weights(fx)
    result = np.zeros_like(im2)
    for j, y in enumerate((y0, y1)):
        for i, x in enumerate((x0, x1)):
            along_x = values_x[i] * im2[y, x] + slopes_x[i] * dx[y, x]
            slope = values_x[i] * dy[y, x] + slopes_x[i] * dxy[y, x]
            result += values_y[j] * along_x + slopes_y[j] * slope
    return np.clip(np.where(inside, result, im1), 0, 1)


def hermite_weights(t):
    """Weights of the values and of the slopes at 0 and 1, for the cubic at t."""
    one = t * t * (3 - 2 * t)
    return (1 - one, one), (t * (1 - t) ** 2, t * t * (t - 1))


def derivatives(features1, warped):
    smooth1, smooth2 = smooth(features1, SMOOTHING), smooth(warped, SMOOTHING)
    blend = 0.4 * smooth1 + 0.6 * smooth2
    return derivative(blend, axis=1), derivative(blend, axis=0), smooth2 - smooth1


def channel_noise(features1, warped):
    """Mean |im1 - warped| per channel over the pixels where they differ."""
    difference = np.abs(features1 - warped)
    count = np.count_nonzero(difference, axis=(0, 1))
    return np.where(count > 0, difference.sum((0, 1)) / np.maximum(count, 1), 0.001)


def forward_difference(image):
    """(along x, along y), zero past the last column and row."""
    x = np.diff(image, axis=1, append=image[:, -1:])
    y = np.diff(image, axis=0, append=image[-1:])
    return x, y


def diffusion(weight, u):
    """div(weight grad u): divergence of the forward-difference flux, none past the border."""
    flux_x, flux_y = (weight * difference for difference in forward_difference(u))
    return np.diff(flux_x, axis=1, prepend=0) + np.diff(flux_y, axis=0, prepend=0)


def linear_system(u, v, du, dv, ix, iy, it, noise, alpha):
    """The Euler-Lagrange equations, robust weights fixed at (u + du, v + dv).

    Returns (weight, a11, a12, a22, b1, b2): the smoothness weight of each pixel (alpha
    included), the 2x2 data matrix and the right-hand side. Means are over the channels.
    """
    gradients = [*forward_difference(u + du), *forward_difference(v + dv)]
    weight = alpha * 0.5 / np.sqrt(sum(g**2 for g in gradients) + EPSILON_SQUARED)

    residual = it + ix * du[..., None] + iy * dv[..., None]
    q = np.where(noise < NOISE_FLOOR, 0, 0.5 / np.sqrt(residual**2 + EPSILON_SQUARED))
    a11, a12, a22 = (np.mean(q * p, axis=-1) for p in (ix * ix, ix * iy, iy * iy))
    b1 = diffusion(weight, u) - np.mean(q * ix * it, axis=-1)
    b2 = diffusion(weight, v) - np.mean(q * iy * it, axis=-1)

    neighbours = np.zeros_like(weight)  # sum of the weights of the neighbours inside
    neighbours[:, 1:] += weight[:, :-1]
    neighbours[:, :-1] += weight[:, :-1]
    neighbours[1:] += weight[:-1]
    neighbours[:-1] += weight[:-1]
    diagonal = DAMPING * alpha + neighbours
    return weight, a11 + diagonal, a12, a22 + diagonal, b1, b2


def relax(weight, a11, a12, a22, b1, b2, sweeps):
    """du, dv after SOR sweeps from zero, each row by row and left to right.

    The order of the sweep is part of the result. Pixels of one anti-diagonal do not depend
    on each other, and sweep k may work on diagonal t - 2k while the sweep before it is at
    t - 2k + 2; so step t does every other diagonal at once, each for its own sweep.
    """
    height, width = weight.shape
    weight, a12, b1, b2 = (skew(a) for a in (weight, a12, b1, b2))
    r1, r2 = skew(OMEGA / a11), skew(OMEGA / a22)
    du, dv = np.zeros_like(weight), np.zeros_like(weight)

    diagonals = height + width - 1
    for t in range(diagonals + 2 * (sweeps - 1)):
        first_sweep = max(0, (t - diagonals + 2) // 2)
        last_sweep = min(sweeps - 1, t // 2)
        start, stop = t - 2 * last_sweep, t - 2 * first_sweep + 1
        before, here, after = (np.s_[start + k : stop + k : 2] for k in range(3))
        cell = here, np.s_[1:-1]
        rest = b1[cell] - a12[cell] * dv[cell] + neighbour_sum(weight, du, before, here, after)
        du[cell] = (1 - OMEGA) * du[cell] + r1[cell] * rest
        rest = b2[cell] - a12[cell] * du[cell] + neighbour_sum(weight, dv, before, here, after)
        dv[cell] = (1 - OMEGA) * dv[cell] + r2[cell] * rest
    return unskew(du, height, width), unskew(dv, height, width)


def neighbour_sum(weight, d, before, here, after):
    """Weighted sum of left, up, right and down neighbour; d and weight are skewed."""
    left = weight[before, 1:-1] * d[before, 1:-1]
    up = weight[before, :-2] * d[before, :-2]
    return left + up + weight[here, 1:-1] * (d[after, 1:-1] + d[after, 2:])


def skew(image):
    """Anti-diagonal x + y as row x + y + 1, with zeros all around: pixel y in column y + 1."""
    height, width = image.shape
    y, x = np.mgrid[:height, :width]
    skewed = np.zeros((height + width + 1, height + 2))
    skewed[x + y + 1, y + 1] = image
    return skewed


def unskew(skewed, height, width):
    y, x = np.mgrid[:height, :width]
    return skewed[x + y + 1, y + 1]
