// See transform_narrow.cpp.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// Whether several tiles share a vector: where the channels fill less than half of one.
bool is_narrow(const TileTransform& t);
size_t narrow_scratch(const TileTransform& t);
void narrow_forward(const TileTransform& t, const float* image, float* spectrum);
void narrow_inverse(const TileTransform& t, const float* spectrum, const float* bias, float* image);

}  // namespace znn::ZNN_ISA
