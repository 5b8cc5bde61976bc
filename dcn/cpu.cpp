// Modulated deformable convolution (DCNv2) on the CPU, forward and backward.
//
// Plain C++17 with a C interface: no PyTorch or Python headers, seconds to compile and
// nothing to rebuild when PyTorch changes. dcn/reference.py defines what is computed.
//
// Layout. An input plane is the part of one image that one deformable group samples. It is
// copied once into "staged" form, [row][column][channel], with a border of zeros one pixel
// wide and its channels rounded up to whole vectors, so that a sample reads four short
// contiguous runs and needs no bounds check. A position whose samples have no weight is
// moved to the border corner (-1, -1): value and both derivatives are zero there.
//
// Blocking. Output pixels are taken in blocks of kBlock. The samples of a block are its
// "columns", [pixel][group][tap][channel]; they and the weights stay in the L2 cache while
// a register-tiled matrix product multiplies them.
//
// Threads. Forward: over blocks. Backward: over planes, as gradients of the samples are
// added into the plane they came from. Where there are too few planes for the threads,
// pixels are split into strips as well and every strip adds into a plane of its own.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

#include "../utils/matrix.h"
#include "sampling.h"

#ifdef __SSE3__
#include <immintrin.h>
#endif

namespace {

// Position of weight (out channel, channel of the input, tap).
inline Index weight_index(const Shape& s, Index taps, Index output, Index channel, Index tap) {
    return (output * s.channels + channel) * taps + tap;
}

// Calls visit(group, column within the group, index) for all weights of an output channel.
template <class T, class Visit>
void for_each_weight(const Shape& s, const Sizes<T>& z, Index output, Visit visit) {
    for (Index group = 0; group < s.groups; group++)
        for (Index tap = 0; tap < z.taps; tap++)
            for (Index c = 0; c < z.group_channels; c++)
                visit(group, tap * z.padded_channels + c,
                      weight_index(s, z.taps, output, group * z.group_channels + c, tap));
}

// --------------------------------------------------------------------- forward

// columns[pixel][channel] = mask * bilinear sample, for one tap of one group.
template <int Lanes, class T>
void sample_columns(const Sizes<T>& z, const T* plane, const Samples<T>& samples, const T* mask,
                    Index count, T* columns, Index columns_row) {
    const Index right = z.padded_channels, below = z.padded_width * z.padded_channels;
    for (Index p = 0; p < count; p++) {
        const T* corner = plane + samples.pixel[p] * z.padded_channels;
        const T y = samples.y[p], x = samples.x[p], factor = mask[p];
        for (Index c = 0; c < z.padded_channels; c += Lanes) {
            const auto v00 = load<Lanes>(corner + c), v01 = load<Lanes>(corner + right + c);
            const auto v10 = load<Lanes>(corner + below + c);
            const auto v11 = load<Lanes>(corner + below + right + c);
            const auto top = v00 + x * (v01 - v00), bottom = v10 + x * (v11 - v10);
            store<Lanes>(columns + p * columns_row + c, factor * (top + y * (bottom - top)));
        }
    }
}

template <class T, int Lanes>
void forward(const Shape& s, const Image<T>& input, const Image<T>& offset,
             const Image<T>& mask, const Image<T>& output, const T* weight, const T* bias) {
    const Sizes<T> z(s, Lanes);
    const Index columns_row = s.groups * z.group_columns;
    Buffer<T> staged(z.planes * z.plane), packed(columns_row * z.padded_outputs);
    Buffer<T> all_columns(s.threads * kBlock * columns_row);
    Buffer<T> all_results(s.threads * kBlock * z.padded_outputs);
    Buffer<T> all_rows(s.threads * 3 * z.taps * kBlock);

    stage(s, z, input, staged);
    std::fill_n(packed.at(0), columns_row * z.padded_outputs, T(0));
    for (Index o = 0; o < s.out_channels; o++)
        for_each_weight(s, z, o, [&](Index group, Index column, Index index) {
            *packed.at((group * z.group_columns + column) * z.padded_outputs + o) = weight[index];
        });

#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (Index job = 0; job < s.batch * z.blocks; job++) {
        const Index n = job / z.blocks, first = job % z.blocks * kBlock;
        const Index count = std::min(kBlock, z.pixels - first);
        T* columns = all_columns.at(thread_index() * kBlock * columns_row);
        T* results = all_results.at(thread_index() * kBlock * z.padded_outputs);
        T* scratch = all_rows.at(thread_index() * 3 * z.taps * kBlock);
        Samples<T> samples;
        for (Index group = 0; group < s.groups; group++) {
            const auto shifts = pixel_rows(offset, n, group * 2 * z.taps, 2 * z.taps, first, count,
                                           scratch);
            const auto factors = pixel_rows(mask, n, group * z.taps, z.taps, first, count,
                                            scratch + 2 * z.taps * kBlock);
            for (Index tap = 0; tap < z.taps; tap++) {
                locate(s, tap, first, count, shifts.data + 2 * tap * shifts.stride,
                       shifts.data + (2 * tap + 1) * shifts.stride, samples);
                sample_columns<Lanes>(z, staged.at((n * s.groups + group) * z.plane), samples,
                                      factors.data + tap * factors.stride, count,
                                      columns + group * z.group_columns + tap * z.padded_channels,
                                      columns_row);
            }
        }
        for (Index p = 0; p < count; p++)
            for (Index o = 0; o < s.out_channels; o++)
                results[p * z.padded_outputs + o] = bias ? bias[o] : T(0);
        multiply<T>({columns, columns_row, 1, packed.at(0), z.padded_outputs, results,
                     z.padded_outputs, columns_row},
                    count, z.padded_outputs);
        copy(results, {z.padded_outputs, 1}, output.at(n, 0, first),
                {output.pixel_stride(), output.channel_stride()}, count, s.out_channels);
    }
}

