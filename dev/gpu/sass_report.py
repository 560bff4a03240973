"""What the machine code of each kernel does, from disassemblies on standard input: see sass_report.sh.

Columns, per kernel:
  loads   loads of 8 or 16 bytes from global memory (LDG, or LDGSTS: cp.async) that can be under way at once: each is
          issued before anything reads the data of an earlier one. The most along any path; 32 means 32 or more.
  pass    the fewest instructions that one pass through the main loop executes. The main loop is the one with the most
          HMMA, or else the most loads; its pass is the shortest path that has all of those, without loops inside it.
  HMMA    in that pass; moves: MOV and similar in the whole loop.
  STS     the widths of stores to shared memory, in bits.
  local   loads from and stores to local memory, where registers spill.
  idiv    integer divisions by numbers that are not constants, inside loops.
"""

import heapq
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
NAME = re.compile(r"^(?:\.text\.([\w$.]+):|\s*Function : ([\w$.]+))")  # of nvdisasm, of cuobjdump
LABEL = re.compile(r"^(\.L[\w$.]+):")
REGISTER = re.compile(r"\bR(\d+)(\.64)?\b")
TARGET = re.compile(r"`\((\.L[\w$.]+)\)|\b(0x[0-9a-f]+)$")
STORES = ("STG", "STS", "STL", "RED", "ST")
NO_RESULT = STORES + ("BRA", "BSSY", "BSYNC", "LDGSTS", "EXIT", "CALL", "RET", "BAR", "ISETP", "FSETP")
BEFORE_WAIT = ("LDG", "LDGSTS", "LD", "STG", "ST", "RED", "ATOM", "ATOMG", "EXIT")  # what the wait must precede
MOST_PENDING = 32


@dataclass
class Instruction:
    address: int
    predicated: bool
    opcode: str
    text: str  # its operands

    def __post_init__(self):
        self.name = self.opcode.split(".")[0]
        self.operands = [o.strip() for o in self.text.split(",")] if self.text else []
        parts = self.opcode.split(".")
        self.bits = next((n for p, n in (("128", 128), ("64", 64), ("U16", 16), ("S16", 16), ("U8", 8), ("S8", 8))
                          if p in parts), 32)


@dataclass
class Kernel:
    name: str
    code: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # nvdisasm's labels -> index

    def goal(self, instruction):
        """The index that a branch or BSSY names; None: it names none, or one in another function."""
        target = TARGET.search(instruction.text)
        if not target:
            return None
        if target.group(1):
            return self.labels.get(target.group(1))
        return self.index.get(int(target.group(2), 16))

    def finish(self):
        self.index = {instruction.address: i for i, instruction in enumerate(self.code)}
        self.following = self.find_following()
        self.effects = [reads_and_writes(i) for i in self.code]
        self.loops = self.find_loops()

    def find_following(self):
        """For each instruction, those that may follow it."""
        following, meeting = [], {}
        for at, instruction in enumerate(self.code):
            nexts = [at + 1]
            if instruction.name == "BSSY":
                meeting[instruction.operands[0]] = self.goal(instruction)
            elif instruction.name == "BSYNC":  # to where, according to the BSSY before it, the paths meet
                meet = meeting.get(instruction.operands[0])
                nexts = [at + 1] if meet is None else [meet]
            elif instruction.name == "BRA":
                goal = self.goal(instruction)
                always = not instruction.predicated and not re.match(r"!?U?P\d", instruction.text)
                nexts = ([] if goal is None else [goal]) + ([] if always else [at + 1])
            elif instruction.name in ("EXIT", "RET") and not instruction.predicated:
                nexts = []
            following.append([n for n in nexts if n < len(self.code)])
        return following

    def find_loops(self):
        """The instructions of each loop: [first, ..., the branch back]. For a branch back to an instruction that precedes
        it on every path (else it only ends relocated code): all that reach it without passing that instruction."""
        before = [[] for _ in self.code]
        for at, nexts in enumerate(self.following):
            for n in nexts:
                before[n].append(at)
        found = []
        for at, instruction in enumerate(self.code):
            first = self.goal(instruction) if instruction.name == "BRA" else None
            if first is None or first >= at:  # equal: the endless loop after every kernel
                continue
            body, stack = {first, at}, [at]
            while stack:
                for b in before[stack.pop()]:
                    if b not in body:
                        body.add(b)
                        stack.append(b)
            if 0 not in body or first == 0:
                found.append((first, at, body))
        return found

    def body(self, loop):
        """Its instructions, without those of loops inside it."""
        own = set(loop[2])
        for other in self.loops:
            if other is not loop and other[2] < loop[2]:
                own -= other[2]
        return own

    def shortest(self, start, end, loop):
        """Instructions on the shortest path inside the loop, both ends counted."""
        best, queue = {start: 1}, [(1, start)]
        while queue:
            count, at = heapq.heappop(queue)
            if at == end:
                return count
            for n in self.following[at]:
                if n in loop[2] and n > at and count + 1 < best.get(n, 1 << 60):
                    best[n] = count + 1
                    heapq.heappush(queue, (count + 1, n))
        return None


