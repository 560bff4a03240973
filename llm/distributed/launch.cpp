#include "llm/distributed/launch.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "llm/support/error.h"

using nlohmann::json;

namespace {

std::vector<std::string> own_addresses() {
  std::vector<std::string> addresses;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {"127.0.0.1"};
  for (const ifaddrs* i = all; i; i = i->ifa_next) {
    if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN];
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, text, sizeof text);
    addresses.emplace_back(text);
  }
  ::freeifaddrs(all);
  return addresses;
}

std::optional<int> int_variable(const char* name, int low, int high) {
  const char* value = std::getenv(name);
  if (!value) return std::nullopt;
  char* end = nullptr;
  const long number = std::strtol(value, &end, 10);
  if (*value == '\0' || *end != '\0' || number < low || number > high) {
    fail("the variable %s is '%s', expected a whole number from %d to %d", name, value, low, high);
  }
  return static_cast<int>(number);
}

int needed_variable(const char* name, int low, int high) {
  const std::optional<int> value = int_variable(name, low, high);
  if (!value) {
    fail(
        "the variable %s is not set, but WORLD_SIZE or MASTER_ADDR is: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT "
        "belong together",
        name);
  }
  return *value;
}

std::string text_variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

double join_timeout() {
  return int_variable("WROUGHT_JOIN_TIMEOUT", 1, 1 << 20).value_or(static_cast<int>(kJoinTimeout));
}

// As torchrun sets them, or Slurm with MASTER_ADDR; nothing if they are not there.
std::optional<GroupConfig> config_of_variables() {
  const bool slurm = !std::getenv("WORLD_SIZE") && std::getenv("MASTER_ADDR") && std::getenv("SLURM_PROCID");
  if (!std::getenv("WORLD_SIZE") && !slurm) return std::nullopt;
  GroupConfig c;
  constexpr int most = 1 << 20;
  c.size = needed_variable(slurm ? "SLURM_STEP_NUM_TASKS" : "WORLD_SIZE", 1, most);
  c.rank = needed_variable(slurm ? "SLURM_PROCID" : "RANK", 0, most);
  if (c.rank >= c.size) fail("the variable RANK is %d, expected below WORLD_SIZE, which is %d", c.rank, c.size);
  c.local_rank = int_variable(slurm ? "SLURM_LOCALID" : "LOCAL_RANK", 0, most).value_or(0);
  c.local_size = int_variable("LOCAL_WORLD_SIZE", 1, most).value_or(c.local_rank + 1);
  if (c.size == 1) return c;
  c.addresses = {text_variable("MASTER_ADDR")};
  if (c.addresses[0].empty()) {
    fail("the variable MASTER_ADDR is not set: expected the name or address of the machine that rank 0 runs on");
  }
  c.port = needed_variable("MASTER_PORT", 1, 65535);
  // torchrun keeps MASTER_PORT for its own store if it says so.
  if (text_variable("TORCHELASTIC_USE_AGENT_STORE") == "True") c.port += c.port < 65535 ? 1 : -1;
  c.token = text_variable("WROUGHT_TOKEN");
  if (c.token.empty()) c.token = text_variable("TORCHELASTIC_RUN_ID");
  c.join_timeout = join_timeout();
  return c;
}

}  // namespace

std::unique_ptr<Group> start_group() {
  if (const std::optional<GroupConfig> config = config_of_variables()) return std::make_unique<Group>(*config);
  const MpiProcess process = start_mpi();
  GroupConfig c{process.rank, process.size, process.local_rank, process.local_size, {}, 0, "", join_timeout()};
  if (c.size == 1) return std::make_unique<Group>(c);
  // Rank 0 says where it listens, and a secret token.
  std::unique_ptr<Group> group;
  if (c.rank == 0) {
    std::random_device random;
    c.token = strprintf("%08x%08x", random(), random());
    const std::string given = text_variable("MASTER_ADDR");
    const std::vector<std::string> addresses = !given.empty()           ? std::vector{given}
                                               : c.local_size == c.size ? std::vector<std::string>{"127.0.0.1"}
                                                                        : own_addresses();
    group = std::make_unique<Group>(c, [&](int port) {
      mpi_broadcast(json{{"token", c.token}, {"port", port}, {"addresses", addresses}}.dump());
    });
  } else {
    const json told = json::parse(mpi_broadcast(""));
    c.token = told["token"];
    c.port = told["port"];
    c.addresses = told["addresses"].get<std::vector<std::string>>();
    group = std::make_unique<Group>(c);
  }
  return group;
}
