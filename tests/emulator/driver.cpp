// A libcuda.so.1 without a GPU: the driver API and the runtime API over the host's memory.
// Kernels: PTX, which ptx_to_c.py makes C of. Streams are lazy: work runs only once somebody waits for
// it.
#include <cuda.h>
#define CUDART_VERSION_ONLY
#include <cuda_runtime_api.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <csetjmp>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <set>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define X extern "C" __attribute__((visibility("default")))
using std::shared_ptr;
using std::string;
using std::vector;

static std::recursive_mutex M;
#define LOCK std::lock_guard<std::recursive_mutex> lock_(M)
static const char *env(const char *n, const char *d) {
    const char *e = getenv(n);
    return e ? e : d;
}
static FILE *tracef() {
    static FILE *f = getenv("EMU_TRACE") ? fopen(getenv("EMU_TRACE"), "a") : nullptr;
    return f;
}
// Faults since the last call of emu_take_faults, a line each.
static string faults;
static void report(const string &fault) {
    faults += fault + "\n";
    fprintf(stderr, "EMU: %s\n", fault.c_str());
}
#define T(...)                                                                                     \
    do {                                                                                           \
        if (FILE *f_ = tracef()) {                                                                 \
            fprintf(f_, "%s(", __func__);                                                          \
            fprintf(f_, __VA_ARGS__);                                                              \
            fprintf(f_, ")\n");                                                                    \
            fflush(f_);                                                                            \
        }                                                                                          \
    } while (0)
#define SAY(...)                                                                                   \
    do {                                                                                           \
        char text_[1024];                                                                          \
        snprintf(text_, sizeof text_, __VA_ARGS__);                                                \
        report(text_);                                                                             \
    } while (0)
static bool lazy() {
    static bool b = atoi(env("EMU_LAZY", "1"));
    return b;
}
static int ndev() {
    static int n = atoi(env("EMU_DEVICES", "1"));
    return n;
}
static int sticky = 0;
static thread_local int cur_dev = 0, last_error = 0;
static thread_local vector<CUcontext> ctx_stack;
extern "C" {
__attribute__((visibility("default"))) int emu_race = 0;
}

