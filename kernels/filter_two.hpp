// Max-filters of two voxels along y and x, and one or two along z, whose every position has an output. Rows of two
// positions along z and y are done together: neighbours share what their windows have in common, every voxel is loaded
// once per block, and all comparisons are between registers. Backward, the windows of a plane are walked once: their
// gradients begin the sums of the plane's voxels, and end those of the next plane's.
#pragma once
#include "filter.hpp"

namespace znn::ZNN_ISA {

ZNN_INLINE bool of_two(const Filter& f) {
  return dense(f) && f.window.z <= 2 && f.window.y == 2 && f.window.x == 2 && f.stride.x <= 2;
}

// Rows of one position along z and y: where the fragments of x = 0, 1, .. modulo the stride are kept.
template <typename Value, typename Index>
struct Fragments {
  Value* value[2];
  Index* argmax[2];

  void at(const Filter& f, int entry, int z, int y, Value* const* values, Index* const* indices) {
    for (int x = 0; x < f.stride.x; x++) {
      const Place p = place_of(f, entry, z, y, x);
      value[x] = values[p.group] + p.at;
      argmax[x] = indices[p.group] + p.at;
    }
    if (f.stride.x == 1) {  // position x + 1 is the next voxel of the same row
      value[1] = value[0] + f.channels;
      argmax[1] = argmax[0] + f.channels;
    }
  }
};

// So many voxels of a block's rows are walked for one vector of lanes before the next. The fragments of an image are
// often a multiple of a page apart, where few lines fit into the first cache: more are gone before the next lanes.
constexpr int WALK = 8;
ZNN_INLINE int walk_of(const Filter& f) { return f.channels > LANES ? WALK : f.size.x; }

// Positions x0 to x1 (x0 even) of rows beginning at `corner`: of NZ planes and NY rows. Returns whether there may be
// NaN among the values, which counts only if that was not expected: then it has to be done again.
template <int WZ, int NZ, int NY, bool MAY_BE_NAN, typename Index>
ZNN_INLINE bool walk_forward(const Filter& f, const float* corner, int x0, int x1, size_t q, int n,
                             const Fragments<float, Index> (&rows)[NZ][NY]) {
  const size_t lanes = f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  const float* from = corner + x0 * lanes + q;
  const size_t step = f.stride.x == 2 ? lanes : 2 * lanes;
  size_t at = x0 / 2 * step + q;
  vf before[NZ + WZ - 1][NY + 1], sums[NZ + WZ - 1] = {};  // NaN if there was one
  for (int z = 0; z < NZ + WZ - 1; z++)
    for (int y = 0; y <= NY; y++) {
      before[z][y] = load_first(from + z * plane + y * line, n);
      sums[z] += before[z][y];
    }
  for (int x = x0, odd = 0; x < x1; x++, odd ^= 1) {
    from += lanes;
    Maximum above[NY] = {};
    for (int z = 0; z < NZ + WZ - 1; z++) {
      Maximum upper = {};
      for (int y = 0; y <= NY; y++) {
        const vf here = load_first(from + z * plane + y * line, n);
        sums[z] += here;
        const Maximum pair = later_of<MAY_BE_NAN>({here, (vi){}}, {before[z][y], (vi){}}, 1);
        before[z][y] = here;
        if (y > 0) {
          const Maximum square = later_of<MAY_BE_NAN>(pair, upper, 2);
          const int cube = z + 1 - WZ;
          Maximum best = square;
          if (WZ == 2 && cube >= 0) best = later_of<MAY_BE_NAN, true>(square, above[y - 1], 4);
          if (cube >= 0) {
            float* const to = rows[cube][y - 1].value[odd] + at;
            Index* const where = rows[cube][y - 1].argmax[odd] + at;
            store_first(to, best.value, n);
            store_index(where, best.where, n);
          }
          above[y - 1] = square;
        }
        upper = pair;
      }
    }
    if (odd) at += step;
  }
  vf all = {};
  for (int z = 0; z < NZ + WZ - 1; z++) all += sums[z];
  return any_nan(all);
}

template <int WZ, int NZ, int NY, typename Index>
static void forward_block(const Filter& f, const float* image, int entry, int z, int y, float* const* out,
                          Index* const* argmax) {
  Fragments<float, Index> rows[NZ][NY];
  for (int i = 0; i < NZ; i++)
    for (int j = 0; j < NY; j++) rows[i][j].at(f, entry, z + i, y + j, out, argmax);
  const float* corner = image + (((size_t)entry * f.size.z + z) * f.size.y + y) * f.size.x * f.channels;
  const int positions = f.size.x - 1, walk = walk_of(f);
  for (int x = 0; x < positions; x += walk)
    for_lanes(f.channels, ZNN_BODY(q, n) {
      const int end = min_of(x + walk, positions);
      if (walk_forward<WZ, NZ, NY, false>(f, corner, x, end, q, n, rows))
        walk_forward<WZ, NZ, NY, true>(f, corner, x, end, q, n, rows);
    });
}

template <int WZ, typename Index>
static void forward_of_two(const Filter& f, const float* image, float* const* out, Index* const* argmax) {
  const int mz = f.size.z - WZ + 1, my = f.size.y - 1;
  for (int entry = 0; entry < f.batch; entry++)
    for (int z = 0; z < mz; z += WZ)
      for (int y = 0; y < my; y += 2) {
        const bool planes = z + WZ <= mz, rows = y + 2 <= my;
        if (planes && rows) forward_block<WZ, WZ, 2>(f, image, entry, z, y, out, argmax);
        if (planes && !rows) forward_block<WZ, WZ, 1>(f, image, entry, z, y, out, argmax);
        if (!planes && rows) forward_block<WZ, 1, 2>(f, image, entry, z, y, out, argmax);
        if (!planes && !rows) forward_block<WZ, 1, 1>(f, image, entry, z, y, out, argmax);
      }
}

// ---- backward

constexpr int NOWHERE = -1;  // as the argmax of a window outside of the image

// The argmax of a vector of windows: bytes where these compare to masks, else as wide as the values that they choose.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
typedef __m128i Places;
ZNN_INLINE Places nowhere() { return _mm_set1_epi8(NOWHERE); }
template <typename Index>
ZNN_INLINE Places load_places(const Index* p, int n) {
  if (sizeof(Index) > 1) return _mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)load_index(p, n));
  if (n >= LANES) return _mm_loadu_si128((const __m128i*)p);
  if (n == LANES / 2) return _mm_loadl_epi64((const __m128i*)p);
  return _mm_maskz_loadu_epi8(first_lanes(n), p);
}
ZNN_INLINE vf add_from(vf sum, Places places, int place, vf d) {
  const __mmask16 here = _mm_cmpeq_epi8_mask(places, _mm_set1_epi8((char)place));
  return (vf)_mm512_mask_add_ps((__m512)sum, here, (__m512)sum, (__m512)d);
}
#else
typedef vi Places;
ZNN_INLINE Places nowhere() { return (vi){} + NOWHERE; }
template <typename Index>
ZNN_INLINE Places load_places(const Index* p, int n) {
  return load_index(p, n);
}
ZNN_INLINE vf add_from(vf sum, Places places, int place, vf d) { return places == (vi){} + place ? sum + d : sum; }
#endif

