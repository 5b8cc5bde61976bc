// 3x3 convolution on the CPU by Winograd's minimal filtering F(4x4, 3x3): forward, and the
// gradient of the weights. (That of the input is a forward one with turned weights.)
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: a tile of 4x4
// outputs comes from 6x6 inputs by 36 products per pair of channels instead of 144. Plain C++17
// with a C interface; models/cpu/winograd.py transforms the weights and says what is computed.
//
// Layout. Images are (batch, row, column, channel). Each of the 36 products of a tile belongs
// to a "plane"; in a plane, the tiles of a block times the weights are one matrix product.
//
// Blocking. The transformed inputs and the products of a block of tiles stay in the L2 cache;
// one thread takes a block from its inputs to its outputs. Sums do not depend on the blocks.

#include <algorithm>
#include <new>

#include "../../utils/matrix.h"

namespace {

constexpr Index kOut = 4, kIn = 6, kPlanes = kIn * kIn;
constexpr Index kBlock = 24;  // tiles; a multiple of the rows that `multiply` takes at once
constexpr Index kMostSums = 16;
constexpr int kL = kLanes<float>;
using Floats = Vector<float, kL>;

// Mirrored by models/cpu/winograd.py. Channels are multiples of 16, the widest vector.
struct Shape {
    Index batch, channels, height, width, out_channels;
    Index dilation, threads;
};

// The transforms of the paper along one row or column of a tile, for the points 0, 1, -1, 2, -2
// and infinity. With 4x4 outputs, B^T makes products' factors from inputs, A^T outputs from
// products, and A, for the gradient, factors from the gradients of outputs.
struct FromInput {
    static constexpr Index kFrom = kIn, kTo = kIn, kBefore = 1;
    static void apply(const Floats d[], Floats t[]) {
        const Floats even = d[4] - 4.f * d[2], odd = d[3] - 4.f * d[1];
        const Floats near = d[4] - d[2], twice = 2.f * (d[3] - d[1]);
        t[0] = 4.f * d[0] - 5.f * d[2] + d[4];
        t[1] = even + odd;
        t[2] = even - odd;
        t[3] = near + twice;
        t[4] = near - twice;
        t[5] = 4.f * d[1] - 5.f * d[3] + d[5];
    }
};

struct FromGradient {
    static constexpr Index kFrom = kOut, kTo = kIn, kBefore = 0;
    static void apply(const Floats g[], Floats t[]) {
        const Floats even = g[0] + g[2], odd = g[1] + g[3];
        const Floats even2 = g[0] + 4.f * g[2], odd2 = 2.f * g[1] + 8.f * g[3];
        t[0] = g[0];
        t[1] = even + odd;
        t[2] = even - odd;
        t[3] = even2 + odd2;
        t[4] = even2 - odd2;
        t[5] = g[3];
    }
};

struct ToOutput {
    static constexpr Index kFrom = kIn, kTo = kOut;
    static void apply(const Floats m[], Floats o[]) {
        const Floats sum1 = m[1] + m[2], sum2 = m[3] + m[4];
        const Floats difference1 = m[1] - m[2], difference2 = m[3] - m[4];
        o[0] = m[0] + sum1 + sum2;
        o[1] = difference1 + 2.f * difference2;
        o[2] = sum1 + 4.f * sum2;
        o[3] = difference1 + 8.f * difference2 + m[5];
    }
};

// A transform along the columns, then along the rows: result[row][column].
template <class Transform, class Source>
inline void transform(Source source, Floats result[][Transform::kTo]) {
    Floats half[Transform::kTo][Transform::kFrom];
    for (Index j = 0; j < Transform::kFrom; j++) {
        Floats from[Transform::kFrom], to[Transform::kTo];
        for (Index i = 0; i < Transform::kFrom; i++) from[i] = source(i, j);
        Transform::apply(from, to);
        for (Index i = 0; i < Transform::kTo; i++) half[i][j] = to[i];
    }
    for (Index i = 0; i < Transform::kTo; i++) Transform::apply(half[i], result[i]);
}

// Tiles of all images. With a dilation, every phase of it is an image of its own.
struct Tiles {
    const Shape& s;
    Index rows, columns, count;
    explicit Tiles(const Shape& shape)
        : s(shape),
          rows(ceil_div(ceil_div(s.height, s.dilation), kOut)),
          columns(ceil_div(ceil_div(s.width, s.dilation), kOut)),
          count(s.batch * s.dilation * s.dilation * rows * columns) {}

