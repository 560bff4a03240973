"""Finds where a fault can be planted in a kernel file or a model's walk, and writes the copy of it that has them all.

A fault is chosen at run time by its number: `i < n` becomes `mutant::less(17, i, n)`, which is `i <= n` while fault 17 is
on. So one compilation serves every fault of a file. Faults are only added around tokens, on their own lines: they nest,
and a line of the copy corresponds to the same line of the file.

The reader is not a C++ parser: it knows brackets, the precedence of operators, and that clang-format puts spaces on
both sides of a binary operator and of nothing else. A fault that does not compile is removed again by dev/mutation/mutate.
"""

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>(?:0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?|\d[\d.]*(?:[eE][+-]?\d+)?)[a-zA-Z]*|\.\d+[a-zA-Z]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<sign><<=|>>=|\.\.\.|->|::|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""",
    re.X | re.S,
)
PRECEDENCE = {"*": 10, "/": 10, "%": 10, "+": 9, "-": 9, "<<": 8, ">>": 8, "<": 7, "<=": 7, ">": 7, ">=": 7,
              "==": 6, "!=": 6, "&": 5, "^": 4, "|": 3, "&&": 2, "||": 1}  # fmt: skip
ASSIGN = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
CLOSER = {"(": ")", "[": "]", "{": "}", "<": ">"}
STOP = {";", ",", "?", ":", "{", "}", "(", "[", ")", "]"} | ASSIGN
STATEMENT = {"return", "else", "do", "case", "throw", "const", "constexpr"}
CONSTANT = {"alignas", "sizeof", "decltype", "static_assert", "__launch_bounds__", "noexcept"}  # what is in their ( )
LOOPS = {"for", "while", "if", "switch"}
COMPARE = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
OTHER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
EXTREMA = {"fmaxf": "most", "max": "most", "fminf": "least", "min": "least"}
NEIGHBOUR = {"x": "y", "y": "x", "z": "w", "w": "z"}

# In a walk (llm/models/gpt2.h, walk.h): its functions, and what can take the place of a tensor or a dropout site.
WALK = {"forward", "enter", "stream", "block_forward", "head_input", "backward", "recompute", "block_backward",
        "head_forward", "head_backward"}
OTHER_TENSOR = {"ln1": "ln2", "ln2": "ln1", "atty": "residual2", "residual2": "residual3", "residual3": "residual2",
                "fch": "fch_gelu", "fch_gelu": "fch", "encoded": "sublayer", "sublayer": "dsublayer", "dnorm": "datty",
                "datty": "dnorm", "dsublayer": "dnorm", "dresidual": "dsublayer", "fc": "fcproj", "fcproj": "fc",
                "attproj": "qkv", "qkv": "attproj", "lnf": "block[0].ln1", "pooled": "sublayer", "dpooled": "dnorm",
                "wte": "wpe", "wpe": "wte", "targets": "tokens"}  # fmt: skip
OTHER_SITE = {"kMlp": "kAttproj", "kAttproj": "kMlp", "kAttention": "kMlp", "kEmbedding": "kAttention"}

HELPERS = """
namespace NAME {
template <class T>
INLINE T plus(int k, T x) { return on(k) ? static_cast<T>(x + 1) : x; }
template <class T>
INLINE T minus(int k, T x) { return on(k) ? static_cast<T>(x - 1) : x; }
template <class T, class Step>
INLINE T round_less(int k, T x, Step step) { return on(k) ? static_cast<T>(x - step) : x; }
template <class T>
INLINE T half(int k, T x) { return on(k) ? static_cast<T>(x / 2) : x; }
template <class T>
INLINE auto negated(int k, T x) { return on(k) ? -x : +x; }
template <class T>
INLINE T one(int k, T x) { return on(k) ? static_cast<T>(1) : x; }
template <class T>
INLINE T& cleared(int k, T& x) { if (on(k)) x = T{}; return x; }
template <class A, class B>
INLINE bool less(int k, A a, B b) { return on(k) ? a <= b : a < b; }
template <class A, class B>
INLINE bool less_equal(int k, A a, B b) { return on(k) ? a < b : a <= b; }
template <class A, class B>
INLINE bool greater(int k, A a, B b) { return on(k) ? a >= b : a > b; }
template <class A, class B>
INLINE bool greater_equal(int k, A a, B b) { return on(k) ? a > b : a >= b; }
template <class A, class B>
INLINE auto most(int k, A a, B b) { return on(k) ? (b < a ? b : a) : (a < b ? b : b == b || a == a ? (a != a ? b : a) : a); }
template <class A, class B>
INLINE auto least(int k, A a, B b) { return on(k) ? (a < b ? b : a) : (b < a ? b : a != a ? b : a); }
template <class A, class B>
INLINE auto quotient(int k, A a, B b) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) return on(k) ? a % b : a / b;
  else return on(k) ? a * 1 : a / b;
}
template <class A, class B>
INLINE auto remainder(int k, A a, B b) { return on(k) ? a / b : a % b; }
}  // namespace NAME
"""

# `on` reads a table that is filled once, before main: from WROUGHT_FAULT, the number of the one fault that is on. With
# WROUGHT_FAULT_TRACE=FILE none is on, and the numbers of those that were reached are written at the end.
RUNTIME = """#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#ifdef CUDASIM_INSTRUMENTED
#define MUTANT_PLAIN __attribute__((no_sanitize("thread"), noinline))
#else
#define MUTANT_PLAIN inline
#endif
namespace mutant {
inline unsigned char armed[COUNT + 1], reached[COUNT + 1];
inline bool tracing = false;
inline struct Setup {
  Setup() {
    if (const char* number = std::getenv("WROUGHT_FAULT")) armed[std::atoi(number)] = 1;
    if (std::getenv("WROUGHT_FAULT_TRACE")) {
      tracing = true;
      std::memset(armed, 1, sizeof armed);
    }
  }
  ~Setup() {
    const char* path = std::getenv("WROUGHT_FAULT_TRACE");
    std::FILE* file = path ? std::fopen(path, "w") : nullptr;
    if (!file) return;
    for (int k = 0; k <= COUNT; ++k) {
      if (reached[k]) std::fprintf(file, "%d\\n", k);
    }
    std::fclose(file);
  }
} setup;
template <int = 0>
MUTANT_PLAIN bool on(int k) {
  if (__builtin_expect(!armed[k], 1)) return false;
  if (!tracing) return true;
  reached[k] = 1;
  armed[k] = 0;
  return false;
}
}  // namespace mutant
namespace mutant_constant {  // for constexpr functions: no fault while the compiler computes
constexpr bool on(int k) { return std::is_constant_evaluated() ? false : mutant::on(k); }
}  // namespace mutant_constant
""" + HELPERS.replace("NAME", "mutant").replace("INLINE", "inline") + HELPERS.replace(
    "NAME", "mutant_constant").replace("INLINE", "constexpr")  # fmt: skip


@dataclass
class Token:
    kind: str
    text: str
    start: int
    end: int
    before: bool  # whether white space is before it, and after
    after: bool
    open: int = -1  # the bracket that contains it
    mate: int = -1  # of a bracket: the other one
    function: str = ""  # the function whose body contains it
    constexpr: bool = False  # that function is constexpr
    constant: bool = False  # the compiler must know its value


@dataclass
class Fault:
    operator: str
    line: int
    text: str  # the line in the file, without its comment
    function: str
    change: str
    wraps: list  # (start, end, before, after)
    swaps: list = field(default_factory=list)  # (start, end, text) instead of tokens
    constant: bool = False
    number: int = 0
    places: list = field(default_factory=list)  # its places in the copy: (start, end)


def inactive_lines(source):
    """The lines of directives, and lines left out by WROUGHT_CUDASIM or a missing library."""
    skipped, state, continued = set(), [], False
    for number, line in enumerate(source.split("\n")):
        word = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if word or continued:
            skipped.add(number)
            continued = line.rstrip().endswith("\\")
            if word and word[1] in ("if", "ifdef", "ifndef"):
                known = word[2].strip() == "WROUGHT_CUDASIM"
                state.append(known if word[1] == "ifdef" else word[1] == "ifndef" and not known)
            elif word and word[1] == "else":
                state[-1] = not state[-1]
            elif word and word[1] == "endif":
                state.pop()
        elif not all(state):
            skipped.add(number)
    return skipped


def tokenize(source):
    skipped, line, tokens = inactive_lines(source), 0, []
    position = 0
    while position < len(source):
        match = TOKEN.match(source, position)
        text = match[0]
        if match.lastgroup != "skip" and line not in skipped:
            end = match.end()
            if text == ">>" and not source[position - 1].isspace():  # closes two template lists
                end, text = position + 1, ">"
            space = lambda i: not 0 <= i < len(source) or source[i].isspace()
            tokens.append(Token(match.lastgroup, text, position, end, space(position - 1), space(end)))
            line += text.count("\n")
            position = end
            continue
        if match.lastgroup != "skip":  # left out: skip to the next line
            end = source.find("\n", position)
            position = len(source) if end < 0 else end
            continue
        line += text.count("\n")
        position = match.end()
    return tokens


class File:
    def __init__(self, source, walk=False):
        self.source = source
        self.walk = walk
        self.lines = source.split("\n")
        self.tokens = tokenize(source)
        self.faults = []
        self.pair()
        self.mark_functions()
        self.mark_constants()

    # ---- structure -------------------------------------------------------------------------------------------------

    def pair(self):
        stack = []
        for i, token in enumerate(self.tokens):
            if token.kind == "sign" and token.text in (")", "]", "}") or token.text == ">" and not token.before and (
                stack and self.tokens[stack[-1]].text == "<"
            ):
                while stack and CLOSER[self.tokens[stack[-1]].text] != token.text:
                    stack.pop()
                if stack:
                    token.mate = stack.pop()
                    self.tokens[token.mate].mate = i
            token.open = stack[-1] if stack else -1
            template = token.text == "<" and (not token.before or i and self.tokens[i - 1].text == "template")
            if token.kind == "sign" and (token.text in ("(", "[", "{") or template):
                stack.append(i)

    def text(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def inside(self, i, j):  # whether token j is in the bracket i
        return self.tokens[i].mate > j > i

    def mark_functions(self):
        for i, token in enumerate(self.tokens):
            if token.text != "{" or token.mate < 0 or token.function:
                continue
            j = i - 1
            while self.text(j) in ("const", "noexcept", "mutable"):
                j -= 1
            if self.text(j) != ")":
                continue
            begin = self.tokens[j].mate
            name = self.text(begin - 1) if re.match(r"\w", self.text(begin - 1)) else "operator"
            start = self.statement_start(begin)
            constexpr = any(self.text(k) == "constexpr" for k in range(start, begin))
            for inner in self.tokens[i : token.mate + 1]:
                inner.function, inner.constexpr = name, constexpr

    def statement_start(self, i):
        depth = self.tokens[i].open
        while i > 0:
            if self.text(i - 1) in (";", "{", "}") and self.tokens[i - 1].open in (depth, self.tokens[i].open):
                break
            if i - 1 == depth:
                break
            i = self.tokens[i - 1].mate if self.text(i - 1) in (")", "]", ">") and self.tokens[i - 1].mate >= 0 else i - 1
        return i

    def mark_constants(self):
        def mark(begin, end):
            for token in self.tokens[begin:end]:
                token.constant = True

        for i, token in enumerate(self.tokens):
            if token.text == "<" and token.mate >= 0:
                mark(i + 1, token.mate)
            elif token.text in CONSTANT and self.text(i + 1) == "(":
                mark(i + 1, self.tokens[i + 1].mate)
            elif token.text in ("constexpr", "__shared__", "using", "static_assert", "enum"):
                if self.text(i - 1) == "if":
                    mark(i + 1, self.tokens[i + 1].mate)
                    continue
                j = i + 1
                while j < len(self.tokens) and self.text(j) not in (";", "{"):
                    j = self.tokens[j].mate + 1 if self.tokens[j].mate > j else j + 1
                if self.text(j) == "{" and self.text(j - 1) in (")", "const"):
                    continue  # a constexpr function or lambda
                while j < len(self.tokens) and self.text(j) != ";":
                    j = self.tokens[j].mate + 1 if self.tokens[j].mate > j else j + 1
                mark(i, j)
            elif token.text == "[" and token.function and self.declares(i):
                mark(i + 1, token.mate)

    def declares(self, i):  # `float x[n]`: the extent of an array
        if self.tokens[i - 1].kind != "name" and self.text(i - 1) != "]":
            return False
        start = self.statement_start(i)
        while self.text(start) in ("const", "static", "unsigned"):
            start += 1
        if self.tokens[start].kind != "name" or self.text(start) in STATEMENT or self.text(start) == "delete":
            return False
        after = start + 1
        if self.text(after) == "<":
            after = self.tokens[after].mate + 1
        while self.text(after) in ("*", "&"):
            after += 1
        if self.tokens[after].kind != "name":
            return False
        j = i - 1  # not in an initialiser
        while j > after and self.text(j) != ",":
            if self.text(j) == "=":
                return False
            j = self.tokens[j].mate - 1 if self.text(j) in (")", "]", "}") else j - 1
        return True

    # ---- expressions -----------------------------------------------------------------------------------------------

    def binary(self, i):
        token = self.tokens[i]
        return token.kind == "sign" and token.text in PRECEDENCE and token.mate < 0 and token.before and token.after

    def right(self, i, level):  # where the right operand of token i ends (exclusive); those above `level` belong to it
        j = i + 1
        while j < len(self.tokens):
            token = self.tokens[j]
            if self.binary(j):
                if PRECEDENCE[token.text] <= level:
                    break
            elif token.mate > j:
                j = token.mate + 1
                continue
            elif token.text in STOP:
                break
            j += 1
        return j

    def left(self, i, level):  # where the left operand of token i begins; operators of `level` and above belong to it
        j = i
        while j > 0:
            token = self.tokens[j - 1]
            if self.binary(j - 1):
                if PRECEDENCE[token.text] < level:
                    break
            elif token.text in (")", "]", ">") and token.mate >= 0:
                if token.text == ")" and self.text(token.mate - 1) in LOOPS | {"constexpr"}:
                    break
                j = token.mate
                continue
            elif token.text in STOP or token.text in STATEMENT or token.mate >= 0:
                break
            j -= 1
        return j

    def postfix(self, i):  # where the expression of names, members, calls, indices that ends with token i begins
        while True:
            token = self.tokens[i]
            if token.text in (")", "]", ">") and token.mate >= 0:
                i = token.mate - 1
                if token.text == ")" and (self.tokens[i].kind != "name" and self.text(i) not in (">", "]")
                                          or self.text(i) in LOOPS | STATEMENT):  # fmt: skip
                    return i + 1
                continue
            if token.kind != "name":
                return i + 1
            if self.text(i - 1) in (".", "->", "::"):
                i -= 2
                continue
            return i

    def snippet(self, begin, end):
        if begin >= end:
            return ""
        return re.sub(r"\s+", " ", re.sub(r"//[^\n]*", "", self.source[self.tokens[begin].start : self.tokens[end - 1].end]))

    def span(self, begin, end):
        return self.tokens[begin].start, self.tokens[end - 1].end

    # ---- faults ----------------------------------------------------------------------------------------------------

    def add(self, operator, at, change, wraps, swaps=()):
        """wraps: (first token, last + 1, before, after) with #k for the fault's number, @ for the helpers' scope"""
        token = self.tokens[at]
        if not token.function or self.walk and token.function not in WALK:
            return
        scope = "mutant_constant::" if token.constexpr else "mutant::"
        mend = lambda text: text.replace("@", scope)
        spans = [(*self.span(b, e), mend(before), mend(after)) for b, e, before, after in wraps if b < e]
        if len(spans) < len(wraps):
            return
        line = self.source.count("\n", 0, token.start)
        text = re.sub(r"\s*//.*", "", self.lines[line]).strip()
        self.faults.append(Fault(operator, line + 1, text, token.function, change, spans,
                                 [(b, e, mend(t)) for b, e, t in swaps], token.constant))  # fmt: skip

    def find(self):
        loops = set()  # comparisons that are loop bounds
        for i, token in enumerate(self.tokens):
            if token.text == "for" and self.text(i + 1) == "(":
                self.loop(i + 1, loops)
            elif token.text in ("if", "while") and self.text(i + 1) == "(":
                self.guard(i, self.tokens[i + 1].mate)
            elif token.kind == "name":
                self.name(i)
        for i, token in enumerate(self.tokens):
            if token.text == "?":
                begin = self.left(i, 0)
                self.condition(begin, i, i, "always")
                self.condition(begin, i, i, "never")
            elif token.text in ("+=", "-="):
                begin = self.postfix(i - 1)
                if self.text(begin - 1) == "*" and self.text(begin - 2) in (";", "{", "}", ")"):
                    begin -= 1
                self.add("accumulation", i, f"{self.snippet(begin, i)} {token.text} -> ={'-' if token.text[0] == '-' else ''}",
                         [(begin, i, "@cleared(#k, ", ")")])  # fmt: skip
            elif token.text == "[" and self.text(token.mate + 1) == "[":
                self.exchange("index", i + 1, token.mate, token.mate + 2, self.tokens[token.mate + 1].mate)
            elif self.binary(i):
                self.operator(i, i in loops)
        seen = {}
        for number, fault in enumerate(self.faults, 1):
            fault.number = number
            place = seen[fault.line, fault.change] = seen.get((fault.line, fault.change), 0) + 1
            if place > 1:
                fault.change += f" (place {place} of the line)"
        return self.faults

    def loop(self, i, bounds):
        end = self.tokens[i].mate
        parts = [j for j in range(i, end) if self.text(j) == ";" and self.tokens[j].open == i]
        if len(parts) != 2:
            return
        shrinking = any(self.text(j) in ("/=", ">>=") for j in range(parts[1], end))
        steps = [(j + 1, self.right(j, -1)) for j in range(parts[1], end) if self.text(j) == "+=" and self.tokens[j].open == i]
        for j in range(i, parts[0]):
            if self.text(j) == "=" and self.tokens[j].open == i:
                stop = self.right(j, -1)
                change = f"{self.snippet(j - 1, stop)} -> " + ("half of it" if shrinking else "1 more")
                self.add("loop start", j + 1, change, [(j + 1, stop, "@half(#k, " if shrinking else "@plus(#k, ", ")")])
        for j in range(parts[0], parts[1]):
            if self.binary(j) and self.text(j) in COMPARE and self.tokens[j].open == i:
                bounds.add(j)
                begin, stop = self.left(j, 8), self.right(j, 7)
                bound = self.snippet(begin, stop)
                self.add("loop bound", j, f"{bound} -> {bound} + 1", [(j + 1, stop, "@plus(#k, ", ")")])
                if steps:  # less than a step would often change nothing
                    step = self.snippet(*steps[0])
                    self.add("loop bound", j, f"{bound} -> {bound} - ({step})",
                             [(j + 1, stop, "@round_less(#k, ", f", {step})")])  # fmt: skip
                elif not shrinking:  # for (n = 16; n > 0; n /= 2) would not end
                    self.add("loop bound", j, f"{bound} -> {bound} - 1", [(j + 1, stop, "@minus(#k, ", ")")])

    def guard(self, i, end):
        begin = i + 2
        if any(self.text(j) in (";", "=") and self.tokens[j].open == i + 1 for j in range(begin, end)):
            return
        whole = [self.text(j) for j in range(begin, end) if self.binary(j) and self.tokens[j].open == i + 1]
        if self.text(i) == "while":
            return
        then = end + 2 if self.text(end + 1) == "{" else end + 1
        leaves = self.text(then) in ("return", "throw", "continue", "break")  # dropping its condition means: never
        if "&&" not in whole and not leaves:
            self.condition(begin, end, i, "always")
        if "||" not in whole:
            self.condition(begin, end, i, "never")

    def walk_name(self, i, name):
        """An operation left out, or after the next one; a tensor, a dropout site or a way to sum exchanged"""
        if name == "ops" and self.text(i + 1) == "." and self.text(i - 1) in (";", "{", "}", ")"):
            end = self.tokens[i + 3].mate + 1
            if self.text(end) != ";":
                return
            call = self.snippet(i, end)
            self.add("operation", i, f"{self.snippet(i, i + 3)}(...) -> nothing", [(i, end, "(@on(#k) ? (void)0 : (void)", ")")])
            after = end + 1
            whole = self.text(i - 1) != ")"  # else it belongs to an if
            if whole and self.text(after) == "ops" and self.text(self.tokens[after + 3].mate + 1) == ";":
                stop = self.tokens[after + 3].mate + 1
                self.add("order", i, f"{self.snippet(i, i + 3)}(...) after {self.snippet(after, after + 3)}(...)",
                         [(i, stop + 1, f"if (@on(#k)) {{ {self.snippet(after, stop)}; {call}; }} else {{ ", " }")])  # fmt: skip
        elif name in OTHER_TENSOR and self.text(i - 1) == "." and self.text(i + 1) != "=":
            begin = self.postfix(i)
            owner = self.snippet(begin, i)
            self.add("tensor", i, f"{owner}{name} -> {owner}{OTHER_TENSOR[name]}",
                     [(begin, i + 1, f"(@on(#k) ? {owner}{OTHER_TENSOR[name]} : ", ")")])  # fmt: skip
        elif name in OTHER_SITE:
            self.add("site", i, f"{name} -> {OTHER_SITE[name]}", [(i, i + 1, f"(@on(#k) ? {OTHER_SITE[name]} : ", ")")])
        elif name == "sum" and self.snippet(i - 2, i) == "m.":
            self.add("sum", i, "m.sum -> Sum::begin", [(i - 2, i + 1, "(@on(#k) ? Sum::begin : ", ")")])
            self.add("sum", i, "m.sum -> Sum::set", [(i - 2, i + 1, "(@on(#k) ? Sum::set : ", ")")])
        elif name == "l" and self.text(i - 1) in ("(", ",") and self.text(i + 1) in (",", ")"):
            self.add("layer", i, "l -> l - 1, or 0", [(i, i + 1, "(@on(#k) ? (l > 0 ? l - 1 : 0) : ", ")")])

    def condition(self, begin, end, at, value):
        before = "(@on(#k) || (" if value == "always" else "(!@on(#k) && ("
        self.add("guard", at, f"{self.snippet(begin, end)} -> {'true' if value == 'always' else 'false'}",
                 [(begin, end, before, "))")])  # fmt: skip

    def name(self, i):
        name, after = self.text(i), self.text(i + 1)
        if self.walk:
            self.walk_name(i, name)
        if name in ("__syncthreads", "__syncwarp", "cp_async_wait", "cp_async_commit"):
            begin = self.tokens[i + 1].mate + 1 if after == "<" else i + 1
            if self.text(begin) != "(" or self.text(self.tokens[begin].mate + 1) != ";":
                return
            end = self.tokens[begin].mate + 1
            call = self.snippet(i, end)
            self.add("barrier", i, f"{call} -> nothing", [(i, end, "(@on(#k) ? (void)0 : (void)", ")")])
            if after == "<":
                later = f"{name}<({self.snippet(i + 2, begin - 1)}) + 1>"
                self.add("barrier", i, f"{call} -> {later}()", [(i, end, f"(@on(#k) ? (void){later}() : (void)", ")")])
        elif name.startswith("__shfl") and after == "(":
            arguments = self.arguments(i + 1)
            if len(arguments) >= 3:
                begin, end = arguments[2]
                self.add("lane", i, f"{name} {self.snippet(begin, end)} -> ^ 1", [(begin, end, "((", ") ^ (int)@on(#k))")])
        elif name == "aligned16" and after == "(":
            for begin, end in self.arguments(i + 1):
                self.add("alignment", i, f"aligned16: without {self.snippet(begin, end)}",
                         [(begin, end, "(@on(#k) ? nullptr : ", ")")])  # fmt: skip
        elif name in EXTREMA and after == "(" and self.text(i - 1) not in (".", "->"):
            arguments = self.arguments(i + 1)
            first = i - 2 if self.text(i - 1) == "::" else i
            if len(arguments) == 2 and (self.text(i - 1) != "::" or self.text(first) == "std"):
                whole = self.snippet(first, self.tokens[i + 1].mate + 1)
                start, stop = self.tokens[first].start, self.tokens[i + 1].end
                self.add("extremum", i, f"{whole} -> the other", [], [(start, stop, f"@{EXTREMA[name]}(#k, ")])
        elif name in NEIGHBOUR and self.text(i - 1) == "." and after not in ("(", "["):
            begin = self.postfix(i)
            base = self.snippet(begin, i)
            self.add("component", i, f"{base}{name} -> .{NEIGHBOUR[name]}",
                     [(begin, i + 1, f"(@on(#k) ? {base}{NEIGHBOUR[name]} : ", ")")])  # fmt: skip

    def arguments(self, i):
        end, parts, begin = self.tokens[i].mate, [], i + 1
        for j in range(i + 1, end + 1):
            if j == end or self.text(j) == "," and self.tokens[j].open == i:
                parts.append((begin, j))
                begin = j + 1
        return parts

    def exchange(self, operator, a, a_end, b, b_end):
        one, other = self.snippet(a, a_end), self.snippet(b, b_end)
        if one == other:
            return
        number = re.compile(r"[\d.]+[a-zA-Z]*$")
        if number.match(one) and number.match(other):
            return
        self.add(operator, a, f"{one} and {other} change places",
                 [(a, a_end, f"(@on(#k) ? ({other}) : (", "))"), (b, b_end, f"(@on(#k) ? ({one}) : (", "))")])  # fmt: skip

    def operator(self, i, bound):
        sign = self.text(i)
        if "..." in (self.text(i - 1), self.text(i + 1)):
            return
        level = PRECEDENCE[sign]
        begin, end = self.left(i, level), self.right(i, level)
        whole = f"{self.snippet(begin, i)} {sign} {self.snippet(i + 1, end)}"
        place = self.tokens[i].start, self.tokens[i].end
        if "string" in (self.tokens[i - 1].kind, self.tokens[i + 1].kind):
            return
        if sign in ("&&", "||"):
            operands = [(i + 1, end)]
            first = self.left(i, level + 1)
            if self.text(first - 1) != sign:
                operands.insert(0, (first, i))
            for b, e in operands:
                self.condition(b, e, b, "always" if sign == "&&" else "never")
        elif sign in COMPARE and not bound:
            self.add("comparison", i, f"{whole} -> {OTHER[sign]}", [(begin, end, f"@{COMPARE[sign]}(#k, ", ")")],
                     [(*place, ",")])  # fmt: skip
        elif sign in ("+", "-"):
            self.add("sign", i, f"{whole} -> {'-' if sign == '+' else '+'}", [(i + 1, end, "@negated(#k, ", ")")])
            self.row_and_column(i, begin, end)
        elif sign == "*":
            self.add("factor", i, f"{whole} -> without {self.snippet(i + 1, end)}", [(i + 1, end, "@one(#k, ", ")")])
        elif sign in ("/", "%"):
            helper = "quotient" if sign == "/" else "remainder"
            change = f"{whole} -> {'%, or (no whole numbers) without' if sign == '/' else '/'}"
            self.add("division", i, change, [(begin, end, f"@{helper}(#k, ", ")")], [(*place, ",")])

    def row_and_column(self, i, begin, end):
        """r * stride + c: r and c change places; also c + r * stride"""
        first = self.left(i, 10)  # the preceding term, as far as products reach
        for product, product_end, other, other_end in ((first, i, i + 1, end), (i + 1, end, first, i)):
            stars = [j for j in range(product, product_end) if self.binary(j) and self.tokens[j].open == self.tokens[i].open]
            plain = [j for j in range(other, other_end) if self.binary(j) and self.tokens[j].open == self.tokens[i].open]
            if not stars or plain or any(self.text(j) != "*" for j in stars):
                continue
            factors = [product, *[j + 1 for j in stars], product_end + 1]
            for a, b in zip(factors, factors[1:]):
                if self.tokens[a].kind != "number":
                    if self.tokens[other].kind != "number":
                        self.exchange("index", a, b - 1, other, other_end)
                    break


