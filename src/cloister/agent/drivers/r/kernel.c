/* The native part of the R driver: the protocol socket, which R cannot open, and R's console output.
 *
 * R writes its console in many small pieces. They are joined to lines here: a line goes out at its newline, or with its neighbours
 * when lines come faster than one in a millisecond; a part of a line goes out after two milliseconds of rest (a progress bar),
 * which is the work of a thread that does nothing but write. So output streams, is complete and in order, and is never held without bound.
 *
 * Text must not overtake a plot that was drawn before it, so kernel.R is told when a page of its device ends, and, before text, that there is
 * one whose drawing was not sent yet: the functions of the device are wrapped (kernel_watch) and count what is drawn.
 *
 * What R's C code and child processes write to descriptors 1 and 2 goes the same way, to the same pipes, so kernel.R calls kernel_flush
 * before it starts a child. A forked R (parallel) has no such thread and writes at once.
 */
#define _GNU_SOURCE
#define R_INTERFACE_PTRS 1
#define CSTACK_DEFNS 1
#define R_NO_REMAP 1
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <Rinternals.h>
#include <Rinterface.h>
#include <R_ext/GraphicsEngine.h>

extern int R_interrupts_pending;
extern Rboolean R_interrupts_suspended;

#define CAPACITY 65536
#define HOT_NS 1000000L
#define REST_NS 2000000L

struct stream {
    int fd;
    size_t used;
    long long written_at;
    char data[CAPACITY];
};

static struct stream streams[2] = {{.fd = 1}, {.fd = 2}};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t pending = PTHREAD_COND_INITIALIZER;
static int channel = -1;
static int is_child;

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Write everything, whatever it takes: the reader's slowness is our back-pressure. 0, or -1 when there is no reader any more. */
static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n >= 0) {
            data += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd p = {fd, POLLOUT, 0};
            poll(&p, 1, -1);
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

/* Needs: lock. */
static void flush_stream(struct stream *s)
{
    if (s->used > 0)
        write_all(s->fd, s->data, s->used);
    s->used = 0;
    s->written_at = now_ns();
}

static void flush_all(void)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 2; i++)
        if (streams[i].used > 0)
            flush_stream(&streams[i]);
    pthread_mutex_unlock(&lock);
}

/* Waits until something is held back, lets it rest, and writes it. */
static void *flusher(void *unused)
{
    struct timespec rest = {0, REST_NS};
    for (;;) {
        pthread_mutex_lock(&lock);
        while (streams[0].used == 0 && streams[1].used == 0)
            pthread_cond_wait(&pending, &lock);
        pthread_mutex_unlock(&lock);
        nanosleep(&rest, NULL);
        flush_all();
    }
    return unused;
}

/* The device of kernel.R while it is open, its own functions, how much is drawn on its page, and how much was when the page was sent
 * (-1: it was not, -2: there is no page). */
static struct {
    pDevDesc device;
    DevDesc own;
    long drawn, sent;
    int held, busy;
    SEXP hook;
} page;

/* Call kernel.R's hook with "page" (a page is complete, its file is there), "drop" (the same, but it was sent as it is) or "text". */
static void call_hook(const char *event)
{
    int failed = 0;
    if (page.hook == NULL || page.busy)
        return;
    int suspended = R_interrupts_suspended;
    page.busy = R_interrupts_suspended = 1; /* an interrupt is for the user's code, which goes on after this */
    SEXP call = PROTECT(Rf_lang2(page.hook, PROTECT(Rf_mkString(event))));
    R_tryEvalSilent(call, R_GlobalEnv, &failed);
    UNPROTECT(2);
    page.busy = 0;
    R_interrupts_suspended = suspended;
}

/* Text comes next: what was drawn before it shall be before it. A page is sent early once at most. */
static void before_text(void)
{
    if (page.device != NULL && page.drawn > 0 && page.sent < 0 && !page.held && !page.busy && !is_child) {
        call_hook("text");
        R_CheckUserInterrupt();
    }
}

/* The page that was on the device has been written to its file. */
static void end_page(void)
{
    long drawn = page.drawn, sent = page.sent;
    page.drawn = 0;
    page.sent = -1;
    if (!is_child)
        call_hook(drawn == sent ? "drop" : "page");
}

static void on_new_page(const pGEcontext context, pDevDesc device)
{
    int is_first = page.sent == -2;
    page.own.newPage(context, device);
    if (is_first)
        page.sent = -1;
    else
        end_page();
}

static void on_close(pDevDesc device)
{
    void (*own)(pDevDesc) = page.own.close;
    int is_empty = page.sent == -2;
    page.device = NULL;
    own(device);
    if (!is_empty)
        end_page();
}

