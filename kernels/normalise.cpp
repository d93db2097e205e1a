// Normalisation: sums over the voxels of an example in double precision, and the passes that use what follows from
// them. Rows of channels end anywhere in a vector; so several are taken together that fill whole vectors, a line.
#include "filter.hpp"
#include "simd.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

constexpr int LONGEST = 64, SHORTEST = 8;  // vectors of a line

// Channels of a line: a multiple of those of the image.
static int line_of(int channels) {
  const int common = min_of(channels & -channels, LANES);
  int vectors = channels / common;  // now `LANES / common` rows fill so many
  if (vectors > LONGEST) return channels;
  while (vectors < SHORTEST) vectors *= 2;
  return vectors * LANES;
}
static int padded(int n) { return ceil_div(n, LANES) * LANES; }

// values[j] = from(j % channels) for the line.
template <typename From>
ZNN_INLINE void fill_line(float* values, int line, int channels, const From& from) {
  for (int c = 0; c < channels; c++) values[c] = from(c);
  for (int j = channels; j < line; j++) values[j] = values[j - channels];
  for (int j = line; j < padded(line); j++) values[j] = 0.0f;
}

// Calls body(p, q, n) for the n values from p on, which stand at q of their line.
template <typename Body>
ZNN_INLINE void for_values(size_t values, int line, const Body& body) {
  size_t p = 0;
  for (; p + line <= values; p += line) {
    int q = 0;
    for (; q + LANES <= line; q += LANES) body(p + q, q, LANES);
    if (q < line) body(p + q, q, line - q);
  }
  for (int q = 0; p + q < values; q += LANES) body(p + q, q, values - p - q < (size_t)LANES ? (int)(values - p - q) : LANES);
}

// ---- sums

constexpr int DOUBLES = LANES / 2;
typedef double vd __attribute__((vector_size(LANES * 4)));
typedef double vd_unaligned __attribute__((vector_size(LANES * 4), aligned(8), may_alias));
// As a list of neighbours: for that GCC knows one instruction, for __builtin_convertvector four.
ZNN_INLINE vd load_doubles(const float* p) { return (vd){ZNN_HALF_NEIGHBOURS(p)}; }
ZNN_INLINE vd load(const double* p) { return *reinterpret_cast<const vd_unaligned*>(p); }
ZNN_INLINE void store(double* p, vd v) { *reinterpret_cast<vd_unaligned*>(p) = v; }

constexpr int AT_ONCE = REGISTERS >= 32 ? 4 : 2;  // vectors of a line whose sums are in registers
constexpr size_t TILE = 64;                       // lines

// x and x * x of `lines` lines are added to the sums of COUNT vectors.
template <int COUNT>
ZNN_INLINE void sum_squares(const float* p, int line, size_t lines, double* sum, double* square) {
  vd s[2 * COUNT], t[2 * COUNT];
  for (int k = 0; k < 2 * COUNT; k++) {
    s[k] = load(sum + k * DOUBLES);
    t[k] = load(square + k * DOUBLES);
  }
  for (size_t l = 0; l < lines; l++, p += line)
    for (int k = 0; k < 2 * COUNT; k++) {
      const vd x = load_doubles(p + k * DOUBLES);
      s[k] += x;
      t[k] += x * x;
    }
  for (int k = 0; k < 2 * COUNT; k++) {
    store(sum + k * DOUBLES, s[k]);
    store(square + k * DOUBLES, t[k]);
  }
}

