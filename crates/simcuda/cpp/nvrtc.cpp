// The run-time compiler's interface. It reads a text as far as it must to find includes that are missing, brackets that do
// not meet, and the symbols; what it makes names them.
#include "nvrtc.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "image.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Result {
    SUCCESS = 0,
    OUT_OF_MEMORY = 1,
    PROGRAM_CREATION_FAILURE = 2,
    INVALID_INPUT = 3,
    INVALID_PROGRAM = 4,
    INVALID_OPTION = 5,
    COMPILATION = 6,
    INTERNAL_ERROR = 11,
};

struct Program {
    std::string text, name, log, cubin, ptx;
    std::map<std::string, std::string> headers;
};

std::mutex lock;
uint64_t compiles = 0, failing = 0;
const int ARCHS[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

// What other vendors' compilers know.
const char* const OTHERS[] = {"gfx906", "mp_21", "mp_22", "mp_31", "xcore1000", "ivcore10", "ivcore11"};

// What is compiled for where no option says: MACA's compiler asks nobody.
const char* without_option() {
    const char* family = getenv("QIAO_SIMCUDA_FAMILY");
    return family != nullptr && strcmp(family, "maca") == 0 ? "xcore1000" : "compute_75";
}

// The text without comments and without what stands in quotes.
std::string bare(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (c == '/' && text.compare(i, 2, "//") == 0) {
            while (i < text.size() && text[i] != '\n') i++;
            out += '\n';
        } else if (c == '/' && text.compare(i, 2, "/*") == 0) {
            const size_t end = text.find("*/", i + 2);
            i = end == std::string::npos ? text.size() : end + 1;
            out += ' ';
        } else if (c == '"' || (c == '\'' && (i == 0 || !isdigit(static_cast<unsigned char>(text[i - 1]))))) {
            size_t end = i + 1;
            while (end < text.size() && text[end] != c && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
            i = end;
            out += c;
            out += c;
        } else {
            out += c;
        }
    }
    return out;
}

std::string unmatched(const std::string& text) {
    std::string open;
    for (const char c : text) {
        if (c == '(' || c == '{' || c == '[') open += c == '(' ? ')' : c == '{' ? '}' : ']';
        if (c != ')' && c != '}' && c != ']') continue;
        if (open.empty() || open.back() != c) return std::string("error: unexpected \"") + c + "\"\n";
        open.pop_back();
    }
    return open.empty() ? "" : std::string("error: expected a \"") + open.back() + "\"\n";
}

// The includes of a text that no header answers.
std::string missing(const std::string& text, const std::map<std::string, std::string>& headers) {
    for (size_t at = 0; (at = text.find("#include", at)) != std::string::npos; at++) {
        const size_t line = text.rfind('\n', at) + 1;
        if (text.find_first_not_of(" \t", line) != at) continue;
        const size_t from = text.find_first_of("\"<", at), end = text.find_first_of("\">", from + 1);
        if (from == std::string::npos || end == std::string::npos) return "error: expected a file name\n";
        const std::string name = text.substr(from + 1, end - from - 1);
        if (headers.count(name) == 0) return "catastrophic error: cannot open source file \"" + name + "\"\n";
    }
    return "";
}

std::string errors(const Program& p) {
    if (std::string why = missing(p.text, p.headers); !why.empty()) return why;
    const std::string text = bare(p.text);
    if (const size_t at = text.find("#error"); at != std::string::npos)
        return "error: #error directive: " + text.substr(at + 6, text.find('\n', at) - at - 6) + "\n";
    return unmatched(text);
}

// The names that follow KERNEL(...) or `__global__ ... void`.
std::vector<std::string> symbols_of(const std::string& text) {
    std::vector<std::string> all;
    for (const char* mark : {"KERNEL(", "KERNEL_BLOCKS(", "__global__"}) {
        for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos; at++) {
            const bool is_macro = text[at + strlen(mark) - 1] == '(';
            const size_t after = is_macro ? text.find(')', at) : text.find("void", at);
            if (after == std::string::npos) break;
            const size_t from = text.find_first_not_of(" \t\n", after + (is_macro ? 1 : 4));
            const size_t end = from == std::string::npos ? from : text.find('(', from);
            if (end == std::string::npos) break;
            all.push_back(text.substr(from, end - from));
        }
    }
    return all;
}

std::string body(const Program& p, const std::string& arch) {
    std::string out = "arch " + arch + "\n";
    const uint64_t sum = image::sum(p.text.data(), p.text.size());
    for (const nvrtc::Text& text : nvrtc::texts()) {
        if (text.sum != sum) continue;
        out += std::string("unit ") + text.unit + "\n";
        for (const char* symbol : text.symbols) out += std::string("symbol ") + symbol + "\n";
        return out + "end .\n";
    }
    for (const std::string& symbol : symbols_of(bare(p.text))) out += "symbol " + symbol + "\n";
    return out + "end .\n";
}

