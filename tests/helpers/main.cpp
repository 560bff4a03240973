// The one main() of every doctest program; the tests themselves are in test_<file>.cpp.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "tests/helpers/test_set.h"

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  if (quick_set()) std::puts("quick set: what is skipped runs in `make test-all`");
  return context.run();
}
