// Modules: images of kernels, functions, variables, and launches.
//
// An image is PTX, or a cubin that has its PTX behind it (../__init__.py puts it there): machine
// code cannot run here. The PTX becomes C and then a library, which a folder keeps.
#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "calls.h"
#include "devices.h"
#include "kernels.h"
#include "memory.h"
#include "settings.h"

extern char **environ;

namespace {

auto &modules = *new Handles<Module>;
auto &functions = *new Handles<Function>;

constexpr char MARK[] = "PTXEMU::";  // between a cubin and its PTX

// Run a program without what may be loaded into this process.
bool succeeds(const std::vector<std::string> &command) {
    std::vector<char *> arguments, variables;
    for (auto &word : command) arguments.push_back((char *)word.c_str());
    arguments.push_back(nullptr);
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "LD_", 3)) variables.push_back(*variable);
    variables.push_back(nullptr);
    pid_t child;
    int status;
    if (posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), variables.data()))
        return false;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return false;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Make a library of PTX. Several processes may make the same one at once.
bool translate(const std::string &ptx, const std::string &library) {
    std::string draft = text("%s.%d", library.c_str(), getpid());
    std::ofstream(draft + ".ptx") << ptx;
    std::vector<std::string> command = {translator.python, "-S", translator.program,
                                        draft + ".ptx", draft, "-fexceptions"};
    std::istringstream flags(settings().compiler_flags);
    for (std::string flag; flags >> flag;) command.push_back(flag);
    if (!succeeds(command)) {
        fault(CUDA_ERROR_INVALID_PTX, "the translation of %s.ptx failed", draft.c_str());
        return false;
    }
    return !rename((draft + ".ptx").c_str(), (library + ".ptx").c_str()) &&
           !rename(draft.c_str(), library.c_str());
}

// The PTX of an image, empty if it has none.
std::string ptx_of(const char *image) {
    if (memcmp(image, "\x7f" "ELF", 4)) return image;
    uint64_t program_headers, section_headers;
    uint16_t program_size, program_count, section_size, section_count;
    memcpy(&program_headers, image + 32, 8);
    memcpy(&section_headers, image + 40, 8);
    memcpy(&program_size, image + 54, 2);
    memcpy(&program_count, image + 56, 2);
    memcpy(&section_size, image + 58, 2);
    memcpy(&section_count, image + 60, 2);
    uint64_t end = std::max(section_headers + section_size * section_count,
                            program_headers + program_size * program_count);
    constexpr uint64_t FARTHEST = 4096;  // data may follow the last table
    for (const char *at = image + end; at < image + end + FARTHEST; at++) {
        if (memcmp(at, MARK, sizeof MARK - 1)) continue;
        uint64_t length;
        memcpy(&length, at + sizeof MARK - 1, sizeof length);
        return std::string(at + sizeof MARK - 1 + sizeof length, length);
    }
    return "";
}

bool is_fat_binary(const char *image) { return !memcmp(image, "\x50\xed\x55\xba", 4); }

CUresult load_module(const void *image, int device, Module **result) {
    if (CUresult status = sticky_error(current_device())) return status;
    std::string ptx = is_fat_binary((const char *)image) ? "" : ptx_of((const char *)image);
    if (ptx.empty())
        return fault(CUDA_ERROR_NO_BINARY_FOR_GPU, "a module of machine code alone is loaded");
    void *library = load_translation(ptx);
    if (!library) return CUDA_ERROR_INVALID_PTX;
    Module *module = new Module;
    module->library = library;
    module->device = device;
    module->kernels = (emu_kernel *)dlsym(library, "emu_kernels");
    module->variables = (emu_global *)dlsym(library, "emu_globals");
    for (const emu_global *variable = module->variables; variable->name; variable++)
        register_memory(variable->address, variable->size, current_device(), MemoryKind::VARIABLE);
    modules.add(module, result);
    return CUDA_SUCCESS;
}

CUresult unload_module(Module &module) {
    finish_device(module.device == Module::NO_DEVICE ? current_device() : module.device);
    for (const emu_global *variable = module.variables; variable->name; variable++)
        unregister_memory(variable->address);
    dlclose(module.library);
    module.library = nullptr;
    modules.remove(&module);
    return CUDA_SUCCESS;
}

Module *find_module(const void *handle) {
    Module *module = modules.find(handle);
    if (!module) fault(CUDA_ERROR_INVALID_HANDLE, "a module that does not exist is used");
    return module;
}

Function *find_function(const void *handle) {
    Function *function = functions.find(handle);
    if (function && function->module->library) return function;
    fault(CUDA_ERROR_INVALID_HANDLE, "%s is used after its module was unloaded",
          function ? function->name.c_str() : "a kernel");
    return nullptr;
}

