package cloister.kernel;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/** The processes that user code starts: with the run's variables, and told apart by when they began. */
final class Children {
    private static final long TICKS = 100; // USER_HZ, the same on every Linux
    private static final int START_FIELD = 19; // of /proc/<pid>/stat, counted from the state, which follows the name

    private static Runnable beforeOutput = () -> { };

    private Children() { }

    /** What is to be done before a process starts that writes to the kernel's own streams. */
    static void attach(Runnable mark) {
        beforeOutput = mark;
    }

    private static void announce(ProcessBuilder builder) {
        if (builder.redirectOutput() == ProcessBuilder.Redirect.INHERIT || builder.redirectError() == ProcessBuilder.Redirect.INHERIT) {
            beforeOutput.run();
        }
    }

    /** Clock ticks since boot. */
    static long now() {
        try {
            return (long) (Double.parseDouble(Files.readString(Path.of("/proc/uptime")).split(" ")[0]) * TICKS);
        } catch (IOException missing) {
            throw new java.io.UncheckedIOException(missing);
        }
    }

    /** Descendants started in a span of time (ticks since boot, the end not included). */
    static Stream<ProcessHandle> startedIn(long since, long until) {
        return ProcessHandle.current().descendants().filter(child -> {
            long start = start(child.pid());
            return start >= since && start < until;
        });
    }

    private static long start(long pid) {
        try {
            String stat = Files.readString(Path.of("/proc/" + pid + "/stat"));
            return Long.parseLong(stat.substring(stat.lastIndexOf(')') + 2).split(" ")[START_FIELD]);
        } catch (IOException ended) { // it ended meanwhile
            return -1;
        }
    }

    /** Starts a process with the variables of the run: a builder that has no environment of its own would pass on those of the JVM's start. */
    static Process start(ProcessBuilder builder) throws IOException {
        builder.environment();
        announce(builder);
        return builder.start();
    }

    static List<Process> startPipeline(List<ProcessBuilder> builders) throws IOException {
        builders.forEach(ProcessBuilder::environment);
        builders.forEach(Children::announce);
        return ProcessBuilder.startPipeline(builders);
    }

    static Process exec(Runtime runtime, String command, String[] variables, File directory) throws IOException {
        return runtime.exec(split(command), own(variables), directory);
    }

    static Process exec(Runtime runtime, String[] command, String[] variables, File directory) throws IOException {
        return runtime.exec(command, own(variables), directory);
    }

    private static String[] split(String command) {
        if (command.isEmpty()) {
            throw new IllegalArgumentException("Empty command");
        }
        return command.strip().split("\\s+");
    }

    private static String[] own(String[] variables) {
        if (variables != null) {
            return variables;
        }
        return System.getenv().entrySet().stream().map(Children::pair).toArray(String[]::new);
    }

    private static String pair(Map.Entry<String, String> entry) {
        return entry.getKey() + "=" + entry.getValue();
    }
}