#define DRAWS(name, parameters, arguments)   \
    static void on_##name parameters         \
    {                                        \
        page.drawn++;                        \
        page.own.name arguments;             \
    }

DRAWS(circle, (double x, double y, double r, const pGEcontext c, pDevDesc d), (x, y, r, c, d))
DRAWS(line, (double x1, double y1, double x2, double y2, const pGEcontext c, pDevDesc d), (x1, y1, x2, y2, c, d))
DRAWS(polygon, (int n, double *x, double *y, const pGEcontext c, pDevDesc d), (n, x, y, c, d))
DRAWS(polyline, (int n, double *x, double *y, const pGEcontext c, pDevDesc d), (n, x, y, c, d))
DRAWS(rect, (double x0, double y0, double x1, double y1, const pGEcontext c, pDevDesc d), (x0, y0, x1, y1, c, d))
DRAWS(path, (double *x, double *y, int n, int *per, Rboolean winding, const pGEcontext c, pDevDesc d), (x, y, n, per, winding, c, d))
DRAWS(raster,
      (unsigned int *r, int w, int h, double x, double y, double width, double height, double rot, Rboolean smooth, const pGEcontext c, pDevDesc d),
      (r, w, h, x, y, width, height, rot, smooth, c, d))
DRAWS(text, (double x, double y, const char *s, double rot, double hadj, const pGEcontext c, pDevDesc d), (x, y, s, rot, hadj, c, d))
DRAWS(textUTF8, (double x, double y, const char *s, double rot, double hadj, const pGEcontext c, pDevDesc d), (x, y, s, rot, hadj, c, d))

/* Watch the current device, which was opened just now. */
SEXP kernel_watch(SEXP hook)
{
    if (page.hook == NULL) {
        R_PreserveObject(hook);
        page.hook = hook;
    }
    pDevDesc device = GEcurrentDevice()->dev;
    page.own = *device;
    page.device = device;
    page.drawn = 0;
    page.sent = -2;
    device->newPage = on_new_page;
    device->close = on_close;
    device->circle = on_circle;
    device->line = on_line;
    device->polygon = on_polygon;
    device->polyline = on_polyline;
    device->rect = on_rect;
    device->path = on_path;
    device->raster = on_raster;
    device->text = on_text;
    device->textUTF8 = on_textUTF8;
    return R_NilValue;
}

/* TRUE: do not ask about text. FALSE: ask. NULL: the page was sent as it is now. */
SEXP kernel_hold(SEXP held)
{
    if (Rf_isNull(held))
        page.sent = page.drawn;
    else
        page.held = Rf_asLogical(held);
    return R_NilValue;
}

static void write_console(const char *text, int size, int is_error)
{
    if (size > 0)
        before_text();
    struct stream *s = &streams[is_error != 0];
    pthread_mutex_lock(&lock);
    int was_empty = s->used == 0;
    for (size_t left = (size_t)size; left > 0;) {
        size_t n = CAPACITY - s->used < left ? CAPACITY - s->used : left;
        memcpy(s->data + s->used, text, n);
        s->used += n;
        text += n;
        left -= n;
        if (s->used == CAPACITY)
            flush_stream(s);
    }
    if (s->used > 0 && (is_child || (s->data[s->used - 1] == '\n' && now_ns() - s->written_at > HOT_NS)))
        flush_stream(s);
    if (was_empty && s->used > 0)
        pthread_cond_signal(&pending);
    pthread_mutex_unlock(&lock);
}

static void before_fork(void)
{
    flush_all();
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    is_child = 1;
    pthread_mutex_unlock(&lock);
}

/* Take over console and channel, and seed the names of temporary files, which R seeds from the clock and the pid. The flusher takes no
 * signals: SIGINT must reach R's own thread. */
SEXP kernel_setup(SEXP fd)
{
    sigset_t all, old;
    pthread_t thread;
    unsigned seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        Rf_error("cannot get random numbers: %s", strerror(errno));
    srand(seed);
    channel = Rf_asInteger(fd);
    if (fcntl(channel, F_SETFD, FD_CLOEXEC) < 0)
        Rf_error("there is no protocol socket on descriptor %d", channel);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&thread, NULL, flusher, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed)
        Rf_error("cannot start the output thread: %s", strerror(failed));
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    atexit(flush_all);
    R_Outputfile = NULL;
    R_Consolefile = NULL;
    ptr_R_WriteConsole = NULL;
    ptr_R_WriteConsoleEx = write_console;
    ptr_R_FlushConsole = flush_all;
    return R_NilValue;
}

SEXP kernel_flush(void)
{
    before_text();
    flush_all();
    return R_NilValue;
}