    struct Tile {
        Index image, row, column;  // of its first output pixel
    };
    Tile at(Index index) const {
        const Index column = index % columns, row = index / columns % rows;
        const Index phase = index / (columns * rows) % (s.dilation * s.dilation);
        return {index / (columns * rows * s.dilation * s.dilation),
                row * kOut * s.dilation + phase / s.dilation,
                column * kOut * s.dilation + phase % s.dilation};
    }
};

// Planes a power of two apart would evict each other from the cache.
inline Index plane_size(Index channels) { return kBlock * channels + 16; }

// What tiles are cut from, surrounded by zeros.
struct Image {
    const float* data;
    Index channels, height, width;
    Index plane() const { return plane_size(channels); }
};

// The factors of a tile's products into the planes.
template <class Transform>
void gather(const Image& image, const Tiles::Tile& tile, Index dilation, const float* zeros,
            float* planes) {
    constexpr Index kFrom = Transform::kFrom;
    const float* pixels[kFrom][kFrom];
    for (Index i = 0; i < kFrom; i++)
        for (Index j = 0; j < kFrom; j++) {
            const Index y = tile.row + (i - Transform::kBefore) * dilation;
            const Index x = tile.column + (j - Transform::kBefore) * dilation;
            const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
            const Index pixel = (tile.image * image.height + y) * image.width + x;
            pixels[i][j] = inside ? image.data + pixel * image.channels : zeros;
        }
    for (Index c = 0; c < image.channels; c += kL) {
        Floats factors[kIn][kIn];
        transform<Transform>([&](Index i, Index j) { return load<kL>(pixels[i][j] + c); }, factors);
        for (Index p = 0; p < kPlanes; p++)
            store<kL>(planes + p * image.plane() + c, factors[p / kIn][p % kIn]);
    }
}

// What a convolution does besides: bias, leaky ReLU, and something to add afterwards (or null).
struct Ending {
    const float* bias;
    const float* residual;
    float slope;
};

// The outputs of a tile from its products.
void scatter(const Shape& s, const Tiles::Tile& tile, const float* products,
             const Ending& ending, float* output) {
    const Index plane = plane_size(s.out_channels);
    const Index rows = std::min(kOut, ceil_div(s.height - tile.row, s.dilation));
    const Index columns = std::min(kOut, ceil_div(s.width - tile.column, s.dilation));
    for (Index k = 0; k < s.out_channels; k += kL) {
        Floats outputs[kOut][kOut];
        transform<ToOutput>(
            [&](Index i, Index j) { return load<kL>(products + (i * kIn + j) * plane + k); },
            outputs);
        const Floats bias = load<kL>(ending.bias + k);
        for (Index i = 0; i < rows; i++)
            for (Index j = 0; j < columns; j++) {
                const Floats sum = outputs[i][j] + bias, scaled = ending.slope * sum;
                Floats value = sum > 0.f ? sum : scaled;
                const Index row = tile.image * s.height + tile.row + i * s.dilation;
                const Index pixel = row * s.width + tile.column + j * s.dilation;
                const Index target = pixel * s.out_channels + k;
                if (ending.residual) value += load<kL>(ending.residual + target);
                store<kL>(output + target, value);
            }
    }
}

void forward(const Shape& s, const float* input, const float* weights, const Ending& ending,
             float* output) {
    const Image image{input, s.channels, s.height, s.width};
    const Tiles tiles(s);
    const Index in_plane = image.plane(), out_plane = plane_size(s.out_channels);
    const Index block = std::min(kBlock, ceil_div(tiles.count, s.threads));
    Buffer<float> all_inputs(s.threads * kPlanes * in_plane), zeros(s.channels);
    Buffer<float> all_products(s.threads * kPlanes * out_plane);
    std::fill_n(zeros.at(0), s.channels, 0.f);
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (Index first = 0; first < tiles.count; first += block) {
        const Index count = std::min(block, tiles.count - first);
        float* inputs = all_inputs.at(thread_index() * kPlanes * in_plane);
        float* products = all_products.at(thread_index() * kPlanes * out_plane);
        for (Index t = 0; t < count; t++)
            gather<FromInput>(image, tiles.at(first + t), s.dilation, zeros.at(0),
                              inputs + t * s.channels);
        for (Index p = 0; p < kPlanes; p++) {
            std::fill_n(products + p * out_plane, count * s.out_channels, 0.f);
            multiply<float>({inputs + p * in_plane, s.channels, 1,
                             weights + p * s.channels * s.out_channels, s.out_channels,
                             products + p * out_plane, s.out_channels, s.channels},
                            count, s.out_channels);
        }
        for (Index t = 0; t < count; t++)
            scatter(s, tiles.at(first + t), products + t * s.out_channels, ending, output);
    }
}

// Every thread sums over tiles of its own, always the same ones, so that results repeat. They
// are few enough that the sums do not fill the memory of a machine with many cores.
void weight_gradient(const Shape& s, const float* input, const float* grad_output,
                     float* grad_weights) {
    const Image image{input, s.channels, s.height, s.width};
    const Image gradient{grad_output, s.out_channels, s.height, s.width};
    const Tiles tiles(s);
    const Index size = kPlanes * s.channels * s.out_channels;
    const Index most = std::max(s.channels, s.out_channels);
    const Index threads = std::min(s.threads, kMostSums);
    Buffer<float> all_inputs(threads * kPlanes * image.plane());
    Buffer<float> all_gradients(threads * kPlanes * gradient.plane());
    Buffer<float> all_sums(threads * size), zeros(most);
    std::fill_n(zeros.at(0), most, 0.f);
#pragma omp parallel for num_threads(int(threads)) schedule(static, 1)
    for (Index thread = 0; thread < threads; thread++) {
        float* inputs = all_inputs.at(thread * kPlanes * image.plane());
        float* gradients = all_gradients.at(thread * kPlanes * gradient.plane());
        float* sums = all_sums.at(thread * size);
        std::fill_n(sums, size, 0.f);
        const Index end = tiles.count * (thread + 1) / threads;
        for (Index first = tiles.count * thread / threads; first < end; first += kBlock) {
            const Index count = std::min(kBlock, end - first);
            for (Index t = 0; t < count; t++) {
                const auto tile = tiles.at(first + t);
                gather<FromInput>(image, tile, s.dilation, zeros.at(0), inputs + t * s.channels);
                gather<FromGradient>(gradient, tile, s.dilation, zeros.at(0),
                                     gradients + t * s.out_channels);
            }
            for (Index p = 0; p < kPlanes; p++)
                multiply<float>({inputs + p * image.plane(), 1, s.channels,
                                 gradients + p * gradient.plane(), s.out_channels,
                                 sums + p * s.channels * s.out_channels, s.out_channels, count},
                                s.channels, s.out_channels);
        }
    }
#pragma omp parallel for num_threads(int(threads))
    for (Index i = 0; i < size; i++) {
        float sum = 0.f;
        for (Index thread = 0; thread < threads; thread++) sum += *all_sums.at(thread * size + i);
        grad_weights[i] = sum;
    }
}

template <class Function>
int checked(Function function) {
    try {
        function();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// weights, grad_weights: (36, channels, out_channels). residual: as the output, or null.
extern "C" int winograd_forward(const Shape* s, const float* input, const float* weights,
                                const float* bias, const float* residual, float slope,
                                float* output) {
    return checked([&] { forward(*s, input, weights, {bias, residual, slope}, output); });
}

extern "C" int winograd_weight_gradient(const Shape* s, const float* input,
                                        const float* grad_output, float* grad_weights) {
    return checked([&] { weight_gradient(*s, input, grad_output, grad_weights); });
}