// The function of a name: the same handle each time.
template <class Handle>
CUresult get_function(Module &module, const char *name, Handle *result) {
    static auto &known = *new std::map<std::pair<Module *, std::string>, Function *>;
    Function *&function = known[{&module, name}];
    for (const emu_kernel *kernel = module.kernels; kernel->name && !function; kernel++)
        if (!strcmp(kernel->name, name)) {
            function = new Function{&module, kernel, name,
                                    48 * 1024 - std::min(48u * 1024, kernel->static_shared_size)};
            functions.add(function, result);
        }
    *result = (Handle)function;
    return function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult check_launch(const Launch &launch, const Stream &stream) {
    const Function &function = *launch.function;
    const uint32_t *grid = launch.grid, *block = launch.block;
    bool shape_allowed = grid[0] && grid[1] && grid[2] && block[0] && block[1] && block[2] &&
                         grid[0] < 1u << 31 && grid[1] < 1 << 16 && grid[2] < 1 << 16 &&
                         block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 &&
                         launch.threads() <= 1024;
    uint32_t limit = function.kernel->max_threads;
    if (!shape_allowed || (limit && launch.threads() > limit))
        return fault(CUDA_ERROR_INVALID_VALUE, "%u,%u,%u blocks of %u,%u,%u threads of %s", grid[0],
                     grid[1], grid[2], block[0], block[1], block[2], function.name.c_str());
    if (launch.dynamic_shared_size > function.dynamic_shared_limit)
        return fault(CUDA_ERROR_INVALID_VALUE, "%u bytes of dynamic shared memory for %s",
                     launch.dynamic_shared_size, function.name.c_str());
    int device = function.module->device;
    if ((device != Module::NO_DEVICE && device != stream.device) || stream.device != current_device())
        return fault(CUDA_ERROR_INVALID_HANDLE,
                     "a launch of %s, loaded on device %d, in a stream of device %d while device %d "
                     "is current",
                     function.name.c_str(), device, stream.device, current_device());
    return CUDA_SUCCESS;
}

std::vector<char> packed_params(const emu_kernel &kernel, void **params, void **extra) {
    uint32_t last = kernel.param_count - 1;
    size_t size = kernel.param_count ? kernel.param_offsets[last] + kernel.param_sizes[last] : 0;
    std::vector<char> result(size);
    for (uint32_t param = 0; params && param < kernel.param_count; param++)
        memcpy(result.data() + kernel.param_offsets[param], params[param],
               kernel.param_sizes[param]);
    const void *buffer = nullptr;
    for (void **entry = extra; !params && entry && *entry; entry += 2) {
        if (*entry == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = entry[1];
        if (*entry == CU_LAUNCH_PARAM_BUFFER_SIZE) size = std::min(size, *(size_t *)entry[1]);
    }
    if (buffer) memcpy(result.data(), buffer, size);
    return result;
}

CUresult launch_kernel(CUfunction handle, const CUlaunchConfig &config, void **params,
                       void **extra) {
    STREAM(stream, config.hStream);
    Function *function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult status = sticky_error(stream.device)) return status;
    auto launch = std::make_shared<Launch>(
        Launch{function,
               stream.device,
               {config.gridDimX, config.gridDimY, config.gridDimZ},
               {config.blockDimX, config.blockDimY, config.blockDimZ},
               config.sharedMemBytes,
               packed_params(*function->kernel, params, extra)});
    if (CUresult status = check_launch(*launch, stream)) return status;
    trace("  %s: %u,%u,%u blocks of %u,%u,%u threads", function->name.c_str(), launch->grid[0],
          launch->grid[1], launch->grid[2], launch->block[0], launch->block[1], launch->block[2]);
    auto run = [launch] {
        if (launch->function->module->library) return run_kernel(*launch);
        return fault(CUDA_ERROR_LAUNCH_FAILED, "%s runs after its module was unloaded",
                     launch->function->name.c_str());
    };
    return enqueue(stream, "kernel", run, function->name);
}

int function_attribute(const Function &function, int attribute) {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            return function.kernel->max_threads ? function.kernel->max_threads : 1024;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return function.kernel->static_shared_size;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: return 32;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION: return 90;
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return 90;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: return function.dynamic_shared_limit;
        default: return 0;
    }
}

CUresult get_attribute(int *value, int attribute, const void *handle) {
    Function *function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    *value = function_attribute(*function, attribute);
    return CUDA_SUCCESS;
}

CUresult set_attribute(const void *handle, int attribute, int value) {
    Function *function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        function->dynamic_shared_limit = value;
    return CUDA_SUCCESS;
}

CUresult get_param(const void *handle, size_t param, size_t *offset, size_t *size) {
    Function *function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (param >= function->kernel->param_count) return CUDA_ERROR_INVALID_VALUE;
    *offset = function->kernel->param_offsets[param];
    if (size) *size = function->kernel->param_sizes[param];
    return CUDA_SUCCESS;
}

