package cloister.kernel;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import jdk.jshell.execution.DirectExecutionControl;
import jdk.jshell.execution.LoaderDelegate;
import jdk.jshell.spi.ExecutionControl;

/**
 * Runs snippets in this JVM, each on a thread of its cell's group, and can stop them. It owns the class loader of user code and the running cell;
 * it must not write to the protocol. Invariant: when invoke returns, the snippet's thread has ended, or sleeps in a native call for good and
 * throws as soon as it comes back.
 */
final class Engine extends DirectExecutionControl {
    private static final long STEP_MS = 20;
    private static final long ABANDON_MS = 400;
    private static final long IDLE_NS = 5_000_000; // cpu time that a thread blocked in a native call may use while it is watched
    private final ThreadMXBean clock = ManagementFactory.getThreadMXBean();
    private final Loader loader;
    private volatile Guard.Cell cell;
    private volatile boolean interrupted;
    private Integer exit;
    /** What the last snippet returned or threw. */
    Object value;
    Throwable thrown;

    Engine(Lines lines) {
        this(new Loader(lines));
    }

    private Engine(Loader loader) {
        super(new Delegate(loader));
        this.loader = loader;
    }

    /** A run begins. */
    void begin(int id) {
        interrupted = false;
        value = null;
        thrown = null;
        cell = new Guard.Cell(id);
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
        for (long pause = 1; !cell.stopped && Threads.isBusy(cell); pause = Math.min(pause * 2, STEP_MS)) {
            sleep(pause);
        }
        if (cell.stopped) {
            drain(null);
        }
        Guard.release(cell);
        exit = cell.exitCode;
        cell = null;
    }

    @Override
    protected String invoke(Method method) throws Exception {
        value = null;
        thrown = null;
        Thread thread = new Thread(cell, () -> run(method), "main");
        thread.setContextClassLoader(loader);
        thread.start();
        while (thread.isAlive() && !cell.stopped) {
            thread.join(STEP_MS);
        }
        if (thread.isAlive()) {
            drain(thread);
        }
        if (cell.stopped) {
            throw new ExecutionControl.StoppedException();
        }
        if (thrown != null) {
            throw new InvocationTargetException(thrown);
        }
        return "";
    }

    private void run(Method method) {
        try {
            value = method.invoke(null);
        } catch (InvocationTargetException wrapped) {
            thrown = wrapped.getCause();
        } catch (ReflectiveOperationException | RuntimeException | Error broken) {
            thrown = broken;
        }
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

    /** Loads user classes, instrumented. */
    private static final class Loader extends URLClassLoader {
        private final Lines lines;
        private final Map<String, byte[]> bytes = new HashMap<>();

        Loader(Lines lines) {
            super(new URL[0], Engine.class.getClassLoader());
            this.lines = lines;
        }

        void load(ExecutionControl.ClassBytecodes[] classes) throws ExecutionControl.ClassInstallException {
            boolean[] loaded = new boolean[classes.length];
            for (ExecutionControl.ClassBytecodes one : classes) {
                bytes.put(one.name(), one.bytecodes());
            }
            try {
                for (int i = 0; i < classes.length; i++) {
                    loadClass(classes[i].name()).getDeclaredMethods();
                    loaded[i] = true;
                }
            } catch (ClassNotFoundException | LinkageError refused) {
                throw new ExecutionControl.ClassInstallException("load: " + refused.getMessage(), loaded);
            }
        }

        @Override
        protected Class<?> findClass(String name) throws ClassNotFoundException {
            byte[] code = bytes.get(name);
            if (code == null) {
                return super.findClass(name);
            }
            byte[] checked = Instrumenter.instrument(code, lines, lines.wrapper(name));
            return defineClass(name, checked, 0, checked.length);
        }

        @Override
        public InputStream getResourceAsStream(String name) {
            byte[] code = name.endsWith(".class") ? bytes.get(name.substring(0, name.length() - 6).replace('/', '.')) : null;
            return code == null ? super.getResourceAsStream(name) : new ByteArrayInputStream(code);
        }

        void add(String path) throws ExecutionControl.InternalException {
            try {
                for (String part : path.split(java.io.File.pathSeparator)) {
                    addURL(Path.of(part).toUri().toURL());
                }
            } catch (MalformedURLException refused) {
                throw new ExecutionControl.InternalException(refused.toString());
            }
        }
    }

    /** JShell's view of the loader. */
    private record Delegate(Loader loader) implements LoaderDelegate {
        @Override
        public void load(ExecutionControl.ClassBytecodes[] classes) throws ExecutionControl.ClassInstallException {
            loader.load(classes);
        }

        @Override
        public void classesRedefined(ExecutionControl.ClassBytecodes[] classes) {
            throw new UnsupportedOperationException("classes are replaced, not redefined");
        }

        @Override
        public void addToClasspath(String path) throws ExecutionControl.InternalException {
            loader.add(path);
        }

        @Override
        public Class<?> findClass(String name) throws ClassNotFoundException {
            return loader.loadClass(name);
        }
    }
}