static void moments_of(const float* image, size_t values, int line, double* sum, double* square) {
  const size_t all = values / line;
  for (size_t first = 0; first < all; first += TILE) {
    const size_t lines = all - first < TILE ? all - first : TILE;
    const float* p = image + first * line;
    int q = 0;
    for (; q + AT_ONCE * LANES <= line; q += AT_ONCE * LANES) sum_squares<AT_ONCE>(p + q, line, lines, sum + q, square + q);
    for (; q + LANES <= line; q += LANES) sum_squares<1>(p + q, line, lines, sum + q, square + q);
    for (; q < line; q++)
      for (size_t l = 0; l < lines; l++) {
        const double x = p[l * line + q];
        sum[q] += x;
        square[q] += x * x;
      }
  }
  for (size_t p = all * line; p < values; p++) {
    const double x = image[p];
    sum[p - all * line] += x;
    square[p - all * line] += x * x;
  }
}

size_t moments_scratch(const Normalise& n) { return 4 * (size_t)padded(line_of(n.channels)); }

void moments(const Normalise& n, const float* image, double* out, float* scratch) {
  const int line = line_of(n.channels);
  double *sum = (double*)scratch, *square = sum + padded(line);
  for (int j = 0; j < n.n_examples * 2 * n.channels; j++) out[j] = 0.0;
  for (int entry = 0; entry < n.batch; entry++, image += n.voxels * n.channels) {
    fill_zero(scratch, 4 * (size_t)padded(line));
    moments_of(image, n.voxels * n.channels, line, sum, square);
    double* to = out + (size_t)n.examples[entry] * 2 * n.channels;
    for (int j = 0, c = 0; j < line; j++, c = c + 1 < n.channels ? c + 1 : 0) {
      to[c] += sum[j];
      to[n.channels + c] += square[j];
    }
  }
}

// g and g * (x - mean) of some lines, added in single precision: the sums of COUNT vectors are added to those in double.
template <int COUNT>
ZNN_INLINE void sum_gradients(const float* g, const float* x, const float* mean, int line, size_t lines, double* sum,
                              double* product) {
  vf s[COUNT], t[COUNT];
  for (int k = 0; k < COUNT; k++) s[k] = t[k] = (vf){};
  for (size_t l = 0; l < lines; l++, g += line, x += line)
    for (int k = 0; k < COUNT; k++) {
      const vf d = load(g + k * LANES);
      s[k] += d;
      t[k] += d * (load(x + k * LANES) - load(mean + k * LANES));
    }
  for (int k = 0; k < COUNT; k++)
    for (int j = 0; j < LANES; j++) {
      sum[k * LANES + j] += s[k][j];
      product[k * LANES + j] += t[k][j];
    }
}

static void gradient_moments_of(const float* d_out, const float* image, const float* mean, size_t values, int line,
                                double* sum, double* product) {
  const size_t all = values / line;
  for (size_t first = 0; first < all; first += TILE) {
    const size_t lines = all - first < TILE ? all - first : TILE, at = first * line;
    int q = 0;
    for (; q + AT_ONCE * LANES <= line; q += AT_ONCE * LANES)
      sum_gradients<AT_ONCE>(d_out + at + q, image + at + q, mean + q, line, lines, sum + q, product + q);
    for (; q + LANES <= line; q += LANES)
      sum_gradients<1>(d_out + at + q, image + at + q, mean + q, line, lines, sum + q, product + q);
    for (; q < line; q++)
      for (size_t l = 0; l < lines; l++) {
        const double g = d_out[at + l * line + q];
        sum[q] += g;
        product[q] += g * (image[at + l * line + q] - mean[q]);
      }
  }
  for (size_t p = all * line, q = 0; p < values; p++, q++) {
    const double g = d_out[p];
    sum[q] += g;
    product[q] += g * (image[p] - mean[q]);
  }
}

size_t gradient_moments_scratch(const Normalise& n) { return 5 * (size_t)padded(line_of(n.channels)); }

// Mean and reciprocal deviation of an entry's block are at [0] and [all_channels].
static const float* of_entry(const Normalise& n, const float* statistics, int entry) {
  return statistics + (size_t)n.examples[entry] * 2 * n.all_channels + n.first_channel;
}

