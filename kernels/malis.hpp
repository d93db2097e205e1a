// Pairs of voxels that an affinity graph decides, counted for every edge of its maximum spanning tree.
#pragma once
#include <cstddef>
#include <cstdint>

namespace znn {

// A grid of (z, y, x) voxels. Channel c of voxel v is the affinity of the edge from v to v + offsets[c]; edges that
// leave the grid do not exist.
struct Malis {
  int size[3];
  int channels;
  const int* offsets;       // (channels, 3): z, y, x
  const float* affinities;  // (channel, z, y, x); only their order matters
  const int32_t* segments;  // (z, y, x): 0 for background, whose pairs do not count, else 1 to n_segments
  int32_t n_segments;
  bool constrained;  // see malis.cpp
};

struct Pairs {
  double positive, negative;  // of all voxels, as far as they are connected
};

// Fills `positive` and `negative`, (channel, z, y, x): the pairs of one segment, and of two, whose connection an edge is.
Pairs count_pairs(const Malis&, float* positive, float* negative);

}  // namespace znn
