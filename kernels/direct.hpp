// What the direct convolutions share: how output channels are divided over vectors, and how inputs are spread over one.
//
// A part is either 1 to MAX_VECTORS whole vectors of output channels, or one folded vector: half as many channels, each
// in two neighbouring lanes that take two neighbouring input channels and are added in the end. So 40 channels cost two
// and a half vectors of 16 lanes instead of three.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_VECTORS = REGISTERS == 32 ? 3 : 2;

struct Part {
  int first, count;  // output channels
  int vectors;
  int fold;  // input channels at once: 2, or 1
  int width() const { return vectors * LANES; }
  bool partial() const { return fold * count < vectors * LANES || fold > 1; }
};

// The part that begins at channel `first`.
ZNN_INLINE Part part_at(int first, int channels, bool may_fold) {
  const int left = channels - first, rest = left % LANES;
  const int fold = may_fold && rest > 0 && rest <= LANES / 2 ? 2 : 1;
  const int vectors = left / LANES + (rest > 0 && fold == 1);
  if (vectors == 0) return {first, left, 1, fold};
  // Four vectors go as two and two: a lone one needs more loads for the same work.
  const int now = vectors == MAX_VECTORS + 1 ? 2 : min_of(vectors, MAX_VECTORS);
  return {first, min_of(left, now * LANES), now, 1};
}

// Makes the compiler address with this index as it is: with one pointer for each row, its own choice costs an addition
// for each pointer, and those take the place of multiplications.
ZNN_INLINE void keep_as_index(size_t& at) { asm("" : "+r"(at)); }

// One value, or two neighbours again and again, over all lanes.
template <int FOLD>
ZNN_INLINE vf spread(const float* p) {
  if constexpr (FOLD == 1) {
    return *p - (vf){};
  } else {
    typedef int64_t pairs __attribute__((vector_size(sizeof(vf))));
    int64_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (vf)(pair - (pairs){});
  }
}

// The sums of neighbouring lanes, in the first half.
ZNN_INLINE vf add_pairs(vf v) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, 0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14) +
         __builtin_shufflevector(v, v, 1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, 0, 2, 4, 6, 0, 2, 4, 6) + __builtin_shufflevector(v, v, 1, 3, 5, 7, 1, 3, 5, 7);
#else
  return __builtin_shufflevector(v, v, 0, 2, 0, 2) + __builtin_shufflevector(v, v, 1, 3, 1, 3);
#endif
}

}  // namespace znn::ZNN_ISA
