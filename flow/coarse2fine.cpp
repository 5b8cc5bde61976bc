// PyFlow's coarse-to-fine optical flow, in float32. coarse2fine_reference.py is the
// definition and explains the method; this file computes the same in the same order.
//
// What makes it fast: images are planes with padded rows, so that every loop runs along a
// row without a special case at the border and vectorises (planes.h); and the SOR sweeps run
// on anti-diagonals, whose pixels do not depend on each other (wavefront.h).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "filters.h"
#include "planes.h"
#include "warp.h"
#include "wavefront.h"

extern "C" {

// As coarse2fine_reference.Level.
struct Level {
    std::int32_t source, radius;
    double sigma, ratio;
    std::int32_t height, width;
};

struct Parameters {
    double alpha, ratio;
    std::int32_t outer, inner, sweeps;
};

}  // extern "C"

namespace {

constexpr float kEpsilonSquared = 1e-6f;
constexpr float kDamping = 0.05f;
constexpr float kNoiseFloor = 1e-20f;

// The flow of one level. Brings the warped image and the linear system up to date in turns.
class LevelSolver {
public:
    LevelSolver(const Planes& first, const Planes& second, float alpha)
        : first_(first), second_(second), alpha_(alpha), height_(first.height),
          width_(first.width), smooth_first_(first.channels, height_, width_),
          warped_(first.channels, height_, width_), across_(1, height_, width_),
          blend_(1, height_, width_), ix_(first.channels, height_, width_),
          iy_(first.channels, height_, width_), it_(first.channels, height_, width_),
          increment_(2, height_, width_), total_(2, height_, width_),
          system_(6, height_, width_), wavefront_(height_, width_) {
        for (int c = 0; c < first.channels; ++c) {
            first.pad_rows(c);
            for (int y = 0; y < height_; ++y)
                smooth_row(first.row(c, y), across_.row(0, y), width_);
            for (int y = 0; y < height_; ++y) smooth_column(y, smooth_first_.row(c, y));
        }
    }

    // Refine `flow` (u, v) in place. `start`: the flow is zero and nothing to warp along yet.
    void solve(Planes& flow, std::vector<float>& noise, bool start, int outer, int inner,
               int sweeps) {
        if (start) {
            for (int c = 0; c < second_.channels; ++c)
                for (int y = 0; y < height_; ++y)
                    std::copy_n(second_.row(c, y), width_, warped_.row(c, y));
        } else {
            std::vector<float> unused(noise.size());  // renewed only after an outer iteration
            warp(first_, second_, flow, warped_, unused);
        }
        for (int i = 0; i < outer; ++i) {
            derive();
            for (int j = 0; j < inner; ++j) {
                assemble(flow, noise, j == 0);
                wavefront_.sweep(sweeps);
                wavefront_.store(Wavefront::kDu, increment_, 0);
                wavefront_.store(Wavefront::kDv, increment_, 1);
            }
            add(flow, increment_, flow);
            warp(first_, second_, flow, warped_, noise);
        }
    }

private:
    enum Coefficient { kWeight, kA12, kB1, kB2, kR1, kR2 };

    void smooth_column(int y, float* __restrict out) const {
        const float *ll = across_.near_row(0, y - 2), *l = across_.near_row(0, y - 1);
        const float *r = across_.near_row(0, y + 1), *rr = across_.near_row(0, y + 2);
        const float* centre = across_.row(0, y);
        for (int x = 0; x < width_; ++x)
            out[x] = smoothing(ll[x], l[x], centre[x], r[x], rr[x]);
    }

    void add(const Planes& a, const Planes& b, Planes& sum) const {
        for (int c = 0; c < 2; ++c)
            for (int y = 0; y < height_; ++y)
                for (int x = 0; x < width_; ++x)
                    sum.row(c, y)[x] = a.row(c, y)[x] + b.row(c, y)[x];
    }

