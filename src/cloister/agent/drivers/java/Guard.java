package cloister.kernel;

import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.ForkJoinWorkerThread;

/**
 * What instrumented user code calls: {@link #check} at the start of each method and before each jump back, {@link #exit} instead of System.exit,
 * {@link #start} and {@link #exec} instead of the JDK's.
 * It is the only class of the kernel that user code reaches. Invariant: threads of a stopped cell throw at their next check, others never do.
 */
public final class Guard {
    /** Thrown to unwind a thread of a stopped cell. Catching it does not help: the next check throws again. */
    @SuppressWarnings("serial")
    public static final class Stopped extends Error {
        Stopped() {
            super("interrupted", null, false, false);
        }
    }

    /** The threads of one run; threads that they start belong to it too. */
    static final class Cell extends ThreadGroup {
        volatile boolean stopped;
        volatile Integer exitCode;

        Cell(int id) {
            super("cell-" + id);
        }

        @Override
        public void uncaughtException(Thread thread, Throwable thrown) {
            if (!(thrown instanceof Stopped)) {
                System.err.print("Exception in thread \"" + thread.getName() + "\" " + Traces.render(thrown) + "\n");
            }
        }
    }

    private static volatile boolean armed;
    private static volatile Cell stopping;

    private Guard() { }

    /** Throws when the calling thread belongs to a stopped cell. */
    public static void check() {
        if (armed) {
            checkSlowly();
        }
    }

    /** System.exit and Runtime.exit of user code: ends the cell, not the kernel. */
    public static void exit(int code) {
        Cell cell = cellOf(Thread.currentThread());
        if (cell != null) {
            cell.exitCode = code;
            stop(cell);
        }
        throw new Stopped();
    }

    /** Runtime.exit and Runtime.halt. */
    public static void exit(Runtime runtime, int code) {
        exit(code);
    }

    /** ProcessBuilder.start of user code. */
    public static Process start(ProcessBuilder builder) throws IOException {
        return Children.start(builder);
    }

    /** ProcessBuilder.startPipeline of user code. */
    public static List<Process> startPipeline(List<ProcessBuilder> builders) throws IOException {
        return Children.startPipeline(builders);
    }

    /** Runtime.exec of user code, in its six forms. */
    public static Process exec(Runtime runtime, String command) throws IOException {
        return Children.exec(runtime, command, null, null);
    }

    public static Process exec(Runtime runtime, String command, String[] variables) throws IOException {
        return Children.exec(runtime, command, variables, null);
    }

    public static Process exec(Runtime runtime, String command, String[] variables, File directory) throws IOException {
        return Children.exec(runtime, command, variables, directory);
    }

    public static Process exec(Runtime runtime, String[] command) throws IOException {
        return Children.exec(runtime, command, null, null);
    }

    public static Process exec(Runtime runtime, String[] command, String[] variables) throws IOException {
        return Children.exec(runtime, command, variables, null);
    }

    public static Process exec(Runtime runtime, String[] command, String[] variables, File directory) throws IOException {
        return Children.exec(runtime, command, variables, directory);
    }

    static void stop(Cell cell) {
        cell.stopped = true;
        stopping = cell;
        armed = true;
    }

    /** The cell is over. Pool threads that belong to no cell are left alone again; checks stay armed while a thread of it still lives. */
    static void release(Cell cell) {
        if (stopping == cell) {
            stopping = null;
            armed = cell.activeCount() > 0;
        }
    }

    private static void checkSlowly() {
        Thread thread = Thread.currentThread();
        Cell cell = cellOf(thread);
        boolean shared = cell == null && stopping != null && (thread.isVirtual() || thread instanceof ForkJoinWorkerThread);
        if (shared || (cell != null && cell.stopped)) {
            throw new Stopped();
        }
    }

    static Cell cellOf(Thread thread) {
        for (ThreadGroup group = thread.getThreadGroup(); group != null; group = group.getParent()) {
            if (group instanceof Cell cell) {
                return cell;
            }
        }
        return null;
    }
}
