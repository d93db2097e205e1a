// What is done to the grey values of samples: made comparable, smoothed, and noise added.
#include "activation.hpp"
#include "philox.hpp"
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

// The place that stands for one outside of an axis.
static int mirrored(int place, int n) {
  while (n > 1 && (place < 0 || place >= n)) place = place < 0 ? -place : 2 * (n - 1) - place;
  return n > 1 ? place : 0;
}

// Gaussians end at three standard deviations; narrower ones than a tenth of a voxel do nothing.
static int radius_of(double sigma, int n) { return n > 1 && sigma > 0.1 ? (int)(3.0 * sigma + 0.5) : 0; }

struct Gaussian {
  int radius;
  float* weights;
  int taps() const { return 2 * radius + 1; }
  Gaussian(double sigma, int n, float* memory) : radius(radius_of(sigma, n)), weights(memory) {
    double total = 0;
    for (int j = -radius; j <= radius; j++) total += __builtin_exp(-0.5 * j * j / (sigma * sigma));
    for (int j = -radius; j <= radius; j++)
      weights[j + radius] = radius > 0 ? (float)(__builtin_exp(-0.5 * j * j / (sigma * sigma)) / total) : 1.0f;
  }
};

// Where the parts of the scratch begin.
constexpr int COLUMNS = 4 * LANES;  // that are smoothed along z at once
struct SmoothScratch {
  size_t weights, rows, row, values, end;
  SmoothScratch(const Smooth& s) {
    int most = radius_of(s.sigma_z, s.size.z), n = s.size.y > s.size.x ? s.size.y : s.size.x;
    for (int z = 0; z < s.size.z; z++) {
      const int radius = radius_of(s.sigmas[z], n);
      most = radius > most ? radius : most;
    }
    const size_t taps = 2 * (size_t)most + 1, section = (size_t)s.size.y * s.size.x, columns = (size_t)s.size.z * COLUMNS;
    rows = 0;
    weights = rows + taps * sizeof(float*) / sizeof(float);
    row = weights + taps;
    values = row + s.size.x + taps;
    end = values + (section > columns ? section : columns);
  }
};
size_t smooth_scratch(const Smooth& s) { return SmoothScratch(s).end; }

// The weighted sums of the n values that begin at from(0), from(1) and so on.
template <typename From>
ZNN_INLINE void weigh(const Gaussian& g, int n, From from, float* out) {
  for (int j = 0; j < n; j += LANES) {
    const int count = min_of(n - j, LANES);
    vf sum = {};
    for (int k = 0; k < g.taps(); k++) sum += g.weights[k] * load_first(from(k) + j, count);
    store_first(out + j, sum, count);
  }
}

// `n` rows that are `stride` apart, of `width` values; to rows that are `out_stride` apart.
static void along_rows(const Gaussian& g, const float* values, int n, size_t stride, int width, const float** rows, float* out,
                       size_t out_stride) {
  for (int i = 0; i < n; i++) {
    for (int k = 0; k < g.taps(); k++) rows[k] = values + mirrored(i + k - g.radius, n) * stride;
    weigh(g, width, [=](int k) { return rows[k]; }, out + i * out_stride);
  }
}

static void along_row(const Gaussian& g, const float* values, int n, float* padded, float* out) {
  copy(padded + g.radius, values, n);
  for (int j = 1; j <= g.radius; j++) {
    padded[g.radius - j] = values[mirrored(-j, n)];
    padded[g.radius + n - 1 + j] = values[mirrored(n - 1 + j, n)];
  }
  weigh(g, n, [=](int k) { return padded + k; }, out);
}

