// What is done to the grey values of samples: made comparable, smoothed, and noise added.
#include "philox.hpp"
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// The place that stands for one outside of an axis.
static int mirrored(int place, int n) {
  while (n > 1 && (place < 0 || place >= n)) place = place < 0 ? -place : 2 * (n - 1) - place;
  return n > 1 ? place : 0;
}

// The rows that are weighed for one; or a row, continued on both sides.
size_t smooth_scratch(const Smooth& s) {
  const size_t taps = 2 * (size_t)s.radius + 1;
  return s.inner == 1 ? s.n + taps : (taps * sizeof(float*)) / sizeof(float);
}

// The weighted sum of the n values that begin at from(0), from(1) and so on.
template <typename From>
ZNN_INLINE void weigh(const Smooth& s, size_t n, From from, float* out) {
  const int taps = 2 * s.radius + 1;
  for (size_t j = 0; j < n; j += LANES) {
    const int count = n - j < (size_t)LANES ? (int)(n - j) : LANES;
    vf sum = {};
    for (int k = 0; k < taps; k++) sum += s.weights[k] * load_first(from(k) + j, count);
    store_first(out + j, sum, count);
  }
}

void smooth(const Smooth& s, const float* values, float* out, float* scratch) {
  const int taps = 2 * s.radius + 1;
  const size_t inner = s.inner;
  for (size_t o = 0; o < s.outer; o++, values += s.n * inner) {
    if (inner == 1) {
      copy(scratch + s.radius, values, s.n);
      for (int j = 1; j <= s.radius; j++) {
        scratch[s.radius - j] = values[mirrored(-j, s.n)];
        scratch[s.radius + s.n - 1 + j] = values[mirrored(s.n - 1 + j, s.n)];
      }
      weigh(s, s.n, [=](int k) { return scratch + k; }, out);
      out += s.n;
      continue;
    }
    const float** const rows = (const float**)scratch;
    for (int i = 0; i < s.n; i++, out += inner) {
      for (int k = 0; k < taps; k++) rows[k] = values + mirrored(i + k - s.radius, s.n) * inner;
      weigh(s, inner, [=](int k) { return rows[k]; }, out);
    }
  }
}

// In double precision: means may be large beside what they are subtracted for.
void standardise(size_t n, const float* values, double shift, double scale, float* out) {
  for (size_t j = 0; j < n; j++) out[j] = (float)(((double)values[j] - shift) * scale);
}

// The sum of the four bytes of a random word is normal enough. Word i % 4 of counter i / 4 belongs to value i.
void add_noise(size_t n, uint64_t key, float sigma, float* values) {
  constexpr size_t WORDS = 4 * COUNTERS_AT_ONCE;
  const float scale = sigma / 147.8005413f;  // the root of four times the variance of a byte, (256^2 - 1) / 12
  uint64_t counters[COUNTERS_AT_ONCE];
  uint32_t words[WORDS];
  for (size_t first = 0; first < n; first += WORDS) {
    for (int j = 0; j < COUNTERS_AT_ONCE; j++) counters[j] = first / 4 + j;
    philox(counters, key, words);
    const size_t count = n - first < WORDS ? n - first : WORDS;
    for (size_t j = 0; j < count; j++) {
      const uint32_t w = words[j];
      const int sum = (int)((w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24));
      values[first + j] += scale * ((float)sum - 4 * 127.5f);
    }
  }
}

}  // namespace znn::ZNN_ISA
