// What the simulated compiler makes and the simulated driver loads: a name for it, a sum, and lines of words.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>

namespace image {

constexpr const char* MAGIC = "qiao-simcuda image\n";
constexpr size_t SUM_BYTES = 17;

inline uint64_t sum(const char* text, size_t bytes) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ static_cast<unsigned char>(text[i])) * 0x100000001b3u;
    return h;
}

inline std::string seal(const std::string& body) {
    char line[SUM_BYTES + 1];
    snprintf(line, sizeof line, "%016llx\n", static_cast<unsigned long long>(sum(body.data(), body.size())));
    return MAGIC + std::string(line) + body;
}

// The body of an image, or nothing where it is none or not whole.
inline std::string open(const char* bytes) {
    const std::string magic = MAGIC;
    for (size_t i = 0; i < magic.size(); i++)
        if (bytes == nullptr || bytes[i] != magic[i]) return "";
    const std::string rest(bytes + magic.size());
    if (rest.size() < SUM_BYTES) return "";
    const std::string body = rest.substr(SUM_BYTES);
    return seal(body).substr(magic.size(), SUM_BYTES) == rest.substr(0, SUM_BYTES) ? body : "";
}

}  // namespace image