// `for_lanes` where nothing may be done twice.
template <typename Body>
ZNN_INLINE void for_lanes_once(size_t lanes, const Body& body) {
  size_t q = 0;
  for (; q + LANES <= lanes; q += LANES) body(q, LANES);
  if (lanes - q == LANES / 2) return body(q, LANES / 2);
  if (lanes > q) body(q, (int)(lanes - q));
}

// Voxels x0 to x1 (x0 even) of NY rows of the gradient, from the rows of windows of one plane that begin at the same
// place or one voxel before. The plane's own voxels begin with them; to those of the next plane, which have begun with
// theirs, they are added. In turns the windows of one voxel are those here and then those before, and need not be moved.
template <int WZ, int NY, typename Index>
ZNN_INLINE void walk_backward(const Filter& f, float* to, int x0, int x1, size_t q, int n,
                              const Fragments<const float, const Index> (&rows)[NY + 1]) {
  const size_t lanes = f.channels, line = f.size.x * lanes, plane = f.size.y * line;
  const size_t step = f.stride.x == 2 ? lanes : 2 * lanes;
  const int positions = f.size.x - 1;
  vf d[NY + 1][2] = {};  // of even and odd windows
  Places where[NY + 1][2] = {};
  const auto take = [&](int x, int odd) __attribute__((always_inline)) {
    const size_t at = x / 2 * step + q;
    for (int y = 0; y <= NY; y++) {
      d[y][odd] = load_first(rows[y].value[odd] + at, n);
      where[y][odd] = load_places(rows[y].argmax[odd] + at, n);
    }
  };
  const auto none = [&](int odd) __attribute__((always_inline)) {
    for (int y = 0; y <= NY; y++) where[y][odd] = nowhere();
  };
  const auto sum = [&](int odd) __attribute__((always_inline)) {
    for (int y = 0; y < NY; y++)
      for (int dz = 0; dz < WZ; dz++) {
        float* const row = to + dz * plane + y * line;
        vf sum = dz > 0 ? load_first(row, n) : (vf){};
        for (int k = 0; k < 4; k++) {
          const int of_y = y + 1 - k / 2, which = k % 2 ? 1 - odd : odd;
          sum = add_from(sum, where[of_y][which], 4 * dz + k, d[of_y][which]);
        }
        store_first(row, sum, n);
      }
    to += lanes;
  };
  to += x0 * lanes + q;
  if (x0 > 0) take(x0 - 1, 1);
  if (x0 == 0) none(1);
  for (int x = x0; x < x1; x += 2) {
    if (x < positions) take(x, 0);
    if (x == positions) none(0);
    sum(0);
    if (x + 1 == x1) return;
    if (x + 1 < positions) take(x + 1, 1);
    if (x + 1 == positions) none(1);
    sum(1);
  }
}

