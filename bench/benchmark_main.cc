#include <benchmark/benchmark.h>
#include <cblas.h>

int main(int argc, char** argv) {
  openblas_set_num_threads(1);  // as in `longspan`: a rank computes on one thread
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
