"""llama.cpp through the C API that llama-cpp-python brings."""

import ctypes
import pathlib
import sys
import time

import llama_cpp as ll

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
import protocol  # noqa: E402

FLASH = {"auto": -1, "off": 0, "on": 1}
BATCH = 512
# Beyond this depth the cache is filled with copies of its first part, shifted to their positions.
COMPUTED = 4096


@ll.llama_log_callback
def quiet(level, text, data):
    pass


class Engine:
    def __init__(self, args):
        ll.llama_log_set(quiet, None)
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(args.model.encode(), ll.llama_model_default_params())
        assert self.model, f"llama.cpp can't load {args.model}"
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = args.context, BATCH, BATCH
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = FLASH[args.flash]
        copies = args.context > COMPUTED
        params.n_seq_max, params.kv_unified = (2, True) if copies else (1, False)
        self.context = ll.llama_init_from_model(self.model, params)
        assert self.context, "llama.cpp gives no context"
        self.memory = ll.llama_get_memory(self.context)
        self.batch = ll.llama_batch_init(BATCH, 0, 1)
        self.held = 0
        system = ll.llama_print_system_info().decode()
        self.about = {"version": ll.__version__, "system": system, "flash": args.flash, "cache": "f16"}

    def feed(self, tokens):
        for at in range(0, len(tokens), BATCH):
            part = tokens[at:at + BATCH]
            self.batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i] = token, self.held + i, 1
                self.batch.seq_id[i][0], self.batch.logits[i] = 0, at + i == len(tokens) - 1
            assert ll.llama_decode(self.context, self.batch) == 0, "llama_decode failed"
            self.held += len(part)
        ll.llama_synchronize(self.context)

    def reach(self, depth):
        if depth < self.held:
            ll.llama_memory_seq_rm(self.memory, 0, depth, -1)
            self.held = depth
        if depth > COMPUTED and self.held < depth:
            self.copy(depth)
        self.feed(protocol.ids(self.held, depth - self.held))

    def copy(self, depth):
        """Fills the cache up to about `depth` with the first tokens' keys and values again and again."""
        if self.held < BATCH:
            self.reach(BATCH)
        ll.llama_memory_seq_rm(self.memory, 0, BATCH, -1)
        size = ll.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * size)()
        assert ll.llama_state_seq_get_data(self.context, state, size, 0) == size
        self.held = BATCH
        while self.held + BATCH < depth:
            assert ll.llama_state_seq_set_data(self.context, state, size, 1) == size, "no room for a copy"
            ll.llama_memory_seq_add(self.memory, 1, -1, -1, self.held)
            ll.llama_memory_seq_cp(self.memory, 1, 0, -1, -1)
            ll.llama_memory_seq_rm(self.memory, 1, -1, -1)
            self.held += BATCH
        # The shift is applied by the next step, untimed.
        self.feed(protocol.ids(self.held, 1))

    def prefill(self, tokens, depth):
        self.reach(depth)
        start = time.perf_counter()
        self.feed(protocol.ids(depth, tokens))
        return time.perf_counter() - start

    def decode(self, tokens, depth):
        self.reach(depth)
        start = time.perf_counter()
        for token in protocol.ids(depth, tokens):
            self.feed([token])
        return time.perf_counter() - start

    def first(self, tokens):
        self.feed(protocol.ids(0, tokens))
        # Choosing among logits in Python would be timed as llama.cpp's, so one is looked at.
        return ll.llama_get_logits_ith(self.context, -1)[0]


if __name__ == "__main__":
    given = protocol.arguments(("--flash", {"choices": FLASH, "default": "auto"}))
    protocol.run(given, lambda: Engine(given))