// ---- memory of the devices: one arena, closed to the host except while work runs
struct Alloc {
    uint64_t lo, hi;
    int dev;
    int kind;
}; // kind 0 device, 1 pinned host, 2 managed
static std::map<uint64_t, Alloc> allocs;
static const uint64_t ARENA = 24ull << 30;
static char *arena;
static uint64_t arena_top;
static std::multimap<uint64_t, uint64_t> freed; // size -> address
static bool prot() {
    static bool b = atoi(env("EMU_PROTECT", "1"));
    return b;
}
static int open_depth = 0;
static uint64_t total_mem = 16ull << 30;
static uint64_t used_mem = 0;
static void arena_init() {
    if (!arena) {
        arena = (char *)mmap(0, ARENA, prot() ? PROT_NONE : PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
}
struct Open {
    Open() {
        arena_init();
        if (!open_depth++ && prot())
            mprotect(arena, arena_top, PROT_READ | PROT_WRITE);
    }
    ~Open() {
        if (!--open_depth && prot())
            mprotect(arena, arena_top, PROT_NONE);
    }
};
static uint64_t dev_alloc(uint64_t n, int kind) {
    arena_init();
    if (!n)
        return 0;
    uint64_t room = ((n + 511) / 512) * 512 + 512, at;
    auto it = freed.lower_bound(room);
    if (it != freed.end() && it->first == room) {
        at = it->second;
        freed.erase(it);
    } else {
        if (arena_top + room > ARENA)
            return 0;
        at = (uint64_t)arena + arena_top;
        uint64_t t0 = arena_top;
        arena_top += room;
        arena_top = (arena_top + 4095) / 4096 * 4096;
        room = arena_top - t0;
        if (open_depth)
            mprotect(arena + t0, arena_top - t0, PROT_READ | PROT_WRITE);
    }
    {
        Open o;
        memset((void *)at, 0xA5, n);
    }
    allocs[at] = {at, at + n, cur_dev, kind};
    used_mem += n;
    return at;
}
static Alloc *find(uint64_t a) {
    auto it = allocs.upper_bound(a);
    if (it == allocs.begin())
        return nullptr;
    --it;
    return a < it->second.hi ? &it->second : nullptr;
}
static int dev_free(uint64_t a) {
    auto it = allocs.find(a);
    if (it == allocs.end())
        return 1;
    uint64_t n = it->second.hi - it->second.lo;
    {
        Open o;
        memset((void *)a, 0xDD, n);
    }
    used_mem -= n;
    freed.insert({((n + 511) / 512) * 512 + 512, a});
    allocs.erase(it);
    return 0;
}

// ---- streams
struct Stream;
struct Graph;
struct Op {
    std::function<void()> run;
    vector<shared_ptr<Op>> deps;
    Stream *stream = nullptr;
    bool done = false;
    string what;
};
struct Stream {
    std::deque<shared_ptr<Op>> q;
    shared_ptr<Op> tail;
    unsigned flags = 0;
    int dev = 0;
    Graph *capture = nullptr;
    bool origin = false, alive = true;
    int capmode = 0;
};
struct Event {
    shared_ptr<Op> op;
    unsigned flags = 0;
    Graph *captured = nullptr;
    Stream *where = nullptr;
    double at = 0;
};
struct Node {
    std::function<void()> run;
    string what;
};
struct Graph {
    vector<Node> nodes;
    bool invalid = false;
};
static std::set<Stream *> streams;
static Stream *legacy[16];
static Stream *S(void *s) {
    if ((uint64_t)s <= 2) {
        if (!legacy[cur_dev]) {
            legacy[cur_dev] = new Stream;
            legacy[cur_dev]->dev = cur_dev;
        }
        return legacy[cur_dev];
    }
    return (Stream *)s;
}
static bool is_legacy(Stream *s) {
    for (auto l : legacy)
        if (l == s)
            return true;
    return false;
}
static bool blocking(Stream *s) {
    return !is_legacy(s) && !(s->flags & 1);
}
static long n_ops = 0, n_late = 0;
static void run_to(Stream *s, shared_ptr<Op> op) {
    while (!op->done && !s->q.empty()) {
        auto f = s->q.front();
        s->q.pop_front();
        for (auto &d : f->deps)
            if (!d->done)
                run_to(d->stream, d);
        {
            Open o;
            if (!sticky || f->what == "event")
                f->run();
        }
        f->done = true;
        f->deps.clear();
        f->run = nullptr;
    }
}
static void drain(Stream *s) {
    if (s->tail)
        run_to(s, s->tail);
}
static void drain_all(int dev = -1) {
    for (auto l : legacy)
        if (l && (dev < 0 || l->dev == dev))
            drain(l);
    for (auto s : std::set<Stream *>(streams))
        if (dev < 0 || s->dev == dev)
            drain(s);
}
static Stream *capturing_any() {
    for (auto s : streams)
        if (s->capture && s->origin)
            return s;
    return nullptr;
}
static int enqueue(Stream *s, const string &what, std::function<void()> run) {
    if (s->capture) {
        s->capture->nodes.push_back({run, what});
        return 0;
    }
    if (is_legacy(s))
        for (auto o : streams)
            if (o->capture && blocking(o)) {
                o->capture->invalid = true;
                SAY("%s on the legacy stream while a blocking stream is capturing", what.c_str());
                return 906;
            }
    auto op = std::make_shared<Op>();
    op->run = run;
    op->stream = s;
    op->what = what;
    n_ops++;
    if (is_legacy(s)) {
        for (auto o : streams)
            if (blocking(o) && o->dev == s->dev && o->tail && !o->tail->done)
                op->deps.push_back(o->tail);
    } else if (blocking(s)) {
        Stream *l = legacy[s->dev];
        if (l && l->tail && !l->tail->done)
            op->deps.push_back(l->tail);
    }
    s->q.push_back(op);
    s->tail = op;
    if (!lazy())
        drain(s);
    return 0;
}
// calls that a capture forbids
static int unsafe(const char *what) {
    if (Stream *s = capturing_any()) {
        if (s->capmode != 2) {
            s->capture->invalid = true;
            SAY("%s while a graph is being captured", what);
            return 900;
        }
    }
    return 0;
}

// ---- kernels
struct TC {
    uint32_t tid[3], ntid[3], ctaid[3], nctaid[3], lane, warp, state, slot;
    uint64_t lo, hi;
    char *shared;
    uint64_t shared_size;
    const char *params;
    void *launch;
    uint64_t xchg[2];
    uint32_t xmask, epoch;
    void *warpbase;
};
struct EmuKernel {
    const char *name;
    int (*fn)(TC *, void *, const char *);
    uint32_t state, nparams, shared, barrier;
    const uint32_t *off, *size;
    uint32_t maxtid;
};
struct EmuGlobal {
    const char *name;
    void *at;
    uint64_t size;
};
struct Module {
    void *lib = nullptr;
    EmuKernel *k = nullptr;
    EmuGlobal *g = nullptr;
    string ptx;
    int refs = 0;
};
struct Func {
    EmuKernel *k;
    Module *m;
    int dev;
};
struct Launch {
    Func *f;
    vector<char> params;
    unsigned g[3], b[3];
    uint64_t dyn;
    jmp_buf jb;
    vector<TC> *tcs = nullptr;
    int dev;
    uint32_t id;
    string error;
    int code = 0;
    uint32_t bepoch = 0, block = 0;
};
static uint32_t launch_ids = 0;
static auto &launched = *new std::map<string, long>; // never destroyed: `bye` reads it
struct Shadow {
    uint32_t lw, gw, ew, lr, gr, er;
};
static Shadow *shadow;
static long races = 0;
static uint32_t gid(TC *t) {
    return ((Launch *)t->launch)->block * (t->ntid[0] * t->ntid[1] * t->ntid[2]) + t->slot;
}
static void race_report(TC *t, Launch *L, uint64_t a, int w, int line, const char *what,
                        uint32_t other) {
    races++;
    static std::set<string> seen;
    string key = string(L->f->k->name) + what + std::to_string(line);
    if (seen.insert(key).second)
        SAY("RACE %s in %.120s line %d: %s at %#lx by thread %u of block %u; other thread has "
            "global number %u",
            what, L->f->k->name, line, w ? "write" : "read", (long)a, t->slot, L->block, other);
}
static void shade(TC *t, Shadow *sh, uint64_t n, int w, int line, uint64_t a) {
    Launch *L = (Launch *)t->launch;
    uint32_t g = gid(t), nt = t->ntid[0] * t->ntid[1] * t->ntid[2];
    for (uint64_t i = 0; i < n; i++) {
        Shadow &s = sh[i];
        auto hit = [&](uint32_t l, uint32_t og, uint32_t e) {
            return l == L->id && og != g && !(og / nt == g / nt && e != L->bepoch);
        };
        if (w == 2)
            continue;
        if (hit(s.lw, s.gw, s.ew)) {
            race_report(t, L, a + i, w, line, w ? "write-write" : "write-read", s.gw);
        }
        if (w && hit(s.lr, s.gr, s.er))
            race_report(t, L, a + i, w, line, "read-write", s.gr);
        if (w) {
            s.lw = L->id;
            s.gw = g;
            s.ew = L->bepoch;
        } else if (!(s.lr == L->id && s.er == L->bepoch && s.gr != g && s.gr / nt != g / nt)) {
            s.lr = L->id;
            s.gr = g;
            s.er = L->bepoch;
        }
    }
}
[[noreturn]] static void fail(TC *t, int code, const string &e) {
    Launch *L = (Launch *)t->launch;
    L->code = code;
    L->error = e;
    longjmp(L->jb, 1);
}
static char buf_[512];
X void emu_slow(TC *t, uint64_t a, uint32_t n, int w, int line) {
    Launch *L = (Launch *)t->launch;
    if (!(a >= t->lo && a + n <= t->hi)) {
        Alloc *x = find(a);
        if (x && a + n <= x->hi) {
            if (x->kind == 0 && x->dev != L->dev) {
                snprintf(buf_, 500, "access to memory of device %d from device %d, line %d", x->dev,
                         L->dev, line);
                fail(t, 700, buf_);
            }
            t->lo = x->lo;
            t->hi = x->hi;
        } else {
            bool ok = false;
            for (EmuGlobal *g = L->f->m->g; g && g->name; g++)
                if (a >= (uint64_t)g->at && a + n <= (uint64_t)g->at + g->size)
                    ok = true;
            if (!ok) {
                string near;
                auto it = allocs.upper_bound(a);
                if (it != allocs.begin()) {
                    --it;
                    char z[100];
                    snprintf(z, 99, "%ld bytes behind the end of an array of %ld bytes",
                             (long)(a - it->second.hi), (long)(it->second.hi - it->second.lo));
                    near = z;
                }
                snprintf(
                    buf_, 500,
                    "OUT OF BOUNDS %s of %u bytes at %#lx (%s), PTX line %d, block %u thread %u",
                    w ? "write" : "read", n, (long)a, near.c_str(), line, L->block, t->slot);
                fail(t, 700, buf_);
            }
            return;
        }
    }
    if (a & (n - 1)) {
        snprintf(buf_, 500, "MISALIGNED %s of %u bytes at %#lx, PTX line %d, thread %u",
                 w ? "write" : "read", n, (long)a, line, t->slot);
        fail(t, 716, buf_);
    }
    if (emu_race && a >= (uint64_t)arena && a < (uint64_t)arena + ARENA) {
        if (!shadow)
            shadow = (Shadow *)mmap(0, (ARENA / 16) * sizeof(Shadow), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (a - (uint64_t)arena < ARENA / 16 - 64)
            shade(t, shadow + (a - (uint64_t)arena), n, w, line, a);
    }
}
static Shadow *sshadow;
X void emu_shared(TC *t, uint64_t a, uint32_t n, int w, int line) {
    if (a + n > t->shared_size) {
        snprintf(buf_, 500, "OUT OF BOUNDS shared %s at %lu of %lu, PTX line %d",
                 w ? "write" : "read", (long)a, (long)t->shared_size, line);
        fail(t, 700, buf_);
    }
    if (a & (n - 1)) {
        snprintf(buf_, 500, "MISALIGNED shared at %lu, line %d", (long)a, line);
        fail(t, 716, buf_);
    }
    if (emu_race) {
        if (!sshadow)
            sshadow = (Shadow *)calloc(1 << 18, sizeof(Shadow));
        shade(t, sshadow + a, n, w, line, a);
    }
}
X void emu_trap(TC *t, const char *what, int line) {
    snprintf(buf_, 500, "TRAP %s, PTX line %d, thread %u", what, line, t->slot);
    fail(t, 719, buf_);
}
X uint64_t emu_peer(TC *t, uint32_t lane, int phase) {
    TC *b = (TC *)t->warpbase;
    Launch *L = (Launch *)t->launch;
    uint32_t nt = L->b[0] * L->b[1] * L->b[2];
    if (t->warp * 32 + lane >= nt)
        return 0;
    return b[lane].xchg[phase];
}
X int emu_alive(TC *t, uint32_t lane) {
    TC *b = (TC *)t->warpbase;
    Launch *L = (Launch *)t->launch;
    uint32_t nt = L->b[0] * L->b[1] * L->b[2];
    if (t->warp * 32 + lane >= nt)
        return 0;
    return b[lane].state != 9;
}
static void run_kernel(shared_ptr<Launch> L) {
    EmuKernel *k = L->f->k;
    launched[k->name]++;
    L->id = ++launch_ids;
    static const char *order = env("EMU_ORDER", "forward");
    static std::mt19937 rng(atoi(env("EMU_SEED", "1")));
    static bool race0 = atoi(env("EMU_RACE", "0"));
    emu_race = race0;
    uint32_t nt = L->b[0] * L->b[1] * L->b[2];
    uint64_t nb = (uint64_t)L->g[0] * L->g[1] * L->g[2];
    uint64_t ss = ((k->shared + 15) / 16) * 16 + L->dyn;
    vector<char> shm(ss + 16);
    vector<TC> tcs(nt);
    vector<char> st;
    if (k->barrier)
        st.resize((size_t)nt * k->state + 16);
    char *st0 = (char *)(((uint64_t)st.data() + 15) / 16 * 16);
    vector<uint32_t> to(nt);
    for (uint32_t i = 0; i < nt; i++)
        to[i] = i;
    vector<uint32_t> bo;
    if (order[0] != 'f') {
        bo.resize(nb);
        for (uint64_t i = 0; i < nb; i++)
            bo[i] = i;
        if (order[0] == 'r' && order[1] == 'e') {
            std::reverse(bo.begin(), bo.end());
            std::reverse(to.begin(), to.end());
        } else {
            std::shuffle(bo.begin(), bo.end(), rng);
            std::shuffle(to.begin(), to.end(), rng);
        }
    }
    if (setjmp(L->jb)) {
        sticky = L->code;
        SAY("%s\n     in kernel %.200s", L->error.c_str(), k->name);
        emu_race = 0;
        return;
    }
    for (uint64_t bi = 0; bi < nb; bi++) {
        uint32_t b = bo.empty() ? bi : bo[bi];
        L->block = b;
        L->bepoch = 0;
        if (ss)
            memset(shm.data(), 0xA5, ss);
        if (k->barrier)
            memset(st0, 0, (size_t)nt * k->state);
        if (emu_race && sshadow)
            memset(sshadow, 0, (1 << 18) * sizeof(Shadow));
        for (uint32_t i = 0; i < nt; i++) {
            TC &t = tcs[i];
            t.tid[0] = i % L->b[0];
            t.tid[1] = i / L->b[0] % L->b[1];
            t.tid[2] = i / L->b[0] / L->b[1];
            for (int d = 0; d < 3; d++) {
                t.ntid[d] = L->b[d];
                t.nctaid[d] = L->g[d];
            }
            t.ctaid[0] = b % L->g[0];
            t.ctaid[1] = b / L->g[0] % L->g[1];
            t.ctaid[2] = b / L->g[0] / L->g[1];
            t.lane = i % 32;
            t.warp = i / 32;
            t.slot = i;
            t.shared = shm.data();
            t.shared_size = ss;
            t.launch = L.get();
            t.state = 0;
            t.epoch = 0;
            t.warpbase = &tcs[i / 32 * 32];
            if (!bi)
                t.lo = t.hi = 0;
        }
        if (!k->barrier) {
            for (uint32_t i : to)
                k->fn(&tcs[i], nullptr, L->params.data());
            continue;
        }
        uint32_t live = nt;
        while (live) {
            bool moved = false;
            for (uint32_t i : to) {
                TC &t = tcs[i];
                if (t.state == 0) {
                    moved = true;
                    int r = k->fn(&t, st0 + (size_t)i * k->state, L->params.data());
                    t.state = r == 0 ? 9 : r;
                    if (!r)
                        live--;
                }
            }
            // warps whose lanes have all come to the same exchange go on
            for (uint32_t w0 = 0; w0 < nt; w0 += 32) {
                uint32_t n = std::min(32u, nt - w0);
                bool any = false, all = true;
                for (uint32_t i = 0; i < n; i++) {
                    TC &t = tcs[w0 + i];
                    if (t.state == 3 || t.state == 2)
                        any = true;
                }
                if (any) {
                    uint32_t mask = ~0u;
                    for (uint32_t i = 0; i < n; i++)
                        if (tcs[w0 + i].state == 3)
                            mask &= tcs[w0 + i].xmask;
                    for (uint32_t i = 0; i < n; i++)
                        if ((mask >> i & 1) && tcs[w0 + i].state != 3 && tcs[w0 + i].state != 2 &&
                            tcs[w0 + i].state != 9)
                            all = false;
                    if (all) {
                        for (uint32_t i = 0; i < n; i++)
                            if (tcs[w0 + i].state == 3 || tcs[w0 + i].state == 2)
                                tcs[w0 + i].state = 0;
                        moved = true;
                    }
                }
            }
            bool wait = false, ready = true;
            for (auto &t : tcs) {
                if (t.state == 1)
                    wait = true;
                else if (t.state != 9)
                    ready = false;
            }
            if (wait && ready) {
                uint32_t at = 0;
                bool same = true, gone = false;
                for (auto &t : tcs) {
                    if (t.state == 9) {
                        gone = true;
                        continue;
                    }
                    uint32_t pc = *(uint32_t *)(st0 + (size_t)t.slot * k->state);
                    if (!at)
                        at = pc;
                    else if (at != pc)
                        same = false;
                }
                if (!same)
                    SAY("barrier divergence: threads of a block wait at different barriers in "
                        "%.100s",
                        k->name);
                if (gone) {
                    static std::set<string> s;
                    if (s.insert(k->name).second)
                        SAY("barrier after some threads of the block have returned in %.100s",
                            k->name);
                }
                for (auto &t : tcs)
                    if (t.state == 1)
                        t.state = 0;
                L->bepoch++;
                moved = true;
            }
            if (!moved && live) {
                fail(&tcs[0], 702, "DEADLOCK: threads wait for one another");
            }
        }
    }
    emu_race = 0;
}

static string here() {
    Dl_info i;
    dladdr((void *)here, &i);
    string p = i.dli_fname;
    return p.substr(0, p.rfind('/'));
}
static Module *load_ptx(const string &ptx) {
    size_t h = std::hash<string>()(ptx + env("EMU_CFLAGS", ""));
    char name[64];
    snprintf(name, 63, "%016zx", h);
    string dir = env("EMU_KERNELS", ".");
    mkdir(dir.c_str(), 0755);
    string base = dir + "/" + name, so = base + ".so";
    if (access(so.c_str(), R_OK)) {
        string tmp = base + "." + std::to_string(getpid());
        FILE *f = fopen((tmp + ".ptx").c_str(), "w");
        fwrite(ptx.data(), 1, ptx.size(), f);
        fclose(f);
        string cmd = "env -u LD_PRELOAD -u LD_LIBRARY_PATH " + string(env("EMU_TRANSLATOR", "")) +
                     " " + tmp + ".ptx " + tmp + ".so " + env("EMU_CFLAGS", "") + " >&2";
        if (system(cmd.c_str())) {
            SAY("translation failed: %s.ptx", tmp.c_str());
            return nullptr;
        }
        rename((tmp + ".so").c_str(), so.c_str());
        rename((tmp + ".ptx").c_str(), (base + ".ptx").c_str());
        rename((tmp + ".so.c").c_str(), (base + ".c").c_str());
    }
    // a copy each: a module has its own variables
    void *lib = dlopen(so.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        SAY("dlopen: %s", dlerror());
        return nullptr;
    }
    Module *m = new Module;
    m->lib = lib;
    m->k = (EmuKernel *)dlsym(lib, "emu_kernels");
    m->g = (EmuGlobal *)dlsym(lib, "emu_globals");
    m->ptx = ptx;
    return m;
}
static int load_image(void **out, const void *image) {
    const unsigned char *p = (const unsigned char *)image;
    string ptx;
    if (!memcmp(p,
                "\x7f"
                "ELF",
                4)) {
        uint64_t shoff, phoff;
        memcpy(&phoff, p + 32, 8);
        memcpy(&shoff, p + 40, 8);
        uint16_t phes, phn, shes, shn;
        memcpy(&phes, p + 54, 2);
        memcpy(&phn, p + 56, 2);
        memcpy(&shes, p + 58, 2);
        memcpy(&shn, p + 60, 2);
        uint64_t end = std::max(shoff + shes * shn, phoff + phes * phn);
        const char *magic = "PTXEMU::";
        const unsigned char *q = nullptr;
        for (uint64_t i = 0; i < 4096; i++)
            if (!memcmp(p + end + i, magic, 8)) {
                q = p + end + i;
                break;
            }
        if (!q) {
            SAY("a cubin without PTX was loaded");
            return 209;
        }
        uint64_t n;
        memcpy(&n, q + 8, 8);
        ptx.assign((const char *)q + 16, n);
    } else if (p[0] == 0x50 && p[1] == 0xed) {
        SAY("a fatbin was loaded");
        return 209;
    } else
        ptx = (const char *)p;
    Module *m = load_ptx(ptx);
    if (!m)
        return 218;
    *out = m;
    return 0;
}
static Func *func_of(Module *m, const char *name) {
    static std::map<std::pair<EmuKernel *, int>, Func *> known;
    for (EmuKernel *k = m->k; k->name; k++)
        if (!strcmp(k->name, name)) {
            Func *&f = known[{k, cur_dev}];
            if (!f)
                f = new Func{k, m, cur_dev};
            return f;
        }
    return nullptr;
}
static int launch(Func *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                  unsigned bz, unsigned dyn, void *s_, void **params, void **extra) {
    if (sticky)
        return sticky;
    Stream *s = S(s_);
    if (!gx || !gy || !gz || !bx || !by || !bz || gx > 2147483647u || gy > 65535 || gz > 65535 ||
        (uint64_t)bx * by * bz > 1024) {
        SAY("launch of %u,%u,%u blocks of %u,%u,%u threads refused", gx, gy, gz, bx, by, bz);
        return 1;
    }
    if (f->k->maxtid && bx * by * bz > f->k->maxtid) {
        SAY("launch of more threads than .maxntid");
        return 1;
    }
    if (f->dev != s->dev) {
        SAY("kernel of device %d on a stream of device %d", f->dev, s->dev);
        return 400;
    }
    if (s->dev != cur_dev) {
        SAY("launch on a stream of device %d while device %d is current", s->dev, cur_dev);
        return 400;
    }
    auto L = std::make_shared<Launch>();
    L->f = f;
    L->dev = s->dev;
    L->g[0] = gx;
    L->g[1] = gy;
    L->g[2] = gz;
    L->b[0] = bx;
    L->b[1] = by;
    L->b[2] = bz;
    L->dyn = dyn;
    EmuKernel *k = f->k;
    uint32_t n = k->nparams ? k->off[k->nparams - 1] + k->size[k->nparams - 1] : 0;
    L->params.resize(n + 16);
    if (params)
        for (uint32_t i = 0; i < k->nparams; i++)
            memcpy(L->params.data() + k->off[i], params[i], k->size[i]);
    else if (extra) {
        void *b = nullptr;
        size_t sz = 0;
        for (void **e = extra; *e; e += 2) {
            if ((uint64_t)*e == 1)
                b = e[1];
            if ((uint64_t)*e == 2)
                sz = *(size_t *)e[1];
        }
        memcpy(L->params.data(), b, std::min<size_t>(sz, n));
    }
    if (tracef())
        fprintf(tracef(), "  launch %.100s <<<%u,%u>>> params %u\n", k->name, gx, bx, k->nparams);
    return enqueue(s, string("kernel ") + k->name, [L] {
        L->id = 0;
        run_kernel(L);
    });
}

// ---- copies
static int is_dev(uint64_t a) {
    Alloc *x = find(a);
    return x && x->kind == 0;
}
static int check_range(uint64_t a, uint64_t n, const char *what) {
    Alloc *x = find(a);
    if (x && x->kind == 0 && a + n > x->hi) {
        SAY("%s beyond an array: %lu bytes at %#lx", what, (long)n, (long)a);
        return 1;
    }
    return 0;
}
static int copy(void *d, const void *s, size_t n, void *st, bool async) {
    if (sticky)
        return sticky;
    if (!n)
        return 0;
    Stream *q = S(st);
    if (check_range((uint64_t)d, n, "copy to") || check_range((uint64_t)s, n, "copy from"))
        return 1;
    Alloc *xd = find((uint64_t)d), *xs = find((uint64_t)s);
    bool hd = !xd || xd->kind, hs = !xs || xs->kind;
    if (!async) {
        if (int e = unsafe("a copy that waits"))
            return e;
        int e = enqueue(q, "memcpy", [=] { memcpy(d, s, n); });
        if (e)
            return e;
        if (!(xd && xs && !hd && !hs))
            drain(q);
        return sticky;
    }
    if (q->capture)
        return enqueue(q,
                       hs && !xs   ? "memcpy from pageable memory"
                       : hd && !xd ? "memcpy to pageable memory"
                                   : "memcpy",
                       [=] { memmove(d, s, n); });
    if (hs && !xs && !hd) {
        auto staged = std::make_shared<vector<char>>((char *)s, (char *)s + n);
        return enqueue(q, "memcpy H2D", [=] { memcpy(d, staged->data(), n); });
    }
    int e = enqueue(q, "memcpy", [=] { memmove(d, s, n); });
    if (e)
        return e;
    if (hd && !xd)
        drain(q);
    return sticky;
}
static int set_(uint64_t d, unsigned v, int w, size_t n, void *st, bool async) {
    if (sticky)
        return sticky;
    if (check_range(d, n * w, "memset"))
        return 1;
    Stream *q = S(st);
    int e = enqueue(q, "memset", [=] {
        if (w == 1)
            memset((void *)d, v, n);
        else
            for (size_t i = 0; i < n; i++)
                memcpy((char *)d + i * w, &v, w);
    });
    return e;
}
static int st_create(void **s, unsigned flags) {
    auto q = new Stream;
    q->flags = flags;
    q->dev = cur_dev;
    streams.insert(q);
    *s = q;
    return 0;
}
static int st_destroy(void *s) {
    if ((uint64_t)s <= 2)
        return 1;
    drain((Stream *)s);
    streams.erase((Stream *)s);
    ((Stream *)s)->alive = false;
    return 0;
}
static int st_sync(void *s_) {
    Stream *s = S(s_);
    if (s->capture) {
        s->capture->invalid = true;
        SAY("synchronize of a capturing stream");
        return 900;
    }
    if (int e = unsafe("stream synchronize"))
        if (is_legacy(s))
            return e;
    drain(s);
    if (is_legacy(s))
        for (auto o : std::set<Stream *>(streams))
            if (blocking(o) && o->dev == s->dev)
                drain(o);
    return sticky;
}
static int st_query(void *s_) {
    Stream *s = S(s_);
    if (s->capture)
        return 900;
    return s->tail && !s->tail->done ? 600 : sticky;
}
static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static int ev_record(void *e_, void *s_) {
    auto e = (Event *)e_;
    Stream *s = S(s_);
    if (s->capture) {
        e->captured = s->capture;
        e->where = s;
        return 0;
    }
    e->captured = nullptr;
    int r = enqueue(s, "event", [e] { e->at = now(); });
    e->op = s->tail;
    return r;
}
static int st_wait(void *s_, void *e_) {
    auto e = (Event *)e_;
    Stream *s = S(s_);
    if (e->captured) {
        if (!s->capture) {
            s->capture = e->captured;
            s->capmode = e->where->capmode;
        }
        return 0;
    }
    if (s->capture) {
        if (e->op && !e->op->done) {
            SAY("a capturing stream waits for an event from outside the capture");
            s->capture->invalid = true;
            return 905;
        }
        return 0;
    }
    if (!e->op || e->op->done)
        return 0;
    auto op = e->op;
    int r = enqueue(s, "event", [] {});
    s->tail->deps.push_back(op);
    return r;
}
static int ev_sync(void *e_) {
    auto e = (Event *)e_;
    if (e->captured) {
        e->captured->invalid = true;
        return 900;
    }
    if (e->op && !e->op->done)
        run_to(e->op->stream, e->op);
    return sticky;
}
static int ev_query(void *e_) {
    auto e = (Event *)e_;
    return e->op && !e->op->done ? 600 : sticky;
}
static int begin_capture(void *s_, int mode) {
    Stream *s = S(s_);
    if (is_legacy(s))
        return 901;
    if (s->capture)
        return 1;
    s->capture = new Graph;
    s->origin = true;
    s->capmode = mode;
    return 0;
}
static int end_capture(void *s_, void **g) {
    Stream *s = S(s_);
    Graph *c = s->capture;
    if (!c)
        return 902;
    for (auto o : streams)
        if (o->capture == c) {
            o->capture = nullptr;
            o->origin = false;
        }
    *g = nullptr;
    if (c->invalid)
        return 901;
    *g = c;
    for (auto &n : c->nodes)
        if (tracef())
            fprintf(tracef(), "  node %s\n", n.what.c_str());
    for (auto &n : c->nodes)
        if (n.what.find("pageable") != string::npos)
            SAY("captured graph holds a %s", n.what.c_str());
    return 0;
}
static int graph_launch(void *g_, void *s) {
    Graph *g = (Graph *)g_;
    if (sticky)
        return sticky;
    auto nodes = std::make_shared<vector<Node>>(g->nodes);
    return enqueue(S(s), "graph", [nodes] {
        for (auto &n : *nodes)
            if (!sticky)
                n.run();
    });
}
static const char *err_name(int e) {
    switch (e) {
    case 0:
        return "success";
    case 1:
        return "invalid value";
    case 2:
        return "out of memory";
    case 700:
        return "illegal memory access";
    case 716:
        return "misaligned address";
    case 719:
        return "launch failure";
    case 801:
        return "not supported (emulator)";
    case 900:
        return "operation not permitted when stream is capturing";
    case 906:
        return "implicit dependency on the legacy stream in a capture";
    case 500:
        return "not found";
    case 600:
        return "not ready";
    case 400:
        return "invalid resource handle";
    case 901:
        return "capture invalidated";
    default:
        return "error (emulator)";
    }
}
__attribute__((destructor)) static void bye() {
    if (getenv("EMU_SUMMARY")) {
        FILE *f = fopen(getenv("EMU_SUMMARY"), "a");
        long n = 0;
        for (auto &x : launched)
            n += x.second;
        fprintf(
            f,
            "process %d: kernels %zu, launches %ld, operations %ld, races %ld, sticky error %d\n",
            getpid(), launched.size(), n, n_ops, races, sticky);
        for (auto &x : launched)
            fprintf(f, "   %ld x %.110s\n", x.second, x.first.c_str());
        fclose(f);
    }
}

static int attr(int a) {
    switch (a) {
    case 1:
        return 1024;
    case 2:
    case 3:
        return 1024;
    case 4:
        return 64;
    case 5:
        return 2147483647;
    case 6:
    case 7:
        return 65535;
    case 8:
        return 49152;
    case 9:
        return 65536;
    case 10:
        return 32;
    case 12:
        return 65536;
    case 13:
        return 1980000;
    case 16:
        return 132;
    case 19:
        return 1;
    case 20:
        return 0;
    case 31:
        return 1;
    case 34:
        return 1;
    case 33:
        return 1;
    case 38:
        return 52428800;
    case 37:
        return 5120;
    case 36:
        return 2619000;
    case 39:
        return 2048;
    case 40:
        return 3;
    case 41:
        return 1;
    case 75:
        return 9;
    case 76:
        return 0;
    case 78:
        return 1;
    case 81:
        return 233472;
    case 82:
        return 65536;
    case 83:
        return 1;
    case 89:
        return 1;
    case 95:
        return 1;
    case 97:
        return 232448;
    case 106:
        return 32;
    case 115:
        return 1;
    case 102:
        return 0;
    default:
        return 0;
    }
}

// ================= driver API
#define R(e) return (CUresult)(e)
X CUresult cuInit(unsigned f) {
    T("%u", f);
    arena_init();
    R(0);
}
X CUresult cuDriverGetVersion(int *v) {
    *v = 13000;
    R(0);
}
X CUresult cuDeviceGetCount(int *n) {
    *n = ndev();
    R(0);
}
X CUresult cuDeviceGet(CUdevice *d, int i) {
    if (i < 0 || i >= ndev())
        R(101);
    *d = i;
    R(0);
}
X CUresult cuDeviceGetName(char *s, int n, CUdevice) {
    snprintf(s, n, "Emulated CC 9.0");
    R(0);
}
X CUresult cuDeviceTotalMem_v2(size_t *n, CUdevice) {
    *n = total_mem;
    R(0);
}
X CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice) {
    *v = attr(a);
    R(0);
}
X CUresult cuDeviceGetUuid(CUuuid *u, CUdevice d) {
    memset(u, 0x11 + d, 16);
    R(0);
}
X CUresult cuDeviceGetPCIBusId(char *s, int n, CUdevice d) {
    snprintf(s, n, "0000:%02x:00.0", d + 1);
    R(0);
}
#define CTX(d) ((CUcontext)(uint64_t)(0x1000 + (d)))
X CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    T("%d", d);
    *c = CTX(d);
    R(0);
}
X CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) {
    T("%d", d);
    R(0);
}
X CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice, unsigned) {
    R(0);
}
X CUresult cuDevicePrimaryCtxReset_v2(CUdevice) {
    R(0);
}
X CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *f, int *a) {
    *f = 0;
    *a = 1;
    R(0);
}
static thread_local bool have_ctx = false;
X CUresult cuCtxGetCurrent(CUcontext *c) {
    *c = have_ctx || ctx_stack.size() ? CTX(cur_dev) : nullptr;
    R(0);
}
X CUresult cuCtxSetCurrent(CUcontext c) {
    T("%p", c);
    if (c) {
        cur_dev = (uint64_t)c - 0x1000;
        have_ctx = true;
    } else
        have_ctx = false;
    R(0);
}
X CUresult cuCtxPushCurrent_v2(CUcontext c) {
    T("%p", c);
    ctx_stack.push_back(have_ctx ? CTX(cur_dev) : nullptr);
    cur_dev = (uint64_t)c - 0x1000;
    have_ctx = true;
    R(0);
}
X CUresult cuCtxPopCurrent_v2(CUcontext *c) {
    T(" ");
    if (c)
        *c = CTX(cur_dev);
    if (ctx_stack.size()) {
        CUcontext o = ctx_stack.back();
        ctx_stack.pop_back();
        if (o)
            cur_dev = (uint64_t)o - 0x1000;
        else
            have_ctx = false;
    }
    R(0);
}
X CUresult cuCtxGetDevice(CUdevice *d) {
    if (!have_ctx)
        R(201);
    *d = cur_dev;
    R(0);
}
X CUresult cuCtxSynchronize() {
    LOCK;
    T(" ");
    if (int e = unsafe("cuCtxSynchronize"))
        R(e);
    drain_all(cur_dev);
    R(sticky);
}
X CUresult cuCtxGetApiVersion(CUcontext, unsigned *v) {
    *v = 13000;
    R(0);
}
X CUresult cuCtxGetFlags(unsigned *f) {
    *f = 0;
    R(0);
}
X CUresult cuCtxGetId(CUcontext c, unsigned long long *i) {
    *i = (uint64_t)(c ? c : CTX(cur_dev));
    R(0);
}
X CUresult cuCtxGetLimit(size_t *n, CUlimit) {
    *n = 1024;
    R(0);
}
X CUresult cuCtxSetLimit(CUlimit, size_t) {
    R(0);
}
X CUresult cuCtxGetStreamPriorityRange(int *a, int *b) {
    *a = 0;
    *b = -5;
    R(0);
}
X CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) {
    LOCK;
    T("%zu", n);
    if (int e = unsafe("cuMemAlloc"))
        R(e);
    *p = dev_alloc(n, 0);
    R(*p ? 0 : 2);
}
X CUresult cuMemFree_v2(CUdeviceptr p) {
    LOCK;
    T("%#llx", p);
    if (!p)
        R(0);
    if (int e = unsafe("cuMemFree"))
        R(e);
    drain_all();
    R(dev_free(p));
}
X CUresult cuMemAllocAsync(CUdeviceptr *p, size_t n, CUstream) {
    LOCK;
    *p = dev_alloc(n, 0);
    R(*p ? 0 : 2);
}
X CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s) {
    LOCK;
    R(enqueue(S(s), "free", [=] { dev_free(p); }));
}
X CUresult cuMemHostAlloc(void **p, size_t n, unsigned) {
    LOCK;
    T("%zu", n);
    *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    allocs[(uint64_t)*p] = {(uint64_t)*p, (uint64_t)*p + n, cur_dev, 1};
    R(0);
}
X CUresult cuMemAllocHost_v2(void **p, size_t n) {
    return cuMemHostAlloc(p, n, 0);
}
X CUresult cuMemFreeHost(void *p) {
    LOCK;
    drain_all();
    allocs.erase((uint64_t)p);
    free(p);
    R(0);
}
X CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned) {
    LOCK;
    allocs[(uint64_t)p] = {(uint64_t)p, (uint64_t)p + n, cur_dev, 1};
    R(0);
}
X CUresult cuMemHostUnregister(void *p) {
    LOCK;
    drain_all();
    allocs.erase((uint64_t)p);
    R(0);
}
X CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *d, void *p, unsigned) {
    *d = (CUdeviceptr)p;
    R(0);
}
X CUresult cuMemGetInfo_v2(size_t *f, size_t *t) {
    *f = total_mem - used_mem;
    *t = total_mem;
    R(0);
}
X CUresult cuMemGetAddressRange_v2(CUdeviceptr *b, size_t *n, CUdeviceptr p) {
    LOCK;
    Alloc *x = find(p);
    if (!x)
        R(1);
    if (b)
        *b = x->lo;
    if (n)
        *n = x->hi - x->lo;
    R(0);
}
X CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *s, size_t n) {
    LOCK;
    T("%zu", n);
    R(copy((void *)d, s, n, 0, false));
}
X CUresult cuMemcpyDtoH_v2(void *d, CUdeviceptr s, size_t n) {
    LOCK;
    T("%zu", n);
    R(copy(d, (void *)s, n, 0, false));
}
X CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) {
    LOCK;
    T("%zu", n);
    R(copy((void *)d, (void *)s, n, 0, false));
}
X CUresult cuMemcpy(CUdeviceptr d, CUdeviceptr s, size_t n) {
    LOCK;
    R(copy((void *)d, (void *)s, n, 0, false));
}
X CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *s, size_t n, CUstream q) {
    LOCK;
    T("%zu", n);
    R(copy((void *)d, s, n, q, true));
}
X CUresult cuMemcpyDtoHAsync_v2(void *d, CUdeviceptr s, size_t n, CUstream q) {
    LOCK;
    T("%zu", n);
    R(copy(d, (void *)s, n, q, true));
}
X CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream q) {
    LOCK;
    R(copy((void *)d, (void *)s, n, q, true));
}
X CUresult cuMemcpyAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream q) {
    LOCK;
    R(copy((void *)d, (void *)s, n, q, true));
}
X CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) {
    LOCK;
    R(set_(d, v, 1, n, 0, false));
}
X CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, CUstream q) {
    LOCK;
    R(set_(d, v, 1, n, q, true));
}
X CUresult cuMemsetD32_v2(CUdeviceptr d, unsigned v, size_t n) {
    LOCK;
    R(set_(d, v, 4, n, 0, false));
}
X CUresult cuMemsetD32Async(CUdeviceptr d, unsigned v, size_t n, CUstream q) {
    LOCK;
    R(set_(d, v, 4, n, q, true));
}
X CUresult cuStreamCreate(CUstream *s, unsigned f) {
    LOCK;
    T("%u", f);
    R(st_create((void **)s, f));
}
X CUresult cuStreamCreateWithPriority(CUstream *s, unsigned f, int) {
    LOCK;
    R(st_create((void **)s, f));
}
X CUresult cuStreamDestroy_v2(CUstream s) {
    LOCK;
    T("%p", s);
    R(st_destroy(s));
}
X CUresult cuStreamSynchronize(CUstream s) {
    LOCK;
    T("%p", s);
    R(st_sync(s));
}
X CUresult cuStreamQuery(CUstream s) {
    LOCK;
    R(st_query(s));
}
X CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned) {
    LOCK;
    T("%p %p", s, e);
    R(st_wait(s, e));
}
X CUresult cuStreamGetFlags(CUstream s, unsigned *f) {
    *f = S(s)->flags;
    R(0);
}
X CUresult cuStreamGetCtx(CUstream s, CUcontext *c) {
    *c = CTX(S(s)->dev);
    R(0);
}
X CUresult cuStreamGetPriority(CUstream, int *p) {
    *p = 0;
    R(0);
}
X CUresult cuStreamGetId(CUstream s, unsigned long long *i) {
    *i = (uint64_t)s;
    R(0);
}
X CUresult cuStreamGetDevice(CUstream s, CUdevice *d) {
    *d = S(s)->dev;
    R(0);
}
X CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *c) {
    Graph *g = S(s)->capture;
    *c = (CUstreamCaptureStatus)(!g ? 0 : g->invalid ? 2 : 1);
    R(0);
}
X CUresult cuStreamAddCallback(CUstream s, CUstreamCallback f, void *u, unsigned) {
    LOCK;
    R(enqueue(S(s), "callback", [=] { f(s, (CUresult)0, u); }));
}
X CUresult cuLaunchHostFunc(CUstream s, CUhostFn f, void *u) {
    LOCK;
    R(enqueue(S(s), "host", [=] { f(u); }));
}
X CUresult cuEventCreate(CUevent *e, unsigned f) {
    auto x = new Event;
    x->flags = f;
    *e = (CUevent)x;
    R(0);
}
X CUresult cuEventRecord(CUevent e, CUstream s) {
    LOCK;
    T("%p %p", e, s);
    R(ev_record(e, s));
}
X CUresult cuEventSynchronize(CUevent e) {
    LOCK;
    T("%p", e);
    R(ev_sync(e));
}
X CUresult cuEventQuery(CUevent e) {
    LOCK;
    R(ev_query(e));
}
X CUresult cuEventDestroy_v2(CUevent e) {
    LOCK;
    ev_sync(e);
    R(0);
}
X CUresult cuEventElapsedTime_v2(float *t, CUevent a, CUevent b) {
    *t = ((Event *)b)->at - ((Event *)a)->at;
    R(0);
}
X CUresult cuModuleLoadData(CUmodule *m, const void *i) {
    LOCK;
    T(" ");
    if (capturing_any())
        SAY("a module is loaded while a graph is captured");
    R(load_image((void **)m, i));
}
X CUresult cuModuleLoadDataEx(CUmodule *m, const void *i, unsigned, CUjit_option *, void **) {
    LOCK;
    T(" ");
    R(load_image((void **)m, i));
}
X CUresult cuModuleLoad(CUmodule *m, const char *) {
    R(801);
}
X CUresult cuModuleUnload(CUmodule) {
    T(" ");
    R(0);
}
X CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) {
    LOCK;
    T("%s", n);
    *f = (CUfunction)func_of((Module *)m, n);
    R(*f ? 0 : 500);
}
X CUresult cuModuleGetGlobal_v2(CUdeviceptr *p, size_t *n, CUmodule m, const char *name) {
    for (EmuGlobal *g = ((Module *)m)->g; g->name; g++)
        if (!strcmp(g->name, name)) {
            if (p)
                *p = (CUdeviceptr)g->at;
            if (n)
                *n = g->size;
            R(0);
        }
    R(500);
}
X CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *m) {
    *m = (CUmoduleLoadingMode)1;
    R(0);
}
X CUresult cuLibraryLoadData(CUlibrary *m, const void *i, CUjit_option *, void **, unsigned,
                             CUlibraryOption *, void **, unsigned) {
    LOCK;
    T(" ");
    R(load_image((void **)m, i));
}
X CUresult cuLibraryUnload(CUlibrary) {
    R(0);
}
X CUresult cuLibraryGetKernel(CUkernel *f, CUlibrary m, const char *n) {
    LOCK;
    T("%s", n);
    *f = (CUkernel)func_of((Module *)m, n);
    R(*f ? 0 : 500);
}
X CUresult cuLibraryGetModule(CUmodule *o, CUlibrary m) {
    *o = (CUmodule)m;
    R(0);
}
X CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) {
    *f = (CUfunction)k;
    R(0);
}
static int fattr(int a, Func *f) {
    switch (a) {
    case 0:
        return 1024;
    case 1:
        return f->k->shared;
    case 4:
        return 32;
    case 5:
    case 6:
        return 90;
    default:
        return 0;
    }
}
X CUresult cuKernelGetAttribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice) {
    *v = fattr(a, (Func *)k);
    R(0);
}
X CUresult cuKernelSetAttribute(CUfunction_attribute, int, CUkernel, CUdevice) {
    R(0);
}
X CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
    *v = fattr(a, (Func *)f);
    R(0);
}
X CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
    R(0);
}
X CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) {
    R(0);
}
X CUresult cuFuncGetParamInfo(CUfunction f, size_t i, size_t *o, size_t *s) {
    EmuKernel *k = ((Func *)f)->k;
    if (i >= k->nparams)
        R(1);
    *o = k->off[i];
    if (s)
        *s = k->size[i];
    R(0);
}
X CUresult cuKernelGetParamInfo(CUkernel f, size_t i, size_t *o, size_t *s) {
    return cuFuncGetParamInfo((CUfunction)f, i, o, s);
}
X CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e,
                          unsigned g, unsigned sh, CUstream s, void **p, void **x) {
    LOCK;
    T("%s", ((Func *)f)->k->name);
    R(launch((Func *)f, a, b, c, d, e, g, sh, s, p, x));
}
X CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **x) {
    LOCK;
    T("%s", ((Func *)f)->k->name);
    R(launch((Func *)f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY,
             c->blockDimZ, c->sharedMemBytes, c->hStream, p, x));
}
X CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d,
                                     unsigned e, unsigned g, unsigned sh, CUstream s, void **p) {
    R(801);
}
X CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction, int b, size_t) {
    *n = 2048 / b;
    R(0);
}
X CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, CUfunction, int b, size_t,
                                                                unsigned) {
    *n = 2048 / b;
    R(0);
}
X CUresult cuOccupancyMaxPotentialBlockSize(int *g, int *b, CUfunction, CUoccupancyB2DSize, size_t,
                                            int) {
    *g = 264;
    *b = 1024;
    R(0);
}
X CUresult cuPointerGetAttribute(void *v, CUpointer_attribute a, CUdeviceptr p) {
    LOCK;
    Alloc *x = find(p);
    switch ((int)a) {
    case 1:
        if (!x)
            R(1);
        *(CUcontext *)v = CTX(x->dev);
        R(0);
    case 2:
        if (!x)
            R(1);
        *(unsigned *)v = x->kind == 0 ? 2 : 1;
        R(0);
    case 3:
    case 4:
        *(uint64_t *)v = p;
        R(x ? 0 : 1);
    case 8:
        *(unsigned *)v = x && x->kind == 2;
        R(x ? 0 : 1);
    case 9:
        *(int *)v = x ? x->dev : -2;
        R(x ? 0 : 1);
    case 11:
        *(uint64_t *)v = x ? x->lo : 0;
        R(x ? 0 : 1);
    case 12:
        *(uint64_t *)v = x ? x->hi - x->lo : 0;
        R(x ? 0 : 1);
    }
    R(1);
}
X CUresult cuGetErrorName(CUresult e, const char **s) {
    *s = err_name(e);
    R(0);
}
X CUresult cuGetErrorString(CUresult e, const char **s) {
    *s = err_name(e);
    R(0);
}
X CUresult cuGetExportTable(const void **, const CUuuid *) {
    T(" ");
    R(500);
} // private tables: there are none
X CUresult cuProfilerStart() {
    R(0);
}
X CUresult cuProfilerStop() {
    R(0);
}
X CUresult cuDeviceCanAccessPeer(int *c, CUdevice, CUdevice) {
    *c = 0;
    R(0);
}
X CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *p, CUdevice d) {
    *p = (CUmemoryPool)(uint64_t)(0x2000 + d);
    R(0);
}
X CUresult cuDeviceGetMemPool(CUmemoryPool *p, CUdevice d) {
    *p = (CUmemoryPool)(uint64_t)(0x2000 + d);
    R(0);
}
X CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute, void *v) {
    *(uint64_t *)v = ~0ull;
    R(0);
}
X CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void *) {
    R(0);
}
X CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) {
    R(0);
}
X CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t n, CUmemoryPool, CUstream) {
    LOCK;
    T("%zu", n);
    *p = dev_alloc(n, 0);
    R(*p ? 0 : 2);
}
X CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *) {
    R(0);
}
X CUresult cuGetProcAddress_v2(const char *n, void **p, int v, cuuint64_t f,
                               CUdriverProcAddressQueryResult *st) {
    static void *self = nullptr;
    if (!self) {
        Dl_info i;
        dladdr((void *)cuInit, &i);
        self = dlopen(i.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }
    for (string s : {string(n) + "_v3", string(n) + "_v2", string(n)}) {
        if (s.find("_v3") != string::npos)
            continue;
        if (void *q = dlsym(self, s.c_str())) {
            *p = q;
            if (st)
                *st = (CUdriverProcAddressQueryResult)0;
            R(0);
        }
    }
    *p = nullptr;
    if (st)
        *st = (CUdriverProcAddressQueryResult)1;
    if (tracef())
        fprintf(tracef(), "  missing %s\n", n);
    R(500);
}
#undef cuGetProcAddress
X CUresult cuGetProcAddress(const char *n, void **p, int v, cuuint64_t f,
                            CUdriverProcAddressQueryResult *st) {
    return cuGetProcAddress_v2(n, p, v, f, st);
}

// ================= runtime API (put in the place of CuPy's static one)
#undef R
#define R(e)                                                                                       \
    do {                                                                                           \
        int e_ = (e);                                                                              \
        if (e_)                                                                                    \
            last_error = e_;                                                                       \
        return (cudaError_t)e_;                                                                    \
    } while (0)
X cudaError_t cudaGetDeviceCount(int *n) {
    *n = ndev();
    R(0);
}
X cudaError_t cudaGetDevice(int *d) {
    *d = cur_dev;
    R(0);
}
X cudaError_t cudaSetDevice(int d) {
    T("%d", d);
    if (d < 0 || d >= ndev())
        R(101);
    cur_dev = d;
    have_ctx = true;
    R(0);
}
X cudaError_t cudaDriverGetVersion(int *v) {
    *v = 13000;
    R(0);
}
X cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = 13000;
    R(0);
}
X cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int) {
    *v = attr(a);
    R(0);
}
X cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) {
    snprintf(s, n, "0000:%02x:00.0", d + 1);
    R(0);
}
X cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Emulated CC 9.0");
    p->major = 9;
    p->minor = 0;
    p->totalGlobalMem = total_mem;
    p->warpSize = 32;
    p->multiProcessorCount = 132;
    p->maxThreadsPerBlock = 1024;
    p->sharedMemPerBlock = 49152;
    p->regsPerBlock = 65536;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->l2CacheSize = 52428800;
    p->unifiedAddressing = 1;
    p->managedMemory = 1;
    p->pciBusID = d + 1;
    p->memoryBusWidth = 5120;
    R(0);
}
X cudaError_t cudaDeviceSynchronize() {
    LOCK;
    T(" ");
    if (int e = unsafe("cudaDeviceSynchronize"))
        R(e);
    drain_all(cur_dev);
    R(sticky);
}
X cudaError_t cudaDeviceCanAccessPeer(int *c, int, int) {
    *c = 0;
    R(0);
}
X cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
    R(217);
}
X cudaError_t cudaDeviceGetLimit(size_t *n, cudaLimit) {
    *n = 1024;
    R(0);
}
X cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) {
    R(0);
}
X cudaError_t cudaMalloc(void **p, size_t n) {
    LOCK;
    T("%zu", n);
    if (int e = unsafe("cudaMalloc"))
        R(e);
    *p = (void *)dev_alloc(n, 0);
    R(*p || !n ? 0 : 2);
}
X cudaError_t cudaMallocManaged(void **p, size_t n, unsigned) {
    LOCK;
    T("%zu", n);
    *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    allocs[(uint64_t)*p] = {(uint64_t)*p, (uint64_t)*p + n, cur_dev, 2};
    R(0);
}
X cudaError_t cudaFree(void *p) {
    LOCK;
    T("%p", p);
    if (!p)
        R(0);
    if (int e = unsafe("cudaFree"))
        R(e);
    drain_all();
    Alloc *x = find((uint64_t)p);
    if (x && x->kind == 2) {
        allocs.erase((uint64_t)p);
        free(p);
        R(0);
    }
    R(dev_free((uint64_t)p));
}
X cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) {
    LOCK;
    T("%zu %p", n, s);
    *p = (void *)dev_alloc(n, 0);
    R(*p ? 0 : 2);
}
X cudaError_t cudaMallocFromPoolAsync(void **p, size_t n, cudaMemPool_t, cudaStream_t s) {
    LOCK;
    *p = (void *)dev_alloc(n, 0);
    R(*p ? 0 : 2);
}
X cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
    LOCK;
    T("%p %p", p, s);
    uint64_t a = (uint64_t)p;
    R(enqueue(S(s), "free", [=] { dev_free(a); }));
}
X cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) {
    T("%zu", n);
    R(cuMemHostAlloc(p, n, f));
}
#undef cudaMallocHost
X cudaError_t cudaMallocHost(void **p, size_t n) {
    R(cuMemHostAlloc(p, n, 0));
}
X cudaError_t cudaFreeHost(void *p) {
    R(cuMemFreeHost(p));
}
X cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) {
    R(cuMemHostRegister_v2(p, n, f));
}
X cudaError_t cudaHostUnregister(void *p) {
    R(cuMemHostUnregister(p));
}
X cudaError_t cudaMemGetInfo(size_t *f, size_t *t) {
    *f = total_mem - used_mem;
    *t = total_mem;
    R(0);
}
X cudaError_t cudaMemcpy(void *d, const void *s, size_t n, cudaMemcpyKind) {
    LOCK;
    T("%zu", n);
    R(copy(d, s, n, 0, false));
}
X cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind k, cudaStream_t q) {
    LOCK;
    T("%p %p %zu kind %d stream %p", d, s, n, k, q);
    R(copy(d, s, n, q, true));
}
X cudaError_t cudaMemcpyPeerAsync(void *d, int, const void *s, int, size_t n, cudaStream_t q) {
    LOCK;
    T("%zu", n);
    R(copy(d, s, n, q, true));
}
X cudaError_t cudaMemcpyPeer(void *d, int, const void *s, int, size_t n) {
    LOCK;
    drain_all();
    R(copy(d, s, n, 0, false));
}
X cudaError_t cudaMemset(void *d, int v, size_t n) {
    LOCK;
    T("%zu", n);
    R(set_((uint64_t)d, v, 1, n, 0, false));
}
X cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t q) {
    LOCK;
    T("%zu", n);
    R(set_((uint64_t)d, v, 1, n, q, true));
}
X cudaError_t cudaMemPrefetchAsync(const void *, size_t, cudaMemLocation, unsigned, cudaStream_t) {
    R(0);
}
X cudaError_t cudaMemAdvise(const void *, size_t, cudaMemoryAdvise, cudaMemLocation) {
    R(0);
}
X cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
    LOCK;
    Alloc *x = find((uint64_t)p);
    memset(a, 0, sizeof *a);
    a->device = x ? x->dev : -2;
    a->type = (cudaMemoryType)(!x ? 0 : x->kind == 0 ? 2 : x->kind == 1 ? 1 : 3);
    a->devicePointer = x ? (void *)p : nullptr;
    a->hostPointer = x && x->kind ? (void *)p : nullptr;
    R(0);
}
X cudaError_t cudaStreamCreate(cudaStream_t *s) {
    LOCK;
    T(" ");
    R(st_create((void **)s, 0));
}
X cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) {
    LOCK;
    T("%u", f);
    R(st_create((void **)s, f));
}
X cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int) {
    LOCK;
    T("%u", f);
    R(st_create((void **)s, f));
}
X cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned *f) {
    *f = S(s)->flags;
    R(0);
}
X cudaError_t cudaStreamGetPriority(cudaStream_t, int *p) {
    *p = 0;
    R(0);
}
X cudaError_t cudaStreamDestroy(cudaStream_t s) {
    LOCK;
    T("%p", s);
    R(st_destroy(s));
}
X cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    LOCK;
    T("%p", s);
    R(st_sync(s));
}
X cudaError_t cudaStreamQuery(cudaStream_t s) {
    LOCK;
    int e = st_query(s);
    return (cudaError_t)e;
}
X cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    LOCK;
    T("%p %p", s, e);
    R(st_wait(s, e));
}
X cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *c) {
    LOCK;
    Stream *q = S(s);
    if (is_legacy(q))
        for (auto o : streams)
            if (o->capture && blocking(o)) {
                *c = (cudaStreamCaptureStatus)0;
                last_error = 906;
                return (cudaError_t)906;
            }
    Graph *g = q->capture;
    *c = (cudaStreamCaptureStatus)(!g ? 0 : g->invalid ? 2 : 1);
    return (cudaError_t)0;
}
X cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode m) {
    LOCK;
    T("%p %d", s, m);
    R(begin_capture(s, m));
}
X cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    LOCK;
    T("%p", s);
    R(end_capture(s, (void **)g));
}
X cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *u, unsigned) {
    LOCK;
    R(enqueue(S(s), "callback", [=] { f(s, (cudaError_t)0, u); }));
}
X cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *u) {
    LOCK;
    R(enqueue(S(s), "host", [=] { f(u); }));
}
X cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long) {
    *x = (cudaGraphExec_t)g;
    R(0);
}
X cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long) {
    *x = (cudaGraphExec_t)g;
    R(0);
}
X cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
    LOCK;
    T("%p", s);
    R(graph_launch(x, s));
}
X cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    R(0);
}
X cudaError_t cudaGraphDestroy(cudaGraph_t) {
    R(0);
}
X cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) {
    R(0);
}
#undef cudaEventCreate
X cudaError_t cudaEventCreate(cudaEvent_t *e) {
    R(cuEventCreate((CUevent *)e, 0));
}
X cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) {
    R(cuEventCreate((CUevent *)e, f));
}
X cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    LOCK;
    T("%p %p", e, s);
    R(ev_record(e, s));
}
X cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    LOCK;
    T("%p", e);
    R(ev_sync(e));
}
X cudaError_t cudaEventQuery(cudaEvent_t e) {
    LOCK;
    return (cudaError_t)ev_query(e);
}
X cudaError_t cudaEventDestroy(cudaEvent_t e) {
    LOCK;
    ev_sync(e);
    R(0);
}
X cudaError_t cudaEventElapsedTime(float *t, cudaEvent_t a, cudaEvent_t b) {
    *t = ((Event *)b)->at - ((Event *)a)->at;
    R(0);
}
X cudaError_t cudaGetLastError() {
    int e = last_error;
    last_error = 0;
    return (cudaError_t)e;
}
X cudaError_t cudaPeekAtLastError() {
    return (cudaError_t)last_error;
}
X const char *cudaGetErrorName(cudaError_t e) {
    return err_name(e);
}
X const char *cudaGetErrorString(cudaError_t e) {
    return err_name(e);
}
X cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int d) {
    *p = (cudaMemPool_t)(uint64_t)(0x2000 + d);
    R(0);
}
X cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *p, int d) {
    *p = (cudaMemPool_t)(uint64_t)(0x2000 + d);
    R(0);
}
X cudaError_t cudaProfilerStart() {
    R(0);
}
X cudaError_t cudaProfilerStop() {
    R(0);
}
X long emu_not_supported(const char *n) {
    if (tracef())
        fprintf(tracef(), "UNSUPPORTED %s\n", n);
    SAY("runtime function without an emulation: %s", n);
    last_error = 801;
    return 801;
}
X void emu_open(int on) {
    static Open *o;
    if (on && !o)
        o = new Open;
    else if (!on && o) {
        delete o;
        o = nullptr;
    }
}
X long emu_races() {
    return races;
}
X long emu_pending() {
    LOCK;
    long n = 0;
    for (auto l : legacy)
        if (l)
            n += l->q.size();
    for (auto s : streams)
        n += s->q.size();
    return n;
}

// Copies the faults since the last call, as lines, and forgets them. Returns their length.
X long emu_take_faults(char *into, long size) {
    LOCK;
    long n = std::min<long>(size, faults.size());
    memcpy(into, faults.data(), n);
    faults.clear();
    return n;
}