void gradient_moments(const Normalise& n, const float* d_out, const float* image, const float* statistics, double* out,
                      float* scratch) {
  const int line = line_of(n.channels);
  const size_t values = n.voxels * n.channels;
  double *sum = (double*)scratch, *product = sum + padded(line);
  float* mean = scratch + 4 * padded(line);
  for (int j = 0; j < n.n_examples * 2 * n.channels; j++) out[j] = 0.0;
  for (int entry = 0; entry < n.batch; entry++, image += values, d_out += values) {
    const float* of = of_entry(n, statistics, entry);
    fill_zero(scratch, 4 * (size_t)padded(line));
    fill_line(mean, line, n.channels, [&](int c) { return of[c]; });
    gradient_moments_of(d_out, image, mean, values, line, sum, product);
    double* to = out + (size_t)n.examples[entry] * 2 * n.channels;
    for (int j = 0, c = 0; j < line; j++, c = c + 1 < n.channels ? c + 1 : 0) {
      to[c] += sum[j];
      to[n.channels + c] += product[j] * of[n.all_channels + c];
    }
  }
}

// ---- images

size_t normalise_scratch(const Normalise& n) { return 4 * (size_t)padded(line_of(n.channels)); }

void normalise_forward(const Normalise& n, const float* image, const float* statistics, const float* scale,
                       const float* shift, float* out, float* scratch) {
  const int line = line_of(n.channels);
  const size_t values = n.voxels * n.channels;
  float *mean = scratch, *slope = mean + padded(line), *at_mean = slope + padded(line);
  for (int entry = 0; entry < n.batch; entry++, image += values, out += values) {
    const float *of = of_entry(n, statistics, entry), *reciprocal = of + n.all_channels;
    if (entry == 0 || n.examples[entry] != n.examples[entry - 1]) {
      fill_line(mean, line, n.channels, [&](int c) { return of[c]; });
      fill_line(slope, line, n.channels, [&](int c) { return scale ? reciprocal[c] * scale[c] : reciprocal[c]; });
      fill_line(at_mean, line, n.channels, [&](int c) { return shift ? shift[c] : 0.0f; });
    }
    for_values(values, line, [&](size_t p, int q, int count) __attribute__((always_inline)) {
      const vf x = load_first(image + p, count) - load(mean + q);
      store_first(out + p, x * load(slope + q) + load(at_mean + q), count);
    });
  }
}

void normalise_backward(const Normalise& n, const float* d_out, const float* image, const float* statistics,
                        const float* coefficients, const float* scale, float* d_image, float* scratch) {
  const int line = line_of(n.channels);
  const size_t values = n.voxels * n.channels;
  float *mean = scratch, *of_g = mean + padded(line), *of_x = of_g + padded(line), *constant = of_x + padded(line);
  for (int entry = 0; entry < n.batch; entry++, d_out += values, image += values, d_image += values) {
    const float *of = of_entry(n, statistics, entry), *reciprocal = of + n.all_channels;
    const float *m1 = of_entry(n, coefficients, entry), *m2 = m1 + n.all_channels;
    if (entry == 0 || n.examples[entry] != n.examples[entry - 1]) {
      fill_line(mean, line, n.channels, [&](int c) { return of[c]; });
      fill_line(of_g, line, n.channels, [&](int c) { return scale ? reciprocal[c] * scale[c] : reciprocal[c]; });
      fill_line(of_x, line, n.channels, [&](int c) { return -reciprocal[c] * reciprocal[c] * m2[c]; });
      fill_line(constant, line, n.channels, [&](int c) { return -reciprocal[c] * m1[c]; });
    }
    for_values(values, line, [&](size_t p, int q, int count) __attribute__((always_inline)) {
      const vf x = load_first(image + p, count) - load(mean + q);
      const vf g = load_first(d_out + p, count) * load(of_g + q);
      store_first(d_image + p, g + (x * load(of_x + q) + load(constant + q)), count);
    });
  }
}

}  // namespace znn::ZNN_ISA
