// Files of questions with known answers: one JSON object per line (for LAMBADA also one passage per line). Every reader
// throws Error that names file and line, what was expected and what was found; empty lines are skipped.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

struct Question {
  std::string where;                 // "file: line 3", for messages
  std::string context;               // may be empty
  std::vector<std::string> choices;  // at least two; each with what separates it from the context
  int answer = 0;                    // the right one's index
};

// HellaSwag (Zellers et al. 2019): "ctx" (or "ctx_a" and "ctx_b"), four "endings", "label" (0 to 3, also as a string).
// `activity`: as lm-evaluation-harness asks it: "activity_label: ctx_a ctx_b", with marks such as [step] removed;
// otherwise only ctx, as llm.c and nanoGPT ask it.
std::vector<Question> read_hellaswag(const std::filesystem::path& path, bool activity);

// Multiple choice in general. The context is "question" or "context" ("ctx"), or context, line break and question if
// both are there; the choices are "choices" or "endings", a list of strings or ARC's {"text": [..], "label": [..]}; the
// right one is "answer", "label" or "answerKey": an index from 0, one of the labels, or a letter from A. A space is put
// between context and choice unless there already is white space.
std::vector<Question> read_choices(const std::filesystem::path& path);

// LAMBADA (Paperno et al. 2016): a passage whose last word is asked for; {"text": "..."} or the bare text.
struct Passage {
  std::string where;
  std::string context, last_word;  // last_word begins with the space before it
};
std::vector<Passage> read_lambada(const std::filesystem::path& path);
