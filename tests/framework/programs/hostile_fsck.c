/* Plays e2fsck that a hostile file system has taken over: tries to reach more than the image, and prints what came of it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void tell(const char *what, int failed) {
    printf("%s=%s ", what, failed ? strerrorname_np(errno) : "done");
}

int main(int argc, char **argv) {
    static char block[1 << 16];
    const char *image = argv[argc - 1];
    struct stat found;
    signal(SIGXFSZ, SIG_IGN);
    int fd = open(image, O_RDWR);
    tell("open", fd < 0);
    fstat(fd, &found);
    tell("enlarge", ftruncate(fd, found.st_size + 4096));
    tell("append", pwrite(fd, block, 1, found.st_size) != 1);
    tell("create", open("/.cloister/disk/more", O_WRONLY | O_CREAT, 0600) < 0);
    tell("unlink", unlink(image));
    tell("link", link(image, "/.cloister/disk/other"));
    tell("chown", chown("/.cloister/disk", 0, 0));
    tell("passwd", open("/etc/passwd", O_RDONLY) < 0);
    tell("device", open("/dev/loop-control", O_RDWR) < 0);
    int own = open("/fill", O_WRONLY | O_CREAT, 0600);
    long kept = 0;
    for (ssize_t size; (size = write(own, block, sizeof block)) > 0;) kept += size;
    printf("kept_mib=%ld ", kept >> 20);
    fflush(stdout);
    return argc > 0 ? 4 : 0;
}
