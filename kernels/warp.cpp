// Where the voxels of a patch come from, and their values there, for augmentation.
#include "course.hpp"

namespace znn::ZNN_ISA {

size_t places_scratch(const Motion& m) { return course_scratch(m); }

template <int MAPS>
static void write_all(const Motion& m, float* field, float* scratch) {
  for_rows<MAPS>(m, scratch, [&](const Rows& rows, int, int, size_t first) {
    for (int map = 0; map < MAPS; map++) copy(field + map * m.size.voxels() + first, rows.places + map * rows.length, m.size.x);
  });
}

void places(const Motion& m, float* field, float* scratch) {
  m.maps == 3 ? write_all<3>(m, field, scratch) : write_all<2>(m, field, scratch);
}

// An axis of what may be seen, counted from where the patch's first voxel comes from. Beyond its ends it goes on as in a
// mirror, the outermost voxel not repeated.
struct Side {
  float low, high, period, per_period;  // the first and the last voxel
  float least, most;                    // those of them that the image holds
  float inner;                          // places from `least` to below this one have two voxels after them, or need none
  int before, at, next;                 // the last voxel that has one after it; the origin's index; how far the next is
};
static Side side_of(const Window& w, int axis, int length, int stride, bool between = true) {
  const int at = w.at[axis], low = w.low[axis], high = w.high[axis] - 1, span = high - low;
  const int least = low > 0 ? low : 0, most = min_of(high, length - 1);
  const bool several = most > least && between;  // else a place is a voxel
  return {(float)(low - at), (float)(high - at), (float)(2 * span), span > 0 ? 0.5f / (float)span : 0.0f, (float)(least - at),
          (float)(most - at), (float)(between ? most - 2 - at : most + 1 - at), several ? most - 1 - at : most - at, at, several ? stride : 0};
}

ZNN_INLINE bool any_of(vi lanes) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)lanes, (__m256i)lanes);
#else
  int32_t found = 0;
  for (int j = 0; j < LANES; j++) found |= lanes[j];
  return found != 0;
#endif
}
ZNN_INLINE vi as_int(vf v) { return __builtin_convertvector(v, vi); }
ZNN_INLINE vf as_float(vi v) { return __builtin_convertvector(v, vf); }
ZNN_INLINE vf floor_of(vf v) {
#if defined(__AVX512F__)
  return (vf)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vf)_mm256_floor_ps((__m256)v);
#else
  const vf whole = as_float(as_int(v));
  return whole + as_float((vi)(whole > v));  // true is -1
#endif
}

// Some voxels of a row: where each comes from; the first of the voxels around that place, as an index of the image; and
// the shares of the next.
struct Around {
  vf place[3], share[3];
  vi first[3];
};

ZNN_INLINE void locate_inside(Around& around, int axis, const Side& side) {
  const vf first = floor_of(around.place[axis]);
  around.share[axis] = around.place[axis] - first;
  around.first[axis] = as_int(first) + side.at;
}
ZNN_INLINE void locate_anywhere(Around& around, int axis, const Side& side) {
  vf p = around.place[axis];
  const vf within = p - side.low, folded = within - floor_of(within * side.per_period) * side.period;
  const vf back = side.period - folded;
  p = (vi)(p < side.low) | (vi)(p > side.high) ? side.low + (folded < back ? folded : back) : p;
  // What is not a number takes the first.
  p = p > side.least ? p : (vf){} + side.least;
  p = p < side.most ? p : (vf){} + side.most;
  vi first = as_int(floor_of(p));
  first = first < side.before ? first : (vi){} + side.before;
  around.share[axis] = p - as_float(first);
  around.first[axis] = first + side.at;
}

struct Inside {};    // nobody is near the end of what may be seen
struct Anywhere {};