template <int WZ, int NY, typename Index>
static void backward_block(const Filter& f, int entry, int z, int y, const float* const* d_out,
                           const Index* const* argmax, const Index* nowhere, float* d_image) {
  Fragments<const float, const Index> rows[NY + 1];
  for (int j = 0; j <= NY; j++) {
    const int of_y = y + j - 1;
    if (of_y >= 0 && of_y <= f.size.y - 2) rows[j].at(f, entry, z, of_y, d_out, argmax);
    else rows[j] = {{d_out[0], d_out[0]}, {nowhere, nowhere}};
  }
  float* to = d_image + (((size_t)entry * f.size.z + z) * f.size.y + y) * f.size.x * f.channels;
  const int walk = walk_of(f);
  for (int x = 0; x < f.size.x; x += walk)
    for_lanes_once(f.channels, ZNN_BODY(q, n) {
      walk_backward<WZ, NY>(f, to, x, min_of(x + walk, f.size.x), q, n, rows);
    });
}

template <typename Index>
static size_t backward_of_two_scratch(const Filter& f) {
  return (f.out_size.x * (size_t)f.channels * sizeof(Index) + sizeof(float) - 1) / sizeof(float);
}

template <int WZ, typename Index>
static void backward_of_two(const Filter& f, const float* const* d_out, const Index* const* argmax, float* d_image,
                            float* scratch) {
  Index* nowhere = (Index*)scratch;
  for (size_t j = 0; j < f.out_size.x * (size_t)f.channels; j++) nowhere[j] = (Index)NOWHERE;
  const size_t plane = (size_t)f.size.y * f.size.x * f.channels;
  for (int entry = 0; entry < f.batch; entry++) {
    if (WZ == 2) fill_zero(d_image + ((size_t)(entry + 1) * f.size.z - 1) * plane, plane);
    for (int z = f.size.z - WZ; z >= 0; z--)
      for (int y = 0; y < f.size.y; y += 2) {
        if (y + 2 <= f.size.y) backward_block<WZ, 2>(f, entry, z, y, d_out, argmax, nowhere, d_image);
        else backward_block<WZ, 1>(f, entry, z, y, d_out, argmax, nowhere, d_image);
      }
  }
}

}  // namespace znn::ZNN_ISA
