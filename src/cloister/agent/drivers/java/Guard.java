package cloister.kernel;

import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.Set;
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
        /** The shutdown hooks of a program, which run when it has ended; null for other cells, whose hooks are the kernel's. */
        volatile Set<Thread> hooks;

        Cell() {
            super("main");
        }

        boolean isHook() {
            Set<Thread> all = hooks;
            return all != null && all.contains(Thread.currentThread());
        }

        @Override
        public void uncaughtException(Thread thread, Throwable thrown) {
            Thread.UncaughtExceptionHandler own = Thread.getDefaultUncaughtExceptionHandler();
            if (thrown instanceof Stopped) {
                return;
            }
            if (own != null) {
                own.uncaughtException(thread, thrown);
            } else {
                System.err.print("Exception in thread \"" + thread.getName() + "\" " + Traces.render(thrown) + "\n");
            }
        }
    }

    private static volatile boolean armed;
    private static volatile Cell running;
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
        Cell own = cellOf(Thread.currentThread());
        Cell cell = own == null ? running : own; // a pool's thread or a virtual one works for the cell that runs
        if (cell != null && cell.exitCode == null) {
            cell.exitCode = code;
            stop(cell);
        }
        throw new Stopped();
    }

    public static void exit(Runtime runtime, int code) {
        exit(code);
    }

    /** Runtime.halt of user code: no hook runs. */
    public static void halt(Runtime runtime, int code) {
        Cell cell = running;
        if (cell != null && cell.hooks != null) {
            cell.hooks.clear();
        }
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

    /** Whether the calling thread is one of a program that has called System.exit: what its finally blocks print is not to be seen. */
    static boolean isOver() {
        if (!armed) {
            return false;
        }
        Cell cell = cellOf(Thread.currentThread());
        return cell != null && cell.exitCode != null && !cell.isHook();
    }

    /** Runtime.addShutdownHook of user code. */
    public static void addShutdownHook(Runtime runtime, Thread hook) {
        Cell cell = running;
        if (cell == null || cell.hooks == null) {
            runtime.addShutdownHook(hook);
        } else if (!cell.hooks.add(hook)) {
            throw new IllegalArgumentException("Hook previously registered");
        }
    }

    /** Runtime.removeShutdownHook of user code. */
    public static boolean removeShutdownHook(Runtime runtime, Thread hook) {
        Cell cell = running;
        return cell == null || cell.hooks == null ? runtime.removeShutdownHook(hook) : cell.hooks.remove(hook);
    }

    static void begin(Cell cell) {
        running = cell;
    }

    static void stop(Cell cell) {
        cell.stopped = true;
        stopping = cell;
        armed = true;
    }

    /** The cell is over. Pool threads that belong to no cell are left alone again; checks stay armed while a thread of it still lives. */
    static void release(Cell cell) {
        running = null;
        if (stopping == cell) {
            stopping = null;
            armed = cell.activeCount() > 0;
        }
    }

    private static void checkSlowly() {
        Thread thread = Thread.currentThread();
        Cell cell = cellOf(thread);
        boolean shared = cell == null && stopping != null && (thread.isVirtual() || thread instanceof ForkJoinWorkerThread);
        if (shared || (cell != null && cell.stopped && !cell.isHook())) {
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
