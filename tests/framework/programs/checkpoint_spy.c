/* Stands in for CRIU under criu.so: SPY MODE ARGUMENT WORDS-OF-CRIU….  Tells in one line on stderr what it is and what it can do, or misbehaves.
 *
 *   tell HOST-FILE   the line, then exit status 1          wait   waits to be killed
 *   fork -           starts a child that waits, and waits  stop N, end N   stops or ends process N of the sandbox, then kills itself
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *true_argv[] = {"/bin/true", NULL}, *no_env[] = {NULL};

static const char *after(char **argv, const char *name) {
    while (*argv && strcmp(*argv, name)) argv++;
    return *argv ? argv[1] : "";
}

static void tell_status(void) {
    static const char *const wanted[] = {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigIgn"};
    char line[512], *value;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (!(value = strchr(line, ':'))) continue;
        *value++ = 0;
        for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
            if (!strcmp(line, wanted[i])) {
                fprintf(stderr, "%s=", line);
                for (char *word = strtok(value, " \t\n"); word; word = strtok(NULL, " \t\n")) fprintf(stderr, "%s,", word);
                fprintf(stderr, " ");
            }
    }
    if (file) fclose(file);
}

static void tell_namespaces(void) {
    static const char *const names[] = {"user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64], link[64] = "";
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        if (readlink(path, link, sizeof link - 1) < 0) strcpy(link, "unknown");
        fprintf(stderr, "%s=%s ", names[i], link);
    }
}

static void tell_image(const char *image) {
    char path[128];
    struct stat here, above;
    struct statvfs mount;
    snprintf(path, sizeof path, "%s/made", image);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    fprintf(stderr, "write=%d ", fd < 0 ? errno : 0);
    if (fd >= 0) close(fd);
    fd = open(image, O_PATH | O_DIRECTORY);
    if (fd < 0 || fstat(fd, &here) || fstatat(fd, "..", &above, 0) || statvfs(image, &mount)) return;
    fprintf(stderr, "above=%d ", here.st_ino == above.st_ino && here.st_dev == above.st_dev);
    fprintf(stderr, "flags=%lu ", mount.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC));
    close(fd);
}

static void tell_files(void) {
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = 0;
    while (directory && (entry = readdir(directory)))
        if (atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(directory)) count++;
    fprintf(stderr, "files=%d ", count);
}

/* 0: a program was started; else the errno. In a child, which the program would replace. */
#define TRY(name, call)                                                             \
    do {                                                                            \
        int status = 0;                                                             \
        pid_t child = fork();                                                       \
        if (!child) {                                                               \
            errno = 0;                                                              \
            (void)!(call);                                                          \
            _exit(errno);                                                           \
        }                                                                           \
        waitpid(child, &status, 0);                                                 \
        fprintf(stderr, "%s=%d ", name, WEXITSTATUS(status));                       \
    } while (0)

static int spawned(int error) { return errno = error; }

static void tell_programs(int is_dump) {
    pid_t pid;
    TRY("execve", execve("/bin/true", true_argv, no_env));
    TRY("execl", execl("/bin/true", "true", NULL));
    TRY("execlp", execlp("true", "true", NULL));
    TRY("execv", execv("/bin/true", true_argv));
    TRY("execvp", execvp("true", true_argv));
    TRY("execvpe", execvpe("true", true_argv, no_env));
    TRY("system", system("true"));
    TRY("popen", popen("true", "r"));
    TRY("posix_spawn", spawned(posix_spawn(&pid, "/bin/true", NULL, NULL, true_argv, no_env)));
    TRY("posix_spawnp", spawned(posix_spawnp(&pid, "true", NULL, NULL, true_argv, no_env)));
    if (!is_dump) return; /* a restore has no filter of its own */
    TRY("raw_execve", syscall(SYS_execve, "/bin/true", true_argv, no_env));
    TRY("code", mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static void tell(char **argv, int is_dump) {
    struct rlimit data;
    char score[16] = "";
    tell_status();
    tell_namespaces();
    tell_image(after(argv, "--images-dir"));
    tell_files();
    tell_programs(is_dump);
    getrlimit(RLIMIT_DATA, &data);
    int fd = open("/proc/self/oom_score_adj", O_RDONLY), size = (int)read(fd, score, sizeof score - 1);
    if (size > 0) score[size - 1] = 0;
    fprintf(stderr, "data=%lu oom=%s host=%d\n", (unsigned long)data.rlim_cur, score, open(argv[2], O_RDONLY) < 0 ? errno : 0);
}

static void write_word(const char *directory, const char *name, const char *word) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY);
    if (fd >= 0 && write(fd, word, strlen(word)) > 0) close(fd);
}

static char state_of(pid_t pid) {
    char path[64], text[512] = "", *at;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    (void)!fgets(text, sizeof text, file);
    fclose(file);
    at = strrchr(text, ')');
    return at ? at[2] : 0;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    const char *mode = argv[1];
    if (!strcmp(mode, "tell")) {
        tell(argv, !strcmp(argv[3], "dump"));
        return 1;
    }
    if (!strcmp(mode, "fork") && !fork()) while (1) pause();
    if (!strcmp(mode, "fork") || !strcmp(mode, "wait")) while (1) pause();
    pid_t pid = atoi(argv[2]);
    int is_stop = !strcmp(mode, "stop");
    write_word(after(argv, "--freeze-cgroup"), "freezer.state", "THAWED");
    write_word(after(argv, "--freeze-cgroup"), "cgroup.freeze", "0");
    if (kill(pid, is_stop ? SIGSTOP : SIGKILL)) return perror("kill"), 1;
    while (is_stop ? state_of(pid) != 'T' : state_of(pid) && state_of(pid) != 'Z') usleep(1000);
    kill(getpid(), SIGKILL);
}
