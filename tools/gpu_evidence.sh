#!/usr/bin/env bash
# Everything that a card can prove, in under nine minutes, on a machine that has a driver, this folder and the binary:
#
#     cargo build --release -p qiao-cli --features prebuilt      on a machine with nvcc, where NVRTC is not on the other
#     strip target/release/qiao                                  about 40 MB of some 140 are left: the rest is for debuggers
#     tools/gpu_evidence.sh [--qiao target/release/qiao] [--device cuda:0] [--out docs/evidence/NAME] [--models DIR]
#
# Steps, in this order: what the card is; the fixtures' goldens; the demo's text beside the CPU's; models of Qwen2.5-0.5B and
# Llama-3.1-8B shape with random weights in bf16, Q8_0 and Q4_K, alone and 64 at once (python3 with numpy writes the weights,
# 30 GB for which DIR, or the folder for temporary files, must have room); the conformance suite; operators beside the card's
# measured limits; memcheck and racecheck on some cases of every kernel unit where compute-sanitizer is found; the same models in
# PyTorch where python3 has it; the adaptation report with the time that is left.
#
# Each step has a bound of its own, gets besides what earlier steps left of theirs, and is skipped, by name, when what it needs is
# not there. One whose time is up is asked to end (SIGINT) and keeps the figures that it has. Three files come to --out, written
# again after every step: evidence.md, the table, which is printed last; evidence.json, the same; steps.tar.gz, the JSON of the
# steps and what failed steps said. QIAO_EVIDENCE_SECONDS (530) is the time for all. Exit status 1: a step that ran failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

qiao=target/release/qiao device=cuda:0 out="" models="" limit=${QIAO_EVIDENCE_SECONDS:-530}
while (($#)); do
  case $1 in
    --qiao) qiao=$2 ;;
    --device) device=$2 ;;
    --out) out=$2 ;;
    --models) models=$2 ;;
    *) sed -n "2,17p" "$0" >&2; exit 2 ;;
  esac
  shift 2 || { echo "error: $1 wants a value" >&2; exit 2; }
done
[[ -x $qiao ]] || { echo "error: no binary at $qiao; give --qiao, or build it" >&2; exit 2; }

# NVRTC and cuBLASLt come with a toolkit, or with python's wheels.
python=$(command -v python3 || true)
wheels='import glob, nvidia; print(":".join(d for p in nvidia.__path__ for d in sorted(glob.glob(p + "/*/lib"))))'
wheels=$([[ -n $python ]] && "$python" -c "$wheels" 2>/dev/null)
for folders in "$wheels" /usr/local/cuda/lib64; do
  [[ -n $folders ]] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folders
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
ulimit -c 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
models=${models:-$work/models}
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
version=$("$qiao" --version)
name=$(tr 'A-Z ' 'a-z-' <<<"${card:-no-card}" | tr -cd 'a-z0-9-')
out=${out:-docs/evidence/$name}
parts=$work/steps
mkdir -p "$out" "$parts"
rows="$work/rows" failed=0 due=0
: >"$rows"

quote() { sed 's/\\/\\\\/g; s/"/\\"/g' <<<"$1" | tr -d '\000-\037'; }
table() {
  echo "# ${card:-no card}, $(date -u +%F), $version"
  echo
  echo "| step | state | seconds | seen |"
  echo "|---|---|---|---|"
  while IFS=$'\t' read -r step state seconds command figure; do echo "| $step | $state | $seconds | ${figure//|//} |"; done <"$rows"
}
json() {
  echo "{\"date\": \"$(date -u +%FT%TZ)\", \"card\": \"$(quote "${card:-none}")\", \"qiao\": \"$(quote "$version")\", \"seconds\": $SECONDS, \"steps\": ["
  local first=""
  while IFS=$'\t' read -r step state seconds command figure; do
    printf '%s  {"step": "%s", "state": "%s", "seconds": %s, "command": "%s", "figure": "%s"}' "$first" "$(quote "$step")" "$(quote "$state")" "$seconds" "$(quote "$command")" "$(quote "$figure")"
    first=$',\n'
  done <"$rows"
  printf '\n]}\n'
}

# Adds a row: step, state, seconds, command, figure. Empty fields would be lost when the row is read.
note() {
  printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${5:--}" >>"$rows"
  echo "[$SECONDS s] $1: $2 ${5:+($5)}" >&2
  table >"$out/evidence.md"
  json >"$out/evidence.json"
  tar -czf "$out/steps.tar.gz" -C "$work" steps
}

# within SECONDS COMMAND...: at its end the command is asked to stop, and made to if it does not. One that has children is asked with
# them; qiao is asked once, since it ends at once where it is asked again.
within() {
  local alone=()
  [[ $2 == "$qiao" ]] && alone=(--foreground)
  timeout "${alone[@]}" --signal=INT --kill-after=15 "$@"
}

