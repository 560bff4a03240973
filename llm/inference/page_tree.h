// Which pages of a decoder's cache hold which tokens: a tree, in which a node is a page and its tokens, and a path from
// the root is the beginning of a text. Texts that begin alike share the pages of their beginning. Pages that no
// sequence uses any more stay until their memory is needed, least recently used first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

class PageTree {
 public:
  struct Node {
    Node* parent = nullptr;
    std::vector<Node*> children;
    int32_t page = -1;
    std::vector<int32_t> tokens;  // whose keys and values the page holds: up to kPageTokens
    int users = 0;                // sequences whose path it is on
    int64_t last_used = 0;
  };

  // The beginning of a text in the cache.
  struct Path {
    std::vector<Node*> nodes;
    int length = 0;  // tokens that are in them
  };

  explicit PageTree(int pages);

  int pages() const { return static_cast<int>(nodes_.size()) - 1; }
  int unused() const { return unused_; }  // pages that no sequence uses: free ones, and ones that can be taken away

  // The longest beginning of `tokens` that is there in full pages, whose users grow by one; and the node that continues
  // as `tokens` do for a part of a page, `common` tokens of it (null, 0: none).
  Path find(std::span<const int32_t> tokens, Node*& further, int& common);
  // What find() would share, without taking it: tokens in full pages, then tokens in a part of one; and how many of
  // these pages no sequence uses.
  struct Found {
    int length, unused;
  };
  Found look(std::span<const int32_t> tokens) const;

  // A page more at the end of a path, empty. One must be unused.
  Node* extend(Path& path);
  // The next tokens of a path have been computed, into pages that it has.
  void fill(Path& path, std::span<const int32_t> tokens);
  // The sequence no longer uses the path, which is empty then.
  void release(Path& path);

 private:
  Node* child_with(const Node& node, std::span<const int32_t> tokens) const;
  void use(Node& node);

  std::vector<std::unique_ptr<Node>> nodes_;  // the root, then one for each page
  std::vector<Node*> free_;
  int unused_;
  int64_t clock_ = 0;
};
