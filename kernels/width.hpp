// Loops over the lanes of a voxel that has few: compiled for each number, so that no count is kept within a voxel.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

// The number of lanes, where N is 0 only known as it runs.
template <int N>
struct Width {
  size_t lanes;
  constexpr operator size_t() const { return N > 0 ? (size_t)N : lanes; }
};

// Calls body with the lanes as a Width.
template <typename Body>
ZNN_INLINE void with_width(size_t lanes, Body body) {
  switch (lanes) {
    case 1: return body(Width<1>{1});
    case 2: return body(Width<2>{2});
    case 3: return body(Width<3>{3});
    case 4: return body(Width<4>{4});
    default: return body(Width<0>{lanes});
  }
}

}  // namespace znn::ZNN_ISA
