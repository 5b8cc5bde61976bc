// SOR sweeps in reading order, vectorised.

#pragma once

#include <algorithm>
#include <cstddef>

#include "planes.h"

namespace {

constexpr float kOmega = 1.8f;
constexpr int kPipelined = 8;  // SOR sweeps under way at once; their diagonals stay in cache

// The linear system and its unknowns with anti-diagonal x + y as one row of memory, pixel y
// in lane y. SOR sweeps row by row, left to right: a pixel takes the new values of its left
// and upper neighbour (diagonal d - 1, lanes y and y - 1) and the old ones of its right and
// lower neighbour (diagonal d + 1, lanes y and y + 1), so the lanes of one diagonal can be
// done at once. Sweep k + 1 may follow two diagonals behind sweep k, while these are in cache.
// Cells outside of the image hold zeros, which the update leaves at zero.
class Wavefront {
public:
    enum Field { kDu, kDv, kWeight, kA12, kB1, kB2, kR1, kR2, kFields };

    Wavefront(int height, int width)
        : height_(height), width_(width), diagonals_(height + width - 1),
          stride_(kLanes + round_up(height)),
          cells_(make_zeros((diagonals_ + std::size_t{2}) * kFields * stride_ + kLanes)) {}

    void load(Field field, const Planes& planes, int channel) {
        for (int top = 0; top < height_; top += kLanes)
            for (int d = top; d < last_diagonal(top); ++d) {
                const float* source = planes.row(channel, top) + d - top;
                float* __restrict target = diagonal(d, field) + top;
                for (int lane = 0; lane < kLanes; ++lane)
                    target[lane] = source[lane * (planes.pitch - 1)];
            }
    }

    void store(Field field, const Planes& planes, int channel) const {
        for (int top = 0; top < height_; top += kLanes)
            for (int d = top; d < last_diagonal(top); ++d) {
                const float* __restrict source = diagonal(d, field) + top;
                float* target = planes.row(channel, top) + d - top;
                for (int lane = 0; lane < kLanes; ++lane)
                    target[lane * (planes.pitch - 1)] = source[lane];
            }
    }

    void sweep(int sweeps) {
        for (int d = 0; d < diagonals_; ++d)
            for (Field field : {kDu, kDv}) std::fill_n(diagonal(d, field), stride_ - kLanes, 0.0f);
        for (int done = 0; done < sweeps; done += kPipelined)
            sweep_pipelined(std::min(kPipelined, sweeps - done));
    }

private:
    // Diagonal -1 and the one past the last are zeros, and so is the lane before the first.
    float* diagonal(int d, Field field) const {
        return cells_.get() + ((d + std::size_t{1}) * kFields + field) * stride_ + kLanes;
    }

    // Past the last diagonal that meets the rows from `top` on; reads of pixels left and
    // right of these rows give the zeros in their padding.
    int last_diagonal(int top) const { return std::min(diagonals_, top + width_ + kLanes - 1); }

    void sweep_pipelined(int sweeps) {
        for (int t = 0; t < diagonals_ + 2 * (sweeps - 1); ++t)
            for (int k = std::max(0, (t - diagonals_ + 2) / 2); k < sweeps && 2 * k <= t; ++k)
                relax(t - 2 * k);
    }

    void relax(int d) {
        const int begin = std::max(0, d - width_ + 1) / kLanes * kLanes;
        const int end = round_up(std::min(height_, d + 1));
        const float* __restrict weight = diagonal(d, kWeight);
        const float* __restrict weight_before = diagonal(d - 1, kWeight);
        const float* __restrict du_before = diagonal(d - 1, kDu);
        const float* __restrict dv_before = diagonal(d - 1, kDv);
        const float* __restrict du_after = diagonal(d + 1, kDu);
        const float* __restrict dv_after = diagonal(d + 1, kDv);
        const float* __restrict a12 = diagonal(d, kA12);
        const float* __restrict b1 = diagonal(d, kB1);
        const float* __restrict b2 = diagonal(d, kB2);
        const float* __restrict r1 = diagonal(d, kR1);
        const float* __restrict r2 = diagonal(d, kR2);
        float* __restrict du = diagonal(d, kDu);
        float* __restrict dv = diagonal(d, kDv);
        for (int block = begin; block < end; block += kLanes) {
#pragma omp simd
            for (int i = block; i < block + kLanes; ++i) {
                const float left = weight_before[i], up = weight_before[i - 1], here = weight[i];
                const float sum_u = left * du_before[i] + up * du_before[i - 1] +
                                    here * (du_after[i] + du_after[i + 1]);
                const float sum_v = left * dv_before[i] + up * dv_before[i - 1] +
                                    here * (dv_after[i] + dv_after[i + 1]);
                du[i] = (1 - kOmega) * du[i] + r1[i] * (b1[i] - a12[i] * dv[i] + sum_u);
                dv[i] = (1 - kOmega) * dv[i] + r2[i] * (b2[i] - a12[i] * du[i] + sum_v);
            }
        }
    }

    int height_, width_, diagonals_, stride_;
    Buffer cells_;
};

}  // namespace
