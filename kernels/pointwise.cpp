// Transfer functions with their biases, and the update of parameters. The derivative is taken from the output, so
// that the value before the function need not be kept.
#include "activation.hpp"
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// Rows of channels end anywhere in a vector, but after some rows a row begins with a vector again. Within such a period
// memory goes by in whole vectors. Short periods are repeated, so that sums over periods need not wait for each other.
constexpr int MAX_PERIOD = 256, MIN_PERIOD = 8;  // in vectors

static int period_of(int channels) {
  const int common = channels & -channels;  // the greatest power of two that divides it
  int period = channels / min_of(common, LANES);
  while (period < MIN_PERIOD) period *= 2;
  return period;
}

template <Function F>
static void forward_rows(const Transfer& t, const float* image, const float* bias, float* out) {
  for (size_t r = 0; r < t.rows; r++, image += t.channels, out += t.channels)
    for (int c = 0; c < t.channels; c += LANES) {
      const int n = min_of(LANES, t.channels - c);
      store_first(out + c, activate<F>(load_first(image + c, n) + load_first(bias + c, n), t.a, t.b), n);
    }
}

template <Function F>
static void forward(const Transfer& t, const float* image, const float* bias, float* out) {
  const int period = period_of(t.channels);
  if (period > MAX_PERIOD) return forward_rows<F>(t, image, bias, out);
  vf biases[MAX_PERIOD];
  for (int j = 0, c = 0; j < period * LANES; j++, c = c + 1 < t.channels ? c + 1 : 0) biases[j / LANES][j % LANES] = bias[c];
  const size_t n = t.rows * t.channels;
  const float* const end = image + n / LANES * LANES;
  while (image < end) {
    const size_t left = (end - image) / LANES;
    const int vectors = left < (size_t)period ? (int)left : period;
    for (int j = 0; j < vectors; j++, image += LANES, out += LANES)
      store(out, activate<F>(load(image) + biases[j], t.a, t.b));
  }
  if (const int rest = (int)(n % LANES))
    store_first(out, activate<F>(load_first(image, rest) + biases[n / LANES % period], t.a, t.b), rest);
}

constexpr int SINGLE = 64;  // so many terms of the bias gradient are added in single precision, then sums in double

template <Function F>
static void backward_rows(const Transfer& t, const float* d_out, const float* out, float* d_image, double* d_bias) {
  for (size_t r0 = 0; r0 < t.rows; r0 += SINGLE)
    for (int c0 = 0; c0 < t.channels; c0 += LANES) {
      const int n = min_of(LANES, t.channels - c0);
      const size_t end = r0 + SINGLE < t.rows ? r0 + SINGLE : t.rows;
      vf sum = {};
      for (size_t r = r0; r < end; r++) {
        const size_t at = r * t.channels + c0;
        const vf g = load_first(d_out + at, n) * slope<F>(load_first(out + at, n), t.a, t.b);
        sum += g;
        store_first(d_image + at, g, n);
      }
      for (int c = 0; c < n; c++) d_bias[c0 + c] += sum[c];
    }
}

template <Function F>
static void backward(const Transfer& t, const float* d_out, const float* out, float* d_image, double* d_bias) {
  const int period = period_of(t.channels);
  for (int c = 0; c < t.channels; c++) d_bias[c] = 0.0;
  if (period > MAX_PERIOD) return backward_rows<F>(t, d_out, out, d_image, d_bias);
  const size_t n = t.rows * t.channels;
  size_t left = n / LANES;  // vectors
  vf sums[MAX_PERIOD];
  while (left > 0) {
    for (int j = 0; j < period; j++) sums[j] = (vf){};
    for (int k = 0; k < SINGLE && left > 0; k++) {
      const int vectors = left < (size_t)period ? (int)left : period;
      for (int j = 0; j < vectors; j++, d_out += LANES, out += LANES, d_image += LANES) {
        const vf g = load(d_out) * slope<F>(load(out), t.a, t.b);
        sums[j] += g;
        store(d_image, g);
      }
      left -= vectors;
    }
    for (int j = 0, c = 0; j < period * LANES; j++, c = c + 1 < t.channels ? c + 1 : 0) d_bias[c] += sums[j / LANES][j % LANES];
  }
  if (const int rest = (int)(n % LANES)) {
    const vf g = load_first(d_out, rest) * slope<F>(load_first(out, rest), t.a, t.b);
    store_first(d_image, g, rest);
    for (int j = 0; j < rest; j++) d_bias[(n - rest + j) % t.channels] += g[j];
  }
}

void transfer_forward(const Transfer& t, const float* image, const float* bias, float* out) {
  with_function(t.function, [&](auto chosen) { forward<decltype(chosen)::function>(t, image, bias, out); });
}

void transfer_backward(const Transfer& t, const float* d_out, const float* out, float* d_image, double* d_bias) {
  with_function(t.function,
                [&](auto chosen) { backward<decltype(chosen)::function>(t, d_out, out, d_image, d_bias); });
}

// Philox4x32-10 (Salmon et al. 2011): the four words of one counter.
static void philox(uint64_t counter, uint64_t key, uint32_t words[4]) {
  uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
    for (int j = 0; j < 4; j++) c[j] = next[j];
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int j = 0; j < 4; j++) words[j] = c[j];
}

// Keeps a value where its own random word is at least `threshold`. `index` names each (voxel, batch entry) row in the
// whole node, so that the choice does not depend on blocks or groups.
void dropout(const Dropout& d, const float* image, const int64_t* entry, float* out) {
  for (int b = 0; b < d.batch; b++)
    for (size_t v = 0; v < d.voxels; v++, image += d.channels, out += d.channels) {
      const uint64_t row = ((uint64_t)v * d.all_entries + entry[b]) * d.all_channels + d.first_channel;
      uint64_t held = ~(uint64_t)0;
      uint32_t words[4] = {};
      for (int c = 0; c < d.channels; c++) {
        const uint64_t index = row + c;
        if (index / 4 != held) philox(held = index / 4, d.key, words);
        out[c] = words[index % 4] >= d.threshold ? image[c] * d.scale : 0.0f;
      }
    }
}

void sgd(size_t n, const float* parameter, const float* velocity, const float* gradient, float rate, float momentum,
         float decay, float* new_parameter, float* new_velocity) {
  for (size_t j = 0; j < n; j++) {
    const float v = momentum * velocity[j] + gradient[j] + decay * parameter[j];
    new_velocity[j] = v;
    new_parameter[j] = parameter[j] - rate * v;
  }
}

}  // namespace znn::ZNN_ISA
