// Maximin affinity (Turaga et al. 2009): edges are taken from the highest affinity down; an edge that joins two
// components is the weakest on the best path between any voxel of the one and any of the other, so it decides all
// those pairs. A component keeps a count of voxels per segment; the smaller one is added to the larger.
//
// Constrained (Funke et al. 2018), in two passes: pairs of one segment are connected by edges inside segments only;
// pairs of two segments by edges between segments, after each segment has been joined inside. So an edge inside is
// never blamed for a merger, nor one between for a split.
//
// Called once a step and not per layer, so this file is compiled for one instruction set, and may allocate.
#include "malis.hpp"

#include <cmath>
#include <cstring>
#include <vector>

namespace znn {
namespace {

// Voxels per segment of a component with several segments: open addressing, linear probing, nothing is ever removed.
class Counts {
 public:
  size_t n = 0;

  int64_t& of(int32_t segment) {
    if (2 * (n + 1) > slots_.size()) grow();
    Slot* slot = find(segment);
    if (slot->segment == 0) {
      slot->segment = segment;
      n++;
    }
    return slot->count;
  }
  int64_t known(int32_t segment) const {
    const Slot* slot = const_cast<Counts*>(this)->find(segment);
    return slot->count;
  }
  template <typename Visit>
  void each(Visit visit) const {
    for (const Slot& slot : slots_)
      if (slot.segment != 0) visit(slot.segment, slot.count);
  }

 private:
  struct Slot {
    int32_t segment = 0;
    int64_t count = 0;
  };
  std::vector<Slot> slots_ = std::vector<Slot>(4);

  Slot* find(int32_t segment) {
    const size_t mask = slots_.size() - 1;
    size_t at = (uint32_t)segment * 2654435769u >> 7 & mask;
    while (slots_[at].segment != 0 && slots_[at].segment != segment) at = (at + 1) & mask;
    return &slots_[at];
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.segment != 0) *find(slot.segment) = slot;
  }
};

// Voxels that are connected so far. One segment alone is `segment`; of several, `counts` is one of the tables.
struct Component {
  int32_t segment = 0;
  int32_t counts = -1;
  int32_t voxels = 1;    // background included
  int64_t labelled = 0;  // background excluded
};

class Forest {
 public:
  explicit Forest(const Malis& m) : parents_((size_t)m.size[0] * m.size[1] * m.size[2]), components_(parents_.size()) {
    for (size_t v = 0; v < components_.size(); v++) {
      parents_[v] = (int32_t)v;
      components_[v].segment = m.segments[v];
      components_[v].labelled = m.segments[v] != 0;
    }
  }
  int32_t root(int32_t v) {
    while (parents_[v] != v) v = parents_[v] = parents_[parents_[v]];
    return v;
  }
  // Joins two roots; returns the pairs of one segment and of two that this connects.
  Pairs join(int32_t a, int32_t b) {
    if (distinct(components_[a]) < distinct(components_[b]) ||
        (distinct(components_[a]) == distinct(components_[b]) && components_[a].voxels < components_[b].voxels)) {
      const int32_t other = a;
      a = b;
      b = other;
    }
    Component &large = components_[a], &small = components_[b];
    const double same = common(large, small), all = (double)large.labelled * (double)small.labelled;
    if (small.labelled != 0) add(large, small);
    large.voxels += small.voxels;
    large.labelled += small.labelled;
    parents_[b] = a;
    return {same, all - same};
  }

 private:
  std::vector<int32_t> parents_;  // apart from the rest, so that most of them stay in the cache
  std::vector<Component> components_;
  std::vector<Counts> tables_;
  std::vector<int32_t> free_;

