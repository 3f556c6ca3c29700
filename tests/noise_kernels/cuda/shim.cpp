/* noise.cu on the processor: the very source, each of its threads a fiber (or, with THREADS, one of the system's).

   A fiber runs until it must wait for others; then one of those that can go on is taken at random, by `seed`. Blocks
   come in random order, too. Shared memory is filled with NaN before each block, and what lies behind the bytes that
   the launch asks for must be untouched after it. Waiting that can never end, lanes of a warp that meet in different
   shuffles and unknown kernels end the process or the launch with a word. */
#include <algorithm>
#include <cstddef>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <ucontext.h>
#include <vector>

#include "shim.h"

alignas(16) long long shared_memory[SHARED_LIMIT / 8];

void fault(const char *what) {
    std::fprintf(stderr, "noise.cu on the processor: %s\n", what);
    std::abort();
}

static void poison() { std::memset(shared_memory, 0xff, SHARED_LIMIT); }

static void check_rest(std::size_t used) {
    const unsigned char *bytes = (const unsigned char *)shared_memory;
    if (std::any_of(bytes + used, bytes + SHARED_LIMIT, [](unsigned char byte) { return byte != 0xff; }))
        fault("a kernel wrote behind its shared memory");
}

static void same_shuffle(const char *&meeting, const char *what, bool first) {
    if (first) meeting = what;
    if (std::strcmp(meeting, what) != 0) fault("lanes of a warp are in different shuffles");
}

#ifndef THREADS

enum class State { ready, at_barrier, in_shuffle, done };

struct Fiber {
    ucontext_t context;
    Place where;
    State state = State::ready;
    unsigned char value[8];
};

static std::vector<Fiber> *fibers;
static std::vector<std::unique_ptr<char[]>> stacks;
static const char *meetings[32];
static Fiber *running;
static ucontext_t scheduler;
static const std::function<void()> *body;

Place &place() { return running->where; }

static void wait_as(State state) {
    running->state = state;
    swapcontext(&running->context, &scheduler);
}

void barrier() { wait_as(State::at_barrier); }

void exchange(const char *what, unsigned lane, const void *value, std::size_t size, void *all) {
    Fiber *warp = running - lane;
    std::memcpy(running->value, value, size);
    const bool first = std::none_of(warp, warp + 32, [](const Fiber &f) { return f.state == State::in_shuffle; });
    same_shuffle(meetings[place().thread.x / 32], what, first);
    wait_as(State::in_shuffle);
    /* Nobody of the warp has put in another value: it would have to meet everybody first. */
    for (unsigned i = 0; i < 32; i++) std::memcpy((char *)all + i * size, warp[i].value, size);
    wait_as(State::in_shuffle);
}

static void enter() {
    (*body)();
    running->state = State::done;
    swapcontext(&running->context, &scheduler);
}

/* Lets those go on whom nobody is missing for any more. */
static void release(std::vector<Fiber> &all) {
    auto everybody = [](auto from, auto to, State state) {
        auto waits = [=](const Fiber &f) { return f.state == state || f.state == State::done; };
        if (std::all_of(from, to, waits))
            for (; from != to; ++from)
                if (from->state == state) from->state = State::ready;
    };
    everybody(all.begin(), all.end(), State::at_barrier);
    for (auto warp = all.begin(); warp != all.end(); warp += 32) everybody(warp, warp + 32, State::in_shuffle);
}

static void run_block(Place where, std::mt19937 &random, const std::function<void()> &kernel) {
    constexpr std::size_t STACK = 64 << 10;
    std::vector<Fiber> all(where.threads.x);
    fibers = &all;
    body = &kernel;
    while (stacks.size() < all.size()) stacks.push_back(std::make_unique<char[]>(STACK));
    for (unsigned i = 0; i < all.size(); i++) {
        getcontext(&all[i].context);
        all[i].context.uc_stack.ss_sp = stacks[i].get();
        all[i].context.uc_stack.ss_size = STACK;
        all[i].where = where;
        all[i].where.thread = {i, 0, 0};
        makecontext(&all[i].context, enter, 0);
    }
    std::vector<unsigned> order(all.size());
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t left = all.size(); left;) {
        std::shuffle(order.begin(), order.end(), random);
        bool moved = false;
        for (unsigned i : order) {
            if (all[i].state != State::ready) continue;
            running = &all[i];
            swapcontext(&scheduler, &running->context);
            moved = true;
            left -= all[i].state == State::done;
        }
        release(all);
        if (!moved && std::none_of(all.begin(), all.end(), [](const Fiber &f) { return f.state == State::ready; }))
            fault("threads wait for others that never come");
    }
}

