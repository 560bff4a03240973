// The one main() of every doctest program; the tests themselves are in test_<file>.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
