// Finds a learning rate by trying: rates from 1e-6 to 1, one per step (llm/training/lr_finder.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "llm/flags/train_flags.h"
#include "llm/models/model.h"
#include "llm/training/run.h"

using MakeModel = std::function<std::unique_ptr<Model>(const Run&)>;

// Trains a model of the run's shape on its data, prints the losses and a suggestion, and keeps nothing.
void find_learning_rate(TrainConfig flags, const std::vector<std::string>& given, const CheckDevice& check,
                        const MakeModel& make_model);
