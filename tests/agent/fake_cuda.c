/* A stand-in for libcuda.so.1: its memory is malloc's, its time a counter that only copies and fake_work move.

   What is queued in a stream is done only when somebody waits for it (or fake_flush, which waits for the stream made
   first), in order, so whoever reads too early reads old bytes. Another stream's work is done no earlier than an event
   between them demands; each stream has a time of its own, which an event hands on. Copies check that each end lies in
   an allocation of the right kind. Kernels are those of a library that fake_kernels names, run for real; fake_log tells
   what was queued. Calls without a current context fail as they do in CUDA. fake_fail(name, code) makes the next call
   of that name fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
enum { MANY = 4096, NS_PER_BYTE = 2, NS_PER_COPY = 1000 };

typedef struct { void *at; size_t size; int on_device; } Block;
typedef struct { int64_t stamp_ns; int recorded, last; } Event;
typedef struct { int number, live; int64_t now_ns; } Stream;
typedef enum { COPY, SPAN, RECORD, WAIT, KERNEL } Kind;
/* `after` is the place in the queue, plus 1, that a WAIT waits for. */
typedef struct { Kind kind; void *to; const void *from; size_t size; int64_t ns; Event *event; Stream *stream; int after, done; } Work;

static Block blocks[MANY];
static Work queue[MANY];
static Stream streams[16];
static int queued, live_blocks, live_handles, live_streams, contexts, started;
static int64_t kernel_ns;
static char log_text[1 << 16];
static void *kernels;
static void *(*prepare)(const char *, unsigned, unsigned, unsigned, unsigned, void **);
static void (*perform)(void *, unsigned);
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
static void note(const char *what, const Stream *stream) {
    size_t used = strlen(log_text);
    if (used + strlen(what) + 16 < sizeof log_text) sprintf(log_text + used, "%d %s\n", stream->number, what);
}
static void do_one(Work *w);
static void do_until(int end, const Stream *stream) {
    for (int i = 0; i < end; i++)
        if (queue[i].stream == stream && !queue[i].done) do_one(&queue[i]);
}
static void do_one(Work *w) {
    w->done = 1;
    if (w->kind == WAIT && w->after) {
        do_until(w->after, queue[w->after - 1].stream);
        if (w->event->stamp_ns > w->stream->now_ns) w->stream->now_ns = w->event->stamp_ns;
    }
    w->stream->now_ns += w->ns;
    if (w->kind == COPY) memcpy(w->to, w->from, w->size);
    if (w->kind == RECORD) { w->event->stamp_ns = w->stream->now_ns; w->event->recorded = 1; }
    if (w->kind == KERNEL) perform(w->to, (unsigned)w->size);
}
static void finish(const Stream *stream) {
    do_until(queued, stream);
    for (int i = 0; i < queued; i++) if (!queue[i].done) return;
    queued = 0;
}
static void finish_all(void) { for (int i = 0; i < 16; i++) finish(&streams[i]); }
static Stream *first_stream(void) {
    for (int i = 0; i < 16; i++) if (streams[i].live) return &streams[i];
    return &streams[0];
}
static Stream *stream_of(void *s) {
    for (int i = 0; i < 16; i++) if (s == &streams[i] && streams[i].live) return s;
    return NULL;
}
void fake_flush(void) { finish(first_stream()); }
static int push(Work work) { if (queued == MANY) return INVALID_VALUE; queue[queued++] = work; return OK; }
int fake_work(int64_t ns) { Work w = {.kind = SPAN, .ns = ns, .stream = first_stream()}; note("work", w.stream); return push(w); }
const char *fake_log(void) { return log_text; }
void fake_log_clear(void) { log_text[0] = 0; }
int fake_kernels(const char *path, int64_t ns) {
    kernels = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!kernels) return INVALID_VALUE;
    *(void **)&prepare = dlsym(kernels, "noise_prepare");
    *(void **)&perform = dlsym(kernels, "noise_perform");
    kernel_ns = ns;
    return prepare && perform ? OK : INVALID_VALUE;
}

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

int cuCtxGetCurrent(void **c) { BEGIN("cuCtxGetCurrent"); *c = current ? (void *)&contexts : NULL; return OK; }
int cuCtxGetDevice(int *d) { IN_CONTEXT("cuCtxGetDevice"); *d = 7; return OK; }
int cuCtxSynchronize(void) { IN_CONTEXT("cuCtxSynchronize"); finish_all(); return OK; }

int cuStreamCreate(void **s, unsigned flags) {
    IN_CONTEXT("cuStreamCreate");
    if (flags > 1) return INVALID_VALUE;
    for (int i = 0; i < 16; i++)
        if (!streams[i].live) {
            streams[i] = (Stream){i, 1, live_streams ? first_stream()->now_ns : streams[i].now_ns};
            live_streams++;
            live_handles++;
            *s = &streams[i];
            return OK;
        }
    return OUT_OF_MEMORY;
}
int cuStreamSynchronize(void *s) { IN_CONTEXT("cuStreamSynchronize"); if (!stream_of(s)) return INVALID_HANDLE; finish(s); return OK; }
int cuStreamDestroy_v2(void *s) {
    IN_CONTEXT("cuStreamDestroy_v2");
    live_handles--;
    if (!stream_of(s)) return INVALID_HANDLE;
    finish(s);
    ((Stream *)s)->live = 0;
    live_streams--;
    return OK;
}
int cuStreamWaitEvent(void *s, void *e, unsigned flags) {
    IN_CONTEXT("cuStreamWaitEvent");
    if (!stream_of(s) || flags) return INVALID_HANDLE;
    Work w = {.kind = WAIT, .event = e, .stream = s, .after = ((Event *)e)->last};
    if (w.after > queued || (w.after && queue[w.after - 1].event != e)) w.after = 0; /* done long ago */
    note("wait", s);
    return push(w);
}

