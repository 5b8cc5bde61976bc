// Images warped along a flow, bilinear and bicubic.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "planes.h"

namespace {

constexpr float kFar = 1e6f;  // a displacement in pixels that leaves any image

// Where (x + u, y + v) lies, for the pixels of one row: the pixel at its upper left, the
// place between this and the next ones, and whether it is inside of the image at all.
// Splitting u and v before x and y are added keeps their precision on large images.
class RowPositions {
public:
    explicit RowPositions(int width)
        : x0(width), y0(width), fraction_x(width), fraction_y(width), inside(width) {}

    void locate(const float* u, const float* v, int y, int height, int width) {
#pragma omp simd
        for (int x = 0; x < width; ++x) {
            // Also turns NaN into a place outside.
            const float dx = std::abs(u[x]) < kFar ? u[x] : kFar;
            const float dy = std::abs(v[x]) < kFar ? v[x] : kFar;
            const float whole_x = std::floor(dx), whole_y = std::floor(dy);
            const int left = x + static_cast<int>(whole_x), top = y + static_cast<int>(whole_y);
            const float fx = dx - whole_x, fy = dy - whole_y;
            const bool in_x = left >= 0 && (left < width - 1 || (left == width - 1 && fx == 0));
            const bool in_y = top >= 0 && (top < height - 1 || (top == height - 1 && fy == 0));
            const bool in = in_x && in_y;
            inside[x] = in ? 1.0f : 0.0f;
            x0[x] = in ? left : 0;
            y0[x] = in ? top : 0;
            fraction_x[x] = in ? fx : 0.0f;
            fraction_y[x] = in ? fy : 0.0f;
        }
    }

    std::vector<int> x0, y0;
    std::vector<float> fraction_x, fraction_y, inside;
};

// Bilinear `second` at (x + u, y + v), or `first` where this lies outside. Also renews the
// noise of each channel: the mean |first - warped| over the pixels where they differ.
void warp(const Planes& first, const Planes& second, const Planes& flow, Planes& warped,
          std::vector<float>& noise) {
    const int width = first.width, height = first.height;
    // A sample inside of the image has a next pixel unless its fraction is zero; there the
    // weight of the next one is zero, and the padding is read, below it the last row again.
    RowPositions at(width);
    std::vector<std::int32_t> above(width), below(width);
    std::vector<double> total(first.channels, 0.0);
    std::vector<std::int64_t> count(first.channels, 0);
    for (int y = 0; y < height; ++y) {
        at.locate(flow.row(0, y), flow.row(1, y), y, height, width);
        for (int x = 0; x < width; ++x) {
            above[x] = at.y0[x] * second.pitch + at.x0[x];
            below[x] = std::min(at.y0[x] + 1, height - 1) * second.pitch + at.x0[x];
        }
        const float *fx = at.fraction_x.data(), *fy = at.fraction_y.data();
        const float* inside = at.inside.data();
        const std::int32_t *upper = above.data(), *lower = below.data();
        for (int c = 0; c < first.channels; ++c) {
            const float* __restrict original = first.row(c, y);
            const float* __restrict source = second.row(c, 0);
            float* __restrict target = warped.row(c, y);
            float sum = 0;
            int differing = 0;
#pragma omp simd reduction(+ : sum, differing)
            for (int x = 0; x < width; ++x) {
                const float* top = source + upper[x];
                const float* bottom = source + lower[x];
                const float a = (1 - fx[x]) * top[0] + fx[x] * top[1];
                const float b = (1 - fx[x]) * bottom[0] + fx[x] * bottom[1];
                const float value = (1 - fy[x]) * a + fy[x] * b;
                target[x] = inside[x] != 0 ? value : original[x];
                const float difference = std::abs(target[x] - original[x]);
                sum += difference;
                differing += difference > 0;
            }
            total[c] += sum;
            count[c] += differing;
        }
    }
    for (int c = 0; c < first.channels; ++c)
        noise[c] = count[c] > 0 ? static_cast<float>(total[c] / count[c]) : 0.001f;
}

// Weights of the values and the slopes at 0 and at 1, for the cubic at t.
struct Hermite {
    explicit Hermite(float t)
        : value{1 - t * t * (3 - 2 * t), t * t * (3 - 2 * t)},
          slope{t * (1 - t) * (1 - t), t * t * (t - 1)} {}
    float value[2], slope[2];
};

// Bicubic `second` at (x + u, y + v) from values, central differences and cross derivatives,
// clipped to [0, 1], or `first` where this lies outside. `out` is (channels, height, width).
void warp_bicubic(const Planes& first, const Planes& second, const Planes& flow, float* out) {
    const int width = first.width, height = first.height;
    RowPositions at(width);
    Planes table(4, height, width);  // value, d/dx, d/dy, d2/dxdy
    for (int c = 0; c < first.channels; ++c) {
        second.pad_rows(c);
        for (int y = 0; y < height; ++y) {
            const float *up = second.near_row(c, y - 1), *down = second.near_row(c, y + 1);
            const float* here = second.row(c, y);
            for (int x = 0; x < width; ++x) {
                table.row(0, y)[x] = here[x];
                table.row(1, y)[x] = 0.5f * (here[x + 1] - here[x - 1]);
                table.row(2, y)[x] = 0.5f * (down[x] - up[x]);
                table.row(3, y)[x] =
                    0.25f * ((down[x + 1] - down[x - 1]) - (up[x + 1] - up[x - 1]));
            }
        }
        for (int y = 0; y < height; ++y) {
            at.locate(flow.row(0, y), flow.row(1, y), y, height, width);
            for (int x = 0; x < width; ++x, ++out) {
                if (at.inside[x] == 0) {
                    *out = std::clamp(first.row(c, y)[x], 0.0f, 1.0f);
                    continue;
                }
                const Hermite wx(at.fraction_x[x]), wy(at.fraction_y[x]);
                float result = 0;
                for (int j = 0; j < 2; ++j)
                    for (int i = 0; i < 2; ++i) {
                        const int row = std::min(at.y0[x] + j, height - 1);
                        const int column = std::min(at.x0[x] + i, width - 1);
                        const float value = wx.value[i] * table.row(0, row)[column] +
                                            wx.slope[i] * table.row(1, row)[column];
                        const float slope = wx.value[i] * table.row(2, row)[column] +
                                            wx.slope[i] * table.row(3, row)[column];
                        result += wy.value[j] * value + wy.slope[j] * slope;
                    }
                *out = std::clamp(result, 0.0f, 1.0f);
            }
        }
    }
}

}  // namespace
