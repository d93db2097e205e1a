// A gather, bound by the latency of its loads; called once a sample and not per layer, so compiled for one instruction
// set.
#include "warp.hpp"

namespace znn {
namespace {

// The voxel at or before a place, and the share of the next one.
struct At {
  ptrdiff_t first, next;
  float share;
};

inline At locate(float place, int n, ptrdiff_t stride) {
  const float last = (float)(n - 1);
  place = place > 0.f ? place : 0.f;  // also what is not a number
  place = place < last ? place : last;
  const int first = (int)place;
  return {first * stride, (first + 1 < n ? first + 1 : first) * stride, place - (float)first};
}

inline float mix(float a, float b, float share) { return a + (b - a) * share; }

inline float in_section(const float* image, const At& y, const At& x) {
  const float* a = image + y.first;
  const float* b = image + y.next;
  return mix(mix(a[x.first], a[x.next], x.share), mix(b[x.first], b[x.next], x.share), y.share);
}

}  // namespace

void interpolate(const float* image, const int image_size[3], const Places& places, float* result) {
  const ptrdiff_t row = image_size[2], section = row * image_size[1];
  const size_t voxels = (size_t)places.size[1] * places.size[2];
  for (int z = 0; z < places.size[0]; z++) {
    const size_t field = places.field_sections == 1 ? 0 : z * voxels;
    const float dy = (float)(places.moved[2 * z] - places.low[1]);
    const float dx = (float)(places.moved[2 * z + 1] - places.low[2]);
    const At own = locate((float)(z - places.low[0]), image_size[0], section);
    for (size_t i = 0; i < voxels; i++) {
      const At y = locate(places.y[field + i] + dy, image_size[1], row);
      const At x = locate(places.x[field + i] + dx, image_size[2], 1);
      float value;
      if (places.z == nullptr) {
        value = in_section(image + own.first, y, x);
      } else {
        const At at = locate(places.z[z * voxels + i] - (float)places.low[0], image_size[0], section);
        value = mix(in_section(image + at.first, y, x), in_section(image + at.next, y, x), at.share);
      }
      result[z * voxels + i] = value;
    }
  }
}

}  // namespace znn
