// Transfer functions with their biases, and dropout. The derivative is taken from the output, so that the value before
// the function need not be kept.
#include "activation.hpp"
#include "philox.hpp"
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

// The values of a block in their order, by pieces whose indices in the whole node follow each other.
struct Pieces {
  const Dropout& d;
  const int64_t* entry;
  int of_batch = 0;
  uint64_t voxel = 0;
  int channel = 0;  // of the next piece's first value

  bool done() const { return of_batch == d.batch; }
  bool at(const Pieces& p) const { return voxel == p.voxel && of_batch == p.of_batch && channel == p.channel; }
  uint64_t index() const {
    return (voxel * d.all_entries + (uint64_t)entry[of_batch]) * d.all_channels + d.first_channel + channel;
  }
  int length(int most) const { return min_of(d.channels - channel, most); }
  void skip(int length) {
    channel += length;
    if (channel < d.channels) return;
    channel = 0;
    if (++voxel < d.voxels) return;
    voxel = 0;
    of_batch++;
  }
};

// A node of one block and one entry is one row.
static Dropout as_rows(const Dropout& d) {
  const bool whole = (uint64_t)d.channels == d.all_channels && d.all_entries == 1 && d.batch == 1;
  const uint64_t values = d.voxels * (uint64_t)d.channels;
  Dropout rows = d;
  if (whole && values <= 0x7fffffff) {
    rows.voxels = 1;
    rows.channels = (int)values;
  }
  return rows;
}

static void drop(const Dropout& d, const uint32_t* words, int n, const float* image, float* out) {
  int c = 0;
  for (; c + LANES <= n; c += LANES) {
    vu w;
    __builtin_memcpy(&w, words + c, sizeof(w));
    store(out + c, w >= d.threshold ? load(image + c) * d.scale : (vf){});
  }
  for (; c < n; c++) out[c] = words[c] >= d.threshold ? image[c] * d.scale : 0.0f;
}

// Keeps a value where its own random word is at least `threshold`. The index of a value is that in the whole node, so
// that the choice does not depend on blocks or groups. Word index % 4 of counter index / 4 belongs to it.
void dropout(const Dropout& all, const float* image, const int64_t* entry, float* out) {
  const Dropout d = as_rows(all);
  constexpr int COUNTERS = 4 * COUNTERS_AT_ONCE, LONGEST = 256;
  uint64_t counters[COUNTERS];
  uint32_t words[4 * COUNTERS];
  Pieces drawn = {d, entry}, used = {d, entry};
  while (!used.done()) {
    int n = 0;
    for (; !drawn.done() && n + LONGEST / 4 + 1 <= COUNTERS; drawn.skip(drawn.length(LONGEST))) {
      const uint64_t first = drawn.index(), last = first + drawn.length(LONGEST) - 1;
      for (uint64_t c = n > 0 && counters[n - 1] == first / 4 ? first / 4 + 1 : first / 4; c <= last / 4; c++) counters[n++] = c;
    }
    for (int j = n; j % COUNTERS_AT_ONCE; j++) counters[j] = 0;
    for (int j = 0; j < n; j += COUNTERS_AT_ONCE) philox(counters + j, d.key, words + 4 * j);
    for (int j = 0; !used.at(drawn);) {
      const int length = used.length(LONGEST);
      const uint64_t index = used.index();
      while (counters[j] != index / 4) j++;
      drop(d, words + 4 * j + index % 4, length, image, out);
      image += length;
      out += length;
      used.skip(length);
    }
  }
}

}  // namespace znn::ZNN_ISA