void smooth(const Smooth& s, float* values, float* scratch) {
  const Size n = s.size;
  const SmoothScratch parts(s);
  const float** const rows = (const float**)(scratch + parts.rows);
  float *const weights = scratch + parts.weights, *const row = scratch + parts.row, *const other = scratch + parts.values;
  const size_t section = (size_t)n.y * n.x;
  for (int c = 0; c < s.channels; c++, values += n.z * section) {
    if (radius_of(s.sigma_z, n.z) > 0) {
      const Gaussian g(s.sigma_z, n.z, weights);
      for (size_t j = 0; j < section; j += COLUMNS) {
        const int count = section - j < (size_t)COLUMNS ? (int)(section - j) : COLUMNS;
        for (int z = 0; z < n.z; z++) copy(other + z * COLUMNS, values + z * section + j, count);
        along_rows(g, other, n.z, COLUMNS, count, rows, values + j, section);
      }
    }
    for (int z = 0; z < n.z; z++) {
      if (radius_of(s.sigmas[z], n.y) + radius_of(s.sigmas[z], n.x) == 0) continue;
      float* const own = values + z * section;
      along_rows(Gaussian(s.sigmas[z], n.y, weights), own, n.y, n.x, n.x, rows, other, n.x);
      const Gaussian g(s.sigmas[z], n.x, weights);
      for (int y = 0; y < n.y; y++) along_row(g, other + (size_t)y * n.x, n.x, row, own + (size_t)y * n.x);
    }
  }
}

template <typename T>
static void standardise_all(size_t n, const T* values, double shift, double scale, float* out) {
  for (size_t j = 0; j < n; j++) out[j] = (float)(((double)values[j] - shift) * scale);
}
// In double precision: means may be large beside what they are subtracted for.
void standardise(size_t n, GreyType type, const void* values, double shift, double scale, float* out) {
  switch (type) {
    case GREY_UINT8: return standardise_all(n, (const uint8_t*)values, shift, scale, out);
    case GREY_UINT16: return standardise_all(n, (const uint16_t*)values, shift, scale, out);
    case GREY_FLOAT: return standardise_all(n, (const float*)values, shift, scale, out);
  }
}

// log v of a normal number: v = 2^n m, m between the roots of 1/2 and 2, log m = 2 artanh((m - 1) / (m + 1)), a series.
// That of 0 is about that of the least normal number.
ZNN_INLINE vf log_of(vf v) {
  const vi n = ((vi)v - 0x3f3504f3) >> 23;
  const vf m = (vf)((vi)v - (n << 23)), s = (m - 1.0f) / (m + 1.0f), w = s * s;
  vf p = 0.11111111f * w + 0.14285714f;
  p = p * w + 0.2f;
  p = p * w + 0.33333333f;
  return __builtin_convertvector(n, vf) * 0.69314718f + (p * w + 1.0f) * (2.0f * s);
}

struct Range {
  float low, high;
};
static Range range_of(size_t n, const float* values) {
  Range found = {values[0], values[0]};
  vf low = (vf){} + values[0], high = low;
  size_t j = 0;
  for (; j + LANES <= n; j += LANES) {
    const vf v = load(values + j);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  for (int k = 0; k < LANES; k++) {
    found.low = low[k] < found.low ? low[k] : found.low;
    found.high = high[k] > found.high ? high[k] : found.high;
  }
  for (; j < n; j++) {
    found.low = values[j] < found.low ? values[j] : found.low;
    found.high = values[j] > found.high ? values[j] : found.high;
  }
  return found;
}

void grade(const Grade& g, float* values) {
  const size_t section = (size_t)g.size.y * g.size.x;
  const Range range = range_of(g.channels * g.size.voxels(), values);
  const float span = range.high - range.low;
  for (int c = 0; c < g.channels; c++)
    for (int z = 0; z < g.size.z; z++, values += section) {
      const float power = g.power[z], factor = g.factor[z], offset = g.offset[z];
      const bool curved = power != 1.0f && span > 0.0f;
      for (size_t j = 0; j < section; j += LANES) {
        const int n = section - j < (size_t)LANES ? (int)(section - j) : LANES;
        vf v = load_first(values + j, n);
        if (curved) v = exp_negative(at_most(log_of((v - range.low) * (1.0f / span)) * power, 0.0f)) * span + range.low;
        store_first(values + j, v * factor + offset, n);
      }
    }
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
