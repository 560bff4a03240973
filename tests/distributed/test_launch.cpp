// The rank of a process, from its environment.
#include <doctest/doctest.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "llm/distributed/launch.h"
#include "llm/support/error.h"

TEST_CASE("the variables that start a rank are checked") {
  const char* names[] = {"RANK",
                         "WORLD_SIZE",
                         "MASTER_ADDR",
                         "MASTER_PORT",
                         "LOCAL_RANK",
                         "LOCAL_WORLD_SIZE",
                         "WROUGHT_JOIN_TIMEOUT",
                         "OMPI_COMM_WORLD_SIZE",
                         "PMI_SIZE",
                         "PMIX_SIZE",
                         "MV2_COMM_WORLD_SIZE",
                         "SLURM_STEP_NUM_TASKS",
                         "SLURM_PROCID",
                         "TORCHELASTIC_USE_AGENT_STORE"};
  const auto with = [&](std::vector<std::pair<const char*, const char*>> values) {
    for (const char* name : names) ::unsetenv(name);
    for (const auto& [name, value] : values) ::setenv(name, value, 1);
  };
  with({});
  CHECK(start_group()->size() == 1);
  with({{"WORLD_SIZE", "1"}, {"RANK", "0"}});
  CHECK(start_group()->size() == 1);
  const auto fails = [&](const char* part) { CHECK_THROWS_WITH_AS(start_group(), doctest::Contains(part), Error); };
  with({{"WORLD_SIZE", "2"}});
  fails("RANK is not set");
  with({{"WORLD_SIZE", "2"}, {"RANK", "2"}});
  fails("RANK is 2, expected below WORLD_SIZE");
  with({{"WORLD_SIZE", "two"}, {"RANK", "0"}});
  fails("WORLD_SIZE is 'two', expected a whole number");
  with({{"WORLD_SIZE", "2"}, {"RANK", "1"}});
  fails("MASTER_ADDR is not set");
  with({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"MASTER_ADDR", "localhost"}});
  fails("MASTER_PORT is not set");
  with({{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "70000"}});
  fails("MASTER_PORT is '70000', expected a whole number from 1 to 65535");
  // torchrun's own store is at MASTER_PORT.
  for (const auto& [port, own] : {std::pair("29500", "port 29501"), std::pair("65535", "port 65534")}) {
    with({{"WORLD_SIZE", "2"},
          {"RANK", "1"},
          {"MASTER_ADDR", "127.0.0.1"},
          {"MASTER_PORT", port},
          {"WROUGHT_JOIN_TIMEOUT", "1"},
          {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
    fails(own);
  }
  with({});
}

TEST_CASE("a program that is one process does not run as several") {
  const auto started = [](const char* name, const char* value) {
    ::setenv(name, value, 1);
    CHECK_THROWS_WITH_AS(check_one_process("finetune"),
                         doctest::Contains("finetune is one process, and 3 were started"), Error);
    ::unsetenv(name);
  };
  check_one_process("finetune");
  started("OMPI_COMM_WORLD_SIZE", "3");
  started("WORLD_SIZE", "3");
  ::setenv("WORLD_SIZE", "1", 1);
  check_one_process("finetune");
  ::unsetenv("WORLD_SIZE");
}
