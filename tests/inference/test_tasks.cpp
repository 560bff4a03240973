// Files of questions: every form that is read, and the errors for lines in another form.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <fstream>

#include "llm/inference/tasks.h"
#include "llm/support/error.h"

namespace fs = std::filesystem;

namespace {

struct File {
  fs::path folder = [] {
    char name[] = "/tmp/wrought-tasks-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~File() { fs::remove_all(folder); }
  fs::path operator()(const std::string& text) const {
    std::ofstream(folder / "q.jsonl", std::ios::binary) << text;
    return folder / "q.jsonl";
  }
};

using Strings = std::vector<std::string>;

}  // namespace

TEST_CASE("HellaSwag: the fields of its files are read") {
  const File file;
  const auto questions = read_hellaswag(
      file("{\"ind\": 24, \"activity_label\": \"Roof\", \"ctx_a\": \"A man sits.\", \"ctx_b\": \"he\", "
           "\"ctx\": \"A man sits. he\", \"endings\": [\"rips.\", \"is [x] up.\", \"c\", \"d\"], \"label\": 3}\n\n"
           "{\"ctx_a\": \"A\", \"ctx_b\": \"b c\", \"endings\": [\"a\", \"b\", \"c\", \"d\"], \"label\": \"1\"}\r\n"),
      false);
  REQUIRE(questions.size() == 2);
  CHECK(questions[0].context == "A man sits. he");
  CHECK(questions[0].choices == Strings{" rips.", " is [x] up.", " c", " d"});
  CHECK(questions[0].answer == 3);
  CHECK(questions[1].context == "A b c");
  CHECK(questions[1].answer == 1);
  CHECK(questions[1].where.ends_with("q.jsonl: line 3"));
}

TEST_CASE("HellaSwag questions have the text of lm-evaluation-harness") {
  const File file;
  const auto questions = read_hellaswag(
      file("{\"activity_label\": \"Food\", \"ctx_a\": \"[header] How to cook [title] Boil. [step] Now\", "
           "\"ctx_b\": \"THE pot\", \"endings\": [\" boils [substeps] over.\", \"b\", \"c\", \"d\"], \"label\": 0}\n"),
      true);
  CHECK(questions[0].context == "Food: How to cook. Boil. Now The pot");
  CHECK(questions[0].choices[0] == " boils over.");
}

TEST_CASE("multiple choice is read in all its forms") {
  const File file;
  const auto q =
      read_choices(file("{\"question\": \"Q?\", \"choices\": [\"a\", \" b\", \"c\"], \"answer\": 2}\n"
                        "{\"context\": \"C.\", \"question\": \"Q?\", \"choices\": [\"a\", \"b\"], \"answer\": \"B\"}\n"
                        "{\"ctx\": \"Answer:\\n\", \"endings\": [\"a\", \"b\"], \"label\": \"0\"}\n"
                        "{\"question\": \"Q\", \"choices\": {\"text\": [\"x\", \"y\"], \"label\": [\"1\", \"2\"]}, "
                        "\"answerKey\": \"1\"}\n"
                        "{\"question\": \"\", \"choices\": [\"x\", \"y\"], \"answer\": \"b\"}\n"));
  REQUIRE(q.size() == 5);
  CHECK(q[0].context == "Q?");
  CHECK(q[0].choices == Strings{" a", " b", " c"});
  CHECK(q[0].answer == 2);
  CHECK(q[1].context == "C.\nQ?");
  CHECK(q[1].answer == 1);
  CHECK(q[2].choices == Strings{"a", "b"});  // the choice begins with white space already
  CHECK(q[2].answer == 0);
  CHECK(q[3].answer == 0);  // the label, not the index
  CHECK(q[4].choices == Strings{"x", "y"});
  CHECK(q[4].answer == 1);
}

TEST_CASE("LAMBADA: objects and bare lines are read") {
  const File file;
  const auto passages = read_lambada(file("{\"text\": \"He came to the\\n door \"}\nshe saw  him\n"));
  REQUIRE(passages.size() == 2);
  CHECK(passages[0].context == "He came to the");
  CHECK(passages[0].last_word == "\n door");
  CHECK(passages[1].context == "she saw");
  CHECK(passages[1].last_word == "  him");
}

TEST_CASE("lines in another form are named") {
  const File file;
  const auto refuse = [&](auto read, const std::string& text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read(file(text)), doctest::Contains(message), Error);
  };
  const auto hellaswag = [](const fs::path& path) { return read_hellaswag(path, false); };
  const auto activity = [](const fs::path& path) { return read_hellaswag(path, true); };
  const std::string good = "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\", \"c\", \"d\"], \"label\": 0}\n";
  refuse(hellaswag, "", "all lines are blank");
  refuse(hellaswag, good + "{\"ctx\": ", "q.jsonl: line 2: not JSON");
  refuse(hellaswag, good + "\n[1]", "line 3: expected a JSON object, found \"[1]\"");
  refuse(hellaswag, "{\"endings\": 1}", "line 1: there is no \"ctx\"");
  refuse(hellaswag, "{\"ctx\": 3}", "\"ctx\" is 3, expected a string");
  refuse(hellaswag, "{\"ctx\": \"c\"}", "there is no \"endings\"");
  refuse(hellaswag, "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\"], \"label\": 0}", "\"endings\" has 2, expected four");
  refuse(hellaswag, "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\", \"\", \"d\"], \"label\": 0}", "not empty");
  refuse(hellaswag, "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\", \"c\", \"d\"]}", "there is no \"label\"");
  refuse(hellaswag, "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\", \"c\", \"d\"], \"label\": 4}", "index from 0 to 3");
  refuse(hellaswag, "{\"ctx\": \"c\", \"endings\": [\"a\", \"b\", \"c\", \"d\"], \"label\": \"\"}", "without answers");
  refuse(hellaswag, "{\"ctx\": \"\xff\"}", "line 1: not UTF-8: byte 0xFF");
  refuse(activity, good, "there is no \"activity_label\"");
  refuse(read_choices, "{\"choices\": [\"a\", \"b\"], \"answer\": 0}",
         "expected \"context\" or \"ctx\" or \"question\"");
  refuse(read_choices, "{\"question\": \"q\", \"answer\": 0}", "expected \"choices\" or \"endings\"");
  refuse(read_choices, "{\"question\": \"q\", \"choices\": \"a\", \"answer\": 0}", "expected a list");
  refuse(read_choices, "{\"question\": \"q\", \"choices\": [\"a\"], \"answer\": 0}", "has 1, expected two or more");
  refuse(read_choices, "{\"question\": \"q\", \"choices\": [\"a\", \"b\"]}", "expected \"answer\"");
  for (const char* answer : {"2", "-1", "1.5", "\"C\"", "\"yes\"", "null", "18446744073709551615"}) {
    refuse(read_choices, "{\"question\": \"q\", \"choices\": [\"a\", \"b\"], \"answer\": " + std::string(answer) + "}",
           "one of 2 choices");
  }
  const std::string arc = "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, ";
  refuse(read_choices, arc + "\"answer\": \"C\"}", "one of the labels");
  refuse(read_choices, "{\"question\": \"q\", \"choices\": {\"text\": [\"a\"]}, \"answer\": 0}", "no \"label\"");
  refuse(read_choices,
         "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\"]}, \"answer\": 0}",
         "2 choices with 1 labels");
  refuse(read_lambada, "{\"passage\": 1}", "there is no \"text\"");
  refuse(read_lambada, "two words\nword\n", "line 2: expected a passage of two words or more, found \"word\"");
  refuse(read_lambada, "{\"text\": \" word \"}", "two words");
}
