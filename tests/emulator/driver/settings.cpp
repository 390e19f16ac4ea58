// Environment variables, what Python tells the driver, and reports of faults.
#include "settings.h"

#include <cstdarg>
#include <cstdlib>
#include <set>

#include "calls.h"

// Objects of the driver are never destroyed: CuPy calls it while the interpreter ends, after the
// destructors of static objects have run.
Translator &translator = *new Translator;
static std::string &reported = *new std::string;  // faults, one a line, that Python has not fetched

static std::string variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static Settings read_settings() {
    Settings result;
    result.lazy = variable("EMU_LAZY", "1") != "0";
    result.launch = variable("EMU_LAUNCH", "1") != "0";
    result.protect = variable("EMU_PROTECT", "1") != "0";
    result.races = variable("EMU_RACE", "0") != "0";
    result.device_count = std::stoi(variable("EMU_DEVICES", "1"));
    result.order = variable("EMU_ORDER", "forward");
    result.seed = std::stoul(variable("EMU_SEED", "1"));
    result.compiler_flags = variable("EMU_CFLAGS", "");
    std::string trace_file = variable("EMU_TRACE", "");
    result.trace = trace_file.empty() ? nullptr : fopen(trace_file.c_str(), "a");
    return result;
}

const Settings &settings() {
    static const Settings &result = *new Settings(read_settings());
    return result;
}

static std::string formatted(const char *format, va_list arguments) {
    char *line = nullptr;
    if (vasprintf(&line, format, arguments) < 0) return format;
    std::string result = line;
    free(line);
    return result;
}

#define FORMATTED(result)                              \
    va_list arguments;                                 \
    va_start(arguments, format);                       \
    std::string result = formatted(format, arguments); \
    va_end(arguments)

std::string text(const char *format, ...) {
    FORMATTED(result);
    return result;
}

static void report(const std::string &line) {
    reported += line + "\n";
    fprintf(stderr, "emulator: %s\n", line.c_str());
    fflush(stderr);
}

CUresult fault(CUresult status, const char *format, ...) {
    FORMATTED(line);
    report(line);
    return status;
}

void fault_once(const char *format, ...) {
    static auto &known = *new std::set<std::string>;
    FORMATTED(line);
    if (known.insert(line).second) report(line);
}

void trace(const char *format, ...) {
    if (!settings().trace) return;
    FORMATTED(line);
    fprintf(settings().trace, "%s\n", line.c_str());
    fflush(settings().trace);
}

EXPORT void emu_set_translator(const char *python, const char *program, const char *cache_folder,
                               const char *key) {
    translator = {python, program, cache_folder, key};
}

// The faults since the last call, one a line.
EXPORT const char *emu_take_faults() {
    Lock lock;
    static thread_local std::string result;
    result.swap(reported);
    reported.clear();
    return result.c_str();
}
