/*
 * loop.c - connections and the epoll loops that move their bytes; one loop a thread.
 *
 * All connections of a loop read into one large buffer, in which only what is not yet whole is put back in front
 * the next time: it stays in the cache, however many they are. What is written is gathered for a connection and
 * sent once a round. A run has three stages, each begun by all loops together: open, measure, and wait for what is
 * still on its way.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "load.h"

#define SCRATCH      ((size_t)4 * 1024 * 1024) /* the longest message */
#define READ_MOST    ((size_t)256 * 1024)
#define OPENING      64 /* connections that a loop opens at a time */
#define PATIENCE     (20 * NS)
#define PORTS_SOURCE 20000 /* connections from one source address */
#define ERRORS_SHOWN 5

struct run run;
static pthread_barrier_t barrier;

uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS + (uint64_t)ts.tv_nsec;
}

void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("eventbus-load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

/* ---- one connection ---- */

void conn_fail(struct conn *c, const char *format, ...)
{
    static const char *const roles[] = {"publisher", "publisher", "subscriber", "subscriber",
                                        "client"};
    va_list args;

    if (atomic_fetch_add(&run.errors, 1) < ERRORS_SHOWN) {
        flockfile(stderr);
        fprintf(stderr, "eventbus-load: %s %u: ", roles[c->role], c->number);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fputc('\n', stderr);
        funlockfile(stderr);
    }
    atomic_store(&run.failed, true);
}

void conn_fail_bytes(struct conn *c, const char *what, const void *bytes, size_t len)
{
    char text[601];
    size_t shown = len < sizeof(text) - 1 ? len : sizeof(text) - 1;

    for (size_t i = 0; i < shown; i++) {
        unsigned char byte = ((const unsigned char *)bytes)[i];
        text[i] = (char)(byte >= ' ' && byte < 127 ? byte : '.');
    }
    text[shown] = '\0';
    conn_fail(c, "%s: %s", what, text);
}

void conn_ready(struct conn *c)
{
    if (c->ready)
        return;
    c->ready = true;
    c->loop->ready++;
}

uint8_t *conn_reserve(struct conn *c, size_t len)
{
    if (c->out_cap - c->out_to < len) {
        size_t held = c->out_to - c->out_from, cap = c->out_cap ? c->out_cap : 4096;
        while (cap < held + len)
            cap *= 2;
        uint8_t *out = malloc(cap);
        if (!out)
            die("no memory");
        if (held)
            memcpy(out, c->out + c->out_from, held);
        free(c->out);
        c->out = out;
        c->out_cap = cap;
        c->out_from = 0;
        c->out_to = held;
    }
    return c->out + c->out_to;
}

void conn_put(struct conn *c, const void *bytes, size_t len)
{
    memcpy(conn_reserve(c, len), bytes, len);
    conn_wrote(c, len);
}

void conn_printf(struct conn *c, const char *format, ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    if (len < 0)
        die("no memory");
    conn_put(c, text, (size_t)len);
    free(text);
}

static void want(struct conn *c, bool out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? (unsigned)EPOLLOUT : 0), .data.ptr = c};

    if (out == c->wants_out)
        return;
    c->wants_out = out;
    if (epoll_ctl(c->loop->epoll, EPOLL_CTL_MOD, c->fd, &event) < 0)
        die("epoll_ctl: %m");
}

void conn_deafen(struct conn *c)
{
    if (epoll_ctl(c->loop->epoll, EPOLL_CTL_DEL, c->fd, NULL) < 0)
        die("epoll_ctl: %m");
}

void conn_flush(struct conn *c)
{
    while (c->out_from < c->out_to && c->fd >= 0) {
        ssize_t sent = send(c->fd, c->out + c->out_from, c->out_to - c->out_from, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            want(c, true);
            return;
        }
        if (sent < 0) {
            if (c->role != ROLE_SERVED)
                conn_fail(c, "send: %m");
            c->out_from = c->out_to = 0;
            return;
        }
        c->out_from += (size_t)sent;
    }
    c->out_from = c->out_to = 0;
    want(c, false);
}

