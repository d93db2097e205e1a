// Images at places between their voxels, for augmentation.
#pragma once
#include <cstddef>

namespace znn {

struct Places {
  const float* z;  // null: the section itself, `first` and those after it
  const float* y;
  const float* x;
  int size[3];         // of the result
  int field_sections;  // of y and x: 1, which all sections share, or size[0]
  const int* moved;    // (size[0], 2): added to y and x of every section
  int low[3];          // where the image begins; low[0] counts from the first section of the result
};

// Interpolates linearly; places outside the image take its border. `image` is (image_size), one channel.
void interpolate(const float* image, const int image_size[3], const Places&, float* result);

}  // namespace znn