// -------------------------------------------------------------------- backward

// The sums over all lanes of three vectors.
template <int Lanes, class T>
inline void sum_lanes(Vector<T, Lanes> a, Vector<T, Lanes> b, Vector<T, Lanes> c, T* sums) {
    if constexpr (Lanes > 4) {
        Vector<T, Lanes / 2> halves[3][2];
        std::memcpy(halves[0], &a, sizeof a);
        std::memcpy(halves[1], &b, sizeof b);
        std::memcpy(halves[2], &c, sizeof c);
        sum_lanes<Lanes / 2, T>(halves[0][0] + halves[0][1], halves[1][0] + halves[1][1],
                                halves[2][0] + halves[2][1], sums);
#ifdef __SSE3__
    } else if constexpr (Lanes == 4 && std::is_same_v<T, float>) {
        const __m128 ab = _mm_hadd_ps((__m128)a, (__m128)b), cc = _mm_hadd_ps((__m128)c, (__m128)c);
        _mm_storeu_ps(sums, _mm_hadd_ps(ab, cc));
#endif
    } else {
        sums[0] = sums[1] = sums[2] = 0;
        for (int i = 0; i < Lanes; i++) sums[0] += a[i], sums[1] += b[i], sums[2] += c[i];
    }
}

// What the backward of one tap of one group reads and writes.
template <class T>
struct TapGradients {
    const T *plane, *mask, *grad_columns;  // grad_columns: [pixel][channel]
    T *columns, *grad_plane, *grad_y, *grad_x, *grad_mask;
    Index columns_row, grad_columns_row;
};