/* What was not used comes first the next time. */
static void keep(struct conn *c, const uint8_t *bytes, size_t len)
{
    if (c->rest_cap < len) {
        free(c->rest);
        c->rest_cap = len * 2;
        c->rest = malloc(c->rest_cap);
        if (!c->rest)
            die("no memory");
    }
    if (len)
        memcpy(c->rest, bytes, len);
    c->rest_len = len;
}

bool conn_read(struct conn *c, size_t (*parse)(struct conn *, uint8_t *, size_t))
{
    struct loop *loop = c->loop;
    size_t held = c->rest_len, room = SCRATCH - held;

    if (room == 0) {
        conn_fail(c, "a message longer than %zu bytes", SCRATCH);
        return false;
    }
    ssize_t got = recv(c->fd, loop->scratch + held, room < READ_MOST ? room : READ_MOST, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got <= 0) {
        if (c->role != ROLE_SERVED)
            conn_fail(c, got == 0 ? "the peer closed the connection" : "recv: %m");
        return false;
    }
    if (held)
        memcpy(loop->scratch, c->rest, held);
    loop->now = loop->progress = now_ns();
    size_t len = held + (size_t)got, used = parse(c, loop->scratch, len);
    keep(c, loop->scratch + used, len - used);
    return true;
}

/* ---- opening ---- */

static int connect_to(unsigned nth)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket: %m");
    if (inet_pton(AF_INET, opt.host, &to.sin_addr) != 1)
        die("--host: an IPv4 address, not \"%s\"", opt.host);
    if (nth >= PORTS_SOURCE) {
        /* The ports of one address run out: loopback has many addresses. */
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + nth / PORTS_SOURCE);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0)
            die("bind: %m");
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        die("connect to %s:%u: %m", opt.host, opt.port);
    return fd;
}

void loop_init(struct loop *loop)
{
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->scratch = malloc(SCRATCH);
    if (loop->epoll < 0 || !loop->scratch)
        die("epoll: %m");
}

void loop_attach(struct loop *loop, struct conn *c, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
        die("TCP_NODELAY: %m");
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        die("O_NONBLOCK: %m");
    c->loop = loop;
    c->fd = fd;
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl: %m");
}

struct conn *loop_add(enum role role, unsigned number)
{
    static unsigned next;
    struct loop *loop = &run.loops[next++ % run.loops_len];
    struct conn *c = calloc(1, sizeof(*c));

    if (!c ||
        !(loop->conns = reallocarray(loop->conns, loop->conns_len + 1, sizeof(struct conn *))))
        die("no memory");
    c->wire = role == ROLE_FEEDER && opt.wire->feeder ? opt.wire->feeder : opt.wire;
    c->role = role;
    c->number = number;
    memset(c->stamp, '0', STAMP);
    c->loop = loop;
    c->fd = -1;
    loop->conns[loop->conns_len++] = c;
    return c;
}

/* Open some more, but not so many that the broker's list of unaccepted ones overflows. */
static void open_more(struct loop *loop)
{
    while (loop->opened < loop->conns_len && loop->opened - loop->ready < OPENING) {
        struct conn *c = loop->conns[loop->opened];
        loop_attach(loop, c, connect_to((unsigned)loop->opened * run.loops_len + loop->number));
        loop->opened++;
        c->wire->open(c);
        conn_flush(c);
    }
}

/* ---- the rounds ---- */