CUresult get_variable(const void *handle, const char *name, CUdeviceptr *address, size_t *size) {
    Module *module = find_module(handle);
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    for (const emu_global *variable = module->variables; variable->name; variable++) {
        if (strcmp(variable->name, name)) continue;
        if (address) *address = number(variable->address);
        if (size) *size = variable->size;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}

}  // namespace

void *load_translation(const std::string &ptx) {
    size_t key = std::hash<std::string>()(ptx + settings().compiler_flags + translator.key);
    std::string library = text("%s/kernels-%016zx.so", translator.cache_folder.c_str(), key);
    if (access(library.c_str(), R_OK) && !translate(ptx, library)) return nullptr;
    // of one file the loader would give out the same library each time, with the same variables
    static int loaded = 0;
    std::string copy = text("%s.%d.%d", library.c_str(), getpid(), loaded++);
    std::ofstream(copy, std::ios::binary) << std::ifstream(library, std::ios::binary).rdbuf();
    void *result = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
    unlink(copy.c_str());
    if (!result) fault(CUDA_ERROR_INVALID_PTX, "%s", dlerror());
    return result;
}

#define MODULE(name, handle)                              \
    Module *name##_pointer = find_module(handle);         \
    if (!name##_pointer) return CUDA_ERROR_INVALID_HANDLE; \
    Module &name = *name##_pointer

DRIVER(cuModuleLoadData, (CUmodule * module, const void *image),
       { return load_module(image, current_device(), (Module **)module); })
DRIVER(cuModuleLoadDataEx,
       (CUmodule * module, const void *image, unsigned, CUjit_option *, void **),
       { return load_module(image, current_device(), (Module **)module); })
DRIVER(cuModuleUnload, (CUmodule handle), {
    MODULE(module, handle);
    return unload_module(module);
})
DRIVER(cuModuleGetFunction, (CUfunction * function, CUmodule handle, const char *name), {
    MODULE(module, handle);
    return get_function(module, name, function);
})
DRIVER(cuModuleGetGlobal, (CUdeviceptr * address, size_t *size, CUmodule module, const char *name),
       { return get_variable(module, name, address, size); })
DRIVER(cuModuleGetLoadingMode, (CUmoduleLoadingMode * mode), {
    *mode = CU_MODULE_EAGER_LOADING;
    return CUDA_SUCCESS;
})
DRIVER(cuLibraryLoadData,
       (CUlibrary * library, const void *image, CUjit_option *, void **, unsigned,
        CUlibraryOption *, void **, unsigned),
       { return load_module(image, Module::NO_DEVICE, (Module **)library); })
DRIVER(cuLibraryUnload, (CUlibrary handle), {
    MODULE(module, handle);
    return unload_module(module);
})
DRIVER(cuLibraryGetKernel, (CUkernel * kernel, CUlibrary handle, const char *name), {
    MODULE(module, handle);
    return get_function(module, name, kernel);
})
DRIVER(cuLibraryGetGlobal,
       (CUdeviceptr * address, size_t *size, CUlibrary library, const char *name),
       { return get_variable(library, name, address, size); })
DRIVER(cuLibraryGetModule, (CUmodule * module, CUlibrary library), {
    *module = (CUmodule)library;
    return CUDA_SUCCESS;
})
DRIVER(cuKernelGetFunction, (CUfunction * function, CUkernel kernel), {
    *function = (CUfunction)kernel;
    return CUDA_SUCCESS;
})
DRIVER(cuFuncGetAttribute, (int *value, CUfunction_attribute attribute, CUfunction function),
       { return get_attribute(value, attribute, function); })
DRIVER(cuKernelGetAttribute,
       (int *value, CUfunction_attribute attribute, CUkernel kernel, CUdevice),
       { return get_attribute(value, attribute, kernel); })
DRIVER(cuFuncSetAttribute, (CUfunction function, CUfunction_attribute attribute, int value),
       { return set_attribute(function, attribute, value); })
DRIVER(cuKernelSetAttribute, (CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice),
       { return set_attribute(kernel, attribute, value); })
DRIVER(cuFuncSetCacheConfig, (CUfunction, CUfunc_cache), { return CUDA_SUCCESS; })
DRIVER(cuFuncGetParamInfo, (CUfunction function, size_t param, size_t *offset, size_t *size),
       { return get_param(function, param, offset, size); })
DRIVER(cuKernelGetParamInfo, (CUkernel kernel, size_t param, size_t *offset, size_t *size),
       { return get_param(kernel, param, offset, size); })
DRIVER(cuLaunchKernel,
       (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **params,
        void **extra),
       {
           if (!settings().launch) return CUDA_SUCCESS;
           CUlaunchConfig config = {grid_x,  grid_y, grid_z, block_x, block_y,
                                    block_z, shared, stream, nullptr, 0};
           return launch_kernel(function, config, params, extra);
       })
DRIVER(cuLaunchKernelEx,
       (const CUlaunchConfig *config, CUfunction function, void **params, void **extra),
       { return launch_kernel(function, *config, params, extra); })