/* Wait for the shell of kernel_system; an interrupt goes to its whole process group, and SIGKILL when that is not heeded. */
static int wait_child(pid_t pid)
{
    int status = 0, pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {pidfd, POLLIN, 0};
    struct timespec second = {1, 0};
    sigset_t interrupt, old;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &old); /* it is delivered in ppoll and nowhere else, so none is missed */
    for (int sent = 0; pidfd >= 0;) {
        if (R_interrupts_pending && sent < 3)
            kill(-pid, ++sent < 3 ? SIGINT : SIGKILL);
        if (ppoll(&p, 1, sent ? &second : NULL, &old) > 0)
            break;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pidfd >= 0)
        close(pidfd);
    return status;
}

/* What R's system() does when it is to wait and not to collect output, but an interrupt ends it and the run: libc's system(), which
 * R uses, ignores SIGINT meanwhile. Gives the exit status, or the signal's number as R does. */
SEXP kernel_system(SEXP command)
{
    extern char **environ;
    char *argv[] = {"sh", "-c", (char *)Rf_translateChar(STRING_ELT(command, 0)), NULL};
    sigset_t defaults;
    posix_spawnattr_t attributes;
    pid_t pid;
    flush_all();
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    int failed = posix_spawn(&pid, "/bin/sh", NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    if (failed)
        Rf_error("cannot run /bin/sh: %s", strerror(failed));
    int status = wait_child(pid);
    R_CheckUserInterrupt();
    return Rf_ScalarInteger(WIFEXITED(status) ? WEXITSTATUS(status) : status);
}

/* The next line from the agent, or NULL at the end, or when an interrupt is pending that shall stop the wait. */
static SEXP next_line(int stops)
{
    static char *buffer;
    static size_t used, capacity;
    for (size_t seen = 0;;) {
        char *end = used > seen ? memchr(buffer + seen, '\n', used - seen) : NULL;
        if (end != NULL) {
            size_t length = (size_t)(end - buffer);
            SEXP line = PROTECT(Rf_ScalarString(Rf_mkCharLenCE(buffer, (int)length, CE_UTF8)));
            used -= length + 1;
            memmove(buffer, end + 1, used);
            UNPROTECT(1);
            return line;
        }
        seen = used;
        if (used == capacity) {
            char *larger = realloc(buffer, capacity ? capacity * 2 : CAPACITY);
            if (larger == NULL)
                Rf_error("out of memory");
            buffer = larger;
            capacity = capacity ? capacity * 2 : CAPACITY;
        }
        struct timespec tenth = {0, 100000000};
        struct pollfd p = {channel, POLLIN, 0};
        if (stops && R_interrupts_pending)
            return R_NilValue;
        if (stops && ppoll(&p, 1, &tenth, NULL) == 0)
            continue; /* an interrupt that came between the question and ppoll is seen now */
        if (stops && !(p.revents & (POLLIN | POLLHUP)))
            continue;
        ssize_t n = read(channel, buffer + used, capacity - used);
        if (n > 0)
            used += (size_t)n;
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            return R_NilValue;
    }
}

/* The next message. An interrupt that came while nothing ran is forgotten. */
SEXP kernel_read(void)
{
    flush_all();
    SEXP line = next_line(0);
    R_interrupts_pending = 0;
    return line;
}

/* Send one message, after all console output that came before it. With an answer to wait for: the line that the agent sends for it. */
SEXP kernel_write(SEXP text, SEXP answer)
{
    const char *line = Rf_translateCharUTF8(STRING_ELT(text, 0));
    flush_all();
    if (write_all(channel, line, strlen(line)) < 0 || write_all(channel, "\n", 1) < 0)
        Rf_error("the agent is gone");
    while (!Rf_isNull(answer)) {
        SEXP got = next_line(1);
        if (Rf_isNull(got) || strcmp(CHAR(STRING_ELT(got, 0)), CHAR(STRING_ELT(answer, 0))) == 0)
            break;
    }
    return R_NilValue;
}

/* Numbers as JSON has them, with as few digits as give the number back; what is not finite is null. */
SEXP kernel_numbers(SEXP numbers)
{
    R_xlen_t count = XLENGTH(numbers);
    SEXP texts = PROTECT(Rf_allocVector(STRSXP, count));
    char text[32];
    for (R_xlen_t i = 0; i < count; i++) {
        double number = REAL(numbers)[i];
        strcpy(text, "null");
        for (int digits = 15; R_FINITE(number) && digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, number);
            if (strtod(text, NULL) == number)
                break;
        }
        SET_STRING_ELT(texts, i, Rf_mkChar(text));
    }
    UNPROTECT(1);
    return texts;
}
