// finetune dpo: a model that answers learns which of two answers is preferred (llm/finetune/preferences.h has the
// loss).
#pragma once

#include "llm/flags/finetune_flags.h"
#include "llm/models/device.h"

void finetune_dpo(FinetuneConfig config, const Device& device);
