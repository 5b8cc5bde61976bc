// Vectors, aligned memory and a matrix product that runs from cache, for the native kernels.
//
// Vectors are GCC's and Clang's vector extension: ordinary arithmetic that the compiler turns
// into whatever instructions the machine has, in the widest form it has.

#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

using Index = std::int64_t;

inline int thread_index() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32, kMaxTileVectors = 5;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRegisters = 16, kMaxTileVectors = 2;
#else
constexpr int kVectorBytes = 16, kRegisters = 16, kMaxTileVectors = 2;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T, int Lanes>
struct VectorOf {
    typedef T type __attribute__((vector_size(Lanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int Lanes>
using Vector = typename VectorOf<T, Lanes>::type;

template <int Lanes, class T>
inline Vector<T, Lanes> load(const T* source) {
    return *reinterpret_cast<const Vector<T, Lanes>*>(source);
}
template <int Lanes, class T>
inline void store(T* target, Vector<T, Lanes> value) {
    *reinterpret_cast<Vector<T, Lanes>*>(target) = value;
}
template <int Lanes, class T>
inline void add(T* target, Vector<T, Lanes> value) {
    *reinterpret_cast<Vector<T, Lanes>*>(target) += value;
}

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

// Uninitialised memory aligned to cache lines.
template <class T>
class Buffer {
public:
    explicit Buffer(Index count)
        : data_(static_cast<T*>(::operator new(count * sizeof(T) + 64, std::align_val_t(64)))) {}
    ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* at(Index index) const { return data_ + index; }

private:
    T* data_;
};

// target (rows, columns) += left (rows, inner) * right (inner, columns), where `columns` is
// a whole number of vectors, and left is read with any strides.
template <class T>
struct Product {
    const T* left;
    Index left_row, left_inner;
    const T* right;
    Index right_row;
    T* target;
    Index target_row, inner;
};

template <class T, int Rows, int Vectors>
inline void multiply_tile(const Product<T>& m, Index row, Index column) {
    constexpr int L = kLanes<T>;
    const T* left = m.left + row * m.left_row;
    const T* right = m.right + column;
    T* target = m.target + row * m.target_row + column;
    Vector<T, L> sums[Rows][Vectors];
    for (int r = 0; r < Rows; r++)
        for (int v = 0; v < Vectors; v++) sums[r][v] = load<L>(target + r * m.target_row + v * L);
    for (Index k = 0; k < m.inner; k++) {
        Vector<T, L> factors[Vectors];
        for (int v = 0; v < Vectors; v++) factors[v] = load<L>(right + k * m.right_row + v * L);
        for (int r = 0; r < Rows; r++) {
            const T scale = left[r * m.left_row + k * m.left_inner];
            for (int v = 0; v < Vectors; v++) sums[r][v] += scale * factors[v];
        }
    }
    for (int r = 0; r < Rows; r++)
        for (int v = 0; v < Vectors; v++) store<L>(target + r * m.target_row + v * L, sums[r][v]);
}

// One panel of `Vectors` vectors, in tiles as high as the registers allow.
template <class T, int Vectors>
void multiply_panel(const Product<T>& m, Index rows, Index column) {
    constexpr int kRows = std::min((kRegisters - 1 - Vectors) / Vectors, 6);
    Index row = 0;
    for (; row + kRows <= rows; row += kRows) multiply_tile<T, kRows, Vectors>(m, row, column);
    for (; row < rows; row++) multiply_tile<T, 1, Vectors>(m, row, column);
}

template <class T, int Vectors = kMaxTileVectors>
void multiply_panel_of(Index vectors, const Product<T>& m, Index rows, Index column) {
    if constexpr (Vectors > 1)
        if (vectors < Vectors) return multiply_panel_of<T, Vectors - 1>(vectors, m, rows, column);
    multiply_panel<T, Vectors>(m, rows, column);
}

template <class T>
void multiply(const Product<T>& m, Index rows, Index columns) {
    constexpr int L = kLanes<T>;
    Index vectors = columns / L;
    for (Index panels = ceil_div(vectors, kMaxTileVectors); panels > 0; panels--) {
        const Index width = ceil_div(vectors, panels);  // panels as equal as can be
        multiply_panel_of<T>(width, m, rows, columns - vectors * L);
        vectors -= width;
    }
}