#else

/* The system's threads: slow, but a sanitizer sees which of their accesses no barrier orders. */
struct Meeting {
    std::mutex mutex;
    std::condition_variable met;
    unsigned expected = 0, waiting = 0, round = 0;
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        if (++waiting == expected) {
            waiting = 0;
            round++;
            met.notify_all();
        } else {
            met.wait(lock, [this, now = round] { return round != now; });
        }
    }
};

struct Warp {
    Meeting meeting;
    unsigned char values[32][8];
    const char *what[32];
};

static Meeting everybody;
static Warp warps[32];
static thread_local Place here;

Place &place() { return here; }
void barrier() { everybody.wait(); }

void exchange(const char *what, unsigned lane, const void *value, std::size_t size, void *all) {
    Warp &warp = warps[here.thread.x / 32];
    std::memcpy(warp.values[lane], value, size);
    warp.what[lane] = what;
    warp.meeting.wait();
    same_shuffle(warp.what[lane], warp.what[0], false);
    for (unsigned i = 0; i < 32; i++) std::memcpy((char *)all + i * size, warp.values[i], size);
    warp.meeting.wait();
}

static void run_block(Place where, std::mt19937 &, const std::function<void()> &kernel) {
    everybody.expected = where.threads.x;
    for (Warp &warp : warps) warp.meeting.expected = 32;
    std::vector<std::thread> all;
    for (unsigned i = 0; i < where.threads.x; i++)
        all.emplace_back([&, i] {
            here = where;
            here.thread = {i, 0, 0};
            kernel();
        });
    for (std::thread &each : all) each.join();
}

#endif

struct Launch {
    std::function<void()> kernel;
    Place where;
    std::size_t shared_bytes;
};

static std::function<void()> bound(const Known &kernel, void **parameters) {
    std::vector<std::vector<std::max_align_t>> copies;
    for (std::size_t i = 0; i < kernel.parameters; i++) {
        copies.emplace_back(kernel.sizes[i] / sizeof(std::max_align_t) + 1);
        std::memcpy(copies.back().data(), parameters[i], kernel.sizes[i]);
    }
    return [call = kernel.call, copies] {
        std::vector<void *> places;
        for (auto &copy : copies) places.push_back(const_cast<std::max_align_t *>(copy.data()));
        call(places.data());
    };
}

/* A launch with its parameters copied, as CUDA copies them; null where a GPU would refuse it. */
extern "C" void *noise_prepare(
    const char *name, unsigned blocks, unsigned rows, unsigned threads, unsigned shared_bytes, void **parameters) {
    if (!blocks || !rows || rows > 65535 || !threads || threads > 1024 || threads % 32 || shared_bytes > SHARED_LIMIT)
        return nullptr;
    const Known *end = known + known_kernels;
    const Known *kernel = std::find_if(known, end, [=](const Known &each) { return !std::strcmp(each.name, name); });
    if (kernel == end) return nullptr;
    const Place where = {{0, 0, 0}, {0, 0, 0}, {threads, 1, 1}, {blocks, rows, 1}};
    return new Launch{bound(*kernel, parameters), where, shared_bytes};
}

extern "C" void noise_perform(void *prepared, unsigned seed) {
    std::unique_ptr<Launch> launch(static_cast<Launch *>(prepared));
    std::mt19937 random(seed);
    std::vector<unsigned> order(launch->where.grid.x * launch->where.grid.y);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (unsigned block : order) {
        poison();
        Place where = launch->where;
        where.block = {block % where.grid.x, block / where.grid.x, 0};
        run_block(where, random, launch->kernel);
        check_rest(launch->shared_bytes);
    }
}
