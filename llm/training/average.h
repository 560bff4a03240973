// The average of the weights (EMA) in the weights' place.
#pragma once

#include "llm/models/model.h"

// While it lives, the model's weights are their average, if there is one.
class AverageInUse {
 public:
  explicit AverageInUse(Model& model) : model_(model) { model_.exchange_average(); }
  ~AverageInUse() { model_.exchange_average(); }
  AverageInUse(const AverageInUse&) = delete;
  AverageInUse& operator=(const AverageInUse&) = delete;

 private:
  Model& model_;
};
