// Where the voxels of a patch come from, and their values there, for augmentation.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// ---- places: an affine map, and cubic splines on coarse grids

// Which coefficients along x weigh anything for some voxels of a row.
struct Support {
  int first, stop;
};
static Support support_of(const Spline& s, int n, int x) {
  Support found = {s.count.x, 0};
  const int stop = min_of(x + LANES, n);
  for (int k = 0; k < s.count.x; k++)
    for (int j = x; j < stop; j++)
      if (s.x[(size_t)k * n + j] != 0.0f) {
        if (found.first > k) found.first = k;
        found.stop = k + 1;
      }
  return found;
}

// Of one spline: the coefficients along y and x at a section, and those along x at a row, in whole vectors.
struct AtRow {
  const Spline* spline;
  Support* supports;     // of every vector of a row
  float *section, *row;  // (count.y, maps, count.x), (maps, count.x)
  int width;             // of a row of all maps
};

static int width_of(const Motion& m, const Spline& s) { return ceil_div(m.maps * s.count.x, LANES) * LANES; }
static size_t scratch_of(const Motion& m, const Spline& s) {
  return ceil_div(m.size.x, LANES) * sizeof(Support) / sizeof(float) + ((size_t)s.count.y + 1) * width_of(m, s);
}
size_t places_scratch(const Motion& m) {
  size_t n = m.n_splines * sizeof(AtRow) / sizeof(float);
  for (int k = 0; k < m.n_splines; k++) n += scratch_of(m, m.splines[k]);
  return n;
}

// Divides the scratch among the splines.
static AtRow* begin(const Motion& m, float* scratch) {
  AtRow* const splines = (AtRow*)scratch;
  float* rest = (float*)(splines + m.n_splines);
  const int n_vectors = ceil_div(m.size.x, LANES);
  for (int k = 0; k < m.n_splines; k++) {
    const Spline& s = m.splines[k];
    Support* const supports = (Support*)rest;
    for (int v = 0; v < n_vectors; v++) supports[v] = support_of(s, m.size.x, v * LANES);
    float* const section = (float*)(supports + n_vectors);
    const int width = width_of(m, s);
    splines[k] = {&s, supports, section, section + (size_t)s.count.y * width, width};
    rest += scratch_of(m, s);
  }
  return splines;
}

static void go_to_section(const AtRow& at, int maps, int z) {
  const Spline& s = *at.spline;
  const int n = s.count.x;
  fill_zero(at.section, (size_t)s.count.y * at.width);
  for (int k = 0; k < s.count.z; k++)
    if (const float weight = s.z[z * s.count.z + k])
      for (int map = 0; map < maps; map++)
        for (int y = 0; y < s.count.y; y++) {
          const float* from = s.coefficients + (((size_t)map * s.count.z + k) * s.count.y + y) * n;
          float* const to = at.section + (size_t)y * at.width + map * n;
          for (int j = 0; j < n; j++) to[j] += weight * from[j];
        }
}

static void go_to_row(const AtRow& at, int y) {
  const Spline& s = *at.spline;
  for (int j = 0; j < at.width; j += LANES) {
    vf sum = {};
    for (int k = 0; k < s.count.y; k++)
      if (const float weight = s.y[y * s.count.y + k]) sum += weight * load(at.section + (size_t)k * at.width + j);
    store(at.row + j, sum);
  }
}

// Some voxels of a row, in all maps; all of a vector if WHOLE.
template <int MAPS, bool WHOLE>
ZNN_INLINE void write_places(const Motion& m, const AtRow* splines, int v, vf across, float z, float y, float* to) {
  const int n = m.size.x, x = v * LANES, count = n - x;
  vf places[MAPS];
  for (int map = 0; map < MAPS; map++) {
    const float* a = m.affine + 4 * map;
    places[map] = (a[0] * z + a[1] * y + a[3]) + a[2] * across;
  }
  for (int number = 0; number < m.n_splines; number++) {
    const AtRow& at = splines[number];
    const float* weights = at.spline->x + x;
    for (int k = at.supports[v].first; k < at.supports[v].stop; k++) {
      const vf weight = WHOLE ? load(weights + (size_t)k * n) : load_first(weights + (size_t)k * n, count);
      for (int map = 0; map < MAPS; map++) places[map] += at.row[map * at.spline->count.x + k] * weight;
    }
  }
  for (int map = 0; map < MAPS; map++) {
    float* const own = to + map * m.size.voxels() + x;
    if (WHOLE)
      store(own, places[map]);
    else
      store_first(own, places[map], count);
  }
}

template <int MAPS>
static void write_all(const Motion& m, const AtRow* splines, float* field) {
  const Size n = m.size;
  const int whole = n.x / LANES;
  vf ramp;
  for (int j = 0; j < LANES; j++) ramp[j] = (float)j;
  for (int z = 0; z < n.z; z++) {
    for (int k = 0; k < m.n_splines; k++) go_to_section(splines[k], MAPS, z);
    for (int y = 0; y < n.y; y++, field += n.x) {
      for (int k = 0; k < m.n_splines; k++) go_to_row(splines[k], y);
      for (int v = 0; v < whole; v++)
        write_places<MAPS, true>(m, splines, v, ramp + (float)(v * LANES), (float)z, (float)y, field);
      if (n.x % LANES) write_places<MAPS, false>(m, splines, whole, ramp + (float)(whole * LANES), (float)z, (float)y, field);
    }
  }
}

