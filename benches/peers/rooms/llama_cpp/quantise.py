"""Makes a quantised GGUF file of one in bf16 by llama.cpp's own encoder: quantise.py FROM TO FORMAT"""

import sys

import llama_cpp as ll

source, target, kind = sys.argv[1:]
params = ll.llama_model_quantize_default_params()
params.ftype = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
params.nthread = 2
if ll.llama_model_quantize(source.encode(), target.encode(), params):
    sys.exit(f"{source} can't be quantised to {kind}")
