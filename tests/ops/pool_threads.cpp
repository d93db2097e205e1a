// Threads that take and give back arrays of the pool all at once, without Python, whose lock would keep them apart.
// `.ci/tsan` compiles it with ThreadSanitizer, once with the pool as it is and once with a pool that lost its locks.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "../../kernels/pool.hpp"

namespace {

constexpr int THREADS = 8, ROUNDS = 2000, HELD = 8;
std::atomic<int> wrong{0};

struct Block {
  unsigned char* data = nullptr;
  size_t bytes = 0;
};

void replace(Block& block, size_t bytes, unsigned char mark) {
  if (block.data != nullptr) {
    wrong += block.data[0] != mark || block.data[block.bytes - 1] != mark;
    znn::pool::give(block.data, block.bytes);
  }
  block = {static_cast<unsigned char*>(znn::pool::take(bytes)), bytes};
  block.data[0] = block.data[bytes - 1] = mark;
}

void work(int number) {
  const auto mark = static_cast<unsigned char>(number);
  uint32_t random = 12345u + static_cast<uint32_t>(number);
  std::vector<Block> held(HELD);
  for (int round = 0; round < ROUNDS; round++) {
    random = random * 1664525u + 1013904223u;
    replace(held[random >> 29], 1 + (random >> 8) % (round % 3 == 0 ? 300000 : 20000), mark);
    float* scratch = znn::pool::scratch(1 + random % 50000);
    scratch[0] = static_cast<float>(number);
    if (random % 61 == 0) znn::pool::trim();
    if (random % 17 == 0) wrong += znn::pool::counts().bytes_in_use == 0;
    if (random % 53 == 0) znn::pool::reset_peak();
  }
  for (Block& block : held)
    if (block.data != nullptr) znn::pool::give(block.data, block.bytes);
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int number = 0; number < THREADS; number++) threads.emplace_back(work, number);
  for (std::thread& thread : threads) thread.join();
  const znn::pool::Counts counts = znn::pool::counts();
  std::printf("%d wrong, %zu bytes in use, %zu of scratch\n", wrong.load(), counts.bytes_in_use, counts.bytes_scratch);
  return wrong != 0 || counts.bytes_in_use != 0 || counts.bytes_scratch != 0;
}
