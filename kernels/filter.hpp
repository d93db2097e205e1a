// What the parts of the filters share: where a maximum is, and where a position's fragment is.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// Calls body(q, n) for the vectors of a voxel's lanes: q is the first lane, n how many. The last vector begins early
// rather than being cut; what is done twice comes out the same.
template <typename Body>
ZNN_INLINE void for_lanes(size_t lanes, const Body& body) {
  if (lanes < LANES) return body(0, (int)lanes);
  for (size_t q = 0; q + LANES <= lanes; q += LANES) body(q, LANES);
  if (lanes % LANES) body(lanes - LANES, LANES);
}
#define ZNN_BODY(q, n) [&](size_t q, int n) __attribute__((always_inline))

// Between argmax values in memory and vectors. GCC turns __builtin_convertvector between these types into one move per
// lane, but knows the instruction for a list of neighbours and for a shuffle of bytes.
#define ZNN_FOUR(p, j) p[j], p[j + 1], p[j + 2], p[j + 3]
#if defined(__AVX512F__)
#define ZNN_NEIGHBOURS(p) ZNN_FOUR(p, 0), ZNN_FOUR(p, 4), ZNN_FOUR(p, 8), ZNN_FOUR(p, 12)
#elif defined(__AVX2__)
#define ZNN_NEIGHBOURS(p) ZNN_FOUR(p, 0), ZNN_FOUR(p, 4)
#define ZNN_FIRST_BYTES 0, 4, 8, 12, 16, 20, 24, 28
#define ZNN_FIRST_TWO_BYTES 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29
#else
#define ZNN_NEIGHBOURS(p) ZNN_FOUR(p, 0)
#define ZNN_FIRST_BYTES 0, 4, 8, 12
#define ZNN_FIRST_TWO_BYTES 0, 1, 4, 5, 8, 9, 12, 13
#endif

template <typename Index>
ZNN_INLINE vi load_index(const Index* p, int n) {
  if (n >= LANES) return (vi){ZNN_NEIGHBOURS(p)};
  Index some[LANES] = {};
  for (int j = 0; j < n; j++) some[j] = p[j];
  return (vi){ZNN_NEIGHBOURS(some)};
}

#if defined(__x86_64__) && !defined(__AVX512F__)
typedef uint8_t vb __attribute__((vector_size(LANES * 4)));
ZNN_INLINE vb narrow(vi v, uint8_t) {
  return __builtin_shuffle((vb)v, (vb){ZNN_FIRST_BYTES, ZNN_FIRST_BYTES, ZNN_FIRST_BYTES, ZNN_FIRST_BYTES});
}
ZNN_INLINE vb narrow(vi v, uint16_t) {
  return __builtin_shuffle((vb)v, (vb){ZNN_FIRST_TWO_BYTES, ZNN_FIRST_TWO_BYTES});
}
#else
typedef uint8_t vb __attribute__((vector_size(LANES)));
typedef uint16_t vs __attribute__((vector_size(LANES * 2)));
ZNN_INLINE vb narrow(vi v, uint8_t) { return __builtin_convertvector(v, vb); }
ZNN_INLINE vs narrow(vi v, uint16_t) { return __builtin_convertvector(v, vs); }
#endif
template <typename Index>
ZNN_INLINE void store_index(Index* p, vi index, int n) {
  const auto narrowed = narrow(index, Index{});
  __builtin_memcpy(p, &narrowed, (n >= LANES ? LANES : n) * sizeof(Index));
}

struct Maximum {
  vf value;
  vi where;
};
// The maximum of two ranges of voxels, b's after a's: a's if equal; the later NaN.
ZNN_INLINE Maximum later(Maximum b, Maximum a) {
  const vi take = (b.value > a.value) | (b.value != b.value);
  return {take ? b.value : a.value, take ? b.where : a.where};
}

// Parities are in C order.
struct Position {
  int z, y, x;
};
ZNN_INLINE Position parity_of(const Filter& f, int p) {
  return {p / (f.stride.y * f.stride.x), p / f.stride.x % f.stride.y, p % f.stride.x};
}

// Where a row of a fragment begins: in which group's array, and how many values on.
struct Place {
  int group;
  size_t at;
};
ZNN_INLINE Place place_of(const Filter& f, int parity, int entry, int z, int y) {
  const size_t fragment = (size_t)(parity % f.parities_per_group) * f.batch + entry;
  const size_t row = (fragment * f.out_size.z + z) * f.out_size.y + y;
  return {parity / f.parities_per_group, row * f.out_size.x * f.channels};
}

}  // namespace znn::ZNN_ISA
