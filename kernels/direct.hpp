// What the direct convolutions share: how output channels are divided over vectors, and how inputs are spread over one.
//
// A part is either 1 to MAX_VECTORS whole vectors of output channels, or one folded vector: few channels (a half or a
// quarter of the lanes), each in `fold` neighbouring lanes that take `fold` neighbouring input channels. So 40 channels
// cost two and a half vectors of 16 lanes instead of three.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

constexpr int MAX_VECTORS = REGISTERS == 32 ? 3 : 2;

struct Part {
  int first, count;  // output channels
  int vectors, fold;
  int width() const { return vectors * LANES; }
  bool partial() const { return fold > 1 || count < vectors * LANES; }
};

// The part that begins at channel `first`, where every input has at least `inputs` channels.
ZNN_INLINE Part part_at(int first, int channels, int inputs) {
  const int left = channels - first, rest = left % LANES;
  const int most = rest == 0 ? 1 : rest <= LANES / 4 ? 4 : rest <= LANES / 2 ? 2 : 1;
  const int fold = most == 4 && inputs >= 4 ? 4 : most >= 2 && inputs >= 2 ? 2 : 1;
  const int vectors = left / LANES + (rest > 0 && fold == 1);
  if (vectors == 0) return {first, left, 1, fold};
  // Four vectors go as two and two: a lone one needs more loads for the same work.
  const int now = vectors == MAX_VECTORS + 1 ? 2 : min_of(vectors, MAX_VECTORS);
  return {first, min_of(left, now * LANES), now, 1};
}

// FOLD neighbouring values, again and again over all lanes.
template <int FOLD>
ZNN_INLINE vf spread(const float* p) {
  if constexpr (FOLD == 1) return *p - (vf){};
  if constexpr (FOLD == 2) {
    typedef int64_t pairs __attribute__((vector_size(sizeof(vf))));
    int64_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (vf)(pair - (pairs){});
  }
  vf v = {};
  typedef float quad __attribute__((vector_size(16)));
  quad q;
  __builtin_memcpy(&q, p, sizeof q);
  for (int j = 0; j < LANES; j++) v[j] = q[j % 4];
  return v;
}

}  // namespace znn::ZNN_ISA