bool known(const std::string& arch) {
    for (const char* other : OTHERS)
        if (arch == other) return true;
    for (const char* kind : {"sm_", "compute_"})
        for (const int number : ARCHS)
            for (const char* end : {"", "a", "f"})
                if (arch == kind + std::to_string(number) + end) return true;
    return false;
}

Program* program(void* handle) { return static_cast<Program*>(handle); }

int give(const std::string& bytes, char* out) {
    memcpy(out, bytes.c_str(), bytes.size() + 1);
    return SUCCESS;
}

}  // namespace

// A version that no real one has: images that are kept by it are never taken for a compiler's.
EXPORT int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 901;
    return SUCCESS;
}

EXPORT const char* nvrtcGetErrorString(int result) {
    switch (result) {
        case SUCCESS: return "NVRTC_SUCCESS";
        case OUT_OF_MEMORY: return "NVRTC_ERROR_OUT_OF_MEMORY";
        case PROGRAM_CREATION_FAILURE: return "NVRTC_ERROR_PROGRAM_CREATION_FAILURE";
        case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
        case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
        case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
        case COMPILATION: return "NVRTC_ERROR_COMPILATION";
        default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}

EXPORT int nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof ARCHS / sizeof *ARCHS;
    return SUCCESS;
}

EXPORT int nvrtcGetSupportedArchs(int* archs) {
    memcpy(archs, ARCHS, sizeof ARCHS);
    return SUCCESS;
}

EXPORT int nvrtcCreateProgram(void** out, const char* text, const char* name, int count, const char* const* headers,
                              const char* const* names) {
    if (out == nullptr || text == nullptr || count < 0) return INVALID_INPUT;
    auto* p = new Program;
    p->text = text;
    p->name = name == nullptr ? "default_program" : name;
    for (int i = 0; i < count; i++) p->headers[names[i]] = headers[i];
    *out = p;
    return SUCCESS;
}

EXPORT int nvrtcDestroyProgram(void** handle) {
    delete program(*handle);
    *handle = nullptr;
    return SUCCESS;
}

EXPORT int nvrtcCompileProgram(void* handle, int count, const char* const* options) {
    if (handle == nullptr) return INVALID_PROGRAM;
    Program& p = *program(handle);
    std::lock_guard<std::mutex> hold(lock);
    compiles++;
    std::string arch = without_option();
    for (int i = 0; i < count; i++) {
        const std::string option = options[i];
        for (const char* key : {"--gpu-architecture=", "--offload-arch=", "-arch="})
            if (option.rfind(key, 0) == 0) arch = option.substr(strlen(key));
        if (option.rfind("-", 0) != 0) {
            p.log = "nvrtc: error: unrecognized option " + option + " found\n";
            return INVALID_OPTION;
        }
    }
    if (!known(arch)) {
        p.log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
        return INVALID_OPTION;
    }
    const std::string why = failing > 0 ? (failing--, "error: asked to fail\n") : errors(p);
    p.log = why.empty() ? "" : p.name + "(1): " + why;
    if (!why.empty()) return COMPILATION;
    const std::string made = image::seal(body(p, arch));
    p.ptx = made;
    p.cubin = arch.rfind("compute_", 0) != 0 ? made : "";
    return SUCCESS;
}

EXPORT int nvrtcGetProgramLogSize(void* handle, size_t* bytes) {
    *bytes = program(handle)->log.size() + 1;
    return SUCCESS;
}
EXPORT int nvrtcGetProgramLog(void* handle, char* out) { return give(program(handle)->log, out); }

// A program compiled for a virtual architecture has no code of a real one: its size is 0.
EXPORT int nvrtcGetCUBINSize(void* handle, size_t* bytes) {
    const std::string& cubin = program(handle)->cubin;
    *bytes = cubin.empty() ? 0 : cubin.size() + 1;
    return SUCCESS;
}
EXPORT int nvrtcGetCUBIN(void* handle, char* out) {
    return program(handle)->cubin.empty() ? INVALID_PROGRAM : give(program(handle)->cubin, out);
}

EXPORT int nvrtcGetPTXSize(void* handle, size_t* bytes) {
    *bytes = program(handle)->ptx.size() + 1;
    return SUCCESS;
}
EXPORT int nvrtcGetPTX(void* handle, char* out) { return give(program(handle)->ptx, out); }

// The next compilations fail.
EXPORT void simnvrtc_fail(uint64_t times) {
    std::lock_guard<std::mutex> hold(lock);
    failing = times;
}

EXPORT uint64_t simnvrtc_compiles() {
    std::lock_guard<std::mutex> hold(lock);
    return compiles;
}
