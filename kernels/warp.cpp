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

static void add_weighted(float* to, const float* from, float weight, int n) {
  for (int j = 0; j < n; j += LANES) {
    const int count = min_of(n - j, LANES);
    store_first(to + j, load_first(to + j, count) + weight * load_first(from + j, count), count);
  }
}

// Of one spline: the coefficients along y and x at a section, and those along x at a row.
struct AtRow {
  const Spline& s;
  int maps, n_vectors;
  float *section, *row;  // (count.y, maps, count.x), (maps, count.x)
  Support* supports;     // of every vector of a row

  AtRow(const Motion& m, const Spline& spline, float* scratch) : s(spline), maps(m.maps), n_vectors(ceil_div(m.size.x, LANES)) {
    section = scratch;
    row = section + maps * (size_t)s.count.y * s.count.x;
    supports = (Support*)(row + maps * (size_t)s.count.x);
  }
  float* end() const { return (float*)(supports + n_vectors); }

  void go_to_section(int z) const {
    const int width = s.count.x;
    fill_zero(section, (size_t)s.count.y * maps * width);
    for (int k = 0; k < s.count.z; k++)
      if (const float weight = s.z[z * s.count.z + k])
        for (int map = 0; map < maps; map++)
          for (int y = 0; y < s.count.y; y++)
            add_weighted(section + ((size_t)y * maps + map) * width,
                         s.coefficients + (((size_t)map * s.count.z + k) * s.count.y + y) * width, weight, width);
  }
  void go_to_row(int y) const {
    const int width = maps * s.count.x;
    fill_zero(row, width);
    for (int k = 0; k < s.count.y; k++)
      if (const float weight = s.y[y * s.count.y + k]) add_weighted(row, section + (size_t)k * width, weight, width);
  }
  void add_to_row(int map, float* to, int n) const {
    const float* coefficients = row + map * s.count.x;
    for (int v = 0; v < n_vectors; v++) {
      const int x = v * LANES, count = n - x;
      const float* weights = s.x + x;
      if (count >= LANES) {
        vf sum = load(to + x);
        for (int k = supports[v].first; k < supports[v].stop; k++) sum += coefficients[k] * load(weights + (size_t)k * n);
        store(to + x, sum);
      } else {
        vf sum = load_first(to + x, count);
        for (int k = supports[v].first; k < supports[v].stop; k++)
          sum += coefficients[k] * load_first(weights + (size_t)k * n, count);
        store_first(to + x, sum, count);
      }
    }
  }
};

size_t places_scratch(const Motion& m) {
  size_t n = 0;
  for (int k = 0; k < m.n_splines; k++) {
    const Size count = m.splines[k].count;
    n += m.maps * ((size_t)count.y + 1) * count.x + ceil_div(m.size.x, LANES) * sizeof(Support) / sizeof(float);
  }
  return n;
}

void places(const Motion& m, float* field, float* scratch) {
  const Size n = m.size;
  const size_t voxels = n.voxels();
  vf ramp;
  for (int j = 0; j < LANES; j++) ramp[j] = (float)j;
  const auto for_splines = [&](auto body) {
    float* own = scratch;
    for (int k = 0; k < m.n_splines; k++) {
      const AtRow at(m, m.splines[k], own);
      body(at);
      own = at.end();
    }
  };
  for_splines([&](const AtRow& at) {
    for (int v = 0; v < at.n_vectors; v++) at.supports[v] = support_of(at.s, n.x, v * LANES);
  });
  for (int z = 0; z < n.z; z++) {
    for_splines([&](const AtRow& at) { at.go_to_section(z); });
    for (int y = 0; y < n.y; y++, field += n.x) {
      for (int map = 0; map < m.maps; map++) {
        const float* a = m.affine + 4 * map;
        const float start = a[0] * (float)z + a[1] * (float)y + a[3], step = a[2];
        for (int x = 0; x < n.x; x += LANES)
          store_first(field + map * voxels + x, start + step * (ramp + (float)x), min_of(n.x - x, LANES));
      }
      for_splines([&](const AtRow& at) {
        at.go_to_row(y);
        for (int map = 0; map < m.maps; map++) at.add_to_row(map, field + map * voxels, n.x);
      });
    }
  }
}

