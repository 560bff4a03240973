// finetune classify: a model that continues texts becomes one that tells classes of texts apart.
#pragma once

#include "llm/flags/finetune_flags.h"
#include "llm/models/device.h"

void finetune_classify(FinetuneConfig config, const Device& device);
