// Separable filters, bilinear resizing, and the features that the flow compares.

#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "planes.h"

namespace {

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

void add_scaled_row(float scale, const float* __restrict in, float* __restrict out, int width) {
    for (int x = 0; x < width; ++x) out[x] += scale * in[x];
}

// Gaussian with 2 * radius + 1 taps both ways; radius at most kLanes.
Planes gaussian(const Planes& in, double sigma, int radius) {
    std::vector<double> weights;
    for (int k = -radius; k <= radius; ++k)
        weights.push_back(std::exp(-k * k / (2 * sigma * sigma)));
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    const auto tap = [&](int k) { return static_cast<float>(weights[k + radius] / total); };

    Planes across(in.channels, in.height, in.width), out(in.channels, in.height, in.width);
    for (int c = 0; c < in.channels; ++c) {
        in.pad_rows(c);
        for (int y = 0; y < in.height; ++y)
            for (int k = -radius; k <= radius; ++k)
                add_scaled_row(tap(k), in.row(c, y) + k, across.row(c, y), in.width);
        for (int y = 0; y < in.height; ++y)
            for (int k = -radius; k <= radius; ++k)
                add_scaled_row(tap(k), across.near_row(c, y + k), out.row(c, y), in.width);
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

}  // namespace
