// What the transforms of many channels and those of few (transform_narrow.cpp) share: which voxels a tile takes and gives.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

static inline int size_of(const Axis& a) { return a.parts * a.points; }

struct Span {
  int first, last;
};
// The part of a tile's axis that is filled and lies inside the image.
static inline Span inside(int origin, int filled, int image) {
  const int first = origin < 0 ? min_of(-origin, filled) : 0, last = min_of(filled, image - origin);
  return {first, last < first ? first : last};
}

// Back: the voxels that a tile gives to the image.
static inline Size given(const TileTransform& t, const int* origin) {
  return {min_of(t.filled.z, t.image_size.z - origin[0]), min_of(t.filled.y, t.image_size.y - origin[1]),
          min_of(t.filled.x, t.image_size.x - origin[2])};
}
// Back: how many of the first n voxels of a tile's row are added to what an earlier tile left there.
static inline int n_added(const TileTransform& t, const int* origin, int z, int y, int n) {
  if ((origin[0] > 0 && z < t.overlap.z) || (origin[1] > 0 && y < t.overlap.y)) return n;
  return origin[2] > 0 ? min_of(t.overlap.x, n) : 0;
}

// Whether several tiles share a vector: where the channels fill less than half of one.
bool is_narrow(const TileTransform& t);
size_t narrow_scratch(const TileTransform& t);
void narrow_forward(const TileTransform& t, const float* image, float* spectrum);
void narrow_inverse(const TileTransform& t, const float* spectrum, const float* bias, float* image);

}  // namespace znn::ZNN_ISA
