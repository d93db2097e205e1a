// Random words that are a function of a key and a counter.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

// Philox4x32-10 (Salmon et al. 2011) for so many counters at once that the compiler sees a loop to vectorise: the four
// words of each, one after the other. Its multiplications, not memory, take the time of what uses it.
constexpr int COUNTERS_AT_ONCE = 64;
static void philox(const uint64_t* counters, uint64_t key, uint32_t* __restrict words) {
  uint32_t c[4][COUNTERS_AT_ONCE];
  for (int j = 0; j < COUNTERS_AT_ONCE; j++) {
    c[0][j] = (uint32_t)counters[j];
    c[1][j] = (uint32_t)(counters[j] >> 32);
    c[2][j] = c[3][j] = 0;
  }
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int j = 0; j < COUNTERS_AT_ONCE; j++) {
      const uint64_t p0 = (uint64_t)0xD2511F53u * c[0][j], p1 = (uint64_t)0xCD9E8D57u * c[2][j];
      c[0][j] = (uint32_t)(p1 >> 32) ^ c[1][j] ^ k0;
      c[1][j] = (uint32_t)p1;
      c[2][j] = (uint32_t)(p0 >> 32) ^ c[3][j] ^ k1;
      c[3][j] = (uint32_t)p0;
    }
  for (int j = 0; j < COUNTERS_AT_ONCE; j++)
    for (int w = 0; w < 4; w++) words[4 * j + w] = c[w][j];
}

}  // namespace znn::ZNN_ISA
