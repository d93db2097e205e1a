// The one SIMD idiom: compiler vector extensions, as wide as the instruction set this file is compiled for.
// Every inner-loop file is compiled once per instruction set into the namespace ZNN_ISA and must not use
// templates or inline functions of the standard library: the linker keeps one copy of those, and it could be
// the one with instructions this machine lacks. (Intrinsics leave no copies.)
#pragma once
#include <cstddef>
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ZNN_ISA
#define ZNN_ISA isa_plain
#endif

namespace znn::ZNN_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef float vf_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define ZNN_INLINE static inline __attribute__((always_inline))

ZNN_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
ZNN_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }

// The first n lanes of a vector, for the end of a row. n is 1 to LANES. Half of them is the usual rest: one move, if the
// compiler is told to put zeros beside them; elsewhere it writes the parts to memory and waits to read them together.
#if defined(__AVX512F__)
#define ZNN_HALF_AND_ZEROS 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8
#elif defined(__AVX2__)
#define ZNN_HALF_AND_ZEROS 0, 1, 2, 3, 4, 4, 4, 4
#else
#define ZNN_HALF_AND_ZEROS 0, 1, 2, 2
#endif
typedef float vf_half __attribute__((vector_size(LANES * 2)));
typedef int32_t vi_half __attribute__((vector_size(LANES * 2)));
template <typename Whole, typename Half>
ZNN_INLINE Whole beside_zeros(Half half) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(half, Half{}, ZNN_HALF_AND_ZEROS);
#else
  Whole whole = {};
  __builtin_memcpy(&whole, &half, sizeof(half));
  return whole;
#endif
}
#if defined(__AVX512F__)
ZNN_INLINE __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
ZNN_INLINE vf load_some(const float* p, int n) { return (vf)_mm512_maskz_loadu_ps(first_lanes(n), p); }
ZNN_INLINE void store_some(float* p, vf v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v); }
#elif defined(__AVX2__)
ZNN_INLINE __m256i first_lanes(int n) {
  static const int32_t from[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i*)(from + LANES - n));
}
ZNN_INLINE vf load_some(const float* p, int n) { return (vf)_mm256_maskload_ps(p, first_lanes(n)); }
ZNN_INLINE void store_some(float* p, vf v, int n) { _mm256_maskstore_ps(p, first_lanes(n), (__m256)v); }
#else
ZNN_INLINE vf load_some(const float* p, int n) {
  vf v = {};
  for (int j = 0; j < n; j++) v[j] = p[j];
  return v;
}
ZNN_INLINE void store_some(float* p, vf v, int n) {
  float lanes[LANES];
  store(lanes, v);
  for (int j = 0; j < n; j++) p[j] = lanes[j];
}
#endif
ZNN_INLINE vf load_first(const float* p, int n) {
  if (n >= LANES) return load(p);
  if (n != LANES / 2) return load_some(p, n);
  vf_half half;
  __builtin_memcpy(&half, p, sizeof(half));
  return beside_zeros<vf>(half);
}
ZNN_INLINE void store_first(float* p, vf v, int n) {
  if (n >= LANES) return store(p, v);
  if (n != LANES / 2) return store_some(p, v, n);
  __builtin_memcpy(p, &v, sizeof(vf) / 2);
}

ZNN_INLINE void fill_zero(float* p, size_t n) {
  for (size_t j = 0; j < n; j++) p[j] = 0.0f;
}
ZNN_INLINE void copy(float* __restrict to, const float* __restrict from, size_t n) {
  for (size_t j = 0; j < n; j++) to[j] = from[j];
}
constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr int min_of(int a, int b) { return a < b ? a : b; }

}  // namespace znn::ZNN_ISA