  size_t distinct(const Component& c) const { return c.counts >= 0 ? tables_[c.counts].n : c.segment != 0; }
  int64_t count(const Component& c, int32_t segment) const {
    if (c.counts >= 0) return tables_[c.counts].known(segment);
    return c.segment == segment ? c.labelled : 0;
  }
  double common(const Component& large, const Component& small) const {
    if (small.counts < 0) return small.segment == 0 ? 0.0 : (double)small.labelled * (double)count(large, small.segment);
    double sum = 0.0;
    tables_[small.counts].each([&](int32_t segment, int64_t n) { sum += (double)n * (double)count(large, segment); });
    return sum;
  }
  void add(Component& large, Component& small) {
    if (large.counts < 0) {
      if (small.segment == large.segment) return;  // both of one segment: `labelled` says all
      large.counts = table();
      tables_[large.counts].of(large.segment) = large.labelled;
    }
    Counts& counts = tables_[large.counts];
    if (small.counts < 0) {
      counts.of(small.segment) += small.labelled;
      return;
    }
    tables_[small.counts].each([&](int32_t segment, int64_t n) { counts.of(segment) += n; });
    tables_[small.counts] = Counts();
    free_.push_back(small.counts);
    small.counts = -1;
  }
  int32_t table() {
    if (free_.empty()) {
      tables_.emplace_back();
      return (int32_t)tables_.size() - 1;
    }
    const int32_t found = free_.back();
    free_.pop_back();
    return found;
  }
};

struct Edge {
  uint32_t key;  // smaller for higher affinity
  uint32_t at;   // place in the affinities
};

uint32_t key_of(float affinity) {
  affinity += 0.0f;  // -0 is 0
  uint32_t bits;
  std::memcpy(&bits, &affinity, sizeof(bits));
  return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

// By key, edges of one key in the order they had.
void sort(std::vector<Edge>& edges) {
  constexpr int BITS = 11, PLACES = 1 << BITS;
  std::vector<Edge> other(edges.size());
  for (int shift = 0; shift < 32; shift += BITS) {
    std::vector<size_t> first(PLACES + 1);
    for (const Edge& e : edges) first[(e.key >> shift & (PLACES - 1)) + 1]++;
    for (int j = 0; j < PLACES; j++) first[j + 1] += first[j];
    for (const Edge& e : edges) other[first[e.key >> shift & (PLACES - 1)]++] = e;
    edges.swap(other);
  }
}

enum Kind { ALL, INSIDE, BETWEEN };

struct Grid {
  const Malis& m;
  size_t voxels;
  std::vector<ptrdiff_t> steps;  // of each channel

  explicit Grid(const Malis& m) : m(m), voxels((size_t)m.size[0] * m.size[1] * m.size[2]) {
    for (int c = 0; c < m.channels; c++) {
      const int* o = m.offsets + 3 * c;
      steps.push_back(((ptrdiff_t)o[0] * m.size[1] + o[1]) * m.size[2] + o[2]);
    }
  }
  bool inside(size_t v, size_t u) const { return m.segments[v] != 0 && m.segments[v] == m.segments[u]; }

  template <typename Visit>
  void each(Visit visit) const {
    for (int c = 0; c < m.channels; c++) {
      int low[3], high[3];
      for (int d = 0; d < 3; d++) {
        const int o = m.offsets[3 * c + d];
        low[d] = o < 0 ? -o : 0;
        high[d] = o > 0 ? m.size[d] - o : m.size[d];
      }
      for (int z = low[0]; z < high[0]; z++)
        for (int y = low[1]; y < high[1]; y++) {
          const size_t row = ((size_t)z * m.size[1] + y) * m.size[2];
          for (int x = low[2]; x < high[2]; x++) visit(c * voxels + row + x, row + x, row + x + steps[c]);
        }
    }
  }
  std::vector<Edge> sorted(Kind kind) const {
    std::vector<Edge> edges;
    edges.reserve(voxels * m.channels);
    each([&](size_t at, size_t v, size_t u) {
      if (kind == ALL || inside(v, u) == (kind == INSIDE)) edges.push_back({key_of(m.affinities[at]), (uint32_t)at});
    });
    sort(edges);
    return edges;
  }
};

Pairs pass(const Grid& grid, Forest& forest, Kind kind, float* positive, float* negative) {
  Pairs sum = {0.0, 0.0};
  for (const Edge& e : grid.sorted(kind)) {
    const size_t channel = e.at / grid.voxels, v = e.at - channel * grid.voxels;
    const int32_t a = forest.root((int32_t)v), b = forest.root((int32_t)(v + grid.steps[channel]));
    if (a == b) continue;
    const Pairs pairs = forest.join(a, b);
    if (kind != BETWEEN) {
      positive[e.at] = (float)pairs.positive;
      sum.positive += pairs.positive;
    }
    if (kind != INSIDE) {
      negative[e.at] = (float)pairs.negative;
      sum.negative += pairs.negative;
    }
  }
  return sum;
}

}  // namespace

Pairs count_pairs(const Malis& m, float* positive, float* negative) {
  const Grid grid(m);
  std::memset(positive, 0, grid.voxels * m.channels * sizeof(float));
  std::memset(negative, 0, grid.voxels * m.channels * sizeof(float));
  Forest forest(m);
  if (!m.constrained) return pass(grid, forest, ALL, positive, negative);
  const Pairs inside = pass(grid, forest, INSIDE, positive, negative);
  // Edges inside have joined all that they can, so what they would join now is joined already.
  const Pairs between = pass(grid, forest, BETWEEN, positive, negative);
  return {inside.positive, between.negative};
}

}  // namespace znn
