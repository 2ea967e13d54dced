// Preloaded for `make asan-python`: AddressSanitizer refuses libraries that are opened with RTLD_DEEPBIND, as TBB opens
// its own (tbbbind). Without the flag they work as well.
#define _GNU_SOURCE
#include <dlfcn.h>

void* dlopen(const char* name, int flags) {
    static void* (*next)(const char*, int);
    if (!next) next = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
    return next(name, flags & ~RTLD_DEEPBIND);
}
