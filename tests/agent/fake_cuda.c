/* A stand-in for libcuda.so.1: its memory is malloc's, its time a counter that only copies and fake_work move.

   What is queued in a stream is done only when somebody waits for it (or fake_flush), in order, so whoever reads too
   early reads old bytes. Copies check that each end lies in an allocation of the right kind. Calls without a current
   context fail as they do in CUDA. fake_fail(name, code) makes the next call of that name fail. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
enum { MANY = 4096, NS_PER_BYTE = 2, NS_PER_COPY = 1000 };

typedef struct { void *at; size_t size; int on_device; } Block;
typedef struct { int64_t stamp_ns; int recorded; } Event;
typedef struct { int kind; void *to; const void *from; size_t size; int64_t ns; Event *event; } Work;

static Block blocks[MANY];
static Work queue[MANY];
static int queued, live_blocks, live_handles, contexts, started;
static int64_t now_ns, stream_token;
static size_t capacity = (size_t)1 << 30;
static int devices = 1, major = 6, minor = 2;
static char fail_name[64];
static int fail_code;
static _Thread_local int current;

static int failing(const char *name) {
    if (fail_code && strcmp(name, fail_name) == 0) { int code = fail_code; fail_code = 0; return code; }
    return OK;
}
#define BEGIN(name) do { int code_ = failing(name); if (code_) return code_; if (!started) return NOT_INITIALIZED; } while (0)
#define IN_CONTEXT(name) do { BEGIN(name); if (!current) return INVALID_CONTEXT; } while (0)

void fake_fail(const char *name, int code) { strncpy(fail_name, name, 63); fail_code = code; }
void fake_device(int count, int new_major, int new_minor, size_t bytes) {
    devices = count; major = new_major; minor = new_minor; capacity = bytes;
}
int fake_live(void) { return live_blocks + live_handles + contexts; }

static Block *block_of(const void *at, size_t size, int on_device) {
    for (int i = 0; i < MANY; i++) {
        const char *start = blocks[i].at;
        if (start && blocks[i].on_device == on_device && (const char *)at >= start
            && (const char *)at + size <= start + blocks[i].size) return &blocks[i];
    }
    return NULL;
}
void fake_flush(void) {
    for (int i = 0; i < queued; i++) {
        Work *w = &queue[i];
        now_ns += w->ns;
        if (w->kind == 0) memcpy(w->to, w->from, w->size);
        if (w->event) { w->event->stamp_ns = now_ns; w->event->recorded = 1; }
    }
    queued = 0;
}
static int push(Work work) { if (queued == MANY) return INVALID_VALUE; queue[queued++] = work; return OK; }
int fake_work(int64_t ns) { Work w = {1, 0, 0, 0, ns, 0}; return push(w); }

int cuInit(unsigned flags) {
    int code = failing("cuInit");
    if (code || flags) return code ? code : INVALID_VALUE;
    if (!devices) return NO_DEVICE;
    started = 1;
    return OK;
}
int cuDriverGetVersion(int *v) { *v = 10020; return OK; }
int cuGetErrorString(int code, const char **text) {
    switch (code) {
    case INVALID_VALUE: *text = "invalid argument"; return OK;
    case NO_DEVICE: *text = "no CUDA-capable device is detected"; return OK;
    case INVALID_CONTEXT: *text = "invalid device context"; return OK;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; return OK;
    case NOT_READY: *text = "device not ready"; return OK;
    }
    *text = NULL;
    return INVALID_VALUE;
}
int cuDeviceGetCount(int *n) { BEGIN("cuDeviceGetCount"); *n = devices; return OK; }
int cuDeviceGet(int *d, int i) { BEGIN("cuDeviceGet"); *d = i + 7; return i < devices ? OK : INVALID_VALUE; }
int cuDeviceGetName(char *out, int size, int d) { BEGIN("cuDeviceGetName"); strncpy(out, "Fake GPU", size); return d == 7 ? OK : INVALID_VALUE; }
int cuDeviceGetAttribute(int *v, int what, int d) {
    BEGIN("cuDeviceGetAttribute");
    *v = what == 75 ? major : minor;
    return d == 7 && (what == 75 || what == 76) ? OK : INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **c, int d) { BEGIN("cuDevicePrimaryCtxRetain"); contexts++; *c = (void *)&contexts; return d == 7 ? OK : INVALID_VALUE; }
int cuDevicePrimaryCtxRelease(int d) { BEGIN("cuDevicePrimaryCtxRelease"); contexts--; return d == 7 ? OK : INVALID_VALUE; }
int cuCtxSetCurrent(void *c) { BEGIN("cuCtxSetCurrent"); current = c == (void *)&contexts; return OK; }

int cuStreamCreate(void **s, unsigned flags) { IN_CONTEXT("cuStreamCreate"); if (flags > 1) return INVALID_VALUE; live_handles++; *s = &stream_token; return OK; }
int cuStreamSynchronize(void *s) { IN_CONTEXT("cuStreamSynchronize"); if (s != &stream_token) return INVALID_HANDLE; fake_flush(); return OK; }
int cuStreamDestroy_v2(void *s) { IN_CONTEXT("cuStreamDestroy_v2"); live_handles--; return s == &stream_token ? OK : INVALID_HANDLE; }

int cuEventCreate(void **e, unsigned flags) { IN_CONTEXT("cuEventCreate"); live_handles++; *e = calloc(1, sizeof(Event)); return flags ? INVALID_VALUE : OK; }
int cuEventRecord(void *e, void *s) {
    IN_CONTEXT("cuEventRecord");
    if (s != &stream_token) return INVALID_HANDLE;
    ((Event *)e)->recorded = 0;
    Work w = {2, 0, 0, 0, 0, e};
    return push(w);
}
int cuEventSynchronize(void *e) { IN_CONTEXT("cuEventSynchronize"); (void)e; fake_flush(); return OK; }
int cuEventElapsedTime(float *ms, void *a, void *b) {
    IN_CONTEXT("cuEventElapsedTime");
    Event *first = a, *second = b;
    if (!first->recorded || !second->recorded) return NOT_READY;
    *ms = (float)((second->stamp_ns - first->stamp_ns) / 1e6);
    return OK;
}
int cuEventDestroy_v2(void *e) { IN_CONTEXT("cuEventDestroy_v2"); live_handles--; free(e); return OK; }

static int take(void **at, size_t size, int on_device) {
    size_t used = 0;
    int place = -1;
    for (int i = 0; i < MANY; i++) {
        if (blocks[i].at && blocks[i].on_device) used += blocks[i].size;
        if (!blocks[i].at) place = i;
    }
    if (!size) return INVALID_VALUE;
    if (place < 0 || (on_device && used + size > capacity)) return OUT_OF_MEMORY;
    *at = malloc(size);
    memset(*at, 0xA5, size);
    blocks[place] = (Block){*at, size, on_device};
    live_blocks++;
    return OK;
}
static int give(void *at, int on_device) {
    for (int i = 0; i < MANY; i++)
        if (at && blocks[i].at == at && blocks[i].on_device == on_device) {
            fake_flush();
            free(at);
            blocks[i].at = NULL;
            live_blocks--;
            return OK;
        }
    return INVALID_VALUE;
}
int cuMemAlloc_v2(uint64_t *d, size_t size) { IN_CONTEXT("cuMemAlloc_v2"); void *at = 0; int code = take(&at, size, 1); *d = (uint64_t)(uintptr_t)at; return code; }
int cuMemFree_v2(uint64_t d) { IN_CONTEXT("cuMemFree_v2"); return give((void *)(uintptr_t)d, 1); }
int cuMemHostAlloc(void **h, size_t size, unsigned flags) { IN_CONTEXT("cuMemHostAlloc"); return flags ? INVALID_VALUE : take(h, size, 0); }
int cuMemFreeHost(void *h) { IN_CONTEXT("cuMemFreeHost"); return give(h, 0); }

static int copy(void *to, const void *from, size_t size, void *s, int to_device) {
    if (s != &stream_token) return INVALID_HANDLE;
    if (!block_of(to, size, to_device) || !block_of(from, size, !to_device)) return ILLEGAL_ADDRESS;
    Work w = {0, to, from, size, NS_PER_COPY + NS_PER_BYTE * (int64_t)size, 0};
    return push(w);
}
int cuMemcpyHtoDAsync_v2(uint64_t d, const void *h, size_t size, void *s) { IN_CONTEXT("cuMemcpyHtoDAsync_v2"); return copy((void *)(uintptr_t)d, h, size, s, 1); }
int cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t size, void *s) { IN_CONTEXT("cuMemcpyDtoHAsync_v2"); return copy(h, (const void *)(uintptr_t)d, size, s, 0); }
