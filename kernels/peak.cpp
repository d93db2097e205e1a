// What one core can do at most: independent multiply-adds that never leave the registers. Other kernels are measured
// against it (bench/kernels.py).
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// More chains than latency times units, fewer than registers; with 32 registers also enough for three units.
constexpr int CHAINS = REGISTERS == 32 ? 24 : 12;

double fma_peak(size_t n, float* sums) {
  vf chain[CHAINS], factor = {}, term = {};
  factor += 0.999f;  // chains converge to 1: no overflow, no denormal numbers
  term += 0.001f;
#pragma GCC unroll 24
  for (int j = 0; j < CHAINS; j++) chain[j] = vf{} + (float)j;
  for (size_t i = 0; i < n; i++) {
#pragma GCC unroll 24
    for (int j = 0; j < CHAINS; j++) chain[j] = chain[j] * factor + term;
  }
#pragma GCC unroll 24
  for (int j = 0; j < CHAINS; j++) store(sums + j * LANES, chain[j]);
  return 2.0 * LANES * CHAINS * (double)n;
}

}  // namespace znn::ZNN_ISA
