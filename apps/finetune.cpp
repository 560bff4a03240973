// Finetunes a model: three commands, each a flat loop over the same data sets, batches and seam.
//
//   build/finetune classify --model DIR --data mails.tsv         llm/finetune/classify
//   build/finetune instruct --model DIR --data rows.json         llm/finetune/instruct
//   build/finetune dpo      --model DIR --data preferences.json  llm/finetune/dpo
#include "apps/device.h"
#include "llm/distributed/launch.h"
#include "llm/finetune/classify.h"
#include "llm/finetune/dpo.h"
#include "llm/finetune/instruct.h"
#include "llm/flags/cli.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Finetunes a model: classes of texts, instructions, preferences.");
  app.require_subcommand(1);
  struct Command {
    Task task;
    const char *name, *what;
    void (*run)(FinetuneConfig, const Device&);
    FinetuneConfig config;
    CLI::App* app;
  };
  Command commands[] = {
      {Task::classify, "classify", "Tell classes of texts apart.", finetune_classify, {}, nullptr},
      {Task::instruct, "instruct", "Answer instructions.", finetune_instruct, {}, nullptr},
      {Task::dpo, "dpo", "Prefer one answer to another (DPO).", finetune_dpo, {}, nullptr},
  };
  const std::vector<OldFlag> old_flags = {{"--lr-layer-decay", "--lr-decay-per-layer"},
                                          {"--decay-all", "--decay", "all"}};
  DeviceFlags device;
  for (Command& command : commands) {
    command.config = finetune_defaults(command.task);
    command.app = app.add_subcommand(command.name, command.what);
    for_each_finetune_flag(command.config, command.task,
                           [&](const Flag& flag, auto& field) { add_flag(*command.app, flag, field); });
    add_device_flags(*command.app, device, false);
  }
  return run_program(app, argc, argv, old_flags, [&] {
    check_one_process("finetune");
    for (Command& command : commands) {
      if (!*command.app) continue;
      const std::vector<std::string> given = given_flags(*command.app);
      FinetuneConfig& config = command.config;
      if (command.task == Task::classify) apply_recipe(config, given);
      validate(config, command.task, given);
      settle_device(device);
      Output::when_unread(Output::Unread::drop);
      command.run(config, device_of(device));
    }
  });
}
