package cloister.kernel;

import java.util.Set;

/** Which threads that a cell left behind still do its work. */
final class Threads {
    /** Frames of threads that only wait for work: pool workers, servers. */
    private static final Set<String> WAITING = Set.of(
        "java.util.concurrent.ThreadPoolExecutor.getTask", "java.util.TimerThread.mainLoop", "java.net.ServerSocket.accept",
        "sun.nio.ch.SelectorImpl.select", "sun.nio.ch.ServerSocketChannelImpl.accept");

    private Threads() { }

    /** Whether a non-daemon thread of the cell is doing something else than waiting for work. */
    static boolean isBusy(Guard.Cell cell, Classes classes) {
        int count = cell.activeCount();
        if (count == 0) {
            return false;
        }
        Thread[] threads = new Thread[count + 8];
        int found = cell.enumerate(threads);
        for (int i = 0; i < found; i++) {
            if (!threads[i].isDaemon() && threads[i].isAlive() && !isWaiting(threads[i], classes)) {
                return true;
            }
        }
        return false;
    }

    private static boolean isWaiting(Thread thread, Classes classes) {
        if (thread.getState() != Thread.State.RUNNABLE && thread.getState() != Thread.State.WAITING
            && thread.getState() != Thread.State.TIMED_WAITING) {
            return false;
        }
        for (StackTraceElement frame : thread.getStackTrace()) {
            if (classes.isUser(frame.getClassName())) {
                return false; // user code above the frame: it waits for something of its own
            }
            if (WAITING.contains(frame.getClassName() + "." + frame.getMethodName())) {
                return true;
            }
        }
        return false;
    }
}