// Calls body(Inside or Anywhere, where some voxels come from, how many they are, the first) for all of them.
template <int MAPS, typename Body>
ZNN_INLINE void for_some(const Course& c, const Side* sides, float* scratch, Body body) {
  const Motion& m = c.motion;
  for_rows<MAPS>(m, scratch, [&](const Rows& rows, int z, int, size_t row) {
    for (int x = 0; x < m.size.x; x += LANES) {
      const int n = min_of(m.size.x - x, LANES);
      Around around;
      vi inside = (vi){} - 1;
      for (int axis = 0; axis < 3; axis++) {
        const int map = axis - (3 - MAPS);
        around.place[axis] = (float)c.moved[3 * z + axis] + (map < 0 ? (vf){} : load(rows.places + map * rows.length + x));
        inside &= (vi)(around.place[axis] >= sides[axis].least) & (vi)(around.place[axis] < sides[axis].inner);
      }
      if (!any_of(~inside)) {
        for (int axis = 0; axis < 3; axis++) locate_inside(around, axis, sides[axis]);
        body(Inside(), around, n, row + x);
      } else {
        for (int axis = 0; axis < 3; axis++) locate_anywhere(around, axis, sides[axis]);
        body(Anywhere(), around, n, row + x);
      }
    }
  });
}

// The image, and the sides of what may be seen of it.
struct Seen {
  int stride_y, stride_z;
  Side sides[3];
  Seen(const Window& w, int maps)
      : stride_y(w.image.x), stride_z(w.image.y * w.image.x),
        sides{side_of(w, 0, w.image.z, stride_z, maps == 3), side_of(w, 1, w.image.y, stride_y), side_of(w, 2, w.image.x, 1)} {}
  vi offsets(const Around& at) const { return at.first[0] * stride_z + at.first[1] * stride_y + at.first[2]; }
};

// Voxels at some offsets, and those after them along x.
struct Pair {
  vf here, next;
};
template <typename T>
ZNN_INLINE Pair pair_of_lanes(const T* from, vi offsets, int next) {
  Pair found;
  for (int j = 0; j < LANES; j++) found.here[j] = (float)from[offsets[j]], found.next[j] = (float)from[offsets[j] + next];
  return found;
}

#if defined(__AVX2__)
template <int BYTES>
ZNN_INLINE vi gather(const void* from, vi offsets) {
#if defined(__AVX512F__)
  return (vi)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, (__m512i)offsets, from, BYTES);
#else
  return (vi)_mm256_i32gather_epi32((const int*)from, (__m256i)offsets, BYTES);
#endif
}
// Small voxels lie with the next in one word.
template <typename T>
ZNN_INLINE Pair pair_of(vu word, int next) {
  constexpr int BITS = 8 * sizeof(T), MASK = (int)((1ull << BITS) - 1);
  const vf here = as_float((vi)word & MASK);
  return {here, next ? as_float((vi)(word >> (BITS % 32)) & MASK) : here};
}
template <typename T>
ZNN_INLINE Pair pair_at(Inside, const T* from, vi offsets, int, int) {
  if constexpr (sizeof(T) == 4) return {(vf)gather<4>(from, offsets), (vf)gather<4>(from + 1, offsets)};
  return pair_of<T>((vu)gather<sizeof(T)>(from, offsets), 1);
}
// The last words would reach over the end: they are read from before.
template <typename T>
ZNN_INLINE Pair pair_at(Anywhere, const T* from, vi offsets, int next, int last) {
  if constexpr (sizeof(T) == 4) return {(vf)gather<4>(from, offsets), (vf)gather<4>(from + next, offsets)};
  if (last < 0) return pair_of_lanes(from, offsets, next);
  const vi start = offsets < last ? offsets : (vi){} + last;
  return pair_of<T>((vu)gather<sizeof(T)>(from, start) >> (vu)((offsets - start) * (int)(8 * sizeof(T))), next);
}
ZNN_INLINE vf look_up(const float* table, vi places) { return (vf)gather<4>(table, places); }
#else
template <typename Where, typename T>
ZNN_INLINE Pair pair_at(Where, const T* from, vi offsets, int next, int) {
  return pair_of_lanes(from, offsets, next);
}
ZNN_INLINE vf look_up(const float* table, vi places) {
  vf found;
  for (int j = 0; j < LANES; j++) found[j] = table[places[j]];
  return found;
}
#endif

ZNN_INLINE vf mix(vf a, vf b, vf share) { return a + (b - a) * share; }

