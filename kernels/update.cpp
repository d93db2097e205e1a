// The update of parameters. A gradient is scaled and clipped as it is read: `scale` and `most` are 1 and infinity where
// neither is wanted, which changes no bit. Infinities and NaN stay what they are.
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

ZNN_INLINE float clipped(float g, float scale, float most) {
  g *= scale;
  g = g > most ? most : g;
  return g < -most ? -most : g;
}

void sgd(const Sgd& s, size_t n, const float* parameter, const float* velocity, const float* gradient,
         float* __restrict new_parameter, float* __restrict new_velocity) {
  const Sgd a = s;
  if (a.nesterov) {
    for (size_t j = 0; j < n; j++) {
      const float g = clipped(gradient[j], a.scale, a.most) + a.decay * parameter[j];
      const float v = a.momentum * velocity[j] + g;
      new_velocity[j] = v;
      new_parameter[j] = parameter[j] - a.rate * (g + a.momentum * v);
    }
    return;
  }
  for (size_t j = 0; j < n; j++) {
    const float v = a.momentum * velocity[j] + clipped(gradient[j], a.scale, a.most) + a.decay * parameter[j];
    new_velocity[j] = v;
    new_parameter[j] = parameter[j] - a.rate * v;
  }
}

void adam(const Adam& s, size_t n, const float* parameter, const float* moment, const float* square, const float* gradient,
          float* __restrict new_parameter, float* __restrict new_moment, float* __restrict new_square) {
  const Adam a = s;
  for (size_t j = 0; j < n; j++) {
    const float g = clipped(gradient[j], a.scale, a.most) + a.decay * parameter[j];
    const float m = moment[j] + a.new_in_moment * (g - moment[j]);
    const float v = a.beta2 * square[j] + a.new_in_square * g * g;
    new_moment[j] = m;
    new_square[j] = v;
    new_parameter[j] = a.shrink * parameter[j] - a.step * m / (__builtin_sqrtf(v) / a.root + a.epsilon);
  }
}

// In double precision, in a fixed order.
double square_sum(size_t n, const float* values) {
  constexpr int CHAINS = 16;
  double sums[CHAINS] = {};
  size_t j = 0;
  for (; j + CHAINS <= n; j += CHAINS)
    for (int k = 0; k < CHAINS; k++) sums[k] += (double)values[j + k] * values[j + k];
  for (int k = 0; j < n; j++, k++) sums[k] += (double)values[j] * values[j];
  double sum = 0.0;
  for (int k = 0; k < CHAINS; k++) sum += sums[k];
  return sum;
}

}  // namespace znn::ZNN_ISA
