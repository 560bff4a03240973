// The flags as an optimizer's settings.
#pragma once

#include "llm/models/model.h"
#include "llm/support/stop_signal.h"

// Config: TrainConfig or FinetuneConfig. A signal to stop reaches all ranks with the update.
template <class Config>
OptimizerConfig optimizer_of(const Config& c, double lr) {
  OptimizerConfig o;
  o.signal = StopSignal::received() != 0;
  o.lr = static_cast<float>(lr);
  o.beta1 = static_cast<float>(c.beta1);
  o.beta2 = static_cast<float>(c.beta2);
  o.eps = static_cast<float>(c.eps);
  o.weight_decay = static_cast<float>(c.weight_decay);
  return o;
}
