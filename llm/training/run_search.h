// A search over flags (llm/training/search.h): a run for each trial, one after another, and a table of their losses.
#pragma once

#include <functional>

#include "llm/flags/train_flags.h"
#include "llm/training/monitor.h"

// Makes one run.
using TrainRun = std::function<void(const TrainConfig&, const EachEvaluation&)>;

// Runs every trial of {search}'s file below the folder of {run}, and writes FOLDER/search.json after each. Throws Error
// if the folder holds a search already, or no trial has a finite validation loss.
void search(const TrainConfig& base, const TrainRun& train);
