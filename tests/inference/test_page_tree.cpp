#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "kernels/kv_cache.h"
#include "llm/inference/page_tree.h"

namespace {

using Tokens = std::vector<int32_t>;

Tokens tokens_from(int first, int n) {
  Tokens tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct Tree : PageTree {
  using PageTree::PageTree;
  // A path with all of `tokens` in it, as a sequence makes it.
  Path put(const Tokens& tokens) {
    Node* further;
    int common;
    Path path = find(tokens, further, common);
    while (static_cast<int>(path.nodes.size()) * kPageTokens < static_cast<int>(tokens.size())) extend(path);
    fill(path, std::span(tokens).subspan(static_cast<size_t>(path.length)));
    return path;
  }
};

}  // namespace

TEST_CASE("texts that begin alike share whole pages, and parts of one are found") {
  Tree tree(8);
  const Tokens first = tokens_from(0, 80);
  PageTree::Path a = tree.put(first);
  CHECK(a.nodes.size() == 3);
  CHECK(tree.unused() == 5);

  Tokens second = tokens_from(0, 70);
  second[69] = -1;  // the same in 69 tokens: two pages and 5 tokens of the third
  CHECK(tree.look(second).length == 69);
  CHECK(tree.look(second).unused == 0);
  PageTree::Node* further;
  int common;
  PageTree::Path b = tree.find(second, further, common);
  CHECK(b.length == 64);
  CHECK(b.nodes == std::vector<PageTree::Node*>(a.nodes.begin(), a.nodes.begin() + 2));
  CHECK(further == a.nodes[2]);
  CHECK(common == 5);
  CHECK(tree.unused() == 5);

  CHECK(tree.look(tokens_from(1, 80)).length == 0);
  CHECK(tree.look(Tokens{}).length == 0);
  CHECK(tree.look(tokens_from(0, 31)).length == 31);  // a part of a full page

  // Pages are given back when the last user leaves, and keep what they hold.
  tree.release(a);
  CHECK(tree.unused() == 6);
  tree.release(b);
  CHECK(tree.unused() == 8);
  CHECK(tree.look(first).length == 80);
  CHECK(tree.look(first).unused == 2);
  CHECK(b.nodes.empty());
}

TEST_CASE("memory that is needed is taken from what was used longest ago, from the ends of texts on") {
  Tree tree(4);
  PageTree::Path a = tree.put(tokens_from(0, 64));
  PageTree::Path b = tree.put(tokens_from(1000, 64));
  tree.release(a);
  tree.release(b);
  PageTree::Path again = tree.put(tokens_from(0, 64));  // now b was used longest ago
  tree.release(again);

  PageTree::Path c = tree.put(tokens_from(2000, 32));
  CHECK(tree.look(tokens_from(1000, 64)).length == 32);  // its end is gone
  CHECK(tree.look(tokens_from(0, 64)).length == 64);
  PageTree::Path d = tree.put(tokens_from(3000, 32));
  CHECK(tree.look(tokens_from(1000, 64)).length == 0);
  CHECK(tree.look(tokens_from(0, 64)).length == 64);
  PageTree::Path e = tree.put(tokens_from(4000, 64));
  CHECK(tree.look(tokens_from(0, 64)).length == 0);
  CHECK(tree.unused() == 0);
  PageTree::Path none;
  CHECK_THROWS_AS(tree.extend(none), std::logic_error);

  // What is in use stays, whatever was taken away around it.
  std::vector<int32_t> pages;
  for (const PageTree::Path* path : {&c, &d, &e}) {
    for (const PageTree::Node* node : path->nodes) pages.push_back(node->page);
  }
  std::sort(pages.begin(), pages.end());
  CHECK(pages == Tokens{0, 1, 2, 3});
  CHECK_THROWS_AS(tree.fill(c, tokens_from(0, 1)), std::logic_error);  // its page is full
}

TEST_CASE("a page that is not full yet can be copied from, not shared") {
  Tree tree(4);
  PageTree::Path a = tree.put(tokens_from(0, 40));
  PageTree::Node* further;
  int common;
  PageTree::Path b = tree.find(tokens_from(0, 60), further, common);
  CHECK(b.length == 32);
  CHECK(common == 8);
  CHECK(further == a.nodes[1]);
  tree.fill(a, tokens_from(40, 24));  // now it is
  PageTree::Path c = tree.find(tokens_from(0, 64), further, common);
  CHECK(c.length == 64);
  CHECK(further == nullptr);
  CHECK(common == 0);
}