// Whether all sections have the same levels, in every channel.
static bool same_levels(const Window& w, const float* levels) {
  bool same = true;
  for (int k = 0; k < 2 * w.channels; k++, levels += w.image.z)
    for (int z = 1; z < w.image.z; z++) same = same && levels[z] == levels[0];
  return same;
}

template <typename T, int MAPS>
static void interpolate_all(const Course& c, const Window& w, const T* image, const float* levels, float* out, float* scratch) {
  const Seen seen(w, MAPS);
  const int last = (int)(w.image.voxels() - (sizeof(T) < 4 ? 4 / sizeof(T) : 1)), depth = w.image.z, channels = w.channels;
  const int next_y = seen.sides[1].next, next_x = seen.sides[2].next, next_z = seen.sides[0].next;
  const bool same = same_levels(w, levels);
  const size_t voxels = c.motion.size.voxels(), image_voxels = w.image.voxels();
  for_some<MAPS>(c, seen.sides, scratch, [=](auto where, const Around& at, int n, size_t i) {
    const vi offsets = seen.offsets(at);
    for (int channel = 0; channel < channels; channel++) {
      const T* const own = image + channel * image_voxels;
      const float *const factor = levels + channel * depth, *const offset = factor + channels * depth;
      const auto in_section = [=](vi here, vi z) {
        const Pair a = pair_at(where, own, here, next_x, last), b = pair_at(where, own, here + next_y, next_x, last);
        const vf value = mix(mix(a.here, a.next, at.share[2]), mix(b.here, b.next, at.share[2]), at.share[1]);
        return same ? value : value * look_up(factor, z) + look_up(offset, z);
      };
      vf value = in_section(offsets, at.first[0]);
      if (next_z) value = mix(value, in_section(offsets + next_z, at.first[0] + 1), at.share[0]);
      store_first(out + channel * voxels + i, same ? value * factor[0] + offset[0] : value, n);
    }
  });
}

template <typename T>
static void interpolate_of(const Course& c, const Window& w, const T* image, const float* levels, float* out, float* scratch) {
  c.motion.maps == 3 ? interpolate_all<T, 3>(c, w, image, levels, out, scratch) : interpolate_all<T, 2>(c, w, image, levels, out, scratch);
}

void interpolate_at(const Course& c, const Window& w, GreyType type, const void* image, const float* levels, float* out, float* scratch) {
  switch (type) {
    case GREY_UINT8: return interpolate_of(c, w, (const uint8_t*)image, levels, out, scratch);
    case GREY_UINT16: return interpolate_of(c, w, (const uint16_t*)image, levels, out, scratch);
    case GREY_FLOAT: return interpolate_of(c, w, (const float*)image, levels, out, scratch);
  }
}

// A place in the middle of two voxels goes to the first.
template <int MAPS>
static void nearest_of(const Course& c, const Window& w, const int* low, const int* high, int64_t* out, uint8_t* inside, float* scratch) {
  const Seen seen(w, MAPS);
  const Side* const sides = seen.sides;
  for_some<MAPS>(c, sides, scratch, [&](auto, const Around& at, int n, size_t i) {
    vi offsets = seen.offsets(at), holds = (vi){} - 1;
    for (int axis = 0; axis < 3; axis++) {
      offsets += (vi)(at.share[axis] > 0.5f) & sides[axis].next;
      const float first = (float)(low[axis] - w.at[axis]) - 0.5f, last = (float)(high[axis] - w.at[axis]) - 0.5f;
      holds &= (vi)(at.place[axis] > first) & (vi)(at.place[axis] <= last);
    }
    for (int j = 0; j < n; j++) out[i + j] = offsets[j], inside[i + j] = holds[j] != 0;
  });
}
void nearest(const Course& c, const Window& w, const int* low, const int* high, int64_t* out, uint8_t* inside, float* scratch) {
  c.motion.maps == 3 ? nearest_of<3>(c, w, low, high, out, inside, scratch) : nearest_of<2>(c, w, low, high, out, inside, scratch);
}

}  // namespace znn::ZNN_ISA