def registers(operand, bits=32):
    found = set()
    for match in REGISTER.finditer(operand):
        first = int(match.group(1))
        found.update(range(first, first + max(2 if match.group(2) else 1, bits // 32)))
    return found


def reads_and_writes(instruction):
    reads, writes = set(), set()
    for i, operand in enumerate(instruction.operands):
        wide = instruction.bits if instruction.name in ("LDG", "LDS", "LDL") + STORES and "[" not in operand else 32
        (writes if i == 0 and instruction.name not in NO_RESULT else reads).update(registers(operand, wide))
    return reads, writes


def is_load(instruction, bits=64):
    return instruction.name in ("LDG", "LDGSTS") and instruction.bits >= bits


def loads_under_way(kernel, most_states=400_000):
    seen, stack, most = set(), [(0, ())], 0
    while stack and len(seen) < most_states and most < MOST_PENDING:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        at, pending = state
        reads, writes = kernel.effects[at]
        touched = [i for i, loaded in enumerate(pending) if loaded & (reads | writes)]
        if touched:  # memory answers in the order of the requests
            pending = pending[touched[-1] + 1 :]
        instruction = kernel.code[at]
        if is_load(instruction):  # LDGSTS loads no register: a later barrier waits for it
            loaded = registers(instruction.operands[0], instruction.bits) if instruction.name == "LDG" else ()
            pending += (frozenset(loaded),)
        if instruction.name == "DEPBAR":
            pending = tuple(loaded for loaded in pending if loaded)
        most = max(most, len(pending))
        stack.extend((n, pending) for n in kernel.following[at])
    return most


def is_move(instruction):
    return instruction.name == "MOV" or (instruction.name == "IMAD" and "MOV" in instruction.opcode)


def is_division(instruction):  # of 32 bits: by a reciprocal rounded up; of 64: a routine
    return (instruction.name == "I2F" and ".RP" in instruction.opcode) or (
        instruction.name == "CALL" and re.search(r"(div|rem)_[us]64", instruction.text) is not None)


@dataclass
class Facts:
    name: str
    loads: int
    one_pass: int
    hmma: int
    moves: int
    store_bits: list
    local: int
    divisions: int
    early: int  # accesses to global memory and ends before the wait for earlier kernels (griddepcontrol.wait)


def facts_of(kernel):
    kernel.finish()
    code = kernel.code
    inside = set()
    for _, _, body in kernel.loops:
        inside |= body
    wait = next((at for at, i in enumerate(code) if i.name == "ACQBULK"), 0)  # 0: none, as in code for sm_80
    facts = Facts(kernel.name, loads_under_way(kernel), 0, 0, 0, sorted({i.bits for i in code if i.name == "STS"}),
                  sum(i.name in ("LDL", "STL") for i in code), sum(is_division(code[i]) for i in inside),
                  sum(i.name in BEFORE_WAIT for i in code[:wait]))
    best = None
    for loop in kernel.loops:
        body = kernel.body(loop)
        products = sorted(i for i in body if code[i].name == "HMMA")
        work = products or sorted(i for i in body if is_load(code[i], 32) or code[i].name == "LDS")
        if work and (best is None or (len(products), len(work)) > best[0]):
            best = ((len(products), len(work)), loop, body, products or work[:1])
    if best:
        _, loop, body, work = best
        ways = [kernel.shortest(loop[0], work[0], loop), kernel.shortest(work[0], work[-1], loop),
                kernel.shortest(work[-1], loop[1], loop)]
        facts.one_pass = sum(ways) - 2 if all(ways) else 0  # 0: no path in the order of the text
        facts.hmma = best[0][0]
        facts.moves = sum(is_move(code[i]) for i in body)
    return facts


def parse(lines):
    kernel = None
    for line in lines:
        found = INSTRUCTION.match(line)
        if found:
            if kernel:
                kernel.code.append(Instruction(int(found.group(1), 16), bool(found.group(2)), found.group(3), found.group(4)))
            continue
        name = NAME.match(line)
        if name:
            if kernel and kernel.code:
                yield kernel
            kernel = Kernel(name.group(1) or name.group(2))
        elif kernel and LABEL.match(line):
            kernel.labels[LABEL.match(line).group(1)] = len(kernel.code)
        elif ".section" in line:
            if kernel and kernel.code:
                yield kernel
            kernel = None
    if kernel and kernel.code:
        yield kernel


def readable(names):
    """C++ names without arguments: "attention_tensor_core::attention_forward_tensor_core_kernel<64, false, false>"."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    result = []
    for name in text.splitlines():
        name = name.replace("__nv_bfloat16", "bf16").replace("(anonymous namespace)", "{anonymous}").removeprefix("void ")
        result.append(re.sub(r"\(.*", "", re.sub(r"\((Major|bool|int)\)", "", name)))
    return result


def wrong(facts, limits):
    """The facts that exceed the limits, as texts."""
    found = []
    checks = {
        "loads_at_least": (facts.loads, lambda a, b: a >= b, "loads under way"),
        "pass_at_most": (facts.one_pass, lambda a, b: 0 < a <= b, "instructions per pass"),
        "hmma": (facts.hmma, lambda a, b: a == b, "HMMA a pass"),
        "moves_per_hmma_at_most": (round(facts.moves / max(facts.hmma, 1), 3), lambda a, b: a <= b, "moves per HMMA"),
        "sts_bits_at_least": (min(facts.store_bits, default=128), lambda a, b: a >= b, "bits of the narrowest STS"),
    }
    for key, limit in limits.items():
        value, holds, what = checks[key]
        if not holds(value, limit):
            found.append(f"{value} {what}, the budget says {key.replace('_', ' ')} {limit}")
    return found


def main():
    budget = json.load(open(sys.argv[1]))
    compiler_is_budgets = sys.argv[2] == budget["cuda"]
    try:
        pattern = re.compile(sys.argv[3] if len(sys.argv) > 3 else "")
    except re.error as wrong_pattern:
        print(f"error: the pattern '{sys.argv[3]}' is not a regular expression: {wrong_pattern}", file=sys.stderr)
        return 2
    all_facts = {}
    kernels = list(parse(sys.stdin))
    for kernel, name in zip(kernels, readable([k.name for k in kernels])):
        all_facts.setdefault(name, facts_of(kernel))
    problems, used = [], set()
    print(f"{'loads':>5} {'pass':>5} {'HMMA':>5} {'moves':>5} {'STS':>12} {'local':>5} {'idiv':>4}  kernel")
    for name, f in sorted(all_facts.items()):
        if pattern.search(name):
            print(f"{f.loads:>5} {f.one_pass:>5} {f.hmma:>5} {f.moves:>5} {'/'.join(map(str, f.store_bits)) or '-':>12} {f.local:>5} "
                  f"{f.divisions:>4}  {name}")
        if f.local:
            problems.append(f"{name}: {f.local} accesses to local memory")
        if f.early:
            problems.append(f"{name}: {f.early} accesses or ends before the wait for earlier kernels")
        allowed = next((d["divisions"] for d in budget["divisions"] if re.fullmatch(d["kernel"], name)), 0)
        if f.divisions > allowed:
            problems.append(f"{name}: {f.divisions} integer divisions in its loops, {allowed} are allowed")
        for i, entry in enumerate(budget["kernels"]):
            if re.fullmatch(entry["kernel"], name):
                used.add(i)
                limits = {k: v for k, v in entry.items() if k not in ("kernel", "why")}
                if not compiler_is_budgets:  # another compiler schedules differently
                    limits.pop("pass_at_most", None), limits.pop("moves_per_hmma_at_most", None)
                problems += [f"{name}: {text}" for text in wrong(f, limits)]
    if not any(pattern.search(name) for name in all_facts):
        problems.append(f"no kernel's name matches '{sys.argv[3]}'")
    for i, entry in enumerate(budget["kernels"]):
        if i not in used:
            problems.append(f"the budget's \"{entry['kernel']}\" is not a kernel here")
    if not compiler_is_budgets:
        print(f"not checked: instructions and moves per pass (the budget is for CUDA {budget['cuda']}, this is {sys.argv[2]})")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(all_facts)} kernels, {len(problems)} beyond the budget")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