// Recomputes the columns and spreads their gradient over input, offset and mask.
template <int Lanes, class T>
void backward_tap(const Sizes<T>& z, const Samples<T>& samples, Index count,
                  const TapGradients<T>& t) {
    const Index right = z.padded_channels, below = z.padded_width * z.padded_channels;
    for (Index p = 0; p < count; p++) {
        const Index position = samples.pixel[p] * z.padded_channels;
        const T y = samples.y[p], x = samples.x[p], factor = t.mask[p];
        Vector<T, Lanes> slope_y{}, slope_x{}, products{};
        for (Index c = 0; c < z.padded_channels; c += Lanes) {
            const T* corner = t.plane + position + c;
            const auto v00 = load<Lanes>(corner), v01 = load<Lanes>(corner + right);
            const auto v10 = load<Lanes>(corner + below), v11 = load<Lanes>(corner + below + right);
            const auto across_top = v01 - v00, across_bottom = v11 - v10;
            const auto top = v00 + x * across_top, down = v10 + x * across_bottom - top;
            const auto value = top + y * down;
            store<Lanes>(t.columns + p * t.columns_row + c, factor * value);

            const auto grad = load<Lanes>(t.grad_columns + p * t.grad_columns_row + c);
            products += grad * value;
            slope_y += grad * down;
            slope_x += grad * (across_top + y * (across_bottom - across_top));

            const auto scaled = factor * grad, lower = y * scaled, upper = scaled - lower;
            const auto lower_right = x * lower, upper_right = x * upper;
            T* target = t.grad_plane + position + c;
            add<Lanes>(target, upper - upper_right);
            add<Lanes>(target + right, upper_right);
            add<Lanes>(target + below, lower - lower_right);
            add<Lanes>(target + below + right, lower_right);
        }
        T sums[4];
        sum_lanes<Lanes, T>(products, slope_y, slope_x, sums);
        t.grad_mask[p] = sums[0];
        t.grad_y[p] = factor * sums[1];
        t.grad_x[p] = factor * sums[2];
    }
}

// Into how many strips to split the pixels so that the threads are busy 85 % of the time.
inline Index strips_per_plane(Index planes, Index blocks, Index threads) {
    for (Index strips = 1; strips < blocks; strips++) {
        const Index tasks = planes * strips;
        if (tasks * 100 >= ceil_div(tasks, threads) * threads * 85) return strips;
    }
    return std::max<Index>(blocks, 1);
}

// One task is one strip of pixels of one plane: (n * groups + group) * strips + strip.
template <class T, int Lanes>
struct Backward {
    const Shape& s;
    const Image<T> input, offset, mask, grad_output, grad_input, grad_offset, grad_mask;
    const Sizes<T> z{s, Lanes};
    const Index strips = strips_per_plane(z.planes, z.blocks, s.threads);
    const Index tasks = z.planes * strips, weights = z.group_columns * z.padded_outputs;
    Buffer<T> staged{z.planes * z.plane}, grad_planes{tasks * z.plane};
    Buffer<T> grad_weights{tasks * weights};  // [task][column][output]
    Buffer<T> packed{s.groups * s.out_channels * z.padded_columns};  // [group][output][column]
    Buffer<T> packed_grad{s.batch * z.pixels * z.padded_outputs};    // [image][pixel][output]
    Buffer<T> all_columns{s.threads * kBlock * z.group_columns};
    Buffer<T> all_grad_columns{s.threads * kBlock * z.padded_columns};
    Buffer<T> all_rows{s.threads * 6 * z.taps * kBlock};

    void run(const T* weight, T* grad_weight) {
        stage(s, z, input, staged);
        pack(weight);
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
        for (Index task = 0; task < tasks; task++) run_task(task);
#pragma omp parallel for num_threads(int(s.threads))
        for (Index plane = 0; plane < z.planes; plane++) write_grad_input(plane);
#pragma omp parallel for num_threads(int(s.threads))
        for (Index o = 0; o < s.out_channels; o++) write_grad_weight(o, grad_weight);
    }

    void pack(const T* weight) {
        std::fill_n(packed.at(0), s.groups * s.out_channels * z.padded_columns, T(0));
        for (Index o = 0; o < s.out_channels; o++)
            for_each_weight(s, z, o, [&](Index group, Index column, Index index) {
                *packed.at((group * s.out_channels + o) * z.padded_columns + column) =
                    weight[index];
            });
        const Index rest = z.padded_outputs - s.out_channels;
#pragma omp parallel for num_threads(int(s.threads))
        for (Index job = 0; job < s.batch * z.blocks; job++) {
            const Index n = job / z.blocks, first = job % z.blocks * kBlock;
            const Index count = std::min(kBlock, z.pixels - first);
            T* target = packed_grad.at((n * z.pixels + first) * z.padded_outputs);
            copy(grad_output.at(n, 0, first),
                 {grad_output.pixel_stride(), grad_output.channel_stride()}, target,
                 {z.padded_outputs, 1}, count, s.out_channels);
            for (Index p = 0; p < count; p++)
                std::fill_n(target + p * z.padded_outputs + s.out_channels, rest, T(0));
        }
    }