# step NAME SECONDS FIGURE COMMAND...: runs a command with a bound; FIGURE names a function that says what was seen.
step() {
  local name=$1 most=$2 figure=$3 start=$SECONDS state rc
  shift 3
  due=$((due + most))
  most=$(((due < limit ? due : limit) - SECONDS))
  ((most > 3)) || { note "$name" "skipped: the time is up" 0 "$*"; return 1; }
  within "$most" "$@" >"$work/out" 2>"$work/err"
  rc=$?
  case $rc in
    0) state=passed ;;
    124 | 130 | 137) state="not finished in $((SECONDS - start)) s" ;;
    *)
      state=failed failed=1
      tail -5 "$work/err" >&2
      tail -c 20000 "$work/out" "$work/err" >"$parts/${name//[^a-zA-Z0-9.-]/-}.said"
      ;;
  esac
  note "$name" "$state" $((SECONDS - start)) "$*" "$($figure 2>/dev/null)"
  ((rc == 0))
}

# skip NAME WHY COMMAND
skip() { note "$1" "skipped: $2" 0 "$3"; }

# A number, or a median, under a key of the JSON that a step wrote.
number() { grep -o "\"$1\":[-0-9.eE+]*" "${2:-$work/out}" | head -1 | sed 's/.*://' | cut -c1-7; }
median() { grep -o "\"$1\":{[^}]*}" "${2:-$work/out}" | head -1 | grep -o '"p50":[^,}]*' | sed 's/.*://' | cut -c1-7; }
last_line() { grep -v '^[[:space:]]*$' "$work/out" "$work/err" -h | tail -1 | tr '\t\r' '  ' | cut -c1-160; }

command -v nvidia-smi >/dev/null && step "the card" 5 last_line nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.mem --format=csv,noheader
driver() { grep -o '"driver":"[^"]*"' "$work/out" | sed 's/.*:"//; s/"$//' | paste -sd' '; }
step "devices" 10 driver "$qiao" devices --json
cp "$work/out" "$parts/devices.json"

