// The driver's functions, as jumps to wherever they were found: so that one program starts on hosts with and without a driver.
//
// Until `graft_cuda_open` finds a driver, each gives CUDA_ERROR_STUB_LIBRARY, and those that give texts give one.

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define FUNCTIONS(X)                                                                                              \
    X(cuArray3DCreate_v2) X(cuArray3DGetDescriptor_v2) X(cuArrayDestroy) X(cuCtxCreate_v2) X(cuCtxDestroy_v2)      \
    X(cuCtxFromGreenCtx) X(cuCtxGetApiVersion) X(cuCtxGetCacheConfig) X(cuCtxGetCurrent) X(cuCtxGetDevice)         \
    X(cuCtxGetFlags) X(cuCtxGetLimit) X(cuCtxGetSharedMemConfig) X(cuCtxGetStreamPriorityRange)                    \
    X(cuCtxPopCurrent_v2) X(cuCtxPushCurrent_v2) X(cuCtxSetCacheConfig) X(cuCtxSetCurrent) X(cuCtxSetLimit)        \
    X(cuCtxSetSharedMemConfig) X(cuCtxSynchronize) X(cuDestroyExternalMemory) X(cuDevResourceGenerateDesc)         \
    X(cuDevSmResourceSplitByCount) X(cuDeviceGet) X(cuDeviceGetAttribute) X(cuDeviceGetCount)                      \
    X(cuDeviceGetDevResource) X(cuDeviceGetName) X(cuDevicePrimaryCtxRelease_v2) X(cuDevicePrimaryCtxReset_v2)     \
    X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxSetFlags_v2) X(cuDeviceTotalMem_v2) X(cuDriverGetVersion)      \
    X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventElapsedTime) X(cuEventQuery) X(cuEventRecord)                   \
    X(cuEventSynchronize) X(cuExternalMemoryGetMappedBuffer) X(cuFuncGetAttribute) X(cuFuncSetAttribute)           \
    X(cuFuncSetCacheConfig) X(cuFuncSetSharedMemConfig) X(cuGetErrorName) X(cuGetProcAddress)                      \
    X(cuGraphAddKernelNode) X(cuGraphCreate) X(cuGraphDebugDotPrint) X(cuGraphDestroy) X(cuGraphExecDestroy)       \
    X(cuGraphGetEdges) X(cuGraphGetNodes) X(cuGraphInstantiateWithFlags) X(cuGraphKernelNodeGetParams)             \
    X(cuGraphLaunch) X(cuGraphNodeGetType) X(cuGreenCtxCreate) X(cuGreenCtxDestroy) X(cuGreenCtxStreamCreate)      \
    X(cuImportExternalMemory) X(cuInit) X(cuLaunchHostFunc) X(cuLaunchKernel) X(cuLinkAddData_v2)                  \
    X(cuLibraryGetKernel) X(cuLibraryLoadData) X(cuLibraryUnload)                                                  \
    X(cuLinkComplete) X(cuLinkCreate_v2) X(cuLinkDestroy) X(cuMemAdvise) X(cuMemAllocAsync) X(cuMemAllocHost_v2)   \
    X(cuMemAllocManaged) X(cuMemAlloc_v2) X(cuMemFreeAsync) X(cuMemFreeHost) X(cuMemFree_v2) X(cuMemGetInfo_v2)    \
    X(cuMemPrefetchAsync) X(cuMemcpy2D_v2) X(cuMemcpyAtoH_v2) X(cuMemcpyDtoDAsync_v2) X(cuMemcpyDtoD_v2)           \
    X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoH_v2) X(cuMemcpyHtoA_v2) X(cuMemcpyHtoDAsync_v2) X(cuMemcpyHtoD_v2)       \
    X(cuMemsetD16Async) X(cuMemsetD16_v2) X(cuMemsetD32Async) X(cuMemsetD32_v2) X(cuMemsetD8Async)                 \
    X(cuMemsetD8_v2) X(cuModuleGetFunction) X(cuModuleGetGlobal_v2) X(cuModuleLoad) X(cuModuleLoadData)            \
    X(cuModuleLoadDataEx) X(cuModuleUnload) X(cuOccupancyAvailableDynamicSMemPerBlock)                             \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor) X(cuOccupancyMaxPotentialBlockSize)                             \
    X(cuStreamBeginCapture_v2) X(cuStreamCreate) X(cuStreamCreateWithPriority) X(cuStreamDestroy_v2)               \
    X(cuStreamEndCapture) X(cuStreamGetFlags) X(cuStreamGetPriority) X(cuStreamQuery) X(cuStreamSynchronize)       \
    X(cuStreamWaitEvent) X(cuSurfObjectCreate) X(cuSurfObjectDestroy) X(cuSurfObjectGetResourceDesc)               \
    X(cuTexObjectCreate) X(cuTexObjectDestroy) X(cuTexObjectGetResourceDesc) X(cuTexObjectGetResourceViewDesc)     \
    /* Of a software GPU alone. */                                                                                 \
    X(graftSoftgpuPlan) X(graftSoftgpuPoison) X(graftSoftgpuPoisonAsync) X(graftSoftgpuReport)

enum { STUB_LIBRARY = 34 };

static int no_driver(void) { return STUB_LIBRARY; }

#define SLOT(name) void *graft_slot_##name = (void *)no_driver;
FUNCTIONS(SLOT)

#if defined(__x86_64__)
#define JUMP(name) "jmp *graft_slot_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name)                            \
    "adrp x16, graft_slot_" #name "\n"        \
    "ldr x16, [x16, :lo12:graft_slot_" #name "]\n" \
    "br x16\n"
#else
#error "the driver's functions are reached on x86_64 and aarch64"
#endif

#define TRAMPOLINE(name)                \
    __asm__(".text\n.globl " #name "\n" \
            ".type " #name ", %function\n" #name ":\n" JUMP(name) ".size " #name ", .-" #name "\n");
FUNCTIONS(TRAMPOLINE)

// Rust's wrapper of the driver panics where an error has no text.
static int (*error_string)(int, const char **);

int cuGetErrorString(int code, const char **text) {
    if (error_string) {
        const char *known = NULL;
        int result = error_string(code, &known);
        *text = known ? known : "an error that the driver does not know";
        return result;
    }
    *text = code == STUB_LIBRARY ? "there is no CUDA driver" : "an error of a driver that is not there";
    return 0;
}

// Finds the functions in a library. Returns how many of them it has; 0: it can't be opened, and `why` says why not.
// Partitions have streams of their own, which run side by side on as many connections to the device; the driver looks when it starts.
void graft_cuda_connections(void) { setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); }

int graft_cuda_open(const char *path, char *why, size_t room) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        snprintf(why, room, "%s", reason ? reason : "it can't be opened");
        return 0;
    }
    int found = 0;
    void *at;
#define FIND(name)                          \
    at = dlsym(library, #name);             \
    if (at) {                               \
        graft_slot_##name = at;             \
        found++;                            \
    }
    FUNCTIONS(FIND)
    *(void **)&error_string = dlsym(library, "cuGetErrorString");
    if (!found) snprintf(why, room, "it has none of the driver's functions");
    return found;
}