static void one_event(struct loop *loop, const struct epoll_event *event)
{
    struct conn *c = event->data.ptr;

    if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !conn_read(c, c->wire->parse)) {
        epoll_ctl(loop->epoll, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    if (c->ready && loop->begun && loop->mode->progress)
        loop->mode->progress(c);
    if (c->out_from < c->out_to)
        conn_flush(c);
}

static void wait_round(struct loop *loop, uint64_t timeout)
{
    struct epoll_event events[256];
    struct timespec ts = {.tv_sec = (time_t)(timeout / NS), .tv_nsec = (long)(timeout % NS)};
    int count = epoll_pwait2(loop->epoll, events, 256, &ts, NULL);

    if (count < 0 && errno != EINTR)
        die("epoll_wait: %m");
    for (int i = 0; i < count; i++)
        one_event(loop, &events[i]);
}

static bool stuck(struct loop *loop, const char *what)
{
    if (loop->mode->waits || (opt.publishers == 0 && loop->mode != &mode_work) ||
        now_ns() - loop->progress < PATIENCE)
        return false;
    atomic_store(&run.failed, true);
    if (atomic_fetch_add(&run.errors, 1) == 0)
        fprintf(stderr, "eventbus-load: %s: nothing came for %llu s\n", what, PATIENCE / NS);
    return true;
}

static void stage_open(struct loop *loop)
{
    loop->progress = now_ns();
    while (loop->ready < loop->conns_len && !atomic_load(&run.failed) && !stuck(loop, "opening")) {
        open_more(loop);
        wait_round(loop, NS / 10);
    }
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void set_times(void)
{
    run.start = now_ns();
    run.measure = run.start + (uint64_t)(opt.warmup * 1e9);
    run.end = opt.events ? UINT64_MAX : run.measure + (uint64_t)(opt.seconds * 1e9);
}

/* The time that is measured begins and ends; the first loop keeps what the CPU did in it. */
static void keep_time(struct loop *loop)
{
    uint64_t now = now_ns();
    bool counting = now >= run.measure && now < run.end;

    if (loop->number == 0 && counting && !loop->counting)
        run.cpu_s -= cpu_seconds();
    if (loop->number == 0 && !counting && loop->counting)
        run.cpu_s += cpu_seconds();
    loop->counting = counting;
    if (now >= run.end)
        loop->stopped = true;
}

static void stage_measure(struct loop *loop)
{
    const struct mode *mode = loop->mode;
    uint64_t wait = 0;

    loop->now = loop->progress = now_ns();
    keep_time(loop);
    loop->begun = true;
    mode->begin(loop);
    while (!atomic_load(&run.failed)) {
        wait_round(loop, wait);
        keep_time(loop);
        wait = mode->turn(loop);
        if (mode->done(loop) || stuck(loop, "waiting for answers"))
            break;
    }
    if (loop->number == 0 && loop->counting)
        run.cpu_s += cpu_seconds();
}

static void *loop_main(void *arg)
{
    struct loop *loop = arg;

    prctl(PR_SET_TIMERSLACK,
          1); /* 50 us otherwise, which a paced publisher would add to each latency */
    stage_open(loop);
    if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
        set_times();
    pthread_barrier_wait(&barrier);
    if (!atomic_load(&run.failed))
        stage_measure(loop);
    return NULL;
}

bool loop_run(const struct mode *mode)
{
    run.loops_len = opt.threads;
    run.loops = calloc(run.loops_len, sizeof(*run.loops));
    if (!run.loops || pthread_barrier_init(&barrier, NULL, run.loops_len) != 0)
        die("no memory");
    for (unsigned i = 0; i < run.loops_len; i++) {
        run.loops[i].mode = mode;
        run.loops[i].number = i;
        loop_init(&run.loops[i]);
    }
    mode->plan();
    run.begun = now_ns();
    for (unsigned i = 1; i < run.loops_len; i++)
        if (pthread_create(&run.loops[i].thread, NULL, loop_main, &run.loops[i]) != 0)
            die("no thread");
    loop_main(&run.loops[0]);
    uint64_t last = run.loops[0].progress;
    for (unsigned i = 1; i < run.loops_len; i++) {
        pthread_join(run.loops[i].thread, NULL);
        if (run.loops[i].progress > last)
            last = run.loops[i].progress;
    }
    run.seconds = (double)((run.end == UINT64_MAX ? last : run.end) - run.measure) / 1e9;
    return !atomic_load(&run.failed);
}
