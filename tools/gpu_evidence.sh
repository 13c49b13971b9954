#!/usr/bin/env bash
# Everything that a card can prove, in under nine minutes, on a machine that has a driver, this folder and the binary:
#
#     cargo build --release -p qiao-cli --features prebuilt      on a machine with nvcc, where NVRTC is not on the other
#     tools/gpu_evidence.sh [--qiao target/release/qiao] [--device cuda:0] [--out docs/evidence/NAME] [--models DIR]
#
# Steps: what the card is; the conformance suite; the fixtures' goldens; the demo's text beside the CPU's; memcheck and racecheck
# on the suite where compute-sanitizer is found; operators beside the card's measured limits; models of Qwen2.5-0.5B and
# Llama-3.1-8B shape with random weights in bf16, Q8_0 and Q4_K, alone and 64 at once; the same shapes in PyTorch where python3
# has it; the adaptation report. Each step has a bound of its own and is skipped, by name, when what it needs is not there or
# the time is up. evidence.json and evidence.md go to --out, with the JSON of the steps; the table is printed last.
# Exit status 1: a step that ran failed.
set -uo pipefail
cd "$(dirname "$0")/.."

qiao=target/release/qiao device=cuda:0 out="" models="" limit=${QIAO_EVIDENCE_SECONDS:-530}
while (($#)); do
  case $1 in
    --qiao) qiao=$2 ;;
    --device) device=$2 ;;
    --out) out=$2 ;;
    --models) models=$2 ;;
    *) sed -n '2,15p' "$0" >&2; exit 2 ;;
  esac
  shift 2 || { echo "error: $1 wants a value" >&2; exit 2; }
done
[[ -x $qiao ]] || { echo "error: no binary at $qiao; give --qiao, or build it" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
models=${models:-$work/models}
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
name=$(tr 'A-Z ' 'a-z-' <<<"${card:-no-card}" | tr -cd 'a-z0-9-')
out=${out:-docs/evidence/$name}
mkdir -p "$out"
rows="$work/rows" failed=0
: >"$rows"

left() { echo $((limit - SECONDS)); }

# Adds a row: step, state, seconds, command, figure.
note() { printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5" >>"$rows"; echo "[$SECONDS s] $1: $2 ${5:+($5)}" >&2; }

# step NAME SECONDS FIGURE COMMAND...: runs a command with a bound; FIGURE names a function that says what was seen.
step() {
  local name=$1 most=$2 figure=$3 start=$SECONDS state rc
  shift 3
  (($(left) > 5)) || { note "$name" "skipped: the time is up" 0 "$*" ""; return; }
  ((most > $(left))) && most=$(left)
  timeout "$most" "$@" >"$work/out" 2>"$work/err"
  rc=$?
  case $rc in
    0) state=passed ;;
    124 | 137) state="not finished in $most s" ;;
    *) state=failed failed=1; tail -5 "$work/err" >&2 ;;
  esac
  note "$name" "$state" $((SECONDS - start)) "$*" "$($figure 2>/dev/null)"
}

# A number, or a median, under a key of the JSON that a step wrote.
number() { grep -o "\"$1\":[-0-9.eE+]*" "$work/out" | head -1 | sed 's/.*://' | cut -c1-7; }
median() { grep -o "\"$1\":{[^}]*}" "$work/out" | head -1 | grep -o '"p50":[^,}]*' | sed 's/.*://' | cut -c1-7; }
last_line() { grep -v '^$' "$work/out" "$work/err" -h | tail -1 | cut -c1-160; }
nothing() { :; }

command -v nvidia-smi >/dev/null && step "the card" 30 last_line nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.mem --format=csv,noheader
step "devices" 30 nothing "$qiao" devices --json
cp "$work/out" "$out/devices.json"
step "suite llm-serving" 150 last_line "$qiao" check --device "$device" --profile llm-serving --json "$out/suite.json"