    // Ix, Iy of 0.4 first + 0.6 warped and It, all smoothed.
    void derive() {
        for (int c = 0; c < first_.channels; ++c) {
            warped_.pad_rows(c);
            for (int y = 0; y < height_; ++y)
                smooth_row(warped_.row(c, y), across_.row(0, y), width_);
            for (int y = 0; y < height_; ++y) {
                const float* __restrict s1 = smooth_first_.row(c, y);
                float* __restrict blend = blend_.row(0, y);
                float* __restrict it = it_.row(c, y);
                smooth_column(y, it);
                for (int x = 0; x < width_; ++x) {
                    blend[x] = 0.4f * s1[x] + 0.6f * it[x];
                    it[x] -= s1[x];
                }
            }
            blend_.pad_rows(0);
            for (int y = 0; y < height_; ++y) {
                derive_row(blend_.row(0, y), ix_.row(c, y), width_);
                derive_column(blend_, 0, y, iy_.row(c, y));
            }
        }
    }

    // The linear system with the robust weights fixed at flow + increment.
    void assemble(const Planes& flow, const std::vector<float>& noise, bool first_time) {
        if (first_time) {
            for (int c = 0; c < 2; ++c)
                for (int y = 0; y < height_; ++y) std::fill_n(increment_.row(c, y), width_, 0.0f);
        }
        add(flow, increment_, total_);
        for (int c = 0; c < 2; ++c) {
            total_.pad_rows(c);
            flow.pad_rows(c);
        }
        for (int y = 0; y < height_; ++y) smoothness_row(y);
        for (int y = 0; y < height_; ++y) {
            data_row(y, noise);
            diffusion_row(flow, y);
        }
        constexpr std::pair<Wavefront::Field, Coefficient> fields[] = {
            {Wavefront::kWeight, kWeight}, {Wavefront::kA12, kA12}, {Wavefront::kB1, kB1},
            {Wavefront::kB2, kB2},         {Wavefront::kR1, kR1},   {Wavefront::kR2, kR2}};
        for (const auto& [field, coefficient] : fields)
            wavefront_.load(field, system_, coefficient);
    }

    // alpha / (2 sqrt(|grad u|^2 + |grad v|^2 + epsilon^2))
    void smoothness_row(int y) {
        const float* __restrict u = total_.row(0, y);
        const float* __restrict v = total_.row(1, y);
        const float* __restrict u_below = total_.near_row(0, y + 1);
        const float* __restrict v_below = total_.near_row(1, y + 1);
        float* __restrict weight = system_.row(kWeight, y);
        for (int x = 0; x < width_; ++x) {
            const float ux = u[x + 1] - u[x], uy = u_below[x] - u[x];
            const float vx = v[x + 1] - v[x], vy = v_below[x] - v[x];
            const float squared = ux * ux + uy * uy + vx * vx + vy * vy;
            weight[x] = alpha_ * 0.5f / std::sqrt(squared + kEpsilonSquared);
        }
    }

    // Means over the channels; A11 and A22 are kept in the places of R1 and R2.
    void data_row(int y, const std::vector<float>& noise) {
        const float* __restrict du = increment_.row(0, y);
        const float* __restrict dv = increment_.row(1, y);
        float* __restrict a11 = system_.row(kR1, y);
        float* __restrict a22 = system_.row(kR2, y);
        float* __restrict a12 = system_.row(kA12, y);
        float* __restrict b1 = system_.row(kB1, y);
        float* __restrict b2 = system_.row(kB2, y);
        for (float* row : {a11, a22, a12, b1, b2}) std::fill_n(row, width_, 0.0f);
        for (int c = 0; c < first_.channels; ++c) {
            if (noise[c] < kNoiseFloor) continue;
            const float half_mean = 0.5f / first_.channels;
            const float* __restrict ix = ix_.row(c, y);
            const float* __restrict iy = iy_.row(c, y);
            const float* __restrict it = it_.row(c, y);
#pragma omp simd
            for (int x = 0; x < width_; ++x) {
                const float residual = it[x] + ix[x] * du[x] + iy[x] * dv[x];
                const float q = half_mean / std::sqrt(residual * residual + kEpsilonSquared);
                a11[x] += q * ix[x] * ix[x];
                a22[x] += q * iy[x] * iy[x];
                a12[x] += q * ix[x] * iy[x];
                b1[x] -= q * ix[x] * it[x];
                b2[x] -= q * iy[x] * it[x];
            }
        }
    }

