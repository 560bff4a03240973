#include "llm/inference/page_tree.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/kv_cache.h"

PageTree::PageTree(int pages) : unused_(pages) {
  nodes_.push_back(std::make_unique<Node>());
  for (int page = 0; page < pages; ++page) {
    nodes_.push_back(std::make_unique<Node>());
    nodes_.back()->page = page;
  }
  for (int page = pages; page > 0; --page) free_.push_back(nodes_[static_cast<size_t>(page)].get());
}

// The child that is full of the first of `tokens`.
PageTree::Node* PageTree::child_with(const Node& node, std::span<const int32_t> tokens) const {
  if (tokens.size() < kPageTokens) return nullptr;
  for (Node* child : node.children) {
    if (child->tokens.size() == kPageTokens && std::equal(child->tokens.begin(), child->tokens.end(), tokens.begin())) {
      return child;
    }
  }
  return nullptr;
}

// The child that shares most tokens, at least one.
static const PageTree::Node* longest(const PageTree::Node& node, std::span<const int32_t> tokens, int& common) {
  const PageTree::Node* best = nullptr;
  common = 0;
  for (const PageTree::Node* child : node.children) {
    const auto differ = std::mismatch(child->tokens.begin(), child->tokens.end(), tokens.begin(), tokens.end());
    const int n = static_cast<int>(differ.first - child->tokens.begin());
    if (n > common) best = child, common = n;
  }
  return best;
}

void PageTree::use(Node& node) {
  if (node.users++ == 0) --unused_;
  node.last_used = ++clock_;
}

PageTree::Path PageTree::find(std::span<const int32_t> tokens, Node*& further, int& common) {
  Path path;
  Node* node = nodes_[0].get();
  while (Node* child = child_with(*node, tokens.subspan(static_cast<size_t>(path.length)))) {
    use(*child);
    path.nodes.push_back(node = child);
    path.length += kPageTokens;
  }
  further = const_cast<Node*>(longest(*node, tokens.subspan(static_cast<size_t>(path.length)), common));
  if (further) further->last_used = ++clock_;
  return path;
}

PageTree::Found PageTree::look(std::span<const int32_t> tokens) const {
  Found found{0, 0};
  const Node* node = nodes_[0].get();
  while (const Node* child = child_with(*node, tokens.subspan(static_cast<size_t>(found.length)))) {
    found.length += kPageTokens;
    found.unused += child->users == 0;
    node = child;
  }
  int common;
  longest(*node, tokens.subspan(static_cast<size_t>(found.length)), common);
  found.length += common;
  return found;
}

PageTree::Node* PageTree::extend(Path& path) {
  if (unused_ == 0) throw std::logic_error("a page of a cache in which all are used");
  if (free_.empty()) {
    // A node without users has no descendants with users, so there is always a leaf to take.
    Node* oldest = nullptr;
    for (size_t i = 1; i < nodes_.size(); ++i) {
      Node* node = nodes_[i].get();
      if (node->users > 0 || !node->children.empty()) continue;
      if (!oldest || node->last_used < oldest->last_used) oldest = node;
    }
    std::erase(oldest->parent->children, oldest);
    oldest->tokens.clear();
    free_.push_back(oldest);
  }
  Node* node = free_.back();
  free_.pop_back();
  node->parent = path.nodes.empty() ? nodes_[0].get() : path.nodes.back();
  node->parent->children.push_back(node);
  path.nodes.push_back(node);
  use(*node);
  return node;
}

void PageTree::fill(Path& path, std::span<const int32_t> tokens) {
  if (path.length + tokens.size() > path.nodes.size() * kPageTokens) {
    throw std::logic_error("more tokens than a path's pages have room for");
  }
  for (const int32_t token : tokens) {
    path.nodes[static_cast<size_t>(path.length++ / kPageTokens)]->tokens.push_back(token);
  }
}

void PageTree::release(Path& path) {
  for (Node* node : path.nodes) {
    if (--node->users == 0) ++unused_;
  }
  path = {};
}
