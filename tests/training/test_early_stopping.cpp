// Early stopping: which evaluations count as better, and when patience ends.
#include <doctest/doctest.h>

#include <cmath>

#include "llm/training/early_stopping.h"

TEST_CASE("the best evaluation is kept, and those since are counted") {
  EarlyStopping stopping;
  CHECK(stopping.add(0, 5.0));
  CHECK(stopping.add(10, 4.0));
  CHECK(!stopping.add(20, 4.0));  // not better
  CHECK(!stopping.exhausted(2));
  CHECK(!stopping.add(30, std::nan("")));
  CHECK(stopping.exhausted(2));
  CHECK(!stopping.exhausted(3));
  CHECK(!stopping.exhausted(0));  // never
  CHECK(stopping.add(40, 3.9));
  CHECK(!stopping.exhausted(1));
  CHECK(stopping.best_step == 40);
  CHECK(stopping.best_loss == 3.9);
}
