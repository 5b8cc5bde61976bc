// PyFlow's coarse-to-fine optical flow, in float32. coarse2fine_reference.py is the
// definition and explains the method; this file computes the same in the same order.
//
// What makes it fast: images are planes with padded rows, so that every loop runs along a
// row without a special case at the border and vectorises; and the SOR sweeps run on
// anti-diagonals, whose pixels do not depend on each other (see Wavefront).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace {

constexpr int kLanes = 16;  // rows and diagonals are padded to whole blocks of this many floats
constexpr int kPipelined = 8;  // SOR sweeps under way at once; their diagonals stay in cache
constexpr float kOmega = 1.8f;
constexpr float kEpsilonSquared = 1e-6f;
constexpr float kDamping = 0.05f;
constexpr float kNoiseFloor = 1e-20f;
constexpr float kFar = 1e6f;  // a displacement in pixels that leaves any image

constexpr int round_up(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

struct AlignedDelete {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

using Buffer = std::unique_ptr<float[], AlignedDelete>;

Buffer make_zeros(std::size_t size) {
    Buffer buffer(new (std::align_val_t{64}) float[size]);
    std::fill_n(buffer.get(), size, 0.0f);
    return buffer;
}

// Channels of one size, each row with kLanes floats of padding before and behind it, and
// the rows filled up to a multiple of kLanes. All of it starts as zero.
class Planes {
public:
    Planes(int channels, int height, int width)
        : channels(channels), height(height), width(width), pitch(2 * kLanes + round_up(width)),
          plane_(static_cast<std::size_t>(pitch) * round_up(height)),
          data_(make_zeros(channels * plane_)) {}

    float* row(int channel, int y) const {
        return data_.get() + channel * plane_ + static_cast<std::size_t>(y) * pitch + kLanes;
    }

    // The row with the border replicated above and below.
    float* near_row(int channel, int y) const {
        return row(channel, std::clamp(y, 0, height - 1));
    }

    // Replicate the border into the padding at the left and the right.
    void pad_rows(int channel) const {
        for (int y = 0; y < height; ++y) {
            float* r = row(channel, y);
            std::fill_n(r - kLanes, kLanes, r[0]);
            std::fill_n(r + width, kLanes, r[width - 1]);
        }
    }

    int channels, height, width, pitch;

private:
    std::size_t plane_;
    Buffer data_;
};

// ---- Filters and resizing ------------------------------------------------------------

float smoothing(float ll, float l, float centre, float r, float rr) {
    return 0.02f * (ll + rr) + 0.11f * (l + r) + 0.74f * centre;
}

float derivative(float ll, float l, float r, float rr) {
    return (8.0f * (r - l) + (ll - rr)) * (1.0f / 12.0f);
}

void smooth_row(const float* __restrict in, float* __restrict out, int width) {
    for (int x = 0; x < width; ++x)
        out[x] = smoothing(in[x - 2], in[x - 1], in[x], in[x + 1], in[x + 2]);
}

void derive_row(const float* __restrict in, float* __restrict out, int width) {
    for (int x = 0; x < width; ++x) out[x] = derivative(in[x - 2], in[x - 1], in[x + 1], in[x + 2]);
}

// Derivative along y at row y.
void derive_column(const Planes& in, int channel, int y, float* __restrict out) {
    const float* __restrict ll = in.near_row(channel, y - 2);
    const float* __restrict l = in.near_row(channel, y - 1);
    const float* __restrict r = in.near_row(channel, y + 1);
    const float* __restrict rr = in.near_row(channel, y + 2);
    for (int x = 0; x < in.width; ++x) out[x] = derivative(ll[x], l[x], r[x], rr[x]);
}

// out = sum of taps[k + radius] * the row k below y, or the pixel k to the right.
Planes gaussian(const Planes& in, double sigma, int radius) {
    std::vector<double> weights;
    double total = 0;
    for (int k = -radius; k <= radius; ++k) {
        weights.push_back(std::exp(-k * k / (2 * sigma * sigma)));
        total += weights.back();
    }
    Planes across(in.channels, in.height, in.width), out(in.channels, in.height, in.width);
    for (int c = 0; c < in.channels; ++c) {
        in.pad_rows(c);
        for (int y = 0; y < in.height; ++y)
            for (int k = -radius; k <= radius; ++k) {
                const float tap = static_cast<float>(weights[k + radius] / total);
                const float* __restrict source = in.row(c, y) + k;
                float* __restrict target = across.row(c, y);
                for (int x = 0; x < in.width; ++x) target[x] += tap * source[x];
            }
        for (int y = 0; y < in.height; ++y)
            for (int k = -radius; k <= radius; ++k) {
                const float tap = static_cast<float>(weights[k + radius] / total);
                const float* __restrict source = across.near_row(c, y + k);
                float* __restrict target = out.row(c, y);
                for (int x = 0; x < in.width; ++x) target[x] += tap * source[x];
            }
    }
    return out;
}

struct Sample {
    int first, second;
    float fraction;
};

// Where the outputs of a resize lie on an axis of `size` pixels.
std::vector<Sample> resize_samples(int size, int out_size, double scale) {
    std::vector<Sample> samples(out_size);
    for (int j = 0; j < out_size; ++j) {
        const double position = (j + 1) / scale - 1;
        const int left = static_cast<int>(position);
        samples[j] = {std::clamp(left, 0, size - 1), std::clamp(left + 1, 0, size - 1),
                      static_cast<float>(std::clamp(position - left, 0.0, 1.0))};
    }
    return samples;
}

// Bilinear, every value multiplied by `gain`.
Planes resize(const Planes& in, int height, int width, double scale_y, double scale_x,
              float gain = 1.0f) {
    Planes out(in.channels, height, width);
    const auto rows = resize_samples(in.height, height, scale_y);
    const auto columns = resize_samples(in.width, width, scale_x);
    std::vector<float> blend(in.width);
    for (int c = 0; c < in.channels; ++c)
        for (int y = 0; y < height; ++y) {
            const float* above = in.row(c, rows[y].first);
            const float* below = in.row(c, rows[y].second);
            const float fraction = rows[y].fraction;
            for (int x = 0; x < in.width; ++x)
                blend[x] = gain * ((1 - fraction) * above[x] + fraction * below[x]);
            float* target = out.row(c, y);
            for (int x = 0; x < width; ++x) {
                const Sample& s = columns[x];
                target[x] = (1 - s.fraction) * blend[s.first] + s.fraction * blend[s.second];
            }
        }
    return out;
}

// RGB: grey, its x and y derivatives, G - R, G - B. Grey: the first three.
Planes make_features(const Planes& image) {
    const bool colour = image.channels == 3;
    Planes out(colour ? 5 : 3, image.height, image.width);
    for (int y = 0; y < image.height; ++y) {
        float* grey = out.row(0, y);
        if (!colour) {
            std::copy_n(image.row(0, y), image.width, grey);
            continue;
        }
        const float *red = image.row(0, y), *green = image.row(1, y), *blue = image.row(2, y);
        float *green_red = out.row(3, y), *green_blue = out.row(4, y);
        for (int x = 0; x < image.width; ++x) {
            grey[x] = 0.299f * red[x] + 0.587f * green[x] + 0.114f * blue[x];
            green_red[x] = green[x] - red[x];
            green_blue[x] = green[x] - blue[x];
        }
    }
    out.pad_rows(0);
    for (int y = 0; y < image.height; ++y) {
        derive_row(out.row(0, y), out.row(1, y), image.width);
        derive_column(out, 0, y, out.row(2, y));
    }
    return out;
}

// ---- Warping -------------------------------------------------------------------------

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

// ---- SOR -----------------------------------------------------------------------------

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
          cells_(make_zeros(static_cast<std::size_t>(diagonals_ + 2) * kFields * stride_ + kLanes)) {}

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
        for (int d = 0; d < diagonals_; ++d) std::fill_n(diagonal(d, kDu), 2 * stride_ - kLanes, 0.0f);
        for (int done = 0; done < sweeps; done += kPipelined)
            sweep_pipelined(std::min(kPipelined, sweeps - done));
    }

private:
    // Diagonal -1 and the one past the last are zeros, and so is the lane before the first.
    float* diagonal(int d, Field field) const {
        return cells_.get() + (static_cast<std::size_t>(d + 1) * kFields + field) * stride_ + kLanes;
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
#pragma omp simd
        for (int i = begin; i < end; ++i) {
            const float left = weight_before[i], up = weight_before[i - 1], here = weight[i];
            const float sum_u = left * du_before[i] + up * du_before[i - 1] +
                                here * (du_after[i] + du_after[i + 1]);
            const float sum_v = left * dv_before[i] + up * dv_before[i - 1] +
                                here * (dv_after[i] + dv_after[i + 1]);
            du[i] = (1 - kOmega) * du[i] + r1[i] * (b1[i] - a12[i] * dv[i] + sum_u);
            dv[i] = (1 - kOmega) * dv[i] + r2[i] * (b2[i] - a12[i] * du[i] + sum_v);
        }
    }

    int height_, width_, diagonals_, stride_;
    Buffer cells_;
};

// ---- One level of the pyramid --------------------------------------------------------

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
        for (const auto& [field, coefficient] : fields) wavefront_.load(field, system_, coefficient);
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
        const bool top = y == 0, bottom = y == height_ - 1;
        const float* weight = system_.row(kWeight, y);
        const float* weight_above = system_.near_row(kWeight, y - 1);
        const float up = top ? 0.0f : 1.0f, down = bottom ? 0.0f : 1.0f;
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

}  // namespace

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

// im1, im2 (channels, height, width) in [0, 1], 3 or 1 channels; levels, finest first;
// flow (2, height, width); warped as im1.
// Returns 0, or 1 when memory runs out.
int coarse2fine_flow(const float* im1, const float* im2, std::int32_t channels,
                     const Level* levels, std::int32_t level_count, const Parameters* parameters,
                     float* flow_out, float* warped_out) try {
    const auto build_pyramid = [&](const float* image) {
        std::vector<Planes> pyramid;
        pyramid.reserve(level_count);
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
    };
    const auto pyramid1 = build_pyramid(im1), pyramid2 = build_pyramid(im2);

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
