// Weights of a part of the output channels in the order in which a direct convolution uses them: for each tap and input
// channel (or two, where they are folded) as many values as the part is wide, zero beyond its last channel.
#pragma once
#include "direct.hpp"
#include "table.hpp"

namespace znn::ZNN_ISA {

ZNN_INLINE size_t groups_of(size_t channels, int fold) { return (channels + fold - 1) / fold; }

// One tap of a kernel (in, out).
static void pack_tap(const float* kernel, size_t channels, size_t out_channels, const Part& part, float* to) {
  const int width = part.width();
  const float* from = kernel + part.first;
  if (part.fold == 1)
    for (size_t i = 0; i < channels; i++, to += width) {
      copy(to, from + i * out_channels, part.count);
      fill_zero(to + part.count, width - part.count);
    }
  else
    for (size_t i = 0; i < channels; i += 2, to += width) {
      fill_zero(to, width);
      for (int o = 0; o < part.count; o++) to[2 * o] = from[i * out_channels + o];
      if (i + 1 < channels)
        for (int o = 0; o < part.count; o++) to[2 * o + 1] = from[(i + 1) * out_channels + o];
    }
}

// Four rows of four values at `from` become columns.
ZNN_INLINE void transpose(const float* from, size_t from_step, float* to, size_t to_step) {
  typedef float quad __attribute__((vector_size(16)));
  quad row[4];
  for (int j = 0; j < 4; j++) __builtin_memcpy(&row[j], from + j * from_step, sizeof(quad));
  const quad a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const quad b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const quad c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const quad d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const quad column[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                          __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
  for (int j = 0; j < 4; j++) __builtin_memcpy(to + j * to_step, &column[j], sizeof(quad));
}

// One tap of a kernel (out, in).
static void pack_turned_tap(const float* kernel, size_t channels, const Part& part, float* to) {
  const int width = part.width();
  const float* from = kernel + part.first * channels;
  if (part.partial()) fill_zero(to, groups_of(channels, part.fold) * width);
  if (part.fold == 2) {
    for (size_t i = 0; i < channels; i += 2, to += width)
      for (int o = 0; o < part.count; o++) copy(to + 2 * o, from + o * channels + i, i + 1 < channels ? 2 : 1);
    return;
  }
  int o = 0;
  for (; o + 4 <= part.count; o += 4, from += 4 * channels) {
    size_t i = 0;
    for (; i + 4 <= channels; i += 4) transpose(from + i, channels, to + i * width + o, width);
    for (; i < channels; i++)
      for (int j = 0; j < 4; j++) to[i * width + o + j] = from[j * channels + i];
  }
  for (; o < part.count; o++, from += channels)
    for (size_t i = 0; i < channels; i++) to[i * width + o] = from[i];
}

static void pack(const DirectForward& a, const Part& part, float* to) {
  const size_t taps = a.kernel.voxels();
  for (int block = 0; block < a.n_blocks; block++) {
    const size_t channels = a.blocks[block].channels, size = channels * a.out_channels;
    for (size_t tap = 0; tap < taps; tap++, to += groups_of(channels, part.fold) * part.width()) {
      if (a.turned)
        pack_turned_tap(a.blocks[block].kernel + (taps - 1 - tap) * size, channels, part, to);
      else
        pack_tap(a.blocks[block].kernel + tap * size, channels, a.out_channels, part, to);
    }
  }
}

}  // namespace znn::ZNN_ISA