    // Adds div(weight grad flow) to the right-hand side, and turns the diagonal into
    // omega / diagonal. The padding left of the weights is zero: no flux from there.
    void diffusion_row(const Planes& flow, int y) {
        const float* weight = system_.row(kWeight, y);
        const float* weight_above = system_.near_row(kWeight, y - 1);
        const float up = y > 0 ? 1.0f : 0.0f, down = y < height_ - 1 ? 1.0f : 0.0f;
        for (int c = 0; c < 2; ++c) {
            const float *u = flow.row(c, y), *u_above = flow.near_row(c, y - 1);
            const float* u_below = flow.near_row(c, y + 1);
            float* __restrict b = system_.row(c == 0 ? kB1 : kB2, y);
#pragma omp simd
            for (int x = 0; x < width_; ++x)
                b[x] += weight[x] * ((u[x + 1] - u[x]) + (u_below[x] - u[x])) -
                        weight[x - 1] * (u[x] - u[x - 1]) - weight_above[x] * (u[x] - u_above[x]);
        }
        float* __restrict r1 = system_.row(kR1, y);
        float* __restrict r2 = system_.row(kR2, y);
#pragma omp simd
        for (int x = 0; x < width_; ++x) {
            const float right = x < width_ - 1 ? 1.0f : 0.0f;
            const float diagonal = kDamping * alpha_ + weight[x - 1] + up * weight_above[x] +
                                   (right + down) * weight[x];
            r1[x] = kOmega / (r1[x] + diagonal);
            r2[x] = kOmega / (r2[x] + diagonal);
        }
    }

    const Planes &first_, &second_;
    float alpha_;
    int height_, width_;
    Planes smooth_first_, warped_, across_, blend_, ix_, iy_, it_, increment_, total_, system_;
    Wavefront wavefront_;
};

// `image` is (channels, height, width). Finest level first.
std::vector<Planes> build_pyramid(const float* image, int channels, const Level* levels,
                                  int level_count) {
    std::vector<Planes> pyramid;
    pyramid.emplace_back(channels, levels[0].height, levels[0].width);
    for (int c = 0; c < channels; ++c)
        for (int y = 0; y < levels[0].height; ++y, image += levels[0].width)
            std::copy_n(image, levels[0].width, pyramid[0].row(c, y));
    for (int i = 1; i < level_count; ++i) {
        const Level& level = levels[i];
        const Planes smooth = gaussian(pyramid[level.source], level.sigma, level.radius);
        pyramid.push_back(resize(smooth, level.height, level.width, level.ratio, level.ratio));
    }
    return pyramid;
}

}  // namespace

extern "C" {

// im1, im2 (channels, height, width) in [0, 1], 3 or 1 channels; levels, finest first;
// flow (2, height, width); warped as im1.
// Returns 0, or 1 when memory runs out.
int coarse2fine_flow(const float* im1, const float* im2, std::int32_t channels,
                     const Level* levels, std::int32_t level_count, const Parameters* parameters,
                     float* flow_out, float* warped_out) try {
    const auto pyramid1 = build_pyramid(im1, channels, levels, level_count);
    const auto pyramid2 = build_pyramid(im2, channels, levels, level_count);

    const Level& coarsest = levels[level_count - 1];
    Planes flow(2, coarsest.height, coarsest.width);
    std::vector<float> noise(channels == 3 ? 5 : 3, 0.02f);
    for (int k = level_count - 1; k >= 0; --k) {
        const bool start = k == level_count - 1;
        const Planes features1 = make_features(pyramid1[k]), features2 = make_features(pyramid2[k]);
        if (!start) {
            const Level& level = levels[k];
            flow = resize(flow, level.height, level.width,
                          static_cast<double>(level.height) / flow.height,
                          static_cast<double>(level.width) / flow.width,
                          static_cast<float>(1 / parameters->ratio));
        }
        LevelSolver solver(features1, features2, static_cast<float>(parameters->alpha));
        solver.solve(flow, noise, start, parameters->outer + k, parameters->inner,
                     parameters->sweeps + 3 * k);
    }

    warp_bicubic(pyramid1[0], pyramid2[0], flow, warped_out);
    for (int c = 0; c < 2; ++c)
        for (int y = 0; y < flow.height; ++y, flow_out += flow.width)
            std::copy_n(flow.row(c, y), flow.width, flow_out);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

}  // extern "C"