    void run_task(Index task) {
        std::fill_n(grad_planes.at(task * z.plane), z.plane, T(0));
        std::fill_n(grad_weights.at(task * weights), weights, T(0));
        const Index strip = task % strips;
        const Index stop = (strip + 1) * z.blocks / strips;
        for (Index block = strip * z.blocks / strips; block < stop; block++)
            run_block(task, block * kBlock, std::min(kBlock, z.pixels - block * kBlock));
    }

    void run_block(Index task, Index first, Index count) {
        const Index plane = task / strips, n = plane / s.groups, group = plane % s.groups;
        T* columns = all_columns.at(thread_index() * kBlock * z.group_columns);
        T* grad_columns = all_grad_columns.at(thread_index() * kBlock * z.padded_columns);
        const T* grad = packed_grad.at((n * z.pixels + first) * z.padded_outputs);

        std::fill_n(grad_columns, count * z.padded_columns, T(0));
        multiply<T>({grad, z.padded_outputs, 1,
                     packed.at(group * s.out_channels * z.padded_columns), z.padded_columns,
                     grad_columns, z.padded_columns, s.out_channels},
                    count, z.padded_columns);
        run_taps(task, first, count, columns, grad_columns);
        multiply<T>({columns, 1, z.group_columns, grad, z.padded_outputs,
                     grad_weights.at(task * weights), z.padded_outputs, count},
                    z.group_columns, z.padded_outputs);
    }

    void run_taps(Index task, Index first, Index count, T* columns, const T* grad_columns) {
        const Index plane = task / strips, n = plane / s.groups, group = plane % s.groups;
        T* rows = all_rows.at(thread_index() * 6 * z.taps * kBlock);
        T* grad_shifts = rows + 3 * z.taps * kBlock;
        T* grad_factors = grad_shifts + 2 * z.taps * kBlock;
        const auto shifts = pixel_rows(offset, n, group * 2 * z.taps, 2 * z.taps, first, count,
                                       rows);
        const auto factors = pixel_rows(mask, n, group * z.taps, z.taps, first, count,
                                        rows + 2 * z.taps * kBlock);
        Samples<T> samples;
        for (Index tap = 0; tap < z.taps; tap++) {
            locate(s, tap, first, count, shifts.data + 2 * tap * shifts.stride,
                   shifts.data + (2 * tap + 1) * shifts.stride, samples);
            const Index column = tap * z.padded_channels;
            backward_tap<Lanes, T>(
                z, samples, count,
                {staged.at(plane * z.plane), factors.data + tap * factors.stride,
                 grad_columns + column, columns + column, grad_planes.at(task * z.plane),
                 grad_shifts + 2 * tap * kBlock, grad_shifts + (2 * tap + 1) * kBlock,
                 grad_factors + tap * kBlock, z.group_columns, z.padded_columns});
        }
        copy(grad_shifts, {1, kBlock}, grad_offset.at(n, group * 2 * z.taps, first),
                {grad_offset.pixel_stride(), grad_offset.channel_stride()}, count, 2 * z.taps);
        copy(grad_factors, {1, kBlock}, grad_mask.at(n, group * z.taps, first),
                {grad_mask.pixel_stride(), grad_mask.channel_stride()}, count, z.taps);
    }

    void write_grad_input(Index plane) {
        T* sum = grad_planes.at(plane * strips * z.plane);
        for (Index strip = 1; strip < strips; strip++)
            for (Index i = 0; i < z.plane; i++) sum[i] += sum[strip * z.plane + i];
        const Index n = plane / s.groups, channel = plane % s.groups * z.group_channels;
        for (Index y = 0; y < s.height; y++)
            copy(sum + ((y + 1) * z.padded_width + 1) * z.padded_channels,
                    {z.padded_channels, 1}, grad_input.at(n, channel, y * s.width),
                    {grad_input.pixel_stride(), grad_input.channel_stride()}, s.width,
                    z.group_channels);
    }