def render(file, faults):
    """The copy with these faults; records in each its place there."""
    opens, closes, swaps = {}, {}, {}
    for fault in faults:
        number = str(fault.number)
        fault.places = []
        for start, end, before, after in fault.wraps:
            inner = 1 if fault.swaps else 0  # a wrap whose operator becomes a comma goes inside mere brackets
            opens.setdefault(start, []).append((-end, inner, fault.number, before.replace("#k", number), fault))
            closes.setdefault(end, []).append((start, inner, fault.number, after.replace("#k", number), fault))
        for start, end, text in fault.swaps:
            swaps[start] = (end, text.replace("#k", number), fault)
    source, out, position, length = file.source, [], 0, 0
    begun = {}

    def put(text):
        nonlocal length
        out.append(text)
        length += len(text)

    for stop in sorted({*opens, *closes, *swaps}):
        if stop > position:
            put(source[position:stop])
            position = stop
        for start, _, number, text, fault in sorted(closes.get(stop, []), key=lambda e: e[:3], reverse=True):
            put(text)
            fault.places.append((begun[number, start], length))
        for end, _, number, text, fault in sorted(opens.get(stop, []), key=lambda e: e[:3]):
            begun[number, stop] = length
            put(text)
        if stop in swaps:
            end, text, fault = swaps[stop]
            fault.places.append((length, length + len(text)))
            put(text)
            position = max(position, end)
    put(source[position:])
    return "".join(out)
