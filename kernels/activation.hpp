// The transfer functions on vectors. Exponentials and tanh are our own fits (least maximum relative error, by
// reweighted least squares): within 3.4e-7 of the true value, and relatively so near zero; NaN stays NaN, infinities
// give the limits. The value of a lane does not depend on its place or on the number of lanes.
#pragma once
#include "simd.hpp"
#include "table.hpp"
#include "tanh_table.hpp"

namespace znn::ZNN_ISA {

ZNN_INLINE vf all(float value) { return (vf){} + value; }  // gives +0 for -0
ZNN_INLINE vf magnitude(vf v) { return (vf)((vu)v & 0x7fffffffu); }
// Limits keep NaN: a comparison with NaN is false.
ZNN_INLINE vf at_most(vf v, float limit) { return v > limit ? all(limit) : v; }
ZNN_INLINE vf at_least(vf v, float limit) { return v < limit ? all(limit) : v; }

// v = n ln 2 + rest, |rest| <= 0.35, and exp(rest) - 1. The low bits of `shifted` hold n.
struct Reduced {
  vf shifted, n, expm1_rest;
};
ZNN_INLINE Reduced reduce(vf v) {
  const vf shifted = v * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer
  const vf n = shifted - 12582912.0f;
  const vf r = v - n * 0.693359375f - n * -2.12194440e-4f;  // ln 2 in two parts; the first product is exact
  vf q = 1.3882393e-3f * r + 8.3671810e-3f;
  q = q * r + 4.1667221e-2f;
  q = q * r + 1.6666539e-1f;
  q = q * r + 0.49999998f;
  return {shifted, n, q * (r * r) + r};
}
// 2^(n + offset), which must be a normal number.
ZNN_INLINE vf power_of_two(vf shifted, uint32_t offset) { return (vf)(((vu)shifted + (127u + offset)) << 23); }

// exp(v) for v <= 0, down to the smallest denormals.
ZNN_INLINE vf exp_negative(vf v) {
  const Reduced r = reduce(at_least(v, -104.0f));  // exp(-104) rounds to zero
  return (r.expm1_rest + 1.0f) * power_of_two(r.shifted, 75) * 0x1p-75f;
}
// exp(v) - 1 for v <= 0.
ZNN_INLINE vf expm1_negative(vf v) {
  const Reduced r = reduce(at_least(v, -20.0f));  // exp(-20) - 1 rounds to -1
  const vf power = power_of_two(r.shifted, 0);
  return power * r.expm1_rest + (power - 1.0f);
}

#if defined(__AVX512F__)
ZNN_INLINE vf tanh_of(vf v) { return tanh_by_table(v); }
#else
ZNN_INLINE vf tanh_of(vf v) {
  v = at_least(at_most(v, 9.02f), -9.02f);  // where tanh rounds to 1
  const vf s = v * v;
  vf p = 1.3384314e-8f * s + 2.0635841e-5f;
  vf q = 7.7902580e-7f * s + 3.2885193e-4f;
  p = p * s + 3.4974589e-3f;
  q = q * s + 2.5884366e-2f;
  p = p * s + 1.3382688e-1f;
  q = q * s + 4.6716010e-1f;
  p = p * s + 1.0f;
  q = q * s + 1.0f;
  return at_least(at_most(v * p / q, 1.0f), -1.0f);
}
#endif

ZNN_INLINE vf logistic_of(vf v) {
  const vf e = exp_negative((vf)((vu)v | 0x80000000u));
  return (v < 0.0f ? e : all(1.0f)) / (e + 1.0f);
}

// log(1 + e^v) = max(v, 0) + log(1 + e), e = e^-|v|; log(1 + e) = 2 artanh(e / (2 + e)), a series in the square.
ZNN_INLINE vf softplus_of(vf v) {
  const vf e = exp_negative((vf)((vu)v | 0x80000000u));
  const vf w = 2.0f / (e + 2.0f), half = 0.5f * e * w, t = half * half;
  vf p = 1.4006086e-1f * t + 1.4000885e-1f;
  p = p * t + 2.0010765e-1f;
  p = p * t + 3.3333208e-1f;
  const vf small = e * w;
  return at_least(v, 0.0f) + (small * (p * t) + small);
}

template <Function F>
ZNN_INLINE vf activate(vf v, float a, float b) {
  if constexpr (F == LINEAR) return a * v + b;
  if constexpr (F == RELU) return at_least(v, 0.0f);
  if constexpr (F == TANH) return a * tanh_of(b * v);
  if constexpr (F == LOGISTIC || F == FORWARD_LOGISTIC) return logistic_of(v);
  if constexpr (F == SOFTSIGN) {
    const vf limited = at_least(at_most(v, 1e30f), -1e30f);
    return limited / (magnitude(limited) + 1.0f);
  }
  if constexpr (F == ELU) return v > 0.0f ? v : a * expm1_negative(at_most(v, 0.0f));
  if constexpr (F == LEAKY_RELU) return v > 0.0f ? v : a * v;
  if constexpr (F == SOFTPLUS) return softplus_of(v);
  return v;
}

// The derivative, from the output.
template <Function F>
ZNN_INLINE vf slope(vf y, float a, float b) {
  if constexpr (F == LINEAR) return all(a);
  if constexpr (F == RELU) return y > 0.0f ? all(1.0f) : (vf){};
  if constexpr (F == TANH) return b * (a - y * y / a);
  if constexpr (F == LOGISTIC) return y * (1.0f - y);
  if constexpr (F == SOFTSIGN) return (1.0f - magnitude(y)) * (1.0f - magnitude(y));
  if constexpr (F == ELU) return y > 0.0f ? all(1.0f) : y + a;
  if constexpr (F == LEAKY_RELU) return y > 0.0f ? all(1.0f) : all(a);
  if constexpr (F == SOFTPLUS) return -expm1_negative(-y);
  return all(1.0f);
}

// Calls body(Chosen<F>{}) for the function F of run time, so that a kernel's loop is compiled once per function:
//   with_function(t.function, [&](auto chosen) { loop<decltype(chosen)::function>(t, ...); });
// and in the loop: store(p, activate<F>(v + bias, t.a, t.b)).
template <Function F>
struct Chosen {
  static constexpr Function function = F;
};
template <typename Body>
ZNN_INLINE void with_function(Function function, const Body& body) {
  switch (function) {
    case LINEAR: return body(Chosen<LINEAR>{});
    case RELU: return body(Chosen<RELU>{});
    case TANH: return body(Chosen<TANH>{});
    case LOGISTIC: return body(Chosen<LOGISTIC>{});
    case SOFTSIGN: return body(Chosen<SOFTSIGN>{});
    case ELU: return body(Chosen<ELU>{});
    case LEAKY_RELU: return body(Chosen<LEAKY_RELU>{});
    case FORWARD_LOGISTIC: return body(Chosen<FORWARD_LOGISTIC>{});
    case SOFTPLUS: return body(Chosen<SOFTPLUS>{});
  }
}

}  // namespace znn::ZNN_ISA
