package cloister.kernel;

import java.io.IOException;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * The Java driver: keeps the state of a Java context and speaks the protocol of ../README.md on descriptor 3.
 *
 * <pre>
 *   Kernel    main: reads messages on a thread of its own, runs cells on the main thread, interrupts them
 *   Session   JShell, one cell at a time          Engine, Guard, Instrumenter   run user code so that it can be stopped
 *   Channel, Json, Output   the protocol          Lines, Traces, Values, Program   what the user sees
 * </pre>
 */
public final class Kernel {
    private static final long KILL_MS = 250;
    private static final BlockingQueue<Map<String, Object>> QUEUE = new LinkedBlockingQueue<>();
    private static volatile int runId;
    private static volatile long startedAt; // ticks since boot

    private Kernel() { }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length == 1 && arguments[0].equals("--train")) {
            Training.run();
        }
        Channel channel = Channel.open();
        Environment.publish();
        System.setOut(new Output(text -> print(channel, "stdout", text)));
        System.setErr(new Output(text -> print(channel, "stderr", text)));
        Children.attach(channel::mark);
        Session session = new Session(channel);
        Thread reader = new Thread(() -> read(channel, session), "kernel-reader");
        reader.setDaemon(true);
        reader.start();
        channel.send("ready", null);
        while (true) {
            execute(channel, session, QUEUE.take());
        }
    }

    private static void print(Channel channel, String stream, String text) {
        if (!Guard.isOver()) {
            channel.sendText(stream, runId, text);
        }
    }

    private static void execute(Channel channel, Session session, Map<String, Object> request) {
        runId = ((Number) request.get("id")).intValue();
        startedAt = Children.now();
        try {
            run(session, request);
        } catch (RuntimeException | AssertionError broken) { // JShell has assertions of its own; the kernel outlives them
            channel.send("error", runId, "name", broken.getClass().getName(), "value", String.valueOf(broken.getMessage()), "traceback", Traces.render(broken));
        }
        channel.send("done", runId, "count", session.count());
    }

    private static void run(Session session, Map<String, Object> request) {
        Environment environment = new Environment(request.get("envs"));
        try {
            session.run(runId, (String) request.get("code"));
        } finally {
            environment.restore();
        }
    }

    private static void read(Channel channel, Session session) {
        try {
            for (Map<String, Object> message = channel.receive(); message != null; message = channel.receive()) {
                if ("interrupt".equals(message.get("op"))) {
                    if (!(message.get("id") instanceof Number id) || id.intValue() == runId) { // else it comes too late
                        interrupt(session);
                    }
                } else if ("ack".equals(message.get("op"))) {
                    channel.acknowledge(((Number) message.get("ack")).longValue());
                } else {
                    QUEUE.add(message);
                }
            }
        } catch (IOException broken) {
            // the socket is gone, as at its end
        }
        Runtime.getRuntime().halt(0);
    }

    /** Stops the running cell and the processes that it started: asked to end first, killed when they are still there a moment later. */
    private static void interrupt(Session session) {
        session.engine().interrupt();
        long since = startedAt;
        Children.startedIn(since, Long.MAX_VALUE).forEach(ProcessHandle::destroy);
        Thread killer = new Thread(() -> {
            try {
                Thread.sleep(KILL_MS);
            } catch (InterruptedException ended) {
                return;
            }
            Children.startedIn(since, startedAt == since ? Long.MAX_VALUE : startedAt).forEach(ProcessHandle::destroyForcibly);
        }, "kernel-killer");
        killer.setDaemon(true);
        killer.start();
    }
}
