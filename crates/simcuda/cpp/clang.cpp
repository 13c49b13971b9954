// The run-time compiler as a program, as who has no library of one calls a compiler: clang.cpp -x ivcore
// --cuda-gpu-arch=ivcore11 -I folder -o image text.cu
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
extern "C" int nvrtcCompileProgram(void*, int, const char* const*);
extern "C" int nvrtcGetProgramLogSize(void*, size_t*);
extern "C" int nvrtcGetProgramLog(void*, char*);
extern "C" int nvrtcGetCUBINSize(void*, size_t*);
extern "C" int nvrtcGetCUBIN(void*, char*);

static std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int main(int count, char** words) {
    std::string text, folder, out, arch;
    for (int i = 1; i < count; i++) {
        const std::string word = words[i];
        const std::string key = "--cuda-gpu-arch=";
        if (word == "--version") return puts("simulated clang version 0") < 0;
        if (word == "-I" && i + 1 < count) folder = words[++i];
        else if (word == "-o" && i + 1 < count) out = words[++i];
        else if (word == "-x") i++;
        else if (word.rfind(key, 0) == 0) arch = "-arch=" + word.substr(key.size());
        else if (word[0] != '-') text = word;
    }
    std::vector<std::string> names, texts;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".cuh") continue;
        names.push_back(entry.path().filename().string());
        texts.push_back(read(entry.path()));
    }
    std::vector<const char*> name_list, text_list;
    for (size_t i = 0; i < names.size(); i++) {
        name_list.push_back(names[i].c_str());
        text_list.push_back(texts[i].c_str());
    }
    void* program = nullptr;
    const char* options[] = {arch.c_str()};
    nvrtcCreateProgram(&program, read(text).c_str(), text.c_str(), int(names.size()), text_list.data(), name_list.data());
    const bool failed = nvrtcCompileProgram(program, 1, options) != 0;
    size_t bytes = 0;
    failed ? nvrtcGetProgramLogSize(program, &bytes) : nvrtcGetCUBINSize(program, &bytes);
    std::vector<char> made(bytes);
    failed ? nvrtcGetProgramLog(program, made.data()) : nvrtcGetCUBIN(program, made.data());
    if (failed) return fputs(made.data(), stderr), 1;
    std::ofstream(out, std::ios::binary).write(made.data(), std::streamsize(made.size()));
    return 0;
}