// ---- values there

constexpr int AT_ONCE = 64;

// Some voxels of a row: the first of the voxels around each, and the shares of the next along the axes.
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

ZNN_INLINE float mix(float a, float b, float share) { return a + (b - a) * share; }

template <bool ALONG_Z>
static void interpolate_some(const Warp& w, const float* image, const Around& at, int n, float* __restrict out) {
  const int next_x = w.image.x > 1, next_y = w.image.y > 1 ? w.image.x : 0, next_z = w.image.z > 1 ? w.image.x * w.image.y : 0;
  for (int j = 0; j < n; j++) {
    const float* p = image + at.offset[j];
    const float x = at.share[2][j], y = at.share[1][j];
    const float value = mix(mix(p[0], p[next_x], x), mix(p[next_y], p[next_y + next_x], x), y);
    if (!ALONG_Z) {
      out[j] = value;
      continue;
    }
    p += next_z;
    out[j] = mix(value, mix(mix(p[0], p[next_x], x), mix(p[next_y], p[next_y + next_x], x), y), at.share[0][j]);
  }
}

// Calls body(places of some voxels, how many, the first) for all of them. Without a map of z a section stays itself.
template <typename Body>
ZNN_INLINE void for_some(const Warp& w, Body body) {
  const size_t voxels = w.size.voxels();
  const int row = w.image.x, section = w.image.x * w.image.y;
  Around at;
  for (int z = 0; z < w.size.z; z++) {
    const int own = (int)min_of(z - w.low.z > 0 ? z - w.low.z : 0, w.image.z - 1) * section;
    const float dy = (float)(w.moved[2 * z] - w.low.y), dx = (float)(w.moved[2 * z + 1] - w.low.x);
    const size_t first = (size_t)z * w.size.y * w.size.x, stop = first + (size_t)w.size.y * w.size.x;
    for (size_t i = first; i < stop; i += AT_ONCE) {
      const int n = stop - i < (size_t)AT_ONCE ? (int)(stop - i) : AT_ONCE;
      const float* y = w.field + (w.along_z ? voxels : 0) + i;
      for (int j = 0; j < n; j++) at.offset[j] = w.along_z ? 0 : own;
      if (w.along_z) locate(w.field + i, (float)-w.low.z, w.image.z, section, n, at.share[0], at.offset);
      locate(y, dy, w.image.y, row, n, at.share[1], at.offset);
      locate(y + voxels, dx, w.image.x, 1, n, at.share[2], at.offset);
      body(at, n, i);
    }
  }
}

void interpolate_at(const Warp& w, const float* image, float* out) {
  const size_t image_voxels = w.image.voxels(), voxels = w.size.voxels();
  for_some(w, [&](const Around& at, int n, size_t i) {
    for (int c = 0; c < w.channels; c++) {
      const auto some = w.along_z ? interpolate_some<true> : interpolate_some<false>;
      some(w, image + c * image_voxels, at, n, out + c * voxels + i);
    }
  });
}

// A place in the middle of two voxels goes to the first.
void nearest(const Warp& w, int64_t* out) {
  const int next[3] = {w.image.x * w.image.y, w.image.x, 1};
  for_some(w, [&](const Around& at, int n, size_t i) {
    for (int j = 0; j < n; j++) {
      int offset = at.offset[j];
      for (int axis = w.along_z ? 0 : 1; axis < 3; axis++) offset += at.share[axis][j] > 0.5f ? next[axis] : 0;
      out[i + j] = offset;
    }
  });
}

}  // namespace znn::ZNN_ISA
