// finetune instruct: a model that continues texts learns to answer instructions.
#pragma once

#include "llm/flags/finetune_flags.h"
#include "llm/models/device.h"

void finetune_instruct(FinetuneConfig config, const Device& device);
