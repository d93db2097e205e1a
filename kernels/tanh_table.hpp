// tanh by table, where one instruction looks up a value among 32 for each lane: in steps of STEP a polynomial of degree 5
// in the distance from the nearest multiple. Our own fits (least maximum relative error, by reweighted least squares,
// each coefficient rounded before the next is fitted): within 1.7e-7 of the true value, and relatively so near zero. The
// first gives small values themselves; the last is 1 from where tanh rounds to 1.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

#if defined(__AVX512F__)
constexpr float TANH_STEP = 149.0f / 512.0f;  // its multiples up to 31 are exact
constexpr int TANH_DEGREE = 5;
alignas(64) static const float TANH_TABLE[TANH_DEGREE + 1][2 * LANES] = {
    {0.0f, 2.830693e-1f, 5.241402e-1f, 7.029189e-1f, 8.2235944e-1f, 8.9669245e-1f, 9.409293e-1f, 9.6655774e-1f,
     9.811748e-1f, 9.8943734e-1f, 9.940842e-1f, 9.9669015e-1f, 9.981492e-1f, 9.9896544e-1f, 9.994218e-1f,
     9.996769e-1f, 9.9981946e-1f, 9.998991e-1f, 9.999436e-1f, 9.9996847e-1f, 9.999824e-1f, 9.9999017e-1f,
     9.999945e-1f, 9.999969e-1f, 9.999983e-1f, 9.9999905e-1f, 9.9999946e-1f, 9.999997e-1f, 9.999998e-1f, 9.999999e-1f,
     9.9999994e-1f, 1.0f},
    {1.0f, 9.198721e-1f, 7.25277e-1f, 5.059051e-1f, 3.2372501e-1f, 1.9594267e-1f, 1.1465201e-1f, 6.576619e-2f,
     3.729597e-2f, 2.1013767e-2f, 1.1796614e-2f, 6.608742e-3f, 3.698114e-3f, 2.068055e-3f, 1.1560787e-3f,
     6.461379e-4f, 3.6108895e-4f, 2.0177894e-4f, 1.1275147e-4f, 6.300283e-5f, 3.520409e-5f, 1.967087e-5f,
     1.0991386e-5f, 6.1415863e-6f, 3.431691e-6f, 1.9175009e-6f, 1.0714275e-6f, 5.9867335e-7f, 3.345161e-7f,
     1.8691497e-7f, 1.04441035e-7f, 9.613883e-6f},
    {6.629653e-7f, -2.6037124e-1f, -3.8012686e-1f, -3.556212e-1f, -2.662318e-1f, -1.7570807e-1f, -1.07869916e-1f,
     -6.357703e-2f, -3.6595777e-2f, -2.0795079e-2f, -1.1721306e-2f, -6.5877303e-3f, -3.6861738e-3f, -2.0676414e-3f,
     -1.1488632e-3f, -6.475067e-4f, -3.676152e-4f, -1.9595763e-4f, -1.09621935e-4f, -5.2575117e-5f, -4.198524e-5f,
     -1.9928611e-5f, -1.5342399e-5f, 4.1749354e-6f, 1.138002e-6f, -3.7458922e-6f, -8.0924997e-7f, -1.0717466e-6f,
     3.82752e-6f, 9.088013e-6f, 2.5550726e-6f, 5.196029e-4f},
    {-3.3337405e-1f, -2.3298308e-1f, -4.249841e-2f, 8.1321076e-2f, 1.11013465e-1f, 9.223516e-2f, 6.32914e-2f,
     3.951796e-2f, 2.3472933e-2f, 1.3567411e-2f, 7.72529e-3f, 4.362141e-3f, 2.4517532e-3f, 1.3744076e-3f,
     7.6939125e-4f, 4.3034204e-4f, 2.4059365e-4f, 1.3447994e-4f, 7.5155265e-5f, 4.1998348e-5f, 2.3467926e-5f,
     1.31134275e-5f, 7.327447e-6f, 4.0944105e-6f, 2.2877996e-6f, 1.2783236e-6f, 7.1428207e-7f, 3.9911504e-7f,
     2.2301123e-7f, 1.2461113e-7f, 6.9627035e-8f, 9.949907e-3f},
    {7.419885e-4f, 1.5052629e-1f, 1.4735948e-1f, 6.2155265e-2f, -1.5508474e-3f, -2.3597948e-2f, -2.3992712e-2f,
     -1.6537288e-2f, -1.0760203e-2f, -6.354246e-3f, -4.03796e-3f, -2.117401e-3f, -1.4583326e-3f, -6.0557196e-4f,
     -6.909748e-4f, -1.4174356e-4f, 1.876249e-4f, -3.3862062e-4f, -1.836969e-4f, -5.0850085e-4f, 3.0530844e-4f,
     5.484395e-6f, 1.9975615e-4f, -4.8439114e-4f, -2.1479848e-4f, 8.4843785e-5f, -1.2615988e-5f, 2.191797e-5f,
     -1.9470381e-4f, -4.3370284e-4f, -1.2437791e-4f, 7.792159e-2f},
    {1.2881644e-1f, 5.729531e-2f, -4.769905e-2f, -5.8353174e-2f, -2.7559528e-2f, -4.8372876e-3f, 3.524258e-3f,
     4.75613e-3f, 3.636342e-3f, 2.3790654e-3f, 1.4354737e-3f, 8.3990494e-4f, 4.7956978e-4f, 2.7273197e-4f,
     1.5277162e-4f, 8.592129e-5f, 4.822505e-5f, 2.6865513e-5f, 1.5040357e-5f, 8.3924915e-6f, 4.7145913e-6f,
     2.6317523e-6f, 1.4703352e-6f, 8.17994e-7f, 4.5784216e-7f, 2.5653043e-7f, 1.4324455e-7f, 8.002084e-8f,
     4.466649e-8f, 2.4915844e-8f, 1.3963768e-8f, 2.137959e-1f}};

ZNN_INLINE vf tanh_by_table(vf v) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  const __m512 size = _mm512_andnot_ps(sign, (__m512)v);
  const __m512 t = _mm512_maskz_min_ps((__mmask16)-1, _mm512_set1_ps(31 * TANH_STEP), size);  // NaN stays NaN
  const vf shifted = (vf)t * (1.0f / TANH_STEP) + 0x1p23f;  // rounded: the low bits are which multiple
  const vf rest = (vf)t - (shifted - 0x1p23f) * TANH_STEP;
  vf sum = {};
  for (int j = TANH_DEGREE; j >= 0; j--) {
    const vf here = (vf)_mm512_permutex2var_ps(_mm512_load_ps(TANH_TABLE[j]), (__m512i)shifted, _mm512_load_ps(TANH_TABLE[j] + LANES));
    sum = j == TANH_DEGREE ? here : sum * rest + here;
  }
  return (vf)_mm512_or_ps((__m512)sum, _mm512_and_ps(sign, (__m512)v));
}
#endif

}  // namespace znn::ZNN_ISA