    void write_grad_weight(Index o, T* grad_weight) {
        for_each_weight(s, z, o, [&](Index group, Index column, Index index) {
            T sum = 0;
            for (Index n = 0; n < s.batch; n++)
                for (Index strip = 0; strip < strips; strip++) {
                    const Index task = (n * s.groups + group) * strips + strip;
                    sum += *grad_weights.at(task * weights + column * z.padded_outputs + o);
                }
            grad_weight[index] = sum;
        });
    }
};

// Calls function(width) with the narrowest vector that holds a group's channels, or the widest.
template <class T, int Lanes = kLanes<T>, class Function>
void with_lanes(Index channels, Function function) {
    if constexpr (Lanes > 1)
        if (channels <= Lanes / 2) return with_lanes<T, Lanes / 2>(channels, function);
    function(std::integral_constant<int, Lanes>());
}

constexpr int kOutOfMemory = 1;

template <class T>
Image<T> image(void* const* tensors, std::uint32_t layouts, int i, Index channels, Index pixels) {
    return {static_cast<T*>(tensors[i]), channels, pixels, bool(layouts >> i & 1)};
}

template <class T>
int forward_any(const Shape& s, std::uint32_t layouts, void* const* tensors) try {
    const Index pixels = s.out_height * s.out_width;
    const Index samples = s.groups * s.kernel_height * s.kernel_width;
    with_lanes<T>(s.channels / s.groups, [&](auto lanes) {
        forward<T, lanes()>(s, image<T>(tensors, layouts, 0, s.channels, s.height * s.width),
                            image<T>(tensors, layouts, 1, 2 * samples, pixels),
                            image<T>(tensors, layouts, 2, samples, pixels),
                            image<T>(tensors, layouts, 3, s.out_channels, pixels),
                            static_cast<T*>(tensors[4]), static_cast<T*>(tensors[5]));
    });
    return 0;
} catch (const std::bad_alloc&) {
    return kOutOfMemory;
}

template <class T>
int backward_any(const Shape& s, std::uint32_t layouts, void* const* tensors) try {
    const Index pixels = s.out_height * s.out_width;
    const Index samples = s.groups * s.kernel_height * s.kernel_width;
    with_lanes<T>(s.channels / s.groups, [&](auto lanes) {
        Backward<T, lanes()>{s,
                             image<T>(tensors, layouts, 0, s.channels, s.height * s.width),
                             image<T>(tensors, layouts, 1, 2 * samples, pixels),
                             image<T>(tensors, layouts, 2, samples, pixels),
                             image<T>(tensors, layouts, 3, s.out_channels, pixels),
                             image<T>(tensors, layouts, 4, s.channels, s.height * s.width),
                             image<T>(tensors, layouts, 5, 2 * samples, pixels),
                             image<T>(tensors, layouts, 6, samples, pixels)}
            .run(static_cast<T*>(tensors[7]), static_cast<T*>(tensors[8]));
    });
    return 0;
} catch (const std::bad_alloc&) {
    return kOutOfMemory;
}

}  // namespace

// Tensors of one type, float32 or float64. Bit i of `layouts`: tensor i is channels last.
// Both return 0, or 1 where memory ran out.

// tensors: input, offset, mask, output (written), weight, bias or null.
extern "C" int dcn_forward(const Shape* shape, int is_double, std::uint32_t layouts,
                           void* const* tensors) {
    return is_double ? forward_any<double>(*shape, layouts, tensors)
                     : forward_any<float>(*shape, layouts, tensors);
}

// tensors: input, offset, mask, grad_output, then written: grad_input, grad_offset,
// grad_mask; then weight, and written: grad_weight.
extern "C" int dcn_backward(const Shape* shape, int is_double, std::uint32_t layouts,
                            void* const* tensors) {
    return is_double ? backward_any<double>(*shape, layouts, tensors)
                     : backward_any<float>(*shape, layouts, tensors);
}
