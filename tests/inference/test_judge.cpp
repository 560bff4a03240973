// The judge: the score in a reply, the request, and the replies of servers.
#include <doctest/doctest.h>

#include <thread>

#include "llm/inference/judge.h"

TEST_CASE("the score is found in a reply") {
  CHECK(score_in("85") == 85);
  CHECK(score_in(" 100\n") == 100);
  CHECK(score_in("0") == 0);
  CHECK(score_in("**Score: 70/100**") == 70);
  CHECK(score_in("I would say 101, no, 40.") == 40);
  CHECK_FALSE(score_in("").has_value());
  CHECK_FALSE(score_in("good").has_value());
  CHECK_FALSE(score_in("1000").has_value());
  CHECK_FALSE(score_in("-5").has_value());
  CHECK_FALSE(score_in("0.5").has_value());
  CHECK_FALSE(score_in("99999999999999999999").has_value());
}

#ifdef WROUGHT_HTTPLIB

namespace {

// A server on this machine that replies with `status` and `body`, and keeps what it was asked.
class StandIn {
 public:
  StandIn(int status, const std::string& body) {
    server_.Post("/v1/chat/completions",
                 [this, status, body](const httplib::Request& request, httplib::Response& reply) {
                   asked = request.body;
                   reply.status = status;
                   reply.set_content(body, "application/json");
                 });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
  }
  ~StandIn() {
    server_.stop();
    thread_.join();
  }
  std::string url() const { return strprintf("http://127.0.0.1:%d", port_); }
  std::string asked;

 private:
  httplib::Server server_;
  std::thread thread_;
  int port_ = 0;
};

std::string error_of(int status, const std::string& body) {
  StandIn server(status, body);
  try {
    Judge(server.url(), "m").score("q");
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("a question is sent and its score returned") {
  StandIn server(200, R"({"choices": [{"message": {"role": "assistant", "content": "Score: 93"}}]})");
  CHECK(Judge(server.url(), "llama3").score("how good? \xff") == 93);
  const nlohmann::json asked = nlohmann::json::parse(server.asked);
  CHECK(asked["model"] == "llama3");
  CHECK(asked["messages"][0]["role"] == "user");
  CHECK(asked["messages"][0]["content"] == "how good? \xEF\xBF\xBD");
  CHECK(asked["temperature"] == 0);
  StandIn silent(200, R"({"choices": [{"message": {"content": "no idea"}}]})");
  CHECK_FALSE(Judge(silent.url(), "m").score("q").has_value());
}

TEST_CASE("errors of a server are errors of the judge") {
  CHECK(error_of(500, "down").find("status 500, expected 200: \"down\"") != std::string::npos);
  CHECK(error_of(200, "<html>").find("the reply: not JSON") != std::string::npos);
  CHECK(error_of(200, "{}").find("no choices[0].message.content") != std::string::npos);
  CHECK(error_of(200, R"({"choices": []})").find("no choices[0].message.content") != std::string::npos);
  CHECK(error_of(200, "[]").find("no choices[0].message.content") != std::string::npos);
  CHECK_THROWS_WITH_AS(Judge("http://127.0.0.1:1", "m").score("q"), doctest::Contains("no answer"), Error);
}

TEST_CASE("invalid addresses are refused") {
  for (const char* url : {"", "localhost:80", "ftp://a", "http://", "http://a/b"}) {
    CAPTURE(url);
    CHECK_THROWS_AS(Judge(url, "m"), UsageError);
  }
}

#else

TEST_CASE("without cpp-httplib the judge is an error that says so") {
  CHECK_THROWS_WITH_AS(Judge("http://127.0.0.1:1", "m"), doctest::Contains("libcpp-httplib-dev"), UsageError);
}

#endif