void places(const Motion& m, float* field, float* scratch) {
  const AtRow* const splines = begin(m, scratch);
  m.maps == 3 ? write_all<3>(m, splines, field) : write_all<2>(m, splines, field);
}

// ---- values there

constexpr int AT_ONCE = 64;

// Some voxels: the first of the voxels around each, and the shares of the next along the axes.
struct Around {
  int offset[AT_ONCE];
  float share[3][AT_ONCE];
};

// A place outside takes the border, and so does what is not a number. The next voxel lies in the image, too: at the last
// the share is 1.
ZNN_INLINE void locate(const float* from, float shift, int length, int stride, int n, float* __restrict share,
                       int* __restrict offset) {
  const float last = (float)(length - 1);
  const int before = length > 1 ? length - 2 : 0;
  for (int j = 0; j < n; j++) {
    float place = from[j] + shift;
    place = place > 0.0f ? place : 0.0f;
    place = place < last ? place : last;
    int first = (int)place;
    first = first < before ? first : before;
    share[j] = place - (float)first;
    offset[j] += first * stride;
  }
}

ZNN_INLINE vf gather(const float* from, const int* offsets) {
#if defined(__AVX512F__)
  return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, _mm512_loadu_si512(offsets), from, 4);
#elif defined(__AVX2__)
  return (vf)_mm256_i32gather_ps(from, _mm256_loadu_si256((const __m256i*)offsets), 4);
#else
  vf v;
  for (int j = 0; j < LANES; j++) v[j] = from[offsets[j]];
  return v;
#endif
}

ZNN_INLINE vf mix(vf a, vf b, vf share) { return a + (b - a) * share; }

template <bool ALONG_Z>
static void interpolate_some(const Warp& w, const float* image, const Around& at, int n, float* out) {
  const ptrdiff_t next_x = w.image.x > 1 ? w.stride.x : 0, next_y = w.image.y > 1 ? w.stride.y : 0;
  const ptrdiff_t next_z = w.image.z > 1 ? w.stride.z : 0;
  for (int j = 0; j < n; j += LANES) {
    const int* offsets = at.offset + j;
    const vf x = load(at.share[2] + j), y = load(at.share[1] + j);
    const auto in_section = [&](const float* p) {
      return mix(mix(gather(p, offsets), gather(p + next_x, offsets), x),
                 mix(gather(p + next_y, offsets), gather(p + next_y + next_x, offsets), x), y);
    };
    vf value = in_section(image);
    if (ALONG_Z) value = mix(value, in_section(image + next_z), load(at.share[0] + j));
    store_first(out + j, value, n - j);
  }
}

// Calls body(places of some voxels, how many, the first) for all of them. Without a map of z a section stays itself.
template <typename Body>
ZNN_INLINE void for_some(const Warp& w, Body body) {
  const size_t voxels = w.size.voxels();
  Around at = {};
  for (int z = 0; z < w.size.z; z++) {
    const int own = (int)min_of(z - w.low.z > 0 ? z - w.low.z : 0, w.image.z - 1) * w.stride.z;
    const float dy = (float)(w.moved[2 * z] - w.low.y), dx = (float)(w.moved[2 * z + 1] - w.low.x);
    const size_t first = (size_t)z * w.size.y * w.size.x, stop = first + (size_t)w.size.y * w.size.x;
    for (size_t i = first; i < stop; i += AT_ONCE) {
      const int n = stop - i < (size_t)AT_ONCE ? (int)(stop - i) : AT_ONCE;
      const float* y = w.field + (w.along_z ? voxels : 0) + i;
      for (int j = 0; j < AT_ONCE; j++) at.offset[j] = w.along_z ? 0 : own;
      if (w.along_z) locate(w.field + i, (float)-w.low.z, w.image.z, w.stride.z, n, at.share[0], at.offset);
      locate(y, dy, w.image.y, w.stride.y, n, at.share[1], at.offset);
      locate(y + voxels, dx, w.image.x, w.stride.x, n, at.share[2], at.offset);
      body(at, n, i);
    }
  }
}

void interpolate_at(const Warp& w, const float* image, float* out) {
  const size_t voxels = w.size.voxels();
  for_some(w, [&](const Around& at, int n, size_t i) {
    for (int c = 0; c < w.channels; c++) {
      const auto some = w.along_z ? interpolate_some<true> : interpolate_some<false>;
      some(w, image + c * w.channel_stride, at, n, out + c * voxels + i);
    }
  });
}

// A place in the middle of two voxels goes to the first.
void nearest(const Warp& w, int64_t* out) {
  const int next[3] = {w.stride.z, w.stride.y, w.stride.x};
  for_some(w, [&](const Around& at, int n, size_t i) {
    for (int j = 0; j < n; j++) {
      int offset = at.offset[j];
      for (int axis = w.along_z ? 0 : 1; axis < 3; axis++) offset += at.share[axis][j] > 0.5f ? next[axis] : 0;
      out[i + j] = offset;
    }
  });
}

}  // namespace znn::ZNN_ISA
