#!/usr/bin/env bash
# Checks that no code derives what a tensor is from its name: the rows of the tensor table (llm/models/tensor_table.h)
# have fields for layer, role and the like. Only the file formats parse names, those in files, to translate them.
#   tests/no_names_parsed.sh
set -euo pipefail
cd "$(dirname "$0")/.."

test='(==|!=|(starts_with|ends_with|r?find|compare|contains|count|at)\() *'  # ... and then a literal
ours='wte|wpe|block\.[^"]*|headb?|lnf[wb]?|\.?(ln[12]|qkv|attproj|fc|fcproj)[wb]?|\.?[qkv]w|\.?lora_[ab]'
theirs='h\.[^"]*|[^" ]*(attn|mlp|c_fc|c_proj|ln_[12f]|lora_[AB]|lm_head|score)[^" ]*'
member='(\.|->)(hf_)?name(\[|\.(substr|r?find|find_[a-z_]+|starts_with|ends_with|contains|compare|front|back|at)\()'
formats='/(huggingface|safetensors|pytorch|llmc|tensorflow|adapter|adapter_config)\.(h|cpp):'

parsed() { # parsed FOLDER_OR_FILE...: prints the lines that do; a flag's value is not a tensor's name
  grep -rnHE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' "$test\"($ours)\"" "$@" |
    grep -v 'train == "head"' || true
  grep -rnHE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' "$test\"($theirs)\"|$member" "$@" |
    grep -vE "$formats" || true
}
found=$(parsed llm kernels apps dev train_gpt2.* | sort -u)
if [ -n "$found" ]; then
  echo "error: these lines parse a tensor's name; ask its row (llm/models/tensor_table.h) for layer, role or another field:" >&2
  echo "$found" >&2
  exit 1
fi

# The check itself: each of these must be found.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
cat >"$probe/new.cpp" <<'CODE'
if (tensor.name == "wte") return 0;
const bool block = name.rfind("block.", 0) == 0;
const bool last = tensor.name.ends_with(".fcprojb");
const int layer = std::stoi(tensor.name.substr(6));
const bool norm = tensor->name[0] == 'l';
if (hf.find("attn") != std::string::npos) return 1;
if (tensor.hf_name == "lm_head.weight") return 2;
CODE
for line in $(seq "$(wc -l <"$probe/new.cpp")"); do
  parsed "$probe" | grep -q ":$line:" && continue
  echo "error: this line is not detected: $(sed -n "${line}p" "$probe/new.cpp")" >&2
  exit 1
done
echo "no tensor's name is parsed"