goldens() {
  trap 'exit 130' INT
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
agreed() { grep goldens "$work/out"; }
step "fixtures and goldens" 35 agreed bash -c 'goldens "$@"' goldens "$qiao" "$device"

same_text() {
  trap 'exit 130' INT
  local a b
  a=$("$1" run --device cpu --max-tokens 64 --temperature 0 --prompt 床前明月光 2>/dev/null) || return 1
  b=$("$1" run --device "$2" --max-tokens 64 --temperature 0 --prompt 床前明月光 2>/dev/null) || return 1
  [[ $a == "$b" ]] && echo "the same text on cpu and $2: ${#a} characters" >&2
}
export -f same_text
step "greedy text" 10 last_line bash -c 'same_text "$@"' same_text "$qiao" "$device"

has() { [[ -n $python ]] && "$python" -c "import $1" 2>/dev/null; }
speed() {
  echo "prompt $(median prompt_tokens_per_s) tok/s, decode $(median decode_tokens_per_s) tok/s, of bandwidth $(number mbu_decode), first token $(median ttft_s) s"
}
# Where whole weights of a name lie; nothing where they do not.
whole() { [[ -e $1/config.json ]] && echo "$1" || { [[ -e $1.gguf ]] && echo "$1.gguf"; }; }
model() { # shape, weights, seconds to write them, prompt, seconds to run
  local name=$models/$1-$2 make=(--shape "$1") file
  if [[ -z $(whole "$name") ]]; then
    has numpy || { skip "$1 $2" "python3 with numpy makes its weights" tools/random_checkpoint.py; return; }
    if [[ $2 == bf16 ]]; then make+=(--tiled --out "$name"); else make+=(--blocks "$2" --gguf "$name.gguf"); fi
    step "weights of $1 $2" "$3" last_line "$python" tools/random_checkpoint.py "${make[@]}"
  fi
  file=$(whole "$name")
  [[ -n $file ]] || { skip "$1 $2, one sequence" "its weights are not there" "$qiao bench model"; return; }
  step "$1 $2, one sequence" "$5" speed "$qiao" bench model "$file" --device "$device" --prompt "$4" --tokens 128 --repeat 3 "${limits[@]}" --json
  cp "$work/out" "$parts/$1-$2.json"
}
# The card's own limits, beside which the models' figures stand.
limits=()
peak() { tr -d '\n' <"$parts/peaks.json" | tr -s ' ' | cut -c1-160; }
step "limits" 10 peak "$qiao" bench ops --device "$device" --quick --filter 'op/argmax/*' --json "$parts/limits.json" --peaks-out "$parts/peaks.json"
[[ -s $parts/peaks.json ]] && limits=(--peaks "$parts/peaks.json")
model qwen2.5-0.5b bf16 10 512 20
folder=$(whole "$models/qwen2.5-0.5b-bf16")
if [[ -n $folder ]]; then
  step "qwen2.5-0.5b bf16, no kernel overlaps another" 15 speed env QIAO_CUDA_OVERLAP=0 "$qiao" bench model "$folder" --device "$device" --prompt 512 --tokens 128 --repeat 3 "${limits[@]}" --json
fi
model llama-3.1-8b q8_0 15 512 20
model llama-3.1-8b q4_k 10 512 20
model llama-3.1-8b bf16 30 4096 25
served() {
  local file=$parts/$shape-serve.json
  echo "output $(number output_tokens_per_s "$file") tok/s, first token $(median ttft_s "$file") s"
}
for shape in qwen2.5-0.5b llama-3.1-8b; do
  folder=$(whole "$models/$shape-bf16")
  [[ -n $folder ]] || continue
  step "$shape bf16, 64 at once" 20 served "$qiao" bench serve "$folder" --device "$device" --together 64 --prompt 128 --output 64 --json "$parts/$shape-serve.json"
done

verdict() { grep -E '^[0-9]+ passed, ' "$work/out" || last_line; }
step "suite llm-serving" 55 verdict "$qiao" check --device "$device" --profile llm-serving --replays "$parts/replays" --json "$parts/suite.json"

step "operators beside limits" 90 last_line "$qiao" bench ops --device "$device" --quick --json "$parts/ops.json"

# Some cases of every kernel unit.
cases=(
  'add/bf16/rows=3,cols=17*' 'silu_mul/f16/rows=3,cols=33*' 'add_rms_norm/bf16/rows=3,cols=130,fill=*' 'layer_norm/f16/rows=5,cols=33'
  'softmax/f32/rows=3,cols=130*' 'reduce/f32/rows=5,cols=63*' 'argmax/bf16/rows=5,cols=63*' 'top_k/f16/rows=9,cols=17,k=1*'
  'sample/f32/rows=1,vocab=64,*' 'attention_decode/f32/keys=5,*' 'attention_decode/*f16/keys=150,*'
  'attention_decode/bf16/*,cache=f8_e4m3' 'attention_prefill/*/queries=20,keys=20,kv=2,gqa=2,d=24' 'attention_prefill/f32/queries=9,*,d=64'
  'attention_prefill.paged/bf16/*,cache=i8' 'cast/bf16/rows=3,*,to=f16' 'cast.packed/q4_k/rows=1,*' 'concat/bf16/parts=2,rows=1,*'
  'gather_rows.blocks/q6_k/ids=9,rows=21,blocks=1*' 'kv_write/f16/*,cache=i8' 'kv_write/bf16/tokens=9,heads=2,d=40,block=7,spare=1,*in_order'
  'rope/bf16/tokens=17,heads=?,pairs=2,*' 'matmul/*/m=5,n=97*' 'matmul/*/m=33,n=48,*' 'matmul/bf16/m=1,n=65*'
  'matmul_quant/bf16/m=?,n=33,*,format=q8_0' 'matmul_quant/f16/m=?,n=33,*,format=q4_k' 'matmul_quant/f16/m=?,n=33,*,format=q6_k'
  'matmul_quant/f16/m=?,n=33,*' 'matmul_quant.grouped/bf16/m=3,n=18,k=256,group=32*' 'quantize_dynamic/bf16/rows=4,cols=97*' 'scaled_matmul/bf16/m=5,n=33,*'
)
filters=()
for case in "${cases[@]}"; do filters+=(--filter "op/$case"); done
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
found() { echo "$(verdict); $(grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$work/out" "$work/err" | tail -1 | sed 's/=* *//')"; }
for tool in memcheck racecheck; do
  [[ -n $sanitizer ]] || { skip "compute-sanitizer $tool" "not found" "compute-sanitizer --tool $tool"; continue; }
  # Calls that are refused are not at fault: the backend asks for what a driver may not have.
  quiet=()
  [[ $tool == memcheck ]] && quiet=(--report-api-errors no)
  step "compute-sanitizer $tool" 20 found "$sanitizer" --tool $tool "${quiet[@]}" --error-exitcode 86 "$qiao" check --device "$device" --in-process --replays "$parts/replays" "${filters[@]}"
done

for entry in "qwen2.5-0.5b 40" "llama-3.1-8b 45"; do
  read -r shape seconds <<<"$entry"
  folder=$(whole "$models/$shape-bf16")
  if [[ -z $folder ]]; then
    skip "$shape bf16 in PyTorch" "its weights are not there" tools/gpu_torch.py
  elif has torch && has transformers; then
    figures() { grep -o '"[a-z0-9_]*_per_s": [0-9]*' "$parts/$shape-torch.json" | sed 's/_per_s": / /; s/"//' | paste -sd,; }
    step "$shape bf16 in PyTorch" "$seconds" figures "$python" tools/gpu_torch.py "$folder" --json "$parts/$shape-torch.json"
  else
    skip "$shape bf16 in PyTorch" "python3 has no torch and transformers" tools/gpu_torch.py
  fi
done

due=$SECONDS
step "adaptation report" $((limit - SECONDS)) last_line "$qiao" adapt --device "$device" --report "$parts/adapt"
cat "$out/evidence.md"
exit $failed
