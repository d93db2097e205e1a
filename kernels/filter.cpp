// Max-filter and max-pool. A max-filter's output is written straight into its fragments: position v goes to parity
// v mod stride at v / stride. The argmax is the flat index in the window; ties go to the earlier voxel.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

struct Position {
  int z, y, x;
};

static Position parity_of(const Filter& f, int p) {
  return {p / (f.stride.y * f.stride.x), p / f.stride.x % f.stride.y, p % f.stride.x};
}

// A vector of argmax values, as many as there are lanes.
template <typename Index>
struct Narrow;
template <>
struct Narrow<uint8_t> {
  typedef uint8_t type __attribute__((vector_size(LANES)));
};
template <>
struct Narrow<uint16_t> {
  typedef uint16_t type __attribute__((vector_size(LANES * 2)));
};

template <typename Index>
ZNN_INLINE void store_index(Index* p, vi index, int n) {
  const typename Narrow<Index>::type narrow = __builtin_convertvector(index, typename Narrow<Index>::type);
  __builtin_memcpy(p, &narrow, n >= LANES ? sizeof(narrow) : n * sizeof(Index));
}
template <typename Index>
ZNN_INLINE vi load_index(const Index* p, int n) {
  typename Narrow<Index>::type narrow = {};
  __builtin_memcpy(&narrow, p, n >= LANES ? sizeof(narrow) : n * sizeof(Index));
  return __builtin_convertvector(narrow, vi);
}

template <typename Index>
ZNN_INLINE void window_maximum(const Filter& f, const float* corner, size_t lanes, size_t q, int n, float* out, Index* argmax) {
  const size_t line = f.size.x * lanes, plane = f.size.y * line;
  vf best = load_first(corner + q, n);
  vi where = {}, index = {};
  for (int dz = 0; dz < f.window.z; dz++)
    for (int dy = 0; dy < f.window.y; dy++)
      for (int dx = 0; dx < f.window.x; dx++, index += 1) {
        const vf value = load_first(corner + dz * plane + dy * line + dx * lanes + q, n);
        const vi larger = (value > best) | (value != value);  // NaN wins, and stays
        best = larger ? value : best;
        where = larger ? index : where;
      }
  store_first(out + q, best, n);
  store_index(argmax + q, where, n);
}

template <typename Index>
static void forward(const Filter& f, int group, const float* image, float* out, Index* argmax) {
  const size_t lanes = f.channels;
  for (int target = 0; target < f.parities_per_group * f.batch; target++) {
    const Position p = parity_of(f, group * f.parities_per_group + target / f.batch);
    const float* entry = image + target % f.batch * f.size.voxels() * lanes;
    for (int z = 0; z < f.out_size.z; z++)
      for (int y = 0; y < f.out_size.y; y++)
        for (int x = 0; x < f.out_size.x; x++, out += lanes, argmax += lanes) {
          const size_t row = (size_t)(z * f.stride.z + p.z) * f.size.y + y * f.stride.y + p.y;
          const float* corner = entry + (row * f.size.x + x * f.stride.x + p.x) * lanes;
          size_t q = 0;
          for (; q + LANES <= lanes; q += LANES) window_maximum(f, corner, lanes, q, LANES, out, argmax);
          if (q < lanes) window_maximum(f, corner, lanes, q, (int)(lanes - q), out, argmax);
        }
  }
}

void filter_forward(const Filter& f, int group, const float* image, float* out, void* argmax, int argmax_bytes) {
  if (argmax_bytes == 1) forward(f, group, image, out, (uint8_t*)argmax);
  if (argmax_bytes == 2) forward(f, group, image, out, (uint16_t*)argmax);
}

// Adds the gradient of one output position to the voxel of its window that the argmax names, lane by lane.
template <typename Index>
ZNN_INLINE void window_scatter(const Filter& f, float* corner, size_t lanes, size_t q, int n, const float* d_out, const Index* argmax) {
  const size_t line = f.size.x * lanes, plane = f.size.y * line;
  const vf gradient = load_first(d_out + q, n);
  const vi where = load_index(argmax + q, n);
  vi index = {};
  for (int dz = 0; dz < f.window.z; dz++)
    for (int dy = 0; dy < f.window.y; dy++)
      for (int dx = 0; dx < f.window.x; dx++, index += 1) {
        float* to = corner + dz * plane + dy * line + dx * lanes + q;
        store_first(to, load_first(to, n) + (where == index ? gradient : (vf){}), n);
      }
}

template <typename Index>
static void backward(const Filter& f, const float* const* d_out, const void* const* argmax, float* d_image) {
  const size_t lanes = f.channels, n_out = f.out_size.voxels() * lanes;
  fill_zero(d_image, f.size.voxels() * f.batch * lanes);
  for (int source = 0; source < f.batch * f.n_parities; source++) {
    const int parity = source / f.batch, group = parity / f.parities_per_group;
    const Position p = parity_of(f, parity);
    float* entry = d_image + source % f.batch * f.size.voxels() * lanes;
    const size_t first = (source - group * f.parities_per_group * f.batch) * n_out;
    const float* d = d_out[group] + first;
    const Index* where = (const Index*)argmax[group] + first;
    for (int z = 0; z < f.out_size.z; z++)
      for (int y = 0; y < f.out_size.y; y++)
        for (int x = 0; x < f.out_size.x; x++, d += lanes, where += lanes) {
          const size_t row = (size_t)(z * f.stride.z + p.z) * f.size.y + y * f.stride.y + p.y;
          float* corner = entry + (row * f.size.x + x * f.stride.x + p.x) * lanes;
          size_t q = 0;
          for (; q + LANES <= lanes; q += LANES) window_scatter(f, corner, lanes, q, LANES, d, where);
          if (q < lanes) window_scatter(f, corner, lanes, q, (int)(lanes - q), d, where);
        }
  }
}

void filter_backward(const Filter& f, const float* const* d_out, const void* const* argmax, int argmax_bytes,
                     float* d_image) {
  if (argmax_bytes == 1) backward<uint8_t>(f, d_out, argmax, d_image);
  if (argmax_bytes == 2) backward<uint16_t>(f, d_out, argmax, d_image);
}

}  // namespace znn::ZNN_ISA
