// Images as planes of floats with padded rows, so that loops along a row need no special case
// at the border and vectorise.

#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace {

constexpr int kLanes = 16;  // rows and diagonals are padded to whole blocks of this many floats

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
// the rows filled up to a multiple of kLanes. All of it starts as zero. As with a span, the
// pixels of a const Planes can be written.
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

}  // namespace
