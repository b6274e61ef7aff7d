package cloister.kernel;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import jdk.jshell.execution.DirectExecutionControl;
import jdk.jshell.execution.LoaderDelegate;
import jdk.jshell.spi.ExecutionControl;

/**
 * Runs snippets in this JVM, each on a thread of its cell's group, and can stop them. It owns the running cell;
 * it must not write to the protocol. Invariant: when invoke returns, the snippet's thread has ended, or sleeps in a native call for good and
 * throws as soon as it comes back.
 */
final class Engine extends DirectExecutionControl {
    private static final long STEP_MS = 20;
    private static final long ABANDON_MS = 400;
    private static final long IDLE_NS = 5_000_000; // cpu time that a thread blocked in a native call may use while it is watched
    private final ThreadMXBean clock = ManagementFactory.getThreadMXBean();
    private final Classes classes;
    private volatile Guard.Cell cell;
    private volatile boolean interrupted;
    private Integer exit;
    private Globals program;
    /** What the last snippet returned or threw. */
    Object value;
    Throwable thrown;

    Engine(Classes classes) {
        super(new Delegate(classes));
        this.classes = classes;
    }

    /** A run begins. */
    void begin() {
        interrupted = false;
        value = null;
        thrown = null;
        cell = new Guard.Cell();
        Guard.begin(cell);
    }

    /** The running cell is to stop; from any thread. */
    void interrupt() {
        Guard.Cell running = cell;
        if (running != null) {
            interrupted = true;
            Guard.stop(running);
        }
    }

    boolean isInterrupted() {
        return interrupted;
    }

    /** The code given to System.exit in this run, or in the last when none is under way; or null. */
    Integer exitCode() {
        Guard.Cell running = cell;
        return running == null ? exit : running.exitCode;
    }

    /** A run ends: waits for the threads that it started, as the JVM would, unless they only wait for work. */
    void end() {
        for (long pause = 1; !cell.stopped && Threads.isBusy(cell, classes); pause = Math.min(pause * 2, STEP_MS)) {
            sleep(pause);
        }
        if (cell.stopped) {
            drain(null);
        }
        if (program != null) {
            runHooks();
            program.restore();
            program = null;
        }
        Guard.release(cell);
        exit = cell.exitCode;
        cell = null;
    }

    /** Runs a program's shutdown hooks, side by side as the JVM does. */
    private void runHooks() {
        List<Thread> hooks = List.copyOf(cell.hooks);
        hooks.forEach(Thread::start);
        while (!interrupted && hooks.stream().anyMatch(Thread::isAlive)) {
            sleep(1);
        }
    }

    @Override
    protected String invoke(Method method) throws Exception {
        method.setAccessible(true);
        call(MethodHandles.lookup().unreflect(method), method.getDeclaringClass().getClassLoader());
        if (cell.stopped) {
            throw new ExecutionControl.StoppedException();
        }
        if (thrown != null) {
            throw new InvocationTargetException(thrown);
        }
        return "";
    }

    /** Runs a program's main method: what a program changes of the JVM is as before when it has ended. */
    void callMain(MethodHandle main, ClassLoader loader) {
        program = new Globals();
        cell.hooks = ConcurrentHashMap.newKeySet();
        call(main, loader);
    }

    /** Calls a handle without parameters on a main thread of the cell, until that ends or is stopped; value or thrown say what came of it. */
    void call(MethodHandle code, ClassLoader loader) {
        Starter.Outcome outcome = new Starter.Outcome(program != null);
        Thread thread = Starter.of(cell, code, outcome);
        thread.setContextClassLoader(loader);
        thread.start();
        try {
            while (thread.isAlive() && !cell.stopped) {
                thread.join(STEP_MS);
            }
        } catch (InterruptedException impossible) { // this thread is the kernel's own
            Thread.currentThread().interrupt();
        }
        if (thread.isAlive()) {
            drain(thread);
        }
        value = outcome.value;
        thrown = outcome.thrown;
    }

    /** Keeps interrupting the stopped cell's threads until the given one (or all) have ended, or are found to be blocked for good. */
    private void drain(Thread thread) {
        long start = System.nanoTime();
        long used = 0;
        while (thread == null ? cell.activeCount() > 0 : thread.isAlive()) {
            cell.interrupt();
            sleep(STEP_MS);
            long waited = (System.nanoTime() - start) / 1_000_000;
            if (thread == null && waited > ABANDON_MS) {
                return;
            }
            if (thread != null && waited % ABANDON_MS < STEP_MS * 2) {
                long now = clock.getThreadCpuTime(thread.threadId());
                if (waited >= ABANDON_MS && now - used < IDLE_NS) {
                    return; // in a system call that interrupts do not reach, such as a read from a socket
                }
                used = now;
            }
        }
    }

    private static void sleep(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException ignored) {
            Thread.currentThread().interrupt();
        }
    }

    /** JShell's view of the classes. */
    private record Delegate(Classes classes) implements LoaderDelegate {
        @Override
        public void load(ExecutionControl.ClassBytecodes[] compiled) throws ExecutionControl.ClassInstallException {
            classes.defineSnippets(compiled);
        }

        @Override
        public void classesRedefined(ExecutionControl.ClassBytecodes[] compiled) {
            throw new UnsupportedOperationException("classes are replaced, not redefined");
        }

        @Override
        public void addToClasspath(String path) throws ExecutionControl.InternalException {
            classes.addPath(path);
        }

        @Override
        public Class<?> findClass(String name) throws ClassNotFoundException {
            return classes.find(name);
        }
    }
}