int cuEventCreate(void **e, unsigned flags) { IN_CONTEXT("cuEventCreate"); live_handles++; *e = calloc(1, sizeof(Event)); return flags ? INVALID_VALUE : OK; }
int cuEventRecord(void *e, void *s) {
    IN_CONTEXT("cuEventRecord");
    if (!stream_of(s)) return INVALID_HANDLE;
    ((Event *)e)->recorded = 0;
    Work w = {.kind = RECORD, .event = e, .stream = s};
    note("record", s);
    int code = push(w);
    ((Event *)e)->last = queued;
    return code;
}
int cuEventSynchronize(void *e) {
    IN_CONTEXT("cuEventSynchronize");
    int last = ((Event *)e)->last;
    if (!((Event *)e)->recorded && last && last <= queued) { Stream *s = queue[last - 1].stream; do_until(last, s); finish(s); }
    return OK;
}
int cuEventElapsedTime(float *ms, void *a, void *b) {
    IN_CONTEXT("cuEventElapsedTime");
    Event *first = a, *second = b;
    if (!first->recorded || !second->recorded) return NOT_READY;
    *ms = (float)((second->stamp_ns - first->stamp_ns) / 1e6);
    return OK;
}
int cuEventDestroy_v2(void *e) { IN_CONTEXT("cuEventDestroy_v2"); finish_all(); live_handles--; free(e); return OK; }

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
            finish_all();
            memset(at, 0x5A, blocks[i].size);
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
    if (!stream_of(s)) return INVALID_HANDLE;
    if (!block_of(to, size, to_device) || !block_of(from, size, !to_device)) return ILLEGAL_ADDRESS;
    Work w = {.kind = COPY, .to = to, .from = from, .size = size, .ns = NS_PER_COPY + NS_PER_BYTE * (int64_t)size, .stream = s};
    note(to_device ? "to device" : "to host", s);
    return push(w);
}
int cuMemcpyHtoDAsync_v2(uint64_t d, const void *h, size_t size, void *s) { IN_CONTEXT("cuMemcpyHtoDAsync_v2"); return copy((void *)(uintptr_t)d, h, size, s, 1); }
int cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t size, void *s) { IN_CONTEXT("cuMemcpyDtoHAsync_v2"); return copy(h, (const void *)(uintptr_t)d, size, s, 0); }
int cuMemcpyHtoD_v2(uint64_t d, const void *h, size_t size) {
    IN_CONTEXT("cuMemcpyHtoD_v2");
    if (!block_of((void *)(uintptr_t)d, size, 1)) return ILLEGAL_ADDRESS;
    memcpy((void *)(uintptr_t)d, h, size);
    return OK;
}
static size_t zeroed;
size_t fake_zeroed(void) { return zeroed; }
int cuMemsetD8_v2(uint64_t d, unsigned char value, size_t size) {
    IN_CONTEXT("cuMemsetD8_v2");
    if (!block_of((void *)(uintptr_t)d, size, 1)) return ILLEGAL_ADDRESS;
    memset((void *)(uintptr_t)d, value, size);
    if (!value) zeroed += size;
    return OK;
}

/* A module is a copy of its image; a function the name in it, which the library of fake_kernels must know. */
int cuModuleLoadData(void **m, const char *image) {
    IN_CONTEXT("cuModuleLoadData");
    if (memcmp(image, "\x7f" "ELF", 4) && !strstr(image, ".version")) return INVALID_IMAGE;
    live_handles++;
    *m = calloc(1, 1);
    return OK;
}
int cuModuleUnload(void *m) { IN_CONTEXT("cuModuleUnload"); live_handles--; finish_all(); free(m); return OK; }
int cuModuleGetFunction(void **f, void *m, const char *name) {
    IN_CONTEXT("cuModuleGetFunction");
    *f = m && kernels ? dlsym(kernels, name) : NULL;
    return *f ? OK : NOT_FOUND;
}
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *s, void **parameters, void **extra) {
    IN_CONTEXT("cuLaunchKernel");
    static unsigned seed;
    Dl_info about;
    if (!stream_of(s)) return INVALID_HANDLE;
    if (gz != 1 || by != 1 || bz != 1 || extra || !dladdr(f, &about) || !about.dli_sname) return INVALID_VALUE;
    void *launch = prepare(about.dli_sname, gx, gy, bx, shared, parameters);
    if (!launch) return INVALID_VALUE;
    Work w = {.kind = KERNEL, .to = launch, .size = seed++, .ns = kernel_ns, .stream = s};
    note(about.dli_sname, s);
    return push(w);
}
