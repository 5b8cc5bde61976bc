// How the kernel sees its tensors, and where it samples them. See cpu.cpp for the layout.

#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "../utils/matrix.h"

// Mirrored by dcn/cpu.py. Images are NCHW, or NHWC where the flag says so.
struct Shape {
    Index batch, channels, height, width;
    Index out_channels, out_height, out_width;
    Index kernel_height, kernel_width, stride_y, stride_x;
    Index padding_y, padding_x, dilation_y, dilation_x;
    Index groups, threads;
};

constexpr Index kBlock = 120;  // output pixels; whole tiles for 4, 5 and 6 rows per tile

// A tensor (batch, channels, pixels), stored pixels last or channels last.
template <class T>
struct Image {
    T* data;
    Index channels, pixels;
    bool channels_last;
    Index channel_stride() const { return channels_last ? 1 : pixels; }
    Index pixel_stride() const { return channels_last ? channels : 1; }
    T* at(Index n, Index channel, Index pixel) const {
        return data + n * channels * pixels + channel * channel_stride() + pixel * pixel_stride();
    }
};

struct Strides {
    Index pixel, channel;
};

// The inner loop follows the image's own order, where consecutive channels or pixels of the
// other order lie a power of two apart and would evict each other from the cache.
template <class T>
void copy(const T* source, Strides from, T* target, Strides to, Index pixels, Index channels) {
    if (from.channel == 1 && to.channel == 1) {
        for (Index p = 0; p < pixels; p++)
            std::memcpy(target + p * to.pixel, source + p * from.pixel, channels * sizeof(T));
    } else if (from.pixel == 1 && to.pixel == 1) {
        for (Index c = 0; c < channels; c++)
            std::memcpy(target + c * to.channel, source + c * from.channel, pixels * sizeof(T));
    } else if (from.pixel == 1 || to.pixel == 1) {
        for (Index c = 0; c < channels; c++)
            for (Index p = 0; p < pixels; p++)
                target[p * to.pixel + c * to.channel] = source[p * from.pixel + c * from.channel];
    } else {
        for (Index p = 0; p < pixels; p++)
            for (Index c = 0; c < channels; c++)
                target[p * to.pixel + c * to.channel] = source[p * from.pixel + c * from.channel];
    }
}

// Rows of consecutive pixels, one per channel: in place where they lie so, else copied.
template <class T>
struct Rows {
    const T* data;
    Index stride;
};
template <class T>
Rows<T> pixel_rows(const Image<T>& image, Index n, Index channel, Index channels,
                   Index pixel, Index pixels, T* scratch) {
    const T* source = image.at(n, channel, pixel);
    if (!image.channels_last) return {source, image.pixels};
    copy(source, {image.channels, 1}, scratch, {1, kBlock}, pixels, channels);
    return {scratch, kBlock};
}

// Sizes that both directions use. Lanes: of the vectors that run over a group's channels.
template <class T>
struct Sizes {
    Index pixels, taps, group_channels, padded_channels, padded_width, plane;
    Index group_columns, padded_columns, padded_outputs, blocks, planes;
    Sizes(const Shape& s, int lanes)
        : pixels(s.out_height * s.out_width),
          taps(s.kernel_height * s.kernel_width),
          group_channels(s.channels / s.groups),
          padded_channels(round_up(group_channels, lanes)),
          padded_width(s.width + 2),
          plane((s.height + 2) * padded_width * padded_channels),
          group_columns(taps * padded_channels),
          padded_columns(round_up(group_columns, kLanes<T>)),
          padded_outputs(round_up(s.out_channels, kLanes<T>)),
          blocks(ceil_div(pixels, kBlock)),
          planes(s.batch * s.groups) {}
};

template <class T>
struct Samples {
    std::int32_t pixel[kBlock];  // upper left of the four, in the staged plane
    T y[kBlock], x[kBlock];      // distance from it, in [0, 1), or NaN as the offset
};

// Where one tap samples for the output pixels [first, first + count).
template <class T>
void locate(const Shape& s, Index tap, Index first, Index count, const T* dy, const T* dx,
            Samples<T>& samples) {
    const Index tap_y = tap / s.kernel_width * s.dilation_y - s.padding_y;
    const Index tap_x = tap % s.kernel_width * s.dilation_x - s.padding_x;
    const T height = T(s.height), width = T(s.width);
    const int padded_width = int(s.width + 2), stride_x = int(s.stride_x);
    Index row = first / s.out_width, column = first % s.out_width;
    for (Index done = 0; done < count; row++, column = 0) {
        const int run = int(std::min(count - done, s.out_width - column));
        const T base_y = T(row * s.stride_y + tap_y);
        const int base_x = int(column * s.stride_x + tap_x);
        for (int i = 0; i < run; i++) {
            T y = dy[done + i] + base_y, x = dx[done + i] + T(base_x + i * stride_x);
            const bool inside = (y > -1) & (y < height) & (x > -1) & (x < width);
            const bool is_nan = (y != y) | (x != x);
            const T unknown = is_nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
            y = inside ? y : T(-1);
            x = inside ? x : T(-1);
            const T top = std::floor(y), left = std::floor(x);
            samples.y[done + i] = y - top + unknown;
            samples.x[done + i] = x - left + unknown;
            samples.pixel[done + i] = (int(top) + 1) * padded_width + int(left) + 1;
        }
        done += run;
    }
}

template <class T>
void stage(const Shape& s, const Sizes<T>& z, const Image<T>& input, const Buffer<T>& staged) {
    const Index row = z.padded_width * z.padded_channels;
#pragma omp parallel for num_threads(int(s.threads))
    for (Index plane = 0; plane < z.planes; plane++) {
        T* target = staged.at(plane * z.plane);
        std::memset(target, 0, z.plane * sizeof(T));
        const Index n = plane / s.groups, channel = plane % s.groups * z.group_channels;
        for (Index y = 0; y < s.height; y++)
            copy(input.at(n, channel, y * s.width),
                 {input.pixel_stride(), input.channel_stride()},
                 target + (y + 1) * row + z.padded_channels, {z.padded_channels, 1}, s.width,
                 z.group_channels);
    }
}
