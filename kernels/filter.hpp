// What the parts of the filters share: where a maximum is, and where a position's fragment is.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// Calls body(q, n) for the vectors of a voxel's lanes: q is the first lane, n how many. The last vector begins early
// rather than being cut; what is done twice comes out the same.
template <typename Body>
ZNN_INLINE void for_lanes(size_t lanes, const Body& body) {
  if (lanes == LANES / 2) return body(0, LANES / 2);
  if (lanes < LANES) return body(0, (int)lanes);
  for (size_t q = 0; q + LANES <= lanes; q += LANES) body(q, LANES);
  if (lanes % LANES) body(lanes - LANES, LANES);
}
#define ZNN_BODY(q, n) [&](size_t q, int n) __attribute__((always_inline))

// Between argmax values in memory and vectors. GCC turns __builtin_convertvector between these types into one move per
// lane, but knows the instruction for a list of neighbours and for a shuffle of bytes.
#define ZNN_FOUR(p, j) p[j], p[j + 1], p[j + 2], p[j + 3]
#if defined(__AVX512F__)
#define ZNN_HALF_NEIGHBOURS(p) ZNN_FOUR(p, 0), ZNN_FOUR(p, 4)
#define ZNN_NEIGHBOURS(p) ZNN_HALF_NEIGHBOURS(p), ZNN_FOUR(p, 8), ZNN_FOUR(p, 12)
#elif defined(__AVX2__)
#define ZNN_HALF_NEIGHBOURS(p) ZNN_FOUR(p, 0)
#define ZNN_NEIGHBOURS(p) ZNN_HALF_NEIGHBOURS(p), ZNN_FOUR(p, 4)
#define ZNN_FIRST_BYTES 0, 4, 8, 12, 16, 20, 24, 28
#define ZNN_FIRST_TWO_BYTES 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29
#else
#define ZNN_HALF_NEIGHBOURS(p) p[0], p[1]
#define ZNN_NEIGHBOURS(p) ZNN_FOUR(p, 0)
#define ZNN_FIRST_BYTES 0, 4, 8, 12
#define ZNN_FIRST_TWO_BYTES 0, 1, 4, 5, 8, 9, 12, 13
#endif

template <typename Index>
ZNN_INLINE vi load_index(const Index* p, int n) {
  if (n >= LANES) return (vi){ZNN_NEIGHBOURS(p)};
  if (n == LANES / 2) return beside_zeros<vi>((vi_half){ZNN_HALF_NEIGHBOURS(p)});
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if (sizeof(Index) == 1) return (vi)_mm512_maskz_cvtepu8_epi32(first_lanes(n), _mm_maskz_loadu_epi8(first_lanes(n), p));
  if (sizeof(Index) == 2) return (vi)_mm512_maskz_cvtepu16_epi32(first_lanes(n), _mm256_maskz_loadu_epi16(first_lanes(n), p));
#endif
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
#if defined(__AVX512F__)
  if (n < LANES && n != LANES / 2) {
    if (sizeof(Index) == 1) return _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes(n), (__m512i)index);
    if (sizeof(Index) == 2) return _mm512_mask_cvtepi32_storeu_epi16(p, first_lanes(n), (__m512i)index);
  }
#endif
  const auto narrowed = narrow(index, Index{});
  __builtin_memcpy(p, &narrowed, (n >= LANES ? LANES : n) * sizeof(Index));
}

struct Maximum {
  vf value;
  vi where;
};
// The maximum of two ranges of voxels, b's after a's: a's if equal; the later NaN. The places of b's get a digit more.
// Without NaN it takes half the comparisons, which only two ports of the core make, and the next need not wait for a mask
// to know the value. Of the LAST nobody waits for the value; to choose it is cheaper.
template <bool MAY_BE_NAN, bool LAST = false>
ZNN_INLINE Maximum later_of(Maximum b, Maximum a, int digit) {
#if defined(__AVX512F__)
  const __m512 of_b = (__m512)b.value, of_a = (__m512)a.value;
  __mmask16 take = _mm512_cmp_ps_mask(of_b, of_a, _CMP_GT_OQ);
  if (MAY_BE_NAN) take |= _mm512_cmp_ps_mask(of_b, of_b, _CMP_UNORD_Q);
  const __m512 chosen = _mm512_mask_mov_ps(of_a, take, of_b), greater = _mm512_maskz_max_ps((__mmask16)-1, of_b, of_a);
  const __m512i where = _mm512_mask_or_epi32((__m512i)a.where, take, (__m512i)b.where, _mm512_set1_epi32(digit));
  return {(vf)(MAY_BE_NAN || LAST ? chosen : greater), (vi)where};
#else
  const vi take = MAY_BE_NAN ? (b.value > a.value) | (b.value != b.value) : b.value > a.value;
  return {take ? b.value : a.value, take ? b.where | digit : a.where};
#endif
}
ZNN_INLINE Maximum later(Maximum b, Maximum a) { return later_of<true>(b, a, 0); }
ZNN_INLINE bool any_nan(vf v) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0;
#else
  float lanes[LANES];
  store(lanes, v);
  int n = 0;
  for (int j = 0; j < LANES; j++) n += lanes[j] != lanes[j];
  return n > 0;
#endif
}

// Every position of the window has an output, in the fragment of its parity; otherwise only every stride-th has one.
ZNN_INLINE bool dense(const Filter& f) { return (size_t)f.n_parities == f.stride.voxels(); }

// A position along an axis: the fragment that holds it, and where. Divisions would take as long as a row.
struct Part {
  int parity, voxel;
};
ZNN_INLINE Part part(int position, int stride) {
  if (stride == 1) return {0, position};
  if (stride == 2) return {position & 1, position >> 1};
  return {position % stride, position / stride};
}

// Where the value of a window position (z, y, x) of an entry is kept.
struct Place {
  int group;
  size_t at;
};
ZNN_INLINE Place place_of(const Filter& f, int entry, int z, int y, int x) {
  const Part of_z = part(z, f.stride.z), of_y = part(y, f.stride.y), of_x = part(x, f.stride.x);
  const int parity = (of_z.parity * f.stride.y + of_y.parity) * f.stride.x + of_x.parity;
  const int group = parity < f.parities_per_group ? 0 : parity / f.parities_per_group;
  const size_t fragment = (size_t)(parity - group * f.parities_per_group) * f.batch + entry;
  const size_t row = (fragment * f.out_size.z + of_z.voxel) * f.out_size.y + of_y.voxel;
  return {group, (row * f.out_size.x + of_x.voxel) * f.channels};
}

// A row of a fragment: where it is kept, and its first window in the images.
struct Row {
  int group;
  size_t at, corner;
};
// Calls body for the rows of all fragments in the order of the images: those that share voxels follow each other.
template <typename Body>
ZNN_INLINE void for_rows(const Filter& f, const Body& body) {
  const Size s = f.stride, o = f.out_size, step = dense(f) ? Size{1, 1, 1} : s;
  for (int entry = 0; entry < f.batch; entry++)
    for (int z = 0; z < o.z * s.z; z += step.z)
      for (int y = 0; y < o.y * s.y; y += step.y)
        for (int x = 0; x < s.x; x += step.x) {
          const Place p = place_of(f, entry, z, y, x);
          const size_t line = ((size_t)entry * f.size.z + z) * f.size.y + y;
          body({p.group, p.at, (line * f.size.x + x) * f.channels});
        }
}

}  // namespace znn::ZNN_ISA
