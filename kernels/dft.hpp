// Transforms of a few complex points, LANES of them side by side. Straight-line code: every loop here is unrolled, so
// small arrays live in registers. The sign is exp(-2 pi i j k / N); swap real and imaginary parts for the other.
#pragma once
#include "simd.hpp"

namespace znn::ZNN_ISA {

constexpr double PI = 3.14159265358979323846;

constexpr double sine(double x) {  // Taylor series after reduction to [-pi, pi], at compile time
  while (x > PI) x -= 2 * PI;
  while (x < -PI) x += 2 * PI;
  double term = x, sum = x;
  for (int k = 1; k < 22; k++) {
    term *= -x * x / ((2 * k) * (2 * k + 1));
    sum += term;
  }
  return sum;
}
constexpr double cosine(double x) { return sine(x + PI / 2); }

template <int N, int K>
struct Root {  // exp(-2 pi i K / N)
  static constexpr float re = (float)cosine(2 * PI * (K % N) / N), im = (float)-sine(2 * PI * (K % N) / N);
};

// The integers 0 .. N - 1 as template arguments, so that every index is known at compile time.
template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  typedef Indices<I...> type;
};
template <int N>
using Upto = typename MakeIndices<N>::type;

template <int N, int K>
ZNN_INLINE void turn(vf& re, vf& im) {  // times exp(-2 pi i K / N)
  if constexpr (K % N == 0) {
  } else if constexpr (4 * K == N) {
    const vf t = re;
    re = im;
    im = -t;
  } else if constexpr (2 * K == N) {
    re = -re;
    im = -im;
  } else {
    const vf t = re * Root<N, K>::re - im * Root<N, K>::im;
    im = re * Root<N, K>::im + im * Root<N, K>::re;
    re = t;
  }
}

constexpr int smallest_factor(int n) {
  if (n % 4 == 0 && n > 4) return 4;
  for (int p = 2; p * p <= n; p++)
    if (n % p == 0) return p;
  return n;
}

template <int N>
struct Dft;

template <>
struct Dft<1> {
  ZNN_INLINE void run(vf*, vf*) {}
};

template <>
struct Dft<2> {
  ZNN_INLINE void run(vf* r, vf* i) {
    const vf a = r[0], b = i[0];
    r[0] = a + r[1], i[0] = b + i[1];
    r[1] = a - r[1], i[1] = b - i[1];
  }
};

template <>
struct Dft<4> {
  ZNN_INLINE void run(vf* r, vf* i) {
    const vf ar = r[0] + r[2], ai = i[0] + i[2], br = r[0] - r[2], bi = i[0] - i[2];
    const vf cr = r[1] + r[3], ci = i[1] + i[3], dr = r[1] - r[3], di = i[1] - i[3];
    r[0] = ar + cr, i[0] = ai + ci;
    r[1] = br + di, i[1] = bi - dr;
    r[2] = ar - cr, i[2] = ai - ci;
    r[3] = br - di, i[3] = bi + dr;
  }
};

// Odd primes by the sums and differences of opposite points.
template <int N>
struct PrimeDft {
  static constexpr int H = (N - 1) / 2;

  template <int K, int... J>
  ZNN_INLINE void pair(const vf* sr, const vf* si, const vf* dr, const vf* di, vf zr, vf zi, vf* r, vf* i, Indices<J...>) {
    vf cr = zr, ci = zi, tr = {}, ti = {};
    ((cr += Root<N, (J + 1) * K>::re * sr[J], ci += Root<N, (J + 1) * K>::re * si[J]), ...);
    ((tr -= Root<N, (J + 1) * K>::im * dr[J], ti -= Root<N, (J + 1) * K>::im * di[J]), ...);
    r[K] = cr + ti, i[K] = ci - tr;
    r[N - K] = cr - ti, i[N - K] = ci + tr;
  }
  template <int... K>
  ZNN_INLINE void pairs(const vf* sr, const vf* si, const vf* dr, const vf* di, vf zr, vf zi, vf* r, vf* i, Indices<K...>) {
    (pair<K + 1>(sr, si, dr, di, zr, zi, r, i, Upto<H>{}), ...);
  }
  ZNN_INLINE void run(vf* r, vf* i) {
    vf sr[H], si[H], dr[H], di[H];
    const vf zr = r[0], zi = i[0];
#pragma GCC unroll 16
    for (int j = 0; j < H; j++) {
      sr[j] = r[j + 1] + r[N - 1 - j], si[j] = i[j + 1] + i[N - 1 - j];
      dr[j] = r[j + 1] - r[N - 1 - j], di[j] = i[j + 1] - i[N - 1 - j];
      r[0] += sr[j], i[0] += si[j];
    }
    pairs(sr, si, dr, di, zr, zi, r, i, Upto<H>{});
  }
};

// N = P * M: P interleaved transforms of M points, twiddles, M transforms of P points.
template <int N, int P>
struct CompositeDft {
  static constexpr int M = N / P;

  template <int Q, int... K>
  ZNN_INLINE void twiddle(vf* r, vf* i, Indices<K...>) {
    (turn<N, Q * K>(r[K], i[K]), ...);
  }
  template <int Q>
  ZNN_INLINE void part(const vf* r, const vf* i, vf* to_r, vf* to_i) {
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) to_r[m] = r[m * P + Q], to_i[m] = i[m * P + Q];
    Dft<M>::run(to_r, to_i);
    twiddle<Q>(to_r, to_i, Upto<M>{});
  }
  template <int... Q>
  ZNN_INLINE void parts(const vf* r, const vf* i, vf (*to_r)[M], vf (*to_i)[M], Indices<Q...>) {
    (part<Q>(r, i, to_r[Q], to_i[Q]), ...);
  }
  ZNN_INLINE void run(vf* r, vf* i) {
    vf tr[P][M], ti[P][M];
    parts(r, i, tr, ti, Upto<P>{});
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      vf ar[P], ai[P];
#pragma GCC unroll 16
      for (int q = 0; q < P; q++) ar[q] = tr[q][m], ai[q] = ti[q][m];
      Dft<P>::run(ar, ai);
#pragma GCC unroll 16
      for (int q = 0; q < P; q++) r[q * M + m] = ar[q], i[q * M + m] = ai[q];
    }
  }
};

template <int N, bool Prime = smallest_factor(N) == N>
struct ChooseDft {
  typedef PrimeDft<N> type;
};
template <int N>
struct ChooseDft<N, false> {
  typedef CompositeDft<N, smallest_factor(N)> type;
};
template <int N>
struct Dft {
  ZNN_INLINE void run(vf* r, vf* i) { ChooseDft<N>::type::run(r, i); }
};

}  // namespace znn::ZNN_ISA