goldens() {
  local dir golden bad=0 all=0
  for golden in fixtures/*/golden{,.short}.safetensors; do
    [[ -e $golden ]] || continue
    dir=$(dirname "$golden") all=$((all + 1))
    "$1" compare "$dir" --device "$2" --golden "$golden" --json >/dev/null || { bad=$((bad + 1)); echo "$golden differs" >&2; }
  done
  echo "$((all - bad)) of $all goldens agree"
  ((bad == 0 && all > 0))
}
export -f goldens
step "fixtures and goldens" 60 last_line bash -c 'goldens "$@"' goldens "$qiao" "$device"

same_text() {
  local a b
  a=$("$1" run --device cpu --max-tokens 64 --temperature 0 --prompt 床前明月光 2>/dev/null) || return 1
  b=$("$1" run --device "$2" --max-tokens 64 --temperature 0 --prompt 床前明月光 2>/dev/null) || return 1
  [[ $a == "$b" ]] && echo "the same text on cpu and $2: ${#a} characters" >&2
}
export -f same_text
step "greedy text" 30 last_line bash -c 'same_text "$@"' same_text "$qiao" "$device"

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
for tool in memcheck racecheck; do
  if [[ -n $sanitizer ]]; then
    step "compute-sanitizer $tool" 60 last_line "$sanitizer" --tool $tool --error-exitcode 86 "$qiao" check --device "$device" --profile smoke --in-process
  else
    note "compute-sanitizer $tool" "skipped: not found" 0 "compute-sanitizer --tool $tool" ""
  fi
done

step "operators beside limits" 60 nothing "$qiao" bench ops --device "$device" --quick --json "$out/ops.json" --peaks-out "$work/peaks.json"
peaks=()
[[ -s $work/peaks.json ]] && peaks=(--peaks "$work/peaks.json") && cp "$work/peaks.json" "$out/peaks.json"

python=$(command -v python3 || true)
has() { [[ -n $python ]] && "$python" -c "import $1" 2>/dev/null; }
speed() {
  echo "prompt $(median prompt_tokens_per_s) tok/s, decode $(median decode_tokens_per_s) tok/s, of bandwidth $(number mbu_decode), first token $(median ttft_s) s"
}
model() { # shape, weights, prompt
  local file=$models/$1-$2
  if [[ ! -e $file && ! -e $file.gguf ]]; then
    if ! has numpy; then note "$1 $2" "skipped: python3 with numpy makes its weights" 0 "tools/random_checkpoint.py" ""; return; fi
    local make=(--shape "$1" --tiled --out "$file")
    if [[ $2 != bf16 ]]; then
      has gguf || { note "$1 $2" "skipped: the Python package gguf makes its weights" 0 "tools/random_checkpoint.py" ""; return; }
      make=(--shape "$1" --blocks "$2" --gguf "$file.gguf")
    fi
    step "weights of $1 $2" 120 nothing "$python" tools/random_checkpoint.py "${make[@]}"
  fi
  [[ -e $file.gguf ]] && file=$file.gguf
  [[ -e $file ]] || return
  step "$1 $2, one sequence" 60 speed "$qiao" bench model "$file" --device "$device" --prompt "$3" --tokens 128 --repeat 3 "${peaks[@]}" --json
  cp "$work/out" "$out/$1-$2.json"
}
model qwen2.5-0.5b bf16 512
model llama-3.1-8b q8_0 512
model llama-3.1-8b q4_k 512
model llama-3.1-8b bf16 4096
for shape in qwen2.5-0.5b llama-3.1-8b; do
  folder=$models/$shape-bf16
  [[ -e $folder ]] || continue
  step "$shape bf16, 64 at once" 60 last_line "$qiao" bench serve "$folder" --device "$device" --together 64 --prompt 128 --output 64 --json "$out/$shape-serve.json"
  if has torch && has transformers; then
    step "$shape bf16 in PyTorch" 90 last_line "$python" tools/gpu_torch.py "$folder" --json "$out/$shape-torch.json"
  else
    note "$shape bf16 in PyTorch" "skipped: python3 has no torch and transformers" 0 "tools/gpu_torch.py" ""
  fi
done
step "adaptation report" 120 last_line "$qiao" adapt --device "$device" --report "$out/adapt"

quote() { sed 's/\\/\\\\/g; s/"/\\"/g' <<<"$1" | tr -d '\000-\037'; }
{
  echo "{\"date\": \"$(date -u +%FT%TZ)\", \"card\": \"$(quote "${card:-none}")\", \"qiao\": \"$(quote "$("$qiao" --version)")\", \"seconds\": $SECONDS, \"steps\": ["
  first=""
  while IFS=$'\t' read -r step state seconds command figure; do
    printf '%s  {"step": "%s", "state": "%s", "seconds": %s, "command": "%s", "figure": "%s"}' "$first" "$(quote "$step")" "$(quote "$state")" "$seconds" "$(quote "$command")" "$(quote "$figure")"
    first=$',\n'
  done <"$rows"
  printf '\n]}\n'
} >"$out/evidence.json"
{
  echo "# ${card:-no card}, $(date -u +%F), $("$qiao" --version)"
  echo
  echo "| step | state | seconds | seen |"
  echo "|---|---|---|---|"
  while IFS=$'\t' read -r step state seconds command figure; do echo "| $step | $state | $seconds | $figure |"; done <"$rows"
} >"$out/evidence.md"
cat "$out/evidence.md"
exit $failed
